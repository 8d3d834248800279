"""The ground: checks, precision, pytrees, files, signals, progress, devices."""

from pathlib import Path

# Where flow lies: what is in it is flow's own, and not a user's.
PACKAGE = Path(__file__).parent.parent
