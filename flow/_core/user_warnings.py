"""Warnings at the line that called flow."""

import contextlib
import sys
import warnings

from flow._core import PACKAGE

# The frames of these are between a user's line and what it meets.
BETWEEN = (str(PACKAGE), contextlib.__file__)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn as of the line of the user's that called flow, from however deep inside."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - as pandas does
    while frame.f_back is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
