"""The cost theorem, measured by the experiment at a small size."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def test_slopes_and_ratios(run_here: Callable):
    """Assert slopes 1 of gradient and HVP, 2 of differences; at most 4 and 10 forward passes."""
    sizes = ["--widths", "8", "32", "256", "--circuit-inputs", "32", "320", "3200"]
    folder = run_here("cost_of_gradients", *sizes, "--repeats", "1", "--differences", "4")
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
def test_refuses_what_makes_no_sense(refused_here: Callable, arguments: list, message: str):
    """Assert a sentence, no traceback and no folder."""
    assert message in refused_here("cost_of_gradients", *arguments)
