"""The cost theorem, measured by the experiment at a small size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SCRIPT = Path(__file__).parent.parent / "experiments" / "cost_of_gradients.py"


def run(*arguments: str, out: Path) -> subprocess.CompletedProcess:
    """Run the experiment into a folder of its own."""
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--quiet", "--out", out],
        capture_output=True,
        text=True,
    )


def test_slopes_and_ratios(tmp_path: Path):
    """Assert slopes 1 of gradient and HVP, 2 of differences; at most 4 and 10 forward passes."""
    sizes = ["--widths", "8", "32", "256", "--circuit-inputs", "32", "320", "3200"]
    answer = run(*sizes, "--repeats", "1", "--differences", "4", out=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (folder,) = (tmp_path / "cost_of_gradients").iterdir()
    slopes = pd.read_csv(folder / "slopes.csv", index_col=0)
    expected = {"forward": 1, "gradient": 1, "hvp": 1, "differences": 2}
    for name, slope in expected.items():
        np.testing.assert_allclose(slopes.loc[f"{name} operations"], slope, atol=0.05)
    for kind in ("networks", "circuits"):
        table = pd.read_csv(folder / f"{kind}.csv")
        forward = table["forward operations"]
        assert np.all(table["gradient operations"].between(forward, 4 * forward))
        assert np.all(table["hvp operations"].between(table["gradient operations"], 10 * forward))
    networks = pd.read_csv(folder / "networks.csv")
    # Two products of a w × w matrix with two columns are 8 w² operations, 4 l at large l.
    assert networks["forward operations"].iloc[-1] / networks["l"].iloc[-1] == pytest.approx(
        4, rel=0.02
    )
    with Image.open(folder / "figure.png") as figure:
        assert min(figure.size) > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "8", "8"], "--widths needs two sizes"),
        (["--repeats", "0"], "--repeats must be a positive integer"),
    ],
)
def test_refuses_what_makes_no_sense(tmp_path: Path, arguments: list, message: str):
    """Assert a sentence, no traceback and no folder."""
    answer = run(*arguments, out=tmp_path)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.glob("*/*")) == []
