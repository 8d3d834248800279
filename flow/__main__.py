"""`python -m flow`, or `flow`: runs on disk, shown, listed, compared and reproduced.

python -m flow list              run folders under results/
python -m flow show RUN          tables and a figure of a run folder or a saved run
python -m flow compare RUN RUN   runs of several folders side by side
python -m flow reproduce RUN     an experiment again, from its run folder or its figure
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from flow._core.display import visible
from flow.records.experiment import DONE, FELL_SHORT, INTERRUPTED, WRONG

FORMAT = "{:.4g}".format


def list_(root: tyro.conf.Positional[Path] = Path("results")) -> int:
    """List the run folders under a folder, and the options that tell them apart.

    Parameters
    ----------
    root
        Where to look.
    """
    from flow._core.checks import file_path
    from flow.records.overview import find_runs, listing

    root = file_path("root", root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; experiments make run folders by --out")
    runs, wrong = find_runs(root)
    if runs:
        _say_table(listing(runs), index=False, float_format="{:.0f}".format)
    else:
        _say(f"there is no run folder under {root}")
    for line in wrong:
        _say(f"left out: {line}")
    return FELL_SHORT if wrong else DONE


def show(
    run: tyro.conf.Positional[Path],
    figure: Path | None = None,
    name: str | None = None,
) -> int:
    """Print what a run folder holds, its tables and its runs, and draw the runs.

    Parameters
    ----------
    run
        A run folder, a figure of one, or a saved run or study (.nc).
    figure
        Where to write the figure, a new PNG; none is drawn without it.
    name
        An observable to draw instead of loss, gradient norm and plane.
    """
    from flow.records.overview import trajectories_of
    from flow.records.reading import read_run

    _check_figure(figure)
    if name is not None and figure is None:
        raise ValueError(f"--name {name} is what --figure draws, and no --figure is given")
    if run.suffix != ".nc":
        found = read_run(run)
        _tell(found)
        runs = found.trajectories()
    else:
        runs = trajectories_of(run)
    for file, path in runs.items():
        _say(f"{file}: {path!r}")
    if figure is not None:
        _draw([path for path in runs.values() if path.members is None], figure, name)
    return DONE


def compare(runs: tyro.conf.Positional[tuple[Path, ...]], figure: Path | None = None) -> int:
    """Compare the runs of several folders, at matched times, without the code that made them.

    Parameters
    ----------
    runs
        Run folders, or saved runs or studies (.nc). The first flow is the reference.
    figure
        Where to write a figure of all of them, a new PNG.
    """
    from flow._core.checks import file_path
    from flow.records.overview import side_by_side, trajectories_of
    from flow.records.provenance import differences, options
    from flow.records.reading import read_run

    _check_figure(figure)
    if not runs:
        raise ValueError("compare needs run folders or .nc files; `python -m flow list` finds them")
    opened, folders, wrong = [], [], []
    for path in (file_path("runs", path) for path in runs):
        try:
            folder = [read_run(path)] if path.is_dir() else []
            opened.append((path, trajectories_of(path)))
            folders += folder
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    if not opened:
        raise ValueError("; ".join(wrong))
    for other in folders[1:]:
        own, theirs = (options(r.facts["configuration"]) for r in (folders[0], other))
        _say(f"{folders[0].source} → {other.source}")
        changed = [
            f"{k}: {own.get(k)} → {theirs.get(k)}"
            for k in sorted({*own, *theirs})
            if own.get(k) != theirs.get(k)
        ]
        for line in [*changed, *differences(folders[0].facts, other.facts)] or ["made alike"]:
            _say(f"  {line}")
    reference, others, table = side_by_side(opened)
    _say("")
    _say_table(table, float_format=FORMAT)
    for line in wrong:
        _say(f"left out: {line}")
    if figure is not None:
        _draw([reference, *others], figure, None)
    return FELL_SHORT if wrong else DONE


def reproduce(
    run: tyro.conf.Positional[Path],
    out: Path = Path("results"),
    rtol: float = 1e-6,
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    max_seconds: float = 3600.0,
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Rerun the experiment of a run folder or a figure, and say whether the numbers agree.

    Only experiments that ship with this checkout are run, with what decides the numbers, as far as
    it is valid there and within their limits; folders, schedulers and workers are never read from a
    record. The command line is shown, and run once you say so. Exit codes: 0 where all numbers
    agree, 1 where some differ, 2 where it can't be rerun, was not to be, or took too long.

    Parameters
    ----------
    run
        A run folder, or a PNG figure that an experiment wrote.
    out
        Where the run folder of the rerun is made.
    rtol
        Relative difference up to which numbers agree.
    yes
        Run it without asking; needed where there is no terminal.
    max_seconds
        Seconds after which it is stopped, as by Ctrl-C.
    quiet
        Show no progress bars, and nothing of what the experiment prints.
    """
    from flow._core.checks import file_path, positive
    from flow.records.reading import read_run
    from flow.records.reproduce import command, elsewhere, reproduce, verdict

    positive("--rtol", rtol)
    positive("--max-seconds", max_seconds)
    old, out = read_run(run), file_path("--out", out)
    _say(shlex.join(command(old, out, quiet=quiet)))
    if left := elsewhere(old):
        _say(f"not taken from the record, as they are this machine's: {', '.join(left)}")
    if not yes and not _agreed():
        return WRONG
    new = reproduce(old, out, quiet=quiet, max_seconds=max_seconds)
    lines, agree = verdict(old, new, rtol)
    for line in ("", f"{old.source} and {new.source}", *lines):
        _say(line)
    _say("the numbers agree" if agree else "the numbers differ")
    return DONE if agree else FELL_SHORT


def _agreed() -> bool:
    """Return whether the user says yes; without a terminal nobody can."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ValueError("nothing was run, as there is no terminal to ask at; --yes runs it")
    try:
        return input("run it? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _tell(run: Any) -> None:
    """Print a run's facts and tables."""
    facts = run.facts
    _say(f"{facts['experiment']}, started {facts.get('started', 'at an unknown time')}")
    _say(f"result: {run.result}")
    if facts.get("checkout"):
        changed = ", with changed files" if facts["checkout"]["changed"] else ""
        _say(f"commit {facts['checkout']['commit'][:12]}{changed}")
    _say("versions: " + ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()))
    _say("options: " + ", ".join(f"{k} {v}" for k, v in facts["configuration"].items()))
    if run.edited:
        _say(f"edited since it was written: {', '.join(run.edited)}")
    for name, table in run.tables.items():
        _say("")
        _say(name)
        _say_table(table, index=False, float_format=FORMAT)
        _say("")


def _draw(runs: list[Any], file: Path, name: str | None) -> None:
    """Write a figure of runs: loss, gradient norm and, of one problem, the plane."""
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from flow import plots
    from flow._core.files import write_new

    if not runs:
        raise ValueError("there are no single runs to draw; members of an ensemble are drawn one "
                         "by one, path.member(i)")  # fmt: skip
    alike = len({run.theta.shape[1] for run in runs}) == 1 and all(r.keeps_theta for r in runs)
    alike = alike and len({round(float(run.config["problem"]["norm"]), 9) for run in runs}) == 1
    kinds = [plots.loss, plots.gradient_norm, *([plots.plane] if alike else [])]
    if name is not None:
        kinds = [lambda *r, ax: plots.observable(*r, name=name, ax=ax)]
    drawn, axes = plt.subplots(
        1, len(kinds), figsize=(4.4 * len(kinds), 4), layout="constrained", squeeze=False
    )
    for kind, ax in zip(kinds, axes[0], strict=True):
        kind(*runs, ax=ax)
    plots.shared_legend(drawn, axes[0, 0])
    png = io.BytesIO()
    drawn.savefig(png, format="png", dpi=110)
    _say(f"figure: {write_new(file, png.getvalue())}")


def _check_figure(file: Path | None) -> None:
    """Refuse, before all work, what can't be written."""
    from flow._core.files import refuse_existing

    if file is not None and refuse_existing(file).suffix.lower() != ".png":
        raise ValueError(f"--figure {file} must end in .png")


def _say(line: str) -> None:
    """Print a line, whatever is in it."""
    print(visible(line), flush=True)  # noqa: T201 - a command line


def _say_table(table: Any, **options: Any) -> None:
    for line in table.to_string(na_rep="–", **options).split("\n"):
        _say(line)


def main() -> None:
    """Run from the command line."""
    program = "flow" if Path(sys.argv[0]).stem == "flow" else "python -m flow"
    commands = {"list": list_, "show": show, "compare": compare, "reproduce": reproduce}
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            commands, prog=program, description=(__doc__ or "").split("\n", maxsplit=1)[0]
        )
    except (ValueError, OSError) as error:
        print(visible(f"flow: {error}", keep="\n"), file=sys.stderr)  # noqa: T201
        code = WRONG
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
