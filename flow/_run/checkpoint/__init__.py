"""Checkpoints: all that a run needs to go on to the same bits, in files of numbers alone."""

from flow._run.checkpoint.folder import CheckpointWarning
from flow._run.checkpoint.keeper import Checkpoint, Keeper

__all__ = ["Checkpoint", "CheckpointWarning", "Keeper"]
