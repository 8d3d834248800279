"""Checkpoints: all that a run needs to go on to the same bits, in files of numbers alone."""

from flow.checkpoints.keeper import Checkpoint, CheckpointWarning, Keeper, keeper

__all__ = ["Checkpoint", "CheckpointWarning", "Keeper", "keeper"]
