"""Run folders side by side: a line each, or one in full, or several compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flow._evidence.compare import compare
from flow._run.trajectory import Trajectory
from flow.records.provenance import options
from flow.records.reading import Run, read_run, trajectories
from flow.records.record import CONFIGURATION, RECORD

if TYPE_CHECKING:
    import pandas


def find_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Run folders under a root, oldest first, and what was wrong with those that can't be read."""
    folders = sorted(
        {file.parent for name in (CONFIGURATION, RECORD) for file in root.rglob(name)},
        key=lambda folder: folder.name,
    )
    runs, wrong = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    return runs, wrong


def listing(runs: Sequence[Run]) -> "pandas.DataFrame":
    """Return a row a run; "options" are those in which it differs from others of its experiment."""
    import pandas

    return pandas.DataFrame(
        [
            {
                "experiment": run.facts["experiment"],
                "started": run.facts.get("started", "")[:19].replace("T", " "),
                "seconds": run.facts.get("seconds", np.nan),
                "result": run.result.split(":")[0],
                "options": telling(run, runs),
                "folder": str(run.source),
            }
            for run in runs
        ]
    )


def telling(run: Run, runs: Sequence[Run]) -> str:
    """Return the options of a run in which runs of its experiment are not all alike."""
    own = options(run.facts["configuration"])
    alike = [
        options(r.facts["configuration"])
        for r in runs
        if r.facts["experiment"] == run.facts["experiment"]
    ]
    differing = [k for k in own if any(other.get(k) != own[k] for other in alike)]
    return " ".join(f"{k} {_typed(own[k])}" for k in differing) or "as the others"


def _typed(value: Any) -> str:
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def trajectories_of(path: Path) -> dict[str, Trajectory]:
    """Return runs in a run folder, a saved run, or a saved study.

    Raises
    ------
    FileNotFoundError, ValueError
        There are none.
    """
    if path.suffix != ".nc":
        found = read_run(path).trajectories()
        if not found:
            raise ValueError(f"{path} holds no trajectories, only its tables and figures")
        return found
    return trajectories(path)


def side_by_side(
    opened: Sequence[tuple[Path, dict[str, Trajectory]]],
) -> tuple[Trajectory, list[Trajectory], "pandas.DataFrame"]:
    """Return all runs of several opened folders or files: the reference, the others, and a table.

    The reference is the first flow, or the first run where there is none. Labels carry the folder
    where several have runs of one name. Distances are of the runs of the reference's problem; runs
    of another one have their losses alone.
    """
    import pandas

    found = [
        (
            f"{path}/{name}" + (f", member {i}" if run.members else ""),
            run.member(i) if run.members else run,
        )
        for path, runs in opened
        for name, run in runs.items()
        for i in range(run.members or 1)
    ]
    labels = [run.label for _, run in found]
    runs = [
        run if labels.count(run.label) == 1 else run.named(f"{run.label} ({where})")
        for where, run in found
    ]
    reference = next((run for run in runs if run.config["kind"] == "flow"), runs[0])
    others = [run for run in runs if run is not reference]
    rows = [
        {
            "run": run.label,
            "t": run.t[-1],
            "loss": run.loss[-1],
            "gradients": run.units,
        }
        | _gap(reference, run)
        for run in (reference, *others)
    ]
    return reference, others, pandas.DataFrame(rows).set_index("run")


def _gap(reference: Trajectory, run: Trajectory) -> dict[str, Any]:
    """Return distance to the reference at the last time that both saved, or why there is none."""
    if run is reference:
        return {"distance": np.nan, "at t": np.nan, "note": "the reference"}
    try:
        gap = compare(reference, run, error_bar=False, progress=False)
    except ValueError as error:
        known = {
            "different problems": "another problem",
            "share no": "no saved time in common",
            "climbs J": "of descent and ascent one each",
        }
        found = [note for phrase, note in known.items() if phrase in str(error)]
        return {"distance": np.nan, "at t": np.nan, "note": found[0] if found else str(error)}
    return {"distance": gap.distance[-1], "at t": gap.t[-1], "note": ""}
