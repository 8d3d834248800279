"""Checkpoints: all that a run needs to go on to the same bits, in files of numbers alone."""

from flow.checkpoints.folder import CheckpointWarning
from flow.checkpoints.keeper import Checkpoint, Keeper

__all__ = ["Checkpoint", "CheckpointWarning", "Keeper"]
