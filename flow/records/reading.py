"""Run folders and figures as they were left, read without the code that made them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow.records.provenance import FORMAT, FORMAT_VERSION
from flow.records.record import CONFIGURATION, METADATA, RECORD, digest
from flow.trajectory import Trajectory, load

if TYPE_CHECKING:
    import pandas

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
    tables
        Name -> pandas table.
    edited
        Files that have changed, or gone, since they were written.
    """

    source: Path
    facts: Mapping[str, Any]
    tables: Mapping[str, "pandas.DataFrame"]
    edited: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """Why it ended."""
        return self.facts.get("result", UNFINISHED)

    def trajectories(self) -> dict[str, Trajectory]:
        """Its runs by name, of a folder; a figure has none.

        Raises
        ------
        ValueError
            A file is truncated, or of a newer flow.
        """
        if not self.source.is_dir():
            return {}
        return {file.stem: load(file) for file in sorted(self.source.glob("*.nc"))}


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
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".png" and path.is_file():
        return _read_figure(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a run folder, or a figure of a run")
    raise ValueError(f"{path} is neither a run folder nor a PNG figure of a run")


def _read_folder(folder: Path) -> Run:
    import pandas

    finished = (folder / RECORD).is_file()
    file = folder / (RECORD if finished else CONFIGURATION)
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {CONFIGURATION}, so it is no run folder; `python -m flow list` finds "
            "those in a folder"
        )
    facts = _checked(file.read_text(), file)
    tables = {t.stem: pandas.read_csv(t) for t in sorted(folder.glob("*.csv"))}
    edited = tuple(
        name
        for name, known in facts.get("files", {}).items()
        if not (folder / name).is_file() or digest((folder / name).read_bytes()) != known
    )
    return Run(folder, facts, tables, edited)


def _read_figure(file: Path) -> Run:
    import pandas
    from PIL import Image

    try:
        with Image.open(file) as figure:
            told = figure.info.get(METADATA)
    except OSError as error:
        raise ValueError(f"{file} can't be read as a figure: {error}") from error
    if told is None:
        raise ValueError(
            f"{file} carries no record of a run; figures that experiments write do, as long as no "
            "editor has stripped their metadata"
        )
    facts = _checked(told, file)
    tables = {n: pandas.read_csv(StringIO(t)) for n, t in facts.get("tables", {}).items()}
    return Run(file, facts, tables)


def _checked(text: str, file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(text)
        known = facts["format"] == FORMAT and isinstance(facts["experiment"], str)
        known = known and isinstance(facts["configuration"], dict)
        version = int(facts["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the record in {file} can't be read ({type(error).__name__}: {error}); was it edited, "
            "or written by an earlier flow? Its .nc and .csv files can be read by themselves"
        ) from error
    if not known:
        raise ValueError(f"{file} is not a record of a run of flow's")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{file} has format {version}, newer than this flow's {FORMAT_VERSION}; upgrade "
            "gradient-flow"
        )
    return facts
