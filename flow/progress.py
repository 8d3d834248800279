"""Progress with an estimate, shown from the second second on."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

# A terminal is redrawn at this pace; a log file gets a line every so many seconds.
_TERMINAL_SECONDS, _LOG_SECONDS = 0.2, 30.0


class Progress:
    """A bar along t; `update` is cheap enough for every step.

    Parameters
    ----------
    total
        Where t ends; infinite where only a stop condition ends the run.
    label
        What runs.
    show
        False for silence.
    """

    def __init__(self, total: float, label: str, show: bool) -> None:
        interval = _TERMINAL_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
        self._bar = tqdm(
            total=total if total != float("inf") else None,
            desc=label,
            disable=not show,
            delay=1.0,
            mininterval=0.0,
            leave=False,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| t = {n:.4g} of {total:.4g} "
            "[{elapsed}<{remaining}{postfix}]"
            if total != float("inf")
            else "{desc}: t = {n:.4g} [{elapsed}{postfix}]",
        )
        self._interval, self._next = interval, time.perf_counter() + interval

    def update(self, t: float, loss: Any, gradients: int) -> None:
        """Redraw if it is time."""
        if time.perf_counter() < self._next:
            return
        self._next = time.perf_counter() + self._interval
        shown = {"loss": f"{float(loss):.3g}", "gradients": f"{gradients:,}"}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(t - self._bar.n)

    def __enter__(self) -> "Progress":  # noqa: PYI034 - beartype knows no Self here
        """Start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._bar.close()
