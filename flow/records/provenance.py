"""The origin of a run: script, configuration and command line, versions, platform, checkout."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flow._core import PACKAGE
from flow._run.trajectory import current_versions

FORMAT = "flow run"
FORMAT_VERSION = 1
# The experiments ship with the repository; an installed package has none.
EXPERIMENTS = PACKAGE.parent / "experiments"


def provenance(experiment: str, configuration: Any) -> dict[str, Any]:
    """Return the facts of a run that starts now; `configuration` is a dataclass."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "experiment": experiment,
        "configuration": {k: plain(v) for k, v in asdict(configuration).items()},
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": dict(current_versions()),
        "checkout": checkout(),
        "source": {
            "flow": source_digest(sorted(PACKAGE.rglob("*.py"))),
            "experiment": source_digest([EXPERIMENTS / f"{experiment}.py"]),
        },
    }


def options(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return flag -> value of what decides the numbers, not of where they go or what is shown."""
    return {
        f"--{name.replace('_', '-')}": value
        for name, value in configuration.items()
        if name not in {"out", "quiet"}
    }


def plain(value: Any) -> Any:
    """Return a configuration's value as JSON has it."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def source_digest(files: list[Path]) -> str:
    """Return a digest of the sources, the same in every checkout of one state, git or none."""
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def checkout() -> dict[str, Any] | None:
    """Return the commit that flow is at, and whether files differ from it; None without one."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, changed = (
            subprocess.run(  # noqa: S603 - no argument is a user's
                ["git", "-C", str(root), *command],  # noqa: S607
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the facts of two runs, the configuration apart; a line each."""
    found = []
    for what in ("versions", "checkout", "source"):
        old, new = (facts.get(what) or {} for facts in (then, now))
        found += [
            f"{_WHAT.get((what, k), k)}: {old.get(k, 'not known')} → {new.get(k, 'not known')}"
            for k in sorted({*old, *new})
            if old.get(k) != new.get(k)
        ]
    return found


_WHAT = {
    ("checkout", "changed"): "files changed since the commit",
    ("source", "flow"): "flow's source (digest)",
    ("source", "experiment"): "the experiment's source (digest)",
}
