"""Rerun an experiment from the record of a run, and say whether the numbers agree."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from flow.checks import choice
from flow.records.agreement import Agreement, agreement
from flow.records.experiment import DONE, FELL_SHORT
from flow.records.provenance import EXPERIMENTS, differences, options, plain
from flow.records.reading import Run, read_run

# Lines of what differs that are shown of a table.
SHOWN = 10


class CannotReproduce(ValueError):  # noqa: N818 - it says what is the matter
    """There is nothing to rerun, or its configuration is not one of the experiment."""


def reproduce(run: Run, out: Path, *, quiet: bool = False) -> Run:
    """Rerun the experiment of a record with its configuration, into a run folder under `out`.

    Nothing of a record is executed: its experiment must be one that ships with this checkout, and
    its configuration must be valid there.

    Raises
    ------
    CannotReproduce
        It isn't, or the rerun failed.
    """
    name, values = run.facts["experiment"], run.facts["configuration"]
    arguments = command_line(experiment(name), values)
    script = EXPERIMENTS / f"{name}.py"
    before = set(out.glob(f"{name}/*"))
    flags = ["--out", str(out), *(["--quiet"] if quiet else [])]
    answer = subprocess.run(  # noqa: S603 - a shipped script, its options checked, and no shell
        [sys.executable, str(script), *arguments, *flags],
        check=False,
        stdout=subprocess.DEVNULL if quiet else None,
    )
    made = sorted(set(out.glob(f"{name}/*")) - before)
    if not made or answer.returncode not in {DONE, FELL_SHORT}:
        raise CannotReproduce(f"the rerun of {name} ended with exit code {answer.returncode}")
    return read_run(made[-1])


def experiment(name: str) -> ModuleType:
    """The shipped experiment of that name, imported."""
    if not EXPERIMENTS.is_dir():
        raise CannotReproduce(
            "experiments are in flow's repository, which this installation is not of; clone it and "
            "install it with pip install -e ."
        )
    shipped = [p.stem for p in sorted(EXPERIMENTS.glob("*.py")) if "Configuration" in p.read_text()]
    try:
        choice("experiment", name, shipped)
    except ValueError as error:
        raise CannotReproduce(str(error)) from None
    if name in sys.modules:
        return sys.modules[name]
    sys.path.insert(0, str(EXPERIMENTS))  # they import from each other
    try:
        spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look their annotations up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXPERIMENTS))
    return module


def command_line(module: ModuleType, values: dict[str, Any]) -> list[str]:
    """The options of a recorded configuration that differ from the experiment's defaults.

    Raises
    ------
    CannotReproduce
        An option is not one of the experiment in this checkout, or its value is no such option's.
    """
    import tyro

    configuration = module.Configuration
    defaults = {k: plain(v) for k, v in vars(configuration()).items()}
    if unknown := [k for k in values if k not in defaults]:
        raise CannotReproduce(
            f"{module.__name__} of this checkout has no option {unknown[0]!r}, which the record "
            "has; check out the commit that it names"
        )
    usual = options(defaults)
    own = {flag: v for flag, v in options(values).items() if v != usual[flag]}
    found: list[str] = []
    for flag, v in own.items():
        entries = v if isinstance(v, list) else [v]
        if any(not isinstance(x, bool | int | float | str) for x in entries if x is not None):
            raise CannotReproduce(f"the record's {flag}={v!r} is no option's value")
        if any(isinstance(x, str) and x.startswith("-") for x in entries):
            raise CannotReproduce(f"the record's {flag}={v!r} is an option and no value")
        if isinstance(v, bool):
            found.append(flag if v else f"--no-{flag.removeprefix('--')}")
        else:
            found += [flag, *map(str, entries)]
    try:
        made = tyro.cli(configuration, args=found, console_outputs=False)
    except SystemExit:
        raise CannotReproduce(
            f"the record's configuration is not valid for {module.__name__}: {' '.join(found)}"
        ) from None
    read = options({k: plain(v) for k, v in dataclasses.asdict(made).items()})
    if off := [flag for flag, v in own.items() if read[flag] != v]:
        raise CannotReproduce(f"the record's {off[0]}={own[off[0]]!r} is no valid value of it")
    return found


def agreements(old: Run, new: Run, rtol: float) -> dict[str, Agreement]:
    """How well the tables of two runs agree, by name."""
    timings = old.facts.get("timings", {})
    return {
        name: agreement(table, new.tables[name], timings.get(name, ()), rtol)
        for name, table in old.tables.items()
        if name in new.tables
    }


def verdict(old: Run, new: Run, rtol: float) -> tuple[str, bool]:
    """What agrees and what differs, in words, and whether all numbers agree."""
    lines = [f"made {old.facts.get('started', 'at an unknown time')}: {old.result}"]
    if new.result != old.result:
        lines.append(f"the rerun: {new.result}")
    changed = differences(old.facts, new.facts)
    lines += ["since then", *(f"  {line}" for line in changed)] if changed else ["nothing changed"]
    if missing := sorted({*old.facts["configuration"]} ^ {*new.facts["configuration"]}):
        lines.append(f"  options that one of them lacks: {', '.join(missing)}")
    if old.edited:
        lines.append(f"edited since it was written: {', '.join(old.edited)}")
    found = agreements(old, new, rtol)
    for name, of in found.items():
        if not of.lines:
            lines.append(f"{name}: {of.numbers} numbers agree, to {of.largest:.1e} at worst")
            continue
        lines.append(
            f"{name}: {len(of.lines)} of {of.numbers} numbers differ by more than {rtol:g}"
        )
        lines += [f"  {line}" for line in of.lines[:SHOWN]]
        lines += [f"  and {len(of.lines) - SHOWN} more"] if len(of.lines) > SHOWN else []
    gone = [name for name in old.tables if name not in new.tables]
    lines += [f"{name}: the rerun has no such table" for name in gone]
    if not found:
        lines.append("there is no table to compare")
    compared = sum(of.numbers for of in found.values())
    alike = not gone and not any(of.lines for of in found.values())
    if found and not compared:
        lines.append("no number was compared: all of them are timings")
    return "\n".join(lines), alike and compared > 0 and new.result == old.result
