"""Run folders and figures as they were left, read without the code that made them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow.checks import file_path
from flow.records.provenance import FORMAT, FORMAT_VERSION
from flow.records.record import CONFIGURATION, METADATA, RECORD, digest
from flow.study import load_study
from flow.trajectory import Trajectory, load

if TYPE_CHECKING:
    import pandas

# What a record may have, and of which kind.
_KINDS = {"started": str, "result": str, "versions": dict, "files": dict, "tables": dict,
          "timings": dict, "source": dict}  # fmt: skip
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
    texts
        Name -> table, as CSV.
    """

    source: Path
    facts: Mapping[str, Any]
    texts: Mapping[str, str]

    @cached_property
    def tables(self) -> dict[str, "pandas.DataFrame"]:
        """Its tables; one that can't be read is an error that names it."""
        import pandas

        found = {}
        for name, text in self.texts.items():
            try:
                found[name] = pandas.read_csv(StringIO(text))
            except ValueError as error:
                raise ValueError(f"table {name} of {self.source} can't be read: {error}") from error
        return found

    @cached_property
    def edited(self) -> tuple[str, ...]:
        """Files that have changed, or gone, since they were written."""
        if not self.source.is_dir():
            return ()
        files = {self.source / name: known for name, known in self.facts.get("files", {}).items()}
        return tuple(
            file.name
            for file, known in files.items()
            if not file.is_file() or digest(file.read_bytes()) != known
        )

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
        return {
            name: run
            for file in sorted(self.source.glob("*.nc"))
            for name, run in trajectories(file).items()
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


def trajectories(file: Path) -> dict[str, Trajectory]:
    """The runs of a netCDF file by name: one, or those of a study.

    Raises
    ------
    FileNotFoundError, ValueError
        It is missing, truncated, of a newer flow, or nothing of flow's.
    """
    try:
        return {file.stem: load(file)}
    except ValueError as error:
        if "load_study" not in str(error):
            raise
    study = load_study(file)
    runs = (study.flow, *study.runs)
    return {f"{file.stem}/{i}": run for i, run in enumerate(runs)}


def _read_folder(folder: Path) -> Run:
    finished = (folder / RECORD).is_file()
    file = folder / (RECORD if finished else CONFIGURATION)
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {CONFIGURATION}, so it is no run folder; `python -m flow list` finds "
            "those in a folder"
        )
    facts = _checked(file.read_text(errors="replace"), file)
    texts = {t.stem: t.read_text(errors="replace") for t in sorted(folder.glob("*.csv"))}
    return Run(folder, facts, texts)


def _read_figure(file: Path) -> Run:
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
    return Run(file, facts, facts.get("tables", {}))


def _checked(text: str, file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(text)
        known = facts["format"] == FORMAT and isinstance(facts["experiment"], str)
        known = known and isinstance(facts["configuration"], dict)
        version = int(facts["format_version"])
        for name, kind in _KINDS.items():
            if not isinstance(facts.get(name, kind()), kind):
                raise TypeError(f"{name} is {facts[name]!r:.40}")
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
