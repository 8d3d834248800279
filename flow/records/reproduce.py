"""Rerun an experiment from the record of a run, and say whether the numbers agree."""

import importlib.util
import os
import re
import reprlib
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from flow._core.checks import choice
from flow._core.signals import heard_by_others
from flow.records.agreement import Agreement, agreement
from flow.records.experiment import DONE, FELL_SHORT, check_numbers, science
from flow.records.provenance import EXPERIMENTS, differences, options, plain
from flow.records.reading import Run, read_run

# Lines of what differs that are shown of a table.
SHOWN = 10
# Seconds that a rerun has to end in once it is interrupted.
GRACE = 30.0
# Entries that a record's option may have, and what it may say in words: names, no paths, no URLs.
ENTRIES = 20
WORDS = re.compile(r"\w[\w .,=()’'–-]{0,59}")


class CannotReproduce(ValueError):  # noqa: N818 - it says what is the matter
    """There is nothing to rerun, or its configuration is not one of the experiment."""


def command(run: Run, out: Path, *, quiet: bool = False) -> list[str]:
    """Return the command line that reruns a record's experiment, into a run folder under `out`.

    Nothing of a record is executed, opened, connected to or written to: its experiment must be one
    that ships with this checkout, and of its configuration only what the experiment marks as
    `Science` is read, and must be valid there.

    Raises
    ------
    CannotReproduce
        It isn't.
    """
    name = run.facts["experiment"]
    arguments = command_line(experiment(name), run.facts["configuration"])
    flags = ["--out", str(out), *(["--quiet"] if quiet else [])]
    return [sys.executable, str(EXPERIMENTS / f"{name}.py"), *arguments, *flags]


def reproduce(run: Run, out: Path, *, quiet: bool = False, max_seconds: float = 3600.0) -> Run:
    """Run the `command` of a record, and read the run folder that it makes.

    After so many seconds it is stopped as by Ctrl-C.

    Raises
    ------
    CannotReproduce
        There is none, or the rerun failed or was stopped.
    """
    line = command(run, out, quiet=quiet)
    name = Path(line[1]).stem
    before = set(out.glob(f"{name}/*"))
    code = _code(line, max_seconds, subprocess.DEVNULL if quiet else None)
    made = sorted(set(out.glob(f"{name}/*")) - before)
    if code is None:
        left = f"; what there is: {made[-1]}" if made else ""
        raise CannotReproduce(
            f"the rerun of {name} was stopped after {max_seconds:g} s{left}; --max-seconds gives "
            "it longer"
        )
    if not made or code not in {DONE, FELL_SHORT}:
        raise CannotReproduce(f"the rerun of {name} ended with exit code {code}")
    return read_run(made[-1])


def _code(line: list[str], max_seconds: float, stdout: int | None) -> int | None:
    """Exit code of a process; None where it was interrupted, with all that it started, in time."""
    with heard_by_others():
        process = subprocess.Popen(  # noqa: S603 - a shipped script, its options checked, no shell
            line, stdin=subprocess.DEVNULL, stdout=stdout, process_group=0
        )
    try:
        return process.wait(max_seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
        with suppress(subprocess.TimeoutExpired, ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(GRACE)
        if isinstance(stop, KeyboardInterrupt):
            raise
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def experiment(name: str) -> ModuleType:
    """Return the shipped experiment of that name, imported."""
    if not EXPERIMENTS.is_dir():
        raise CannotReproduce(
            "experiments are in flow's repository, which this installation is not of; clone it and "
            "install it with pip install -e ."
        )
    shipped = [p.stem for p in sorted(EXPERIMENTS.glob("*.py")) if "Configuration" in p.read_text()]
    try:
        choice("experiment", name[:80], shipped)
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
    """Return the options of a recorded configuration, of science, that differ from the usual ones.

    Raises
    ------
    CannotReproduce
        An option is not one of the experiment in this checkout, or its value is no such option's,
        or beyond what a record may ask for.
    """
    import tyro

    configuration = module.Configuration
    defaults = {k: plain(v) for k, v in vars(configuration()).items()}
    if unknown := [k for k in values if k not in defaults]:
        raise CannotReproduce(
            f"{module.__name__} of this checkout has no option {unknown[0][:80]!r}, which the "
            "record has; check out the commit that it names"
        )
    most = science(configuration)
    own = {k: v for k, v in values.items() if k in most and v != defaults[k]}
    found: list[str] = []
    for name, v in own.items():
        flag = f"--{name.replace('_', '-')}"
        _check(flag, v, most[name])
        if isinstance(v, bool):
            found.append(flag if v else f"--no-{flag.removeprefix('--')}")
        else:
            found += [flag, *map(str, v if isinstance(v, list) else [v])]
    told = f"not valid for {module.__name__}: {shlex.join(found)}"
    try:
        made = tyro.cli(configuration, args=found, console_outputs=False)
        check_numbers(made)
    except SystemExit:
        raise CannotReproduce(f"the record's configuration is {told}") from None
    except ValueError as error:
        raise CannotReproduce(f"the record's {error}") from None
    if off := [k for k, v in own.items() if plain(getattr(made, k)) != v]:
        raise CannotReproduce(f"the record's {off[0]}={own[off[0]]!r} is {told}")
    return found


def elsewhere(run: Run) -> dict[str, Any]:
    """Return the options of a record that are not of science, and not the usual ones.

    Of where a run happens; `command` must have found the record valid.
    """
    configuration = experiment(run.facts["experiment"]).Configuration
    usual = options({k: plain(v) for k, v in vars(configuration()).items()})
    known = {*options(science(configuration))}
    own = options(run.facts["configuration"])
    return {flag: v for flag, v in own.items() if flag not in known and v != usual[flag]}


def _check(flag: str, value: Any, most: float) -> None:
    """Refuse what is no option's value, by its kind, its length and its size."""
    told = f"the record's {flag} {reprlib.repr(value)}"
    entries = value if isinstance(value, list) else [value]
    if len(entries) > ENTRIES:
        raise CannotReproduce(f"{told} has {len(entries)} entries; at most {ENTRIES} are rerun")
    for x in entries if value is not None else ():
        if not isinstance(x, bool | int | float | str):
            raise CannotReproduce(f"{told} is no option's value")
        if isinstance(x, str) and not WORDS.fullmatch(x):
            raise CannotReproduce(f"{told} is no name of anything")
        if isinstance(x, int | float) and x > most and not isinstance(x, bool):
            raise CannotReproduce(
                f"{told} is beyond {most:g}, the most that is rerun; type the experiment's own "
                "command line if you mean it"
            )


def agreements(old: Run, new: Run, rtol: float) -> dict[str, Agreement]:
    """Return how well the tables of two runs agree, by name."""
    timings = old.facts.get("timings", {})
    return {
        name: agreement(table, new.tables[name], timings.get(name, ()), rtol)
        for name, table in old.tables.items()
        if name in new.tables
    }


def verdict(old: Run, new: Run, rtol: float) -> tuple[list[str], bool]:
    """Return what agrees and what differs, line by line, and whether all numbers agree."""
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
    return lines, alike and compared > 0 and new.result == old.result
