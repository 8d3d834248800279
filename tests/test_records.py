"""Run folders and figures: what they know of themselves, and what is made of them later."""

import json
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import flow
from flow.records import Options, Record, new_run_folder, read_run
from flow.records.agreement import agreement
from flow.records.experiment import science
from flow.records.provenance import plain
from flow.records.reproduce import (
    WORDS,
    CannotReproduce,
    command,
    command_line,
    experiment,
    reproduce,
    verdict,
)

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(p for p in ROOT.glob("experiments/*.py") if "Configuration" in p.read_text())
SMALL = ["--examples", "30", "--test", "20", "--hidden", "3", "--t", "1", "--save", "5"]


@pytest.fixture(scope="module")
def folder(run_in: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an experiment."""
    out = tmp_path_factory.mktemp("runs")
    return run_in(out, "gd_vs_flow", *SMALL, "--learning-rates", "0.1", "0.05")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(folder, tmp_path / "gd_vs_flow" / folder.name)


def test_a_run_folder_tells_all(folder: Path):
    """Assert configuration, command, versions, platform, checkout, cost and result."""
    run = read_run(folder)
    facts = run.facts
    assert facts["experiment"] == "gd_vs_flow"
    assert facts["configuration"]["hidden"] == [3]
    assert facts["configuration"]["seed"] == 0
    assert "--learning-rates" in facts["command"]
    assert {"python", "platform", "jax", "numpy"} <= set(facts["versions"])
    assert facts["checkout"] is None or len(facts["checkout"]["commit"]) == 40
    assert run.result == "finished"
    path = run.trajectories()["flow"]
    assert facts["runs"]["flow"]["gradients"] == path.stats["gradients"]
    assert facts["runs"]["flow"]["result"] == path.result
    assert set(facts["files"]) == {p.name for p in folder.iterdir()} - {"record.json"}
    assert run.edited == ()


def test_a_figure_knows_its_run(folder: Path, tmp_path: Path):
    """Assert that a figure that was moved has the same facts and tables as its folder."""
    moved = shutil.copy(folder / "figure.png", tmp_path / "moved.png")
    of_figure, of_folder = read_run(moved), read_run(folder)
    for key in ("experiment", "configuration", "versions", "source", "runs"):
        assert of_figure.facts[key] == of_folder.facts[key]
    pd.testing.assert_frame_equal(of_figure.tables["table"], of_folder.tables["table"])
    assert of_figure.trajectories() == {}


def rewritten(figure: Path, file: Path, change: Any) -> Path:
    """A figure whose record was changed."""
    with Image.open(figure) as image:
        facts = json.loads(image.info["flow"])
        change(facts)
        told = PngInfo()
        told.add_itxt("flow", json.dumps(facts))
        image.save(file, pnginfo=told)
    return file


def test_reproduce(folder: Path, tmp_path: Path, cli: Any):
    """Assert that numbers agree with a rerun, and that another checkout's differences are told."""
    code, told = cli("reproduce", folder / "figure.png", "--out", tmp_path, "--quiet", "--yes")
    assert code == 0, told
    assert "gd_vs_flow.py --examples 30 --test 20" in told
    assert "nothing changed" in told
    assert "the numbers agree" in told
    (made,) = (tmp_path / "gd_vs_flow").iterdir()
    new = read_run(made)
    for name, path in read_run(folder).trajectories().items():
        np.testing.assert_array_equal(path.theta, new.trajectories()[name].theta)

    def other_state(facts: dict) -> None:
        facts["versions"]["jax"] = "0.0.1"
        facts["checkout"] = {"commit": "0" * 40, "changed": True}
        facts["source"]["flow"] = "another"
        facts["tables"]["table"] = facts["tables"]["table"].replace("reached", "diverged")

    old = read_run(rewritten(folder / "figure.png", tmp_path / "other.png", other_state))
    lines, agree = verdict(old, new, 1e-6)
    text = "\n".join(lines)
    assert not agree
    assert f"jax: 0.0.1 → {new.facts['versions']['jax']}" in text
    assert f"commit: {'0' * 40} →" in text
    assert "flow's source (digest): another →" in text
    assert "ended, row 1: 'diverged' → 'reached'" in text


@pytest.mark.usefixtures("ctrl_c_ignored")
def test_ctrl_c_that_the_parent_ignored(
    run_here: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Assert that an experiment goes on, and said at its start that it would."""
    keep = Record.keep

    def pressed(record: Record, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return keep(record, *arguments)

    monkeypatch.setattr(Record, "keep", pressed)
    folder = run_here("gd_vs_flow", *SMALL, "--learning-rates", "0.1")
    assert read_run(folder).result == "finished"
    assert "Ctrl-C (SIGINT) is ignored in this process" in capsys.readouterr().err


def test_a_rerun_that_failed_does_not_agree(folder: Path, tmp_path: Path):
    """Assert that neither a failure nor tables of nothing but timings count as agreement."""
    old = read_run(folder)

    def failed(facts: dict) -> None:
        facts["result"] = "failed: RuntimeError: boom"

    new = read_run(rewritten(folder / "figure.png", tmp_path / "new.png", failed))
    lines, agree = verdict(old, new, 1e-6)
    assert not agree
    assert "the rerun: failed: RuntimeError: boom" in lines

    def timings(facts: dict) -> None:
        facts["tables"] = {"table": "what,seconds\nx,1.0\n"}

    timed = read_run(rewritten(folder / "figure.png", tmp_path / "timed.png", timings))
    timed.facts["timings"]["table"] = ["seconds"]
    lines, agree = verdict(timed, timed, 1e-6)
    assert not agree
    assert "no number was compared: all of them are timings" in lines


def test_a_figure_that_cannot_be_drawn_costs_no_other(tmp_path: Path):
    """Assert that the record is closed all the same, and the other figures are written."""
    record = Record(new_run_folder("mine", "", tmp_path), "mine", Options())

    class Broken:
        def savefig(self, *_: Any, **__: Any) -> None:
            raise ValueError("no such font")

    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    record.figure("good", flow.plots.loss(flow.integrate(objective, 1.0, save=3)).figure)
    record.figure("bad", Broken())
    with pytest.raises(ValueError, match="no such font"):
        record.close("finished")
    record.close("failed: no such font")
    assert read_run(record.folder).result == "failed: no such font"
    assert (record.folder / "good.png").is_file()


@pytest.mark.parametrize(
    "change",
    [{"started": None}, {"result": 5}, {"files": []}, {"versions": []}, {"timings": "x"}],
)
@pytest.mark.quick
def test_a_record_of_the_wrong_kind(copy: Path, cli: Any, change: dict):
    """Assert that list goes on with the others, and names the record."""
    record = copy / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    code, told = cli("list", copy.parent)
    assert code == 1
    assert f"left out: the record in {record} can't be read" in told


def test_a_study_in_a_run_folder(copy: Path, cli: Any):
    """Assert that its runs are among those of the folder; a file that is cut off is named."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    flow.study(objective, [0.1], t=1.0, save=5, file=copy / "study.nc", progress=False)
    assert {"study/0", "study/1", "flow"} <= set(read_run(copy).trajectories())
    assert cli("show", copy)[0] == 0
    (copy / "empty.csv").write_text("")
    assert f"table empty of {copy} can't be read" in cli("show", copy)[1]


@pytest.mark.quick
def test_agreement_of_tables():
    """Assert what counts as different: numbers beyond rtol, NaN, text, rows and columns."""
    old = pd.DataFrame({"run": ["a", "b"], "x": [1.0, np.nan], "seconds": [1.0, 2.0]})
    assert agreement(old, old.assign(seconds=9.0), ["seconds"], 1e-6).lines == ()
    near = agreement(old, old.assign(x=[1.0 + 1e-8, np.nan]), ["seconds"], 1e-6)
    assert (near.numbers, near.lines) == (2, ())
    assert near.largest == pytest.approx(1e-8, rel=1e-3)
    (line,) = agreement(old, old.assign(x=[1.0, 2.0]), ["seconds"], 1e-6).lines
    assert line.startswith("x, row 2 (b): nan → 2")
    assert agreement(old, old[:1], (), 1e-6).lines == ("2 rows → 1",)
    (line,) = agreement(old, old.drop(columns="x"), (), 1e-6).lines
    assert line == "column 'x' is in one only"
    zero = pd.DataFrame({"run": ["a", "b"], "x": [1e-18, 1.0]})
    assert agreement(zero, zero.assign(x=[3e-18, 1.0]), (), 1e-5).lines == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "../../evil"}, "is unknown"),
        ({"experiment": "problems"}, "is unknown"),
        ({"configuration": {"no_such": 1}}, "has no option 'no_such'"),
        ({"configuration": {"method": "--out"}}, "is no name of anything"),
        ({"configuration": {"method": "tcp://a"}}, "is no name of anything"),
        ({"configuration": {"method": "RK45\n"}}, "is no name of anything"),
        ({"configuration": {"t": 1e12}}, r"--t 1000000000000.0 is beyond 100000, the most"),
        ({"configuration": {"hidden": [3] * 10**6}}, "1000000 entries; at most 20 are rerun"),
        ({"configuration": {"save": 10**12}}, "is beyond 1000"),
        ({"configuration": {"t": float("nan")}}, "--t must be positive and finite, got nan"),
        ({"configuration": {"t": float("inf")}}, "is beyond 100000"),
        ({"configuration": {"examples": -1}}, "--examples must be a positive integer"),
        ({"configuration": {"examples": 30.5}}, "not valid for gd_vs_flow"),
        ({"configuration": {"examples": True}}, "not valid for gd_vs_flow"),
        ({"configuration": {"t": "5"}}, "record's t='5' is not valid for gd_vs_flow"),
        ({"configuration": {"t": [5.0]}}, "is not valid for gd_vs_flow"),
        ({"configuration": {"hidden": 3}}, "is not valid for gd_vs_flow"),
        ({"configuration": {"t": {"a": 1}}}, "is no option's value"),
        ({"configuration": {"t": "soon"}}, "not valid for gd_vs_flow"),
        ({"configuration": {"method": "Euler5"}}, "not valid for gd_vs_flow"),
    ],
)
def test_nothing_of_a_record_is_run_unchecked(
    copy: Path, tmp_path: Path, change: dict, message: str
):
    """Assert a refusal before anything is run, of what is no shipped experiment or no option."""
    record = copy / "record.json"
    facts = json.loads(record.read_text()) | change
    record.write_text(json.dumps(facts))
    with pytest.raises(CannotReproduce, match=message):
        reproduce(read_run(copy), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_every_experiment_reads_its_own_record():
    """Assert that options of every kind come back from a record as the command line of a rerun."""
    for name in (p.stem for p in SCRIPTS):
        module = experiment(name)
        usual = {k: plain(v) for k, v in vars(module.Configuration()).items()}
        assert command_line(module, usual) == []
    kept = {"hidden": [3, 4], "t": 2.0, "rtol": None, "seed": 7, "activation": "sigmoid"}
    found = command_line(experiment("gd_vs_flow"), kept | {"out": "elsewhere", "quiet": True})
    assert found == "--hidden 3 4 --t 2.0 --seed 7 --activation sigmoid".split()  # noqa: SIM905
    assert command_line(experiment("work_precision"), {"peers": False}) == ["--no-peers"]


ENVIRONMENT = {
    "sweep": {"jobs", "workers", "scheduler", "cells"},
    "scale_out": {"processes", "devices", "kill"},
}


def parts_of(kind: Any) -> set[Any]:
    """The types, and the words, that a type is made of."""
    parts = get_args(kind)
    return set().union(*map(parts_of, parts)) if parts else {kind}


@pytest.mark.quick
def test_every_option_is_science_or_environment():
    """Assert that science is numbers within a limit, names and switches, and what is not is known.

    A new option is environment until it is marked; one that is to be either is entered here.
    """
    for name in (p.stem for p in SCRIPTS):
        configuration = experiment(name).Configuration
        most = science(configuration)
        kinds = {field.name: field.type for field in fields(configuration)}
        assert kinds.keys() - most.keys() == {"out", "quiet"} | ENVIRONMENT.get(name, set())
        for option, limit in most.items():
            parts = parts_of(get_args(kinds[option])[0]) - {NoneType, ...}
            words = {part for part in parts if isinstance(part, str)}
            assert parts - words <= {bool, int, float, str}
            assert all(WORDS.fullmatch(word) for word in words)
            assert limit > 0 or not parts & {int, float}
        usual = configuration()
        words = [w for v in vars(usual).values() if isinstance(v, tuple) for w in v]
        assert all(WORDS.fullmatch(word) for word in words if isinstance(word, str))


def test_the_environment_of_a_record_is_not_read(folder: Path, tmp_path: Path, cli: Any):
    """Assert that a stranger's scheduler and folders reach no command line, and are told."""

    def hostile(facts: dict) -> None:
        facts["experiment"] = "sweep"
        facts["configuration"] = {"widths": [4], "scheduler": "tcp://10.0.0.1:1", "workers": 99,
                                  "cells": "/anywhere", "jobs": 10**6, "out": "/anywhere",
                                  "quiet": {"a": 1}}  # fmt: skip

    figure = rewritten(folder / "figure.png", tmp_path / "x.png", hostile)
    line = command(read_run(figure), tmp_path / "out")
    assert line[2:] == ["--widths", "4", "--out", str(tmp_path / "out")]
    code, told = cli("reproduce", figure, "--out", tmp_path / "out")
    assert code == 2
    assert shlex.join(line) in told
    assert "not taken from the record" in told
    assert told.count("--scheduler") == told.count("--cells") == 1
    assert "tcp" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", ["n", "", None])
def test_nothing_is_rerun_without_a_yes(
    folder: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, answer: str | None
):
    """Assert that the command line is shown and nothing run, at a terminal and without one."""
    code, told = cli("reproduce", folder, "--out", tmp_path / "out")
    assert code == 2
    assert "no terminal to ask at; --yes runs it" in told

    def asked(prompt: str) -> str:
        assert prompt == "run it? [y/N] "
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    code, told = cli("reproduce", folder, "--out", tmp_path / "out")
    assert code == 2
    assert "gd_vs_flow.py --examples 30 --test 20" in told
    assert not (tmp_path / "out").exists()


# A process that starts another; both note that they were interrupted.
PATIENT = """
import subprocess, sys, time
child = sys.argv[2:] or subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1], "x"])
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted\\n", end="", flush=True)
    child == ["x"] or child.wait()
    sys.exit(130)
"""


@pytest.mark.usefixtures("ctrl_c_ignored")
def test_a_rerun_is_stopped_as_by_ctrl_c(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    """Assert that all processes of a rerun hear it, also where this one ignores Ctrl-C."""
    line = [sys.executable, "-c", PATIENT, PATIENT]
    monkeypatch.setattr("flow.records.reproduce.command", lambda *_, **__: line)
    with pytest.raises(CannotReproduce, match=r"stopped after 2 s; --max-seconds gives it longer"):
        reproduce(read_run(folder), tmp_path, max_seconds=2.0)
    assert capfd.readouterr().out == "interrupted\n" * 2


def test_a_folder_that_was_left_half_way(copy: Path, cli: Any):
    """Assert that what is there is read, and called unfinished."""
    (copy / "record.json").unlink()
    (copy / "figure.png").unlink()
    run = read_run(copy)
    assert run.result.startswith("unfinished")
    assert set(run.trajectories()) == {"flow", "descent-1", "descent-2"}
    code, told = cli("list", copy.parent.parent)
    assert code == 0
    assert "unfinished" in told


def test_folders_that_are_not_what_they_seem(copy: Path, tmp_path: Path, cli: Any):
    """Assert a sentence for an edited, a newer, a foreign and a missing one."""
    (copy / "table.csv").write_text((copy / "table.csv").read_text().replace("reached", "edited"))
    (copy / "flow.nc").unlink()
    assert set(read_run(copy).edited) == {"flow.nc", "table.csv"}
    assert "edited since it was written: " in cli("show", copy)[1]
    record = copy / "record.json"
    facts = json.loads(record.read_text())
    record.write_text(json.dumps(facts | {"format_version": 99}))
    assert cli("show", copy) == (
        2,
        f"flow: {record} has format 99, newer than this flow's 1; upgrade gradient-flow\n",
    )
    assert "left out: " in cli("list", tmp_path)[1]
    record.write_text("{ not json")
    with pytest.raises(ValueError, match=r"can't be read \(JSONDecodeError.*was it edited"):
        read_run(copy)
    with pytest.raises(ValueError, match="so it is no run folder"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_run(tmp_path / "none")
    bare = tmp_path / "bare.png"
    Image.new("RGB", (4, 4)).save(bare)
    with pytest.raises(ValueError, match="carries no record of a run"):
        read_run(bare)
    bare.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="can't be read as a figure"):
        read_run(bare)
    with pytest.raises(ValueError, match="neither a run folder nor a PNG"):
        read_run(record)


def test_list_tells_runs_apart(copy: Path, cli: Any):
    """Assert the options in which two runs of one experiment differ, and no others."""
    other = shutil.copytree(copy, copy.parent / "other")
    record = other / "record.json"
    facts = json.loads(record.read_text())
    facts["configuration"] |= {"seed": 3, "learning_rates": []}
    record.write_text(json.dumps(facts))
    code, told = cli("list", copy.parent)
    assert code == 0
    rows = told.splitlines()
    assert "--learning-rates 0.1 0.05 --seed 0" in rows[1]
    assert "--learning-rates none --seed 3" in rows[2]
    assert "--examples" not in told
    assert cli("list", copy / "none")[0] == 2
    assert "there is no run folder" in cli("list", _empty(copy.parent.parent / "empty"))[1]


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_show_draws_and_tabulates(copy: Path, tmp_path: Path, cli: Any):
    """Assert facts, tables and runs in words, and a new figure that replaces nothing."""
    code, told = cli("show", copy, "--figure", tmp_path / "a.png")
    assert code == 0
    for phrase in (
        "result: finished",
        "learning_rates [0.1, 0.05]",
        "test accuracy",
        "<Trajectory",
    ):
        assert phrase in told
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 1000
    code, told = cli("show", copy, "--figure", tmp_path / "a.png")
    assert code == 2
    assert "exists and is not overwritten" in told
    assert "must end in .png" in cli("show", copy, "--figure", tmp_path / "a.pdf")[1]
    assert "no --figure is given" in cli("show", copy, "--name", "test loss")[1]
    code, told = cli("show", copy / "flow.nc", "--figure", tmp_path / "b.png", "--name", "no")
    assert code == 2
    assert "has not recorded 'no'; run it with observe=" in told
    assert (
        cli("show", copy / "flow.nc", "--figure", tmp_path / "b.png", "--name", "test loss")[0] == 0
    )


# What a terminal would obey.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\ncommit 0000"


def test_control_characters_of_files_reach_no_terminal(copy: Path, tmp_path: Path, cli: Any):
    """Assert it of results, options, versions, tables, labels, folders and errors."""
    spoilt = copy.rename(copy.parent / "a\x1b[2Jfolder")
    record = spoilt / "record.json"
    facts = json.loads(record.read_text())
    facts |= {"result": HOSTILE, "started": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    facts["configuration"] |= {"method": HOSTILE, "hidden": [HOSTILE]}
    facts["files"][HOSTILE] = "0"
    record.write_text(json.dumps(facts))
    (spoilt / "table.csv").write_text(f'"{HOSTILE}",x\n"{HOSTILE}",1\n')
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    run = flow.integrate(objective, 1.0, save=3).named(HOSTILE)
    run.save(spoilt / "other.nc")
    shutil.copytree(spoilt, spoilt.parent / "same")
    for code, *arguments in (
        (0, "list", spoilt.parent),
        (0, "show", spoilt, "--figure", tmp_path / "a.png"),
        (0, "compare", spoilt, spoilt.parent / "same", "--figure", tmp_path / "b.png"),
        (2, "show", spoilt / "other.nc", "--name", HOSTILE, "--figure", tmp_path / "c.png"),
        (2, "reproduce", spoilt),
        (2, "show", tmp_path / HOSTILE),
    ):
        found, told = cli(*arguments)
        assert found == code, told
        assert told.replace("\n", "").isprintable()
        assert "\\x1b" in told
        assert "\ncommit 0000" not in told or code == 2


def test_control_characters_reach_no_table(tmp_path: Path):
    """Assert that a CSV file has them written out, in cells, columns and rows, and can be read."""
    record = Record(new_run_folder("mine", "", tmp_path), "mine", Options())
    word = HOSTILE.replace("\n", "\r")
    record.table("t", pd.DataFrame({word: [word], "x": [1.0]}, index=pd.Index([word], name=word)))
    record.close("finished")
    assert (record.folder / "t.csv").read_text().replace("\n", "").isprintable()
    table = read_run(record.folder).tables["t"]
    assert table.shape == (1, 3)
    assert table.iloc[0, 0] == table.iloc[0, 1] == ascii(word)[1:-1]


def test_compare_folders_files_and_studies(copy: Path, tmp_path: Path, cli: Any):
    """Assert distances of one problem, a note for another, and differences in the making."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    flow.study(objective, [0.1], t=1.0, save=5, file=tmp_path / "study.nc", progress=False)
    code, told = cli("compare", copy, tmp_path / "study.nc", "--figure", tmp_path / "c.png")
    assert code == 0
    assert told.count("another problem") == 2
    assert (tmp_path / "c.png").is_file()
    path, descent = (flow.load(copy / f"{name}.nc") for name in ("flow", "descent-1"))
    distance = np.linalg.norm(path.theta[-1] - descent.theta[-1])
    assert f"{distance:.4g}" in told
    other = shutil.copytree(copy, copy.parent / "other")
    record = other / "record.json"
    facts = json.loads(record.read_text())
    facts["configuration"]["seed"] = 3
    record.write_text(json.dumps(facts))
    told = cli("compare", copy, other)[1]
    assert "--seed: 0 → 3" in told
    assert cli("compare")[0] == 2


def test_a_record_of_a_script_of_ones_own(tmp_path: Path):
    """Assert that a folder is filled as it goes, and Ctrl-C within a run ends it as kept."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    record = Record(new_run_folder("mine", "a b/c", tmp_path), "mine", Options())
    assert record.folder.name.endswith("-a-b-c")
    path = record.keep("the flow", flow.integrate(objective, 1.0))
    assert (record.folder / "the-flow.nc").is_file()
    assert read_run(record.folder).result.startswith("unfinished")

    presses = [KeyboardInterrupt]

    def stop(row: Any) -> bool:
        if row["t"] > 0 and presses:
            raise presses.pop()
        return False

    with pytest.raises(KeyboardInterrupt):
        record.keep("cut", flow.integrate(objective, 1.0, stop=stop))
    record.close("interrupted")
    again = read_run(record.folder)
    assert again.result == "interrupted"
    assert 0 < again.trajectories()["cut"].t[-1] < 1
    np.testing.assert_array_equal(again.trajectories()["the-flow"].theta, path.theta)
    record = Record(new_run_folder("mine", "", tmp_path), "mine", Options())
    record.interrupted = True  # and whatever it was in the middle of has swallowed it
    with pytest.raises(KeyboardInterrupt):
        record.table("t", pd.DataFrame({"x": [1]}))
    assert (record.folder / "t.csv").is_file()
