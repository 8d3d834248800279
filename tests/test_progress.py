"""What is told while something is compiled."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import flow

RUNS: dict[str, Callable[..., object]] = {
    "DOP853": lambda o, **show: flow.integrate(o, 0.1, save=2, **show),
    "TSRKC3": lambda o, **show: flow.integrate(o, 0.1, engine="jax", save=2, **show),
    "TSRKC3, 2 members": lambda o, **show: flow.integrate(
        o, 0.1, engine="jax", ensemble=np.ones((2, 301)), save=2, **show
    ),
    "GD, η = 0.1": lambda o, **show: flow.descend(o, 0.1, 2, save=2, **show),
    "GD, η = 0.1, 2 members": lambda o, **show: flow.descend(o, [0.1, 0.2], 2, save=2, **show),
    "2 runs": lambda o, **show: flow.study(o, [0.1], t=0.1, save=2, observe={}, **show),
}


def quadratic() -> flow.Objective:
    """½ Σ θ²; its Hessian is too large to be taken whole."""
    return flow.Objective(lambda x: 0.5 * jnp.sum(x**2), np.ones(301))


@pytest.fixture(scope="module")
def objective() -> flow.Objective:
    """One whose functions are kept."""
    return quadratic()


@pytest.mark.quick
@pytest.mark.parametrize("label", RUNS)
def test_compiling_is_told(
    label: str,
    objective: flow.Objective,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    """Assert it of each engine where compiling lasts, and nothing where none is to be shown."""
    monkeypatch.setattr("flow._core.progress.COMPILING", 0.0)
    RUNS[label](objective, progress=True)
    assert f"{label}: compiling [" in capsys.readouterr().err
    RUNS[label](objective, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("label", "of"),
    [
        ("∇²J·v", flow.sharpness),
        ("eigenvalues", lambda o, x: flow.integrate(o, 0.1, observe={"s": flow.sharpness}, save=2)),
        ("spectral density", partial(flow.spectral_density, lanczos_steps=2, probes=1)),
    ],
)
def test_compiling_of_spectra_is_told(
    label: str,
    of: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    """Assert it of eigenvalues by products and of their density; along a run, the run tells."""
    monkeypatch.setattr("flow._core.progress.COMPILING", 0.0)
    of((objective := quadratic()), objective.params)
    told = "DOP853" if label == "eigenvalues" else label
    assert f"{told}: compiling [" in capsys.readouterr().err


@pytest.mark.quick
def test_what_is_compiled_soon_is_not_told(capsys: pytest.CaptureFixture):
    """Assert silence below three seconds."""
    flow.integrate(flow.Objective(lambda x: x @ x, np.ones(1)), 0.1, save=2)
    assert capsys.readouterr().err == ""
