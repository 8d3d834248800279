"""Progress with an estimate, shown from the second second on."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import jax
from tqdm import tqdm

from flow._core.checks import truth
from flow._core.display import visible
from flow._core.signals import tell_if_ignored

# A terminal or a notebook is redrawn at this pace; a log file gets a line every so many seconds.
_LIVE_SECONDS, _LOG_SECONDS = 0.2, 30.0
# Compiling that lasts longer is told.
COMPILING = 3.0
# Whether somebody around tells of compiling, or is to be silent.
_TOLD: ContextVar[bool] = ContextVar("told", default=False)


def redraw_seconds() -> float:
    """Return seconds between two redraws of a bar."""
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return _LIVE_SECONDS if live else _LOG_SECONDS


def bar_along(total: float, label: str, *, show: Any) -> tqdm:
    """Return a bar along t up to `total`, infinite without an end; it comes up after a second."""
    endless = total == float("inf")
    return tqdm(
        total=None if endless else total,
        desc=visible(label),
        disable=not show,
        delay=1.0,
        mininterval=0.0,
        leave=False,
        bar_format="{desc}: t = {n:.4g} [{elapsed}{postfix}]"
        if endless
        else "{desc}: {percentage:3.0f}%|{bar}| t = {n:.4g} of {total:.4g} "
        "[{elapsed}<{remaining}{postfix}]",
    )


def progress_of(total: float, label: str, show: Any) -> "Progress":
    """Return a bar of one's own, or the one that a caller shows for several runs."""
    return show if isinstance(show, Progress) else Progress(total, label, truth("progress", show))


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

    def __init__(self, total: float, label: str, show: Any) -> None:
        self._bar = bar_along(total, label, show=show)
        self._interval = redraw_seconds()
        self._next = time.perf_counter() + self._interval

    def update(self, t: float, loss: Any, gradients: int) -> None:
        """Redraw if it is time."""
        if time.perf_counter() < self._next:
            return
        self._next = time.perf_counter() + self._interval
        if not self._bar.disable:
            tell_if_ignored()
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


@contextmanager
def compiling(label: str, show: Any) -> Iterator[None]:
    """Tell, where what is compiled within takes more than 3 s, that it is being compiled.

    Whoever is outermost says whether anything is shown. A caller's own bar tells of it itself.
    """
    shown = not isinstance(show, Progress) and truth("progress", show)
    told, done = _TOLD.set(True), threading.Event()
    teller = threading.Thread(target=_tell, args=(label, done), daemon=True)
    shown = shown and told.old_value is not True
    if shown:
        teller.start()
    try:
        yield
    finally:
        done.set()
        if shown:
            teller.join()
        _TOLD.reset(told)


def silent(show: Any) -> AbstractContextManager:
    """Return a scope in which nothing tells of compiling, unless it is to `show`."""
    return nullcontext() if show else compiling("", show=False)


def _tell(label: str, done: threading.Event) -> None:
    """Show for how long it has been going on, until it is done."""
    if done.wait(COMPILING):
        return
    with tqdm(
        desc=visible(label), delay=1.0, leave=False, bar_format="{desc}: compiling [{elapsed}]"
    ) as bar:
        bar.start_t -= COMPILING
        bar.refresh()
        while not done.wait(redraw_seconds()):
            bar.refresh()


# A call lasts about so long.
CHUNK_SECONDS = 0.25
# Processes that share a mesh must all make the same calls, and their clocks differ: there calls
# double to so many steps.
TOGETHER = 1024


def paced(steps: int, taken: int, seconds: float) -> int:
    """Return the steps of the next call, by what this one of `steps` took: at most ten times."""
    if jax.process_count() > 1:
        return min(2 * steps, TOGETHER)
    pace = seconds / max(1, taken)
    return max(1, min(10 * steps, int(CHUNK_SECONDS / pace)))
