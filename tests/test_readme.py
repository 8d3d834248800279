"""The README tells the same story as the code."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flow.records import read_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)


@pytest.mark.quick
def test_the_example_prints_what_the_readme_says(capsys: pytest.CaptureFixture):
    """Assert that the example runs as it stands, in at most 12 lines, with the printed numbers."""
    code, printed = re.search(
        r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL
    ).groups()
    assert len(code.splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.rstrip() == printed.rstrip()


@pytest.mark.quick
def test_ci_runs_the_test_command_of_the_readme():
    """Assert that both commands are single lines, and that CI picks the one that runs the tests."""
    experiment, tests = COMMANDS
    assert "\n" not in experiment + tests
    assert experiment.endswith("experiments/gd_vs_flow.py")
    picked = re.search(r"command=\$\((.*)\)", (ROOT / ".ci/run").read_text()).group(1)
    found = subprocess.run(
        ["bash", "-c", picked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == tests


@pytest.mark.quick
def test_what_the_readme_names_exists():
    """Assert that every file, folder and flow.name in the README is there."""
    import flow

    for path in re.findall(r"`((?:flow|experiments|notebooks)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(\w+(?:\.py|/))`", README):
        assert (ROOT / "flow" / path).exists(), path
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"flow\.([\w.]+)\(", README):
        found = flow
        for part in name.split("."):
            found = getattr(found, part)


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


# Each in a namespace and a folder of its own; what one has imported the next need not.
EACH = """
import contextlib, io, json, os, sys, tempfile, traceback

found = []
for block in json.load(sys.stdin):
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    told, error = io.StringIO(), None
    with contextlib.redirect_stdout(told):
        try:
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
        except BaseException:
            error = traceback.format_exc()
    found.append([told.getvalue(), error])
print(json.dumps(found))
"""


def test_every_block_runs_as_printed(tmp_path: Path):
    """Assert that each runs by itself, in a user's process, without a warning, and prints."""
    # The tests' own cache of programs is no part of it.
    strict = ["-W", "error", "-W", "ignore:Error reading persistent compilation cache"]
    answer = subprocess.run(
        [sys.executable, *strict, "-c", EACH, tmp_path],
        input=json.dumps(BLOCKS[1:]),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert len(found) == len(BLOCKS) - 1
    for (told, error), block in zip(found, BLOCKS[1:], strict=True):
        assert error is None, f"{block}\n{error}"
        assert told, block


@pytest.mark.quick
def test_every_option_that_the_readme_names_exists():
    """Assert that commands in the README, with their options, are those of the experiment."""
    commands = re.findall(r"`experiments/(\w+)\.py`(?: \(`([^`]*)`\))?", README)
    commands += re.findall(r"`experiments/(\w+)\.py ([^`]*)`", README)
    assert len(commands) > 20
    for script, options in commands:
        text = (ROOT / "experiments" / f"{script}.py").read_text()
        for option in re.findall(r"--([\w-]+)", options):
            assert f"    {option.replace('-', '_')}: " in text, (script, option)


def test_the_gallery_is_what_its_script_draws():
    """Assert each picture beside its line, and that it carries the record of its run."""
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        from gallery import ANIMATION, LINES
    finally:
        sys.path.pop(0)
    pictures = set(re.findall(r"\(experiments/pictures/(\w+)\.png\)", README))
    assert pictures == set(LINES)
    for name, line in LINES.items():
        assert f"`{line}`" in README
        facts = read_run(ROOT / "experiments" / "pictures" / f"{name}.png").facts
        assert facts["experiment"] == "gallery"
    assert f"`{ANIMATION}`" in README


# `problems.py` is what experiments run on, and lists itself.
SCRIPTS = sorted({p.stem for p in ROOT.glob("experiments/*.py")} - {"problems"})


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_experiment(script: str, run_here: Callable, capfd: pytest.CaptureFixture):
    """Assert that --help explains every option."""
    assert run_here(script, "--help") == 0
    names = set(re.findall(r"^│ (--[\w-]+)", capfd.readouterr().out, re.MULTILINE))
    assert {"--out", "--quiet"} <= names


def test_a_wrong_option_suggests_the_right_one():
    """Assert that it is refused, by name, with what was probably meant."""
    run = [sys.executable, "experiments/gd_vs_flow.py", "--lerning-rates", "1"]
    wrong = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--lerning-rates" in wrong.stderr
    assert "--learning-rates" in wrong.stderr.split("meant")[1]


@pytest.mark.parametrize("notebook", sorted(p.name for p in ROOT.glob("notebooks/*.ipynb")))
@pytest.mark.quick
def test_notebooks_are_committed_executed_and_small(notebook: str):
    """Assert that code cells were run in order, that there are pictures, and less than 1 MB."""
    path = ROOT / "notebooks" / notebook
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    assert not any(o["output_type"] == "error" for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3
    assert path.stat().st_size < 1_000_000
