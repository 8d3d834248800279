"""One file of a checkpoint: a tree of numbers and arrays, as npz without pickle, and its digest.

A file whose checksums fail was cut off or damaged, an accident, and the state before it is gone on
from; one whose checksums hold and whose digest does not was rewritten, and is refused.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from flow._core.files import write_new
from flow._core.opening import Unreadable, from_json, npz, reading
from flow._run.checkpoint.values import put_together, taken_apart

FORMAT = "flow checkpoint"
FORMAT_VERSION = 2
_TREE, _DIGEST = "tree", "digest"


class Refused(Unreadable):
    """A file is whole, but was changed, belongs to another run, or has another format."""


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
    arrays[_TREE] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    digest = np.frombuffer(_digest(arrays), np.uint8)
    write_new(path, lambda file: np.savez(file, **arrays, **{_DIGEST: digest}))


def read(path: Path) -> Any:
    """Return the tree of a file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    Unreadable
        It is truncated or corrupted, or no checkpoint.
    Refused
        It is whole, but was changed since it was written, or has another format.
    """
    with reading(
        f"{path} can't be read as a checkpoint of flow",
        "; it is truncated, corrupted or another program's",
    ):
        found = npz(path)
        facts = from_json(found[_TREE].tobytes().decode(), inf)
        kind, version = facts["format"], facts["version"]
    if kind != FORMAT:
        raise Unreadable(f"{path} is a {kind!r}, not a {FORMAT}")
    if version != FORMAT_VERSION:
        raise Refused(f"{path} has format {version}, {_other(version)}")
    digest = found.pop(_DIGEST, np.empty(0))
    if digest.tobytes() != _digest(found):
        raise Refused(
            f"{path} was changed since it was written: it does not have its digest; put a copy of "
            "what was written in its place (of a state, remove it, and the one before is gone on "
            "from), or begin anew in another folder"
        )
    with reading(f"{path} lacks a part"):
        return put_together(facts[_TREE], found)


def _other(version: Any) -> str:
    """Return what to do about another format."""
    if isinstance(version, int) and version < FORMAT_VERSION:
        return (
            f"older than this flow's {FORMAT_VERSION}, which knows a changed file by its digest; "
            "go on with the gradient-flow that wrote it, or begin anew in another folder"
        )
    return f"newer than this flow's {FORMAT_VERSION}; upgrade gradient-flow"


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a digest of arrays: of their names, kinds, shapes and bytes."""
    digest = sha256()
    for name, array in sorted(arrays.items()):
        kind = f"{array.dtype.kind}{array.dtype.itemsize}"  # bfloat16 is read as two bytes
        digest.update(f"{name}: {kind} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.digest()
