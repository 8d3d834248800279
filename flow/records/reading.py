"""Run folders and figures as they were left, read without the code that made them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow._core.checks import file_path
from flow._core.opening import (
    ANY,
    FLAG,
    NAME,
    NOTHING,
    NUMBER,
    TEXT,
    WHOLE,
    Kind,
    Unreadable,
    check_fields,
    from_json,
    many,
    named,
    netcdf,
    opened,
    reading,
    text,
)
from flow._evidence.study import FORMAT as STUDY
from flow._evidence.study import FORMAT_VERSION as STUDY_VERSION
from flow._evidence.study import study_of
from flow._run.trajectory import FORMAT as RUN
from flow._run.trajectory import FORMAT_VERSION as RUN_VERSION
from flow._run.trajectory import Trajectory
from flow._run.trajectory_file import run_of
from flow.records.provenance import FORMAT, FORMAT_VERSION
from flow.records.record import CONFIGURATION, METADATA, RECORD, file_digest

if TYPE_CHECKING:
    import pandas

# What a record has, and what it may have.
_NEEDED = {
    "format": TEXT,
    "format_version": WHOLE,
    "experiment": TEXT,
    "configuration": named(ANY),
}
_CHECKOUT = Kind(
    "commit, text, and changed, true or false",
    lambda x: isinstance(x, dict) and TEXT.fits(x.get("commit")) and FLAG.fits(x.get("changed")),
)
_FILES = Kind(
    "digests by the name of a file in its folder",
    lambda x: named(TEXT).fits(x) and all(map(NAME.fits, x)),
)
_OPTIONAL = {
    "command": many(TEXT),
    "started": TEXT,
    "versions": named(TEXT),
    "checkout": NOTHING | _CHECKOUT,
    "source": named(TEXT),
    "result": TEXT,
    "seconds": NUMBER,
    "runs": named(named(ANY)),
    "timings": named(many(ANY)),
    "files": _FILES,
    "tables": named(TEXT),
}
# Columns of a table that are read.
_WIDEST = 10_000
UNFINISHED = "unfinished: it was killed, or is still running"


@dataclass(frozen=True)
class Run:
    """A run as it was left.

    Attributes
    ----------
    source
        The folder, or the figure.
    facts
        Experiment, configuration, versions, checkout, cost and result.
    """

    source: Path
    facts: Mapping[str, Any]

    @cached_property
    def tables(self) -> dict[str, "pandas.DataFrame"]:
        """Return its tables; raise an error that names the one that can't be read."""
        found = {}
        names = self.facts.get("tables", {})
        if self.source.is_dir():
            names = [file.stem for file in sorted(self.source.glob("*.csv"))]
        for name in names:
            with reading(f"table {name} of {self.source} can't be read"):
                told = text(self.source / f"{name}.csv") if self.source.is_dir() else names[name]
                found[name] = _table(told)
        return found

    @cached_property
    def edited(self) -> tuple[str, ...]:
        """Return files that have changed, or gone, since they were written."""
        if not self.source.is_dir():
            return ()
        files = self.facts.get("files", {})
        return tuple(name for name, known in files.items() if self._digest(name) != known)

    def _digest(self, name: str) -> str | None:
        """Return the digest of a file in the folder; None where it is gone, or no file."""
        try:
            return file_digest(self.source / name)
        except (OSError, Unreadable):
            return None

    @property
    def result(self) -> str:
        """Return why it ended."""
        return self.facts.get("result", UNFINISHED)

    def trajectories(self) -> dict[str, Trajectory]:
        """Return its runs by name, of a folder; a figure has none.

        Raises
        ------
        ValueError
            A file is truncated, or of a newer flow.
        """
        if not self.source.is_dir():
            return {}
        return {
            name: run
            for file in sorted(self.source.glob("*.nc"))
            for name, run in trajectories(file, own=True).items()
        }


def read_run(path: str | os.PathLike) -> Run:
    """Read a run folder, or what a figure's metadata tell of its run.

    Raises
    ------
    FileNotFoundError
        There is no such folder or figure.
    ValueError
        It is no run of flow's, of a newer flow, or a record that can't be read; the message says
        what can be done.
    """
    path = file_path("path", path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".png" and path.is_file():
        return _read_figure(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a run folder, or a figure of a run")
    raise ValueError(f"{path} is neither a run folder nor a PNG figure of a run")


def trajectories(file: Path, *, own: bool = False) -> dict[str, Trajectory]:
    """Return the runs of a netCDF file by name: one, or those of a study; `own` as in `opened`.

    Raises
    ------
    FileNotFoundError, ValueError
        It is missing, truncated, of a newer flow, or nothing of flow's.
    """
    with netcdf(file, {RUN: RUN_VERSION, STUDY: STUDY_VERSION}, own=own) as found:
        if found.format == RUN:
            return {file.stem: run_of(found, "/")}
        study = study_of(found)
    return {f"{file.stem}/{i}": run for i, run in enumerate((study.flow, *study.runs))}


def _read_folder(folder: Path) -> Run:
    finished = os.path.lexists(folder / RECORD)
    file = folder / (RECORD if finished else CONFIGURATION)
    if not os.path.lexists(file):
        raise ValueError(
            f"{folder} has no {CONFIGURATION}, so it is no run folder; `python -m flow list` finds "
            "those in a folder"
        )
    return Run(folder, _checked(text(file), file))


def _read_figure(file: Path) -> Run:
    from PIL import Image

    with (
        opened(file) as content,
        reading(f"{file} can't be read as a figure"),
        Image.open(content, formats=["PNG"]) as figure,
    ):
        told = figure.info.get(METADATA)
    if told is None:
        raise ValueError(
            f"{file} carries no record of a run; figures that experiments write do, as long as no "
            "editor has stripped their metadata"
        )
    return Run(file, _checked(told, file))


def _table(told: str) -> "pandas.DataFrame":
    import pandas

    if any(line[0].count(",") > _WIDEST for line in re.finditer(r"[^\r\n]+", told)):
        raise ValueError(f"it has more than {_WIDEST:,} columns")
    return pandas.read_csv(StringIO(told))


def _checked(told: str, file: Path) -> dict[str, Any]:
    with reading(
        f"the record in {file} can't be read",
        "; was it edited, or written by an earlier flow? Its .nc and .csv files can be read by "
        "themselves",
    ):
        facts = check_fields(from_json(told), _NEEDED, _OPTIONAL)
    if facts["format"] != FORMAT:
        raise Unreadable(f"{file} is not a record of a run of flow's")
    if facts["format_version"] > FORMAT_VERSION:
        raise Unreadable(
            f"{file} has format {facts['format_version']}, newer than this flow's "
            f"{FORMAT_VERSION}; upgrade gradient-flow"
        )
    return facts
