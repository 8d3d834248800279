"""Files are written whole or not at all, and nothing is overwritten."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import jax

from flow._core.checks import file_path

# What a file is called while it is written: hidden, and with a random part behind the name.
UNFINISHED = ".{name}"
# What a file system without links answers: FAT, and some that are mounted from elsewhere.
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}


def write_new(path: str | os.PathLike, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a new file: it appears under its name when it is complete.

    Parameters
    ----------
    path
        Its name, where nothing is yet.
    content
        Bytes, or a function that writes them to an open file.

    Raises
    ------
    FileExistsError
        The path exists; it is left as it was.
    OSError
        The folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    path = refuse_existing(path)
    handle, name = tempfile.mkstemp(prefix=f"{UNFINISHED.format(name=path.name)}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        _put(temporary, path)
    except FileExistsError:
        raise FileExistsError(_exists(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _put(temporary: Path, path: Path) -> None:
    """Give a file its name; a link fails where a rename would replace what came meanwhile."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        temporary.rename(refuse_existing(path))


def refuse_existing(path: str | os.PathLike) -> Path:
    """Return the path if nothing is there and its folder is, else raise."""
    path = file_path("path", path)
    if path.exists():
        raise FileExistsError(_exists(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; create it first")
    return path


def _exists(path: Path) -> str:
    told = f"{path} exists and is not overwritten; choose another name or remove it first"
    if jax.process_count() > 1:
        told += "; where each process has the same to write, if jax.process_index() == 0: write it"
    return told


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
