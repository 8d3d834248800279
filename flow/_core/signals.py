"""Ctrl-C at a moment that leaves everything whole, and processes that ignore it."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from tqdm import tqdm


@contextmanager
def held_back() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, for what must not be half done.

    Only the main thread hears of it.

    >>> try:
    ...     with held_back():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("whole")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    whole
    interrupted
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    met: list[tuple] = []
    before = signal.signal(signal.SIGINT, lambda *which: met.append(which))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if met and callable(before):
        before(*met[0])


def ignored() -> bool:
    """Return whether Ctrl-C does nothing in this process.

    A shell's script starts what it puts in the background so, and Python keeps to it.
    """
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@contextmanager
def heard_by_others() -> Iterator[None]:
    """Let processes that are started in the block hear Ctrl-C, also where this one ignores it.

    Only the main thread can see to it.
    """
    if not ignored() or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def tell_if_ignored() -> None:
    """Say on stderr, once in a process that ignores Ctrl-C, what ends a run there."""
    if ignored():
        tqdm.write(
            "Ctrl-C (SIGINT) is ignored in this process, as its parent ignored it: max_seconds=, "
            "max_gradients= or stop= end a run with what it has, and checkpoint= keeps it where "
            "the process is killed",
            file=sys.stderr,
        )
