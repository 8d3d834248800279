"""One file of a checkpoint: a tree of numbers and arrays, as npz without pickle."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from flow.checkpoints.values import put_together, taken_apart
from flow.files import write_new

FORMAT = "flow checkpoint"
FORMAT_VERSION = 1
_TREE = "tree"


class Unreadable(ValueError):  # noqa: N818
    """A file is truncated or corrupted, or none of flow's."""


def write(path: Path, tree: Any) -> None:
    """Write a new file, whole or not at all.

    Raises
    ------
    TypeError
        The tree holds more than numbers and arrays.
    OSError
        The file exists, the folder is not writable or the disk is full.
    """
    arrays: dict[str, np.ndarray] = {}
    facts = {"format": FORMAT, "version": FORMAT_VERSION, _TREE: taken_apart(tree, arrays)}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    write_new(path, lambda file: np.savez(file, **{_TREE: text}, **arrays))


def read(path: Path) -> Any:
    """The tree of a file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    Unreadable
        It is truncated or corrupted, or no checkpoint, or of a newer format.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}  # reading checks each CRC
        facts = json.loads(found.pop(_TREE).tobytes())
        kind, version = facts["format"], facts["version"]
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and numpy raise what they meet: of a bit, anything
        raise Unreadable(
            f"{path} can't be read as a checkpoint of flow ({error}); it is truncated, corrupted "
            "or another program's"
        ) from error
    if kind != FORMAT:
        raise Unreadable(f"{path} is a {kind!r}, not a {FORMAT}")
    if version > FORMAT_VERSION:
        raise Unreadable(
            f"{path} has format {version}, newer than this flow's {FORMAT_VERSION}; upgrade "
            "gradient-flow"
        )
    try:
        return put_together(facts[_TREE], found)
    except Exception as error:
        raise Unreadable(f"{path} lacks a part ({error})") from error
