"""Run folders: figure, trajectories and configuration together, none ever overwritten."""

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from flow.files import write_new
from flow.trajectory import Trajectory, current_versions


def new_run_folder(script: str, slug: str, root: str | os.PathLike = "results") -> Path:
    """Make ``root/<script>/<time>-<slug>/`` and return it; a number is added if it exists."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^a-zA-Z0-9.]+', '-', slug).strip('-')}"
    parent = Path(root) / script
    parent.mkdir(parents=True, exist_ok=True)
    for i in range(1, 1000):
        folder = parent / (name if i == 1 else f"{name}-{i}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / name} and 998 others exist; wait a second")


def write_run(
    folder: Path,
    configuration: Any,
    trajectories: Mapping[str, Trajectory],
    figures: Mapping[str, Any],
    tables: Mapping[str, Any] | None = None,
) -> None:
    """Write a run's files into its folder.

    Parameters
    ----------
    folder
        From `new_run_folder`.
    configuration
        A dataclass; written to configuration.json with the versions and the command line.
    trajectories
        Name -> run, each to name.nc.
    figures
        Name -> matplotlib figure, each to name.png, with the folder in its metadata.
    tables
        Name -> pandas table, each to name.csv.
    """
    facts = {
        "configuration": asdict(configuration),
        "command": sys.argv,
        "versions": current_versions(),
    }
    write_new(folder / "configuration.json", json.dumps(facts, indent=2, default=str).encode())
    for name, path in trajectories.items():
        path.save(folder / f"{name}.nc")
    for name, table in (tables or {}).items():
        write_new(folder / f"{name}.csv", table.to_csv().encode())
    for name, figure in figures.items():
        png = BytesIO()
        figure.savefig(png, format="png", dpi=110, metadata={"Source": str(folder)})
        write_new(folder / f"{name}.png", png.getvalue())
