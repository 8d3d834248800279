"""Command lines of the experiments: options that do something, endings, exit codes."""

import ast
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

import flow
from flow.records import read_run
from flow.records.experiment import check_numbers

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(p for p in ROOT.glob("experiments/*.py") if "Configuration" in p.read_text())
OF_ALL = {"out", "quiet"}  # read by `run_experiment`, and by every progress bar


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
@pytest.mark.quick
def test_no_option_is_parsed_and_ignored(script: Path):
    """Assert that every option is read by name, has a text, and that the clock is told."""
    tree = ast.parse(script.read_text())
    (configuration,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == "Configuration"
    ]
    body = [n for n in configuration.body if isinstance(n, ast.AnnAssign | ast.Expr)]
    options = {n.target.id for n in body if isinstance(n, ast.AnnAssign)}
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("config", "self")
    }
    assert options - read == set()
    assert "quiet" in read
    for option, text in zip(body[1::2], body[2::2], strict=True):
        assert isinstance(option, ast.AnnAssign)
        assert isinstance(text, ast.Expr)
        assert len(ast.literal_eval(text.value)) > 5
    names = options | OF_ALL
    if names & {"t", "t_along", "chebyshev_t"}:
        assert re.search("learning rate × steps|units of t|√|clock", script.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_no_number_is_taken_for_another(script: Path, monkeypatch: pytest.MonkeyPatch):
    """Assert that every number of every script is refused by name where it is negative or NaN."""
    monkeypatch.syspath_prepend(script.parent)
    usual = runpy.run_path(str(script))["Configuration"]()
    check_numbers(usual)
    for field in fields(usual):
        value = field.default
        several = value if isinstance(value, tuple) else (value,)
        if field.name in OF_ALL or not all(type(one) in (int, float) for one in several):
            continue
        option = f"--{field.name.replace('_', '-')} must be"
        for bad in (-0.1, float("nan")) if float in map(type, several) or not several else (-1,):
            with pytest.raises(ValueError, match=option):
                check_numbers(replace(usual, **{field.name: (*several, bad)}))
            with pytest.raises(ValueError, match=option):
                check_numbers(replace(usual, **{field.name: bad}))
    assert not re.search(r"max\(1, (round|int)\(", script.read_text())  # steps of no run


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("gd_vs_flow", ("--learning-rates", "0.1", "10", "--t", "5")),
        ("gd_vs_flow", ("--learning-rates", "-0.1")),
        ("conservation", ("--learning-rate", "10")),
        ("conservation", ("--step", "10")),
        ("deep_linear", ("--learning-rate", "20")),
        ("large_models", ("--learning-rate", "2")),
        ("momentum", ("--learning-rate", "1", "--t", "0.5")),
        ("momentum", ("--learning-rate", "-1e-3")),
        ("orthogonal", ("--learning-rate", "300")),
        ("orthogonal", ("--norm-rates", "1", "2e3")),
        ("stochastic", ("--network-rates", "25")),
        ("stochastic", ("--order-rates", "0.1", "2")),
        ("scale_out", ("--learning-rate", "11")),
        ("central_flow", ("--chebyshev-rate", "1e4")),
        ("edge_of_stability", ("--learning-rates", "0.1", "1e4")),
    ],
)
def test_no_learning_rate_is_taken_for_another(
    refused_here: Callable, script: str, arguments: tuple
):
    """Assert that one whose first step ends beyond the end is refused, and none is turned round."""
    told = refused_here(script, *arguments)
    assert "must be positive and finite" in told or "the first of which ends beyond t=" in told


# What is kept is at most 8 kB.
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))"


def start(script: str, *arguments: str, out: Path, first: str = "pass") -> subprocess.Popen:
    """Start an experiment, once something else is done."""
    file = str(ROOT / "experiments" / f"{script}.py")
    argv = [file, *arguments, "--quiet", "--out", str(out)]
    code = f"{first}; import runpy, sys; sys.argv = {argv}; sys.path.insert(0, {str(ROOT)!r});"
    return subprocess.Popen(
        [sys.executable, "-c", f"{code} runpy.run_path({file!r}, run_name='__main__')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_leaves_a_valid_partial_run(tmp_path: Path):
    """Assert exit code 130, and a record of the run in progress, which can be read and drawn."""
    process = start("gd_vs_flow", "--t", "1e6", "--hidden", "3", out=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*/configuration.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4.0)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "interrupted; what there is: " in told
    assert "Traceback" not in told
    (folder,) = (tmp_path / "gd_vs_flow").iterdir()
    run = read_run(folder)
    assert run.result == "interrupted"
    for path in run.trajectories().values():
        assert "interrupted" in path.result
        assert path.t[-1] > 0
        flow.plots.loss(path)


def test_a_full_disk_is_told(tmp_path: Path):
    """Assert exit code 1, a sentence and no half-written file, where files may not grow."""
    small = ["--examples", "30", "--test", "20", "--hidden", "8", "--t", "1"]
    process = start("gd_vs_flow", *small, out=tmp_path, first=SMALL_FILES)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "can't write to" in told
    assert "what is in there is whole" in told
    (folder,) = (tmp_path / "gd_vs_flow").iterdir()
    assert [p.name for p in folder.iterdir()] == ["configuration.json"]
    assert read_run(folder).result.startswith("unfinished")


def test_what_fell_short_has_an_exit_code(tmp_path: Path):
    """Assert exit code 1 and the reason in the record where a run did not get to its end."""
    # Euler's method far beyond its limit leaves the numbers.
    small = ["--examples", "30", "--test", "20", "--hidden", "3", "--t", "4000"]
    fixed = ["--method", "Euler", "--step", "4", "--learning-rates", "0.5"]
    process = start("gd_vs_flow", *small, *fixed, "--activation", "identity", out=tmp_path)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    (folder,) = (tmp_path / "gd_vs_flow").iterdir()
    assert "non-finite" in read_run(folder).result
    assert (folder / "figure.png").is_file()


@pytest.mark.parametrize("command", [["experiments/gd_vs_flow.py"], ["-m", "flow"]])
def test_help_without_colour_width_or_display(command: list[str]):
    """Assert that --help is plain text on a terminal that can do nothing."""
    bare = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "COLUMNS"}}
    answer = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=bare | {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"},
    )
    assert answer.returncode == 0, answer.stderr
    assert "\x1b" not in answer.stdout
