"""JAX's strict switches, as a user has set them: of the user's functions, not of flow's own."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flow

SWITCHES = {
    "numpy_dtype_promotion": "strict",
    "numpy_rank_promotion": "raise",
    "debug_nans": True,
    "debug_infs": True,
    "transfer_guard": "disallow",
}
H = np.array([1.0, 10.0])
START = np.array([1.0, 0.5])


def bowl(x: jax.Array) -> jax.Array:
    """Return J = xᵀHx/2."""
    return 0.5 * jnp.dot(x, jnp.asarray(H) * x)


def euler(steps: int, eta: float) -> np.ndarray:
    """Return the last of so many steps of gradient descent."""
    return (1.0 - eta * H) ** steps * START


@pytest.mark.quick
@pytest.mark.parametrize("switch", SWITCHES)
def test_each(switch: str):
    """Assert the closed forms of a flow with an observer that tracks, and of a descent."""
    with getattr(jax, switch)(SWITCHES[switch]):
        objective = flow.Objective(bowl, START)
        sharpness = {"sharpness": flow.observe.top_eigenvalues(1)}
        path = flow.integrate(objective, 0.3, save=3, observe=sharpness, progress=False)
        steps = flow.descend(objective, optimizer=optax.sgd(0.05), time_step=0.05, steps=5)
    np.testing.assert_allclose(path.theta[-1], np.exp(-0.3 * H) * START, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(path.observed["sharpness"]), 10.0, rtol=1e-6)
    np.testing.assert_allclose(steps.theta[-1], euler(5, 0.05), rtol=1e-14)


DOORS: dict[str, Callable] = {
    "TSRKC3": partial(flow.integrate, t=0.25, method="TSRKC3", save=2, rtol=1e-4),
    "Euler": partial(flow.integrate, t=0.25, method="Euler", step=0.05, engine="jax"),
    "ensemble": partial(flow.descend, learning_rate=0.05, steps=5, ensemble=START[None]),
    "adam": partial(flow.descend, optimizer=optax.adam(0.05), time_step=0.05, steps=5),
    "study": partial(flow.study, t=0.25, learning_rates=[0.1, 0.05]),
}


@pytest.mark.parametrize("door", DOORS)
def test_all_at_once(door: str):
    """Assert what the door returns without them, to the bit."""

    def thetas() -> list[np.ndarray]:
        found = DOORS[door](flow.Objective(bowl, START), progress=False)
        return [run.theta for run in (found.runs if door == "study" else [found])]

    plain = thetas()
    with ExitStack() as scopes:
        for switch, value in SWITCHES.items():
            scopes.enter_context(getattr(jax, switch)(value))
        strict = thetas()
    for a, b in zip(plain, strict, strict=True):
        np.testing.assert_array_equal(a, b)


BAD = {
    "numpy_dtype_promotion": (lambda x: jnp.sum(x * jnp.arange(2)), "dtype promotion"),
    "numpy_rank_promotion": (lambda x: jnp.sum(x * jnp.ones((2, 2))), "broadcast"),
    "debug_nans": (lambda x: jnp.sum(jnp.log(x - 2.0)), "nan"),
    "debug_infs": (lambda x: jnp.sum(1.0 / (x - 1.0)), "inf"),
}


@pytest.mark.quick
@pytest.mark.parametrize("switch", BAD)
def test_of_the_users_loss(switch: str):
    """Assert that a loss meets what the user has set, at the door."""
    loss, message = BAD[switch]
    with (
        getattr(jax, switch)(SWITCHES[switch]),
        pytest.raises((TypeError, ValueError, FloatingPointError), match=message) as raised,
    ):
        flow.Objective(loss, START)
    assert switch.startswith("numpy") or raised.type is FloatingPointError


@pytest.mark.quick
def test_nan_along_a_run_is_told():
    """Assert that a flow that leaves where log is finite ends with a word, and with what it has."""
    with jax.debug_nans(True):
        objective = flow.Objective(lambda x: jnp.sum(jnp.log(x)), np.array([1.0]))
        path = flow.integrate(objective, 3.0, method="Euler", step=0.3, save=11, progress=False)
    assert "the loss became non-finite (J = nan" in path.result
    np.testing.assert_allclose(path.t, [0.0, 0.3, 0.6], rtol=1e-15)
    np.testing.assert_allclose(path.theta[:, 0], [1.0, 0.7, 0.7 - 0.3 / 0.7], rtol=1e-14)
