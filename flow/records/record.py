"""A run folder while it is filled: what is kept is on the disk at once, whole or not at all."""

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from flow._core.checks import file_path
from flow._core.display import visible
from flow._core.files import write_new
from flow._core.opening import opened
from flow._run.trajectory import Trajectory, uninterrupted
from flow.records.provenance import provenance

CONFIGURATION, RECORD = "configuration.json", "record.json"
# The key of a figure's facts in its PNG's metadata.
METADATA = "flow"
# Columns of a table that a machine's speed decides.
TIMING = re.compile(r"^seconds|\bseconds$|^µs ")


def new_run_folder(script: str, slug: str, root: str | os.PathLike = "results") -> Path:
    """Make ``root/<script>/<time>-<slug>/`` and return it; a number is added if it exists."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(slug)}".strip("-")
    parent = file_path("root", root) / script
    parent.mkdir(parents=True, exist_ok=True)
    for i in range(1, 1000):
        folder = parent / (name if i == 1 else f"{name}-{i}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / name} and 998 others exist; wait a second")


def file_name(label: str) -> str:
    """Return a label as a file's name.

    >>> file_name("GD, η = 0.05")
    'GD-η-0.05'
    """
    return re.sub(r"[^\w.]+", "-", label).strip("-.")


class Record:
    """A run folder being filled.

    ``configuration.json`` is written first and ``record.json`` last, so that a folder without the
    latter is known to be unfinished; what it holds is whole all the same.

    Parameters
    ----------
    folder
        From `new_run_folder`.
    experiment
        Its name, and the script's.
    configuration
        A dataclass.
    """

    def __init__(self, folder: Path, experiment: str, configuration: Any) -> None:
        self.folder = file_path("folder", folder)
        self._began = time.perf_counter()
        self._facts = provenance(experiment, configuration)
        self._runs: dict[str, dict[str, Any]] = {}
        self._tables: dict[str, str] = {}
        self._timings: dict[str, list[str]] = {}
        self._figures: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self.interrupted = False  # by Ctrl-C, whoever caught it
        self._write(CONFIGURATION, json.dumps(self._facts, indent=2).encode())

    def keep(self, name: str, run: Trajectory) -> Trajectory:
        """Write a run to ``name.nc`` and return it; its cost and result go into the record.

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C ended the run: it is kept, and ends what it is a part of.
        """
        name = file_name(name)
        file = self.folder / f"{name}.nc"
        run.save(file)
        self._digests[file.name] = file_digest(file)
        costs = [
            name
            for name in ("gradients", "batch_gradients", "hvps", "steps", "seconds")
            if name in run.stats
        ]
        self._runs[name] = {"label": run.label, "result": run.result} | {
            cost: run.stats[cost] for cost in costs
        }
        self._end_if_interrupted()
        return uninterrupted(run)

    def table(self, name: str, table: Any, timings: Sequence[str] = ()) -> None:
        """Write a pandas table to ``name.csv``; `timings` are columns that no rerun repeats."""
        self._tables[name] = visible(table.to_csv(lineterminator="\n"), keep="\n")
        self._timings[name] = [c for c in table.columns if c in timings or TIMING.search(str(c))]
        self._write(f"{name}.csv", self._tables[name].encode())
        self._end_if_interrupted()

    def figure(self, name: str, figure: Any) -> None:
        """Write a figure to ``name.png`` when the record is closed, with all it is known of."""
        self._figures[name] = figure

    def wrote(self, file: Path) -> None:
        """Note a file that something else has written into the folder, a study or an animation."""
        self._digests[file.name] = file_digest(file)

    def close(self, result: str) -> None:
        """Write the figures, and the record itself; a figure that can't be drawn costs no other."""
        facts = self._facts | {
            "result": result,
            "seconds": time.perf_counter() - self._began,
            "runs": self._runs,
            "timings": self._timings,
        }
        embedded = json.dumps(facts | {"tables": self._tables})
        while self._figures:  # so that a second call goes on with the next
            name, figure = self._figures.popitem()
            png = BytesIO()
            told = {"Source": str(self.folder), METADATA: embedded}
            figure.savefig(png, format="png", dpi=110, metadata=told)
            self._write(f"{name}.png", png.getvalue())
        facts["files"] = dict(self._digests)
        write_new(self.folder / RECORD, json.dumps(facts, indent=2).encode())

    @property
    def seconds(self) -> float:
        """Return since the record was opened."""
        return time.perf_counter() - self._began

    @property
    def empty(self) -> bool:
        """Return whether nothing was kept yet."""
        return not self._figures and [p.name for p in self.folder.iterdir()] == [CONFIGURATION]

    def discard(self) -> None:
        """Remove the folder of a run that never began."""
        (self.folder / CONFIGURATION).unlink()
        self.folder.rmdir()

    def _end_if_interrupted(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def _write(self, name: str, content: bytes) -> None:
        write_new(self.folder / name, content)
        self._digests[name] = file_digest(self.folder / name)


def file_digest(file: Path) -> str:
    """Return a file's digest, by which an edit is noticed; of a file in its folder, and no link."""
    with opened(file, own=True) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]
