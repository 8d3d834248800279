"""A folder belongs to one run at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def take(folder: Path) -> FileLock | None:
    """Hold the folder until it is released, or the process ends, however it does.

    None where the file system has no locks or can't be written to.

    Raises
    ------
    ValueError
        Another run holds it.
    """
    file = folder / "lock"
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise ValueError(f"{file} is no file of flow's; remove it, and go on with flow.resume")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder} belongs to a run that is going on, here or in another process; wait for its "
            "end or stop it, and then go on with flow.resume"
        ) from None
    except (NotImplementedError, OSError):
        return None
    return lock


@contextmanager
def held(folder: Path, *, by_this_process: bool) -> Iterator[None]:
    """Hold the folder meanwhile, if this is the process that does."""
    lock = take(folder) if by_this_process else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
