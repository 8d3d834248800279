"""The README tells the same story as the code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)


def test_the_example_prints_what_the_readme_says(capsys: pytest.CaptureFixture):
    """Assert that the example runs as it stands, in at most 12 lines, with the printed numbers."""
    code, printed = re.search(
        r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL
    ).groups()
    assert len(code.splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.rstrip() == printed.rstrip()


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


def test_what_the_readme_names_exists():
    """Assert that every file, folder and flow.name in the README is there."""
    import flow

    for path in re.findall(r"`((?:flow|experiments|notebooks)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(\w+(?:\.py|/))`", README):
        assert (ROOT / "flow" / path).exists(), path
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"flow\.([\w]+)\(", README):
        assert hasattr(flow, name), name


# `problems.py` is what experiments run on, and lists itself.
SCRIPTS = sorted({p.name for p in ROOT.glob("experiments/*.py")} - {"problems.py"})


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_experiment(script: str):
    """Assert that --help explains every option, and a wrong option is refused."""
    run = [sys.executable, ROOT / "experiments" / script]
    answer = subprocess.run([*run, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = set(re.findall(r"^│ (--[\w-]+)", answer.stdout, re.MULTILINE))
    assert {"--out", "--quiet"} <= names
    wrong = subprocess.run([*run, "--lerning-rates", "1"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--lerning-rates" in wrong.stderr


@pytest.mark.parametrize("notebook", sorted(p.name for p in ROOT.glob("notebooks/*.ipynb")))
def test_notebooks_are_committed_executed_and_small(notebook: str):
    """Assert that code cells were run in order, that there are pictures, and less than 1 MB."""
    path = ROOT / "notebooks" / notebook
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    assert not any(o["output_type"] == "error" for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3
    assert path.stat().st_size < 1_000_000
