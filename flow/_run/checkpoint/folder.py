"""A folder of checkpoints: a header, the last states, and every row once."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from flow._core.files import UNFINISHED
from flow._core.opening import (
    ANY,
    KIND,
    NUMBER,
    TEXT,
    WHOLE,
    Unreadable,
    check_fields,
    many,
    named,
    reading,
)
from flow._core.user_warnings import warn
from flow._run.checkpoint.file import Refused, read

HEADER = "run.npz"
_FACTS = {
    "run": TEXT,
    "kind": KIND,
    "asked": named(ANY),
    "again": named(ANY),
    "start": named(ANY),
    "every": named(ANY),
    "resolution": NUMBER,
}
_STATE = {"run": TEXT, "written": WHOLE, "seconds": NUMBER, "rows": many(WHOLE),
          "segments": many(many(WHOLE)), "carried": ANY, "spent": many(ANY),
          "recorder": named(ANY)}  # fmt: skip
_NAMES = re.compile(r"(state|rows)-(\d{12})(?:-(\d{12}))?\.npz")


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read, or the run goes on to other bits than before."""


def header(folder: Path) -> dict[str, Any]:
    """Return what the run of a folder was asked for, and where it started.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It can't be read.
    """
    file = folder / HEADER
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run: there is no {HEADER}; integrate and descend make one by "
            "checkpoint="
        )
    with reading(f"{file} does not say what the run was asked for"):
        return check_fields(read(file), _FACTS, {})


def latest(folder: Path, run: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the last state of a run that can be read, None where none was written, and its rows.

    Raises
    ------
    ValueError
        There are some, and none can be read; or one was changed.
    """
    kept = states(folder)
    for file in kept:
        try:
            state = _of_run(run, file)
            with reading(f"{file} is no state of a run"):
                check_fields(state, _STATE, {})
            return state, _rows(folder, state)
        except Refused:
            raise
        except (Unreadable, FileNotFoundError) as error:
            failed = error
            warn(f"{error}; the one before is tried", CheckpointWarning)
    if kept:
        raise Unreadable(f"no checkpoint in {folder} can be read: {failed}") from failed
    return None, []


def files(folder: Path, kind: str) -> list[Path]:
    """Return files of that kind, sorted."""
    found = ((f, _NAMES.fullmatch(f.name)) for f in folder.iterdir())
    return sorted(f for f, match in found if match and match[1] == kind)


def states(folder: Path) -> list[Path]:
    """Return files of states, the last first."""
    return files(folder, "state")[::-1]


def state_file(folder: Path, number: int) -> Path:
    """Return that of the number-th state."""
    return folder / f"state-{number:012d}.npz"


def rows_file(folder: Path, first: int, end: int) -> Path:
    """Return that of the rows from the first-th to before the end-th."""
    return folder / f"rows-{first:012d}-{end:012d}.npz"


def discard_unfinished(folder: Path, segments: list[list[int]], written: int) -> None:
    """Remove what was not yet whole, or can't be read, beyond the state that is gone on from.

    Its rows will be computed again, to the same bits.
    """
    whole = {rows_file(folder, *segment) for segment in segments}
    rows = [file for file in files(folder, "rows") if file not in whole]
    later = [file for file in states(folder) if file.name > state_file(folder, written).name]
    begun = tuple(UNFINISHED.format(name=name) for name in (HEADER, "state-", "rows-"))
    hidden = [file for file in folder.iterdir() if file.name.startswith(begun)]
    for file in (*later, *rows, *hidden):
        file.unlink(missing_ok=True)


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds a run."""
    if folder.is_dir() and any(
        f.name == HEADER or _NAMES.fullmatch(f.name) for f in folder.iterdir()
    ):
        raise FileExistsError(
            f"{folder} holds the checkpoints of a run; go on with flow.resume({str(folder)!r}, "
            "dynamics), or choose another folder"
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"checkpoint={str(folder)!r} is a file; give a folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"checkpoint={str(folder)!r}: folder {folder.parent} does not exist; create it first"
        )


def columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows as one array for each of their entries; entries of entries by name."""
    first = rows[0]
    return {
        name: {inner: np.array([row[name][inner] for row in rows]) for inner in entry}
        if isinstance(entry, dict)
        else np.array([row[name] for row in rows])
        for name, entry in first.items()
    }


def _of_run(run: str, file: Path) -> dict[str, Any]:
    """Return what a file of the run holds."""
    found = read(file)
    if not isinstance(found, dict) or found.get("run") != run:
        raise Refused(f"{file} is of another run than {HEADER} beside it; put its own file there")
    return found


def _rows(folder: Path, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a state names, from their files."""
    wanted, found = set(state["rows"]), []
    with reading(f"rows of {folder} can't be read"):
        for first, end in state["segments"]:
            columns = _of_run(state["run"], rows_file(folder, first, end))
            del columns["run"]
            for i, serial in enumerate(columns["serial"].tolist()):
                if serial in wanted:
                    found.append(_row(columns, i))
    if len(found) != len(wanted):
        raise Unreadable(f"{folder} has {len(found)} of {len(wanted)} saved rows")
    return found


def _row(columns: dict[str, Any], i: int) -> dict[str, Any]:
    return {
        name: {inner: np.array(a[i]) for inner, a in entry.items()}
        if isinstance(entry, dict)
        else (entry[i].item() if entry.ndim == 1 else np.array(entry[i]))
        for name, entry in columns.items()
    }
