"""Ctrl-C at a moment that leaves everything whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
