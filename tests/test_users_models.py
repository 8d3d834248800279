"""Models of equinox and flax through `flow`, in structures of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flow

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 2))
Y = np.sin(X.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Case:
    """A user's model: its parameters, how it is called on rows, and its own order of leaves."""

    params: Any
    apply: Callable[[Any, Any], Any]
    kind: type
    weights: Callable[[Any], list]  # [W1 (4, 2), b1 (4,), W2 (1, 4), b2 (1,)] of its parameters
    built_in: bool = False


class LinenNetwork(nn.Module):
    """Two dense layers with tanh between."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs (examples, 1) of rows."""
        hidden = jnp.tanh(nn.Dense(4, name="first")(x))
        return nn.Dense(1, name="last")(hidden)


class NnxNetwork(nnx.Module):
    """The same with flax.nnx, whose modules hold their parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Linear(2, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs (examples, 1) of rows."""
        return self.last(jnp.tanh(self.first(x)))


def equinox_case() -> Case:
    model = eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return Case(
        params,
        lambda p, X: jax.vmap(eqx.combine(p, static))(X),
        eqx.nn.MLP,
        lambda p: [p.layers[0].weight, p.layers[0].bias, p.layers[1].weight, p.layers[1].bias],
    )


def linen_case() -> Case:
    network = LinenNetwork()

    def weights(p: Any) -> list:
        first, last = p["params"]["first"], p["params"]["last"]
        return [first["kernel"].T, first["bias"], last["kernel"].T, last["bias"]]

    params = network.init(jax.random.key(1), X)
    return Case(params, network.apply, dict, weights, built_in=True)


def nnx_case() -> Case:
    graph, params = nnx.split(NnxNetwork(nnx.Rngs(2)), nnx.Param)

    def weights(p: Any) -> list:
        first, last = p["first"], p["last"]
        arrays = [first["kernel"], first["bias"], last["kernel"], last["bias"]]
        W1, b1, W2, b2 = (a[...] for a in arrays)
        return [W1.T, b1, W2.T, b2]

    return Case(params, lambda p, X: nnx.merge(graph, p)(X), nnx.State, weights)


@pytest.fixture(params=[equinox_case, linen_case, nnx_case], ids=["equinox", "linen", "nnx"])
def case(request: pytest.FixtureRequest) -> Case:
    """Each library's model in turn."""
    return request.param()


def objective_of(case: Case) -> flow.Objective:
    """½ of the mean squared error of a user's model."""
    return flow.Objective(
        lambda p, batch: 0.5 * jnp.mean((case.apply(p, batch[0]) - batch[1]) ** 2),
        case.params,
        data=(X, Y),
    )


def loss(weights: list, X: np.ndarray, Y: np.ndarray) -> jax.Array:
    """The same loss without the library, of [W1, b1, W2, b2]."""
    W1, b1, W2, b2 = weights
    return jnp.mean((jnp.tanh(X @ W1.T + b1) @ W2.T + b2 - Y) ** 2) / 2


def double(weights: list) -> list:
    """The weights as JAX arrays in double precision, to be called under x64."""
    return [jnp.asarray(np.asarray(w), jnp.float64) for w in weights]


def test_gradient_in_double_precision(case: Case):
    """Assert J and ∇J of a user's model, born in float32, against autodiff without the library."""
    objective = objective_of(case)
    with jax.enable_x64(True):
        J, expected = jax.value_and_grad(loss)(double(case.weights(case.params)), X, Y)
    value, gradient = objective.value_and_gradient(case.params)
    assert isinstance(gradient, case.kind)
    assert jax.tree.structure(gradient) == jax.tree.structure(case.params)
    assert value == pytest.approx(float(J), rel=1e-14)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype("float64")}
    for found, wanted in zip(case.weights(gradient), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-15)
    assert objective.size == 17


def test_hvp_in_double_precision(case: Case):
    """Assert ∇²J·v of a user's model against forward over reverse without the library."""
    objective = objective_of(case)
    theta = np.linspace(-1, 1, 17)
    v = objective.unflatten(theta)
    with jax.enable_x64(True):
        start, along = double(case.weights(case.params)), double(case.weights(v))
        expected = jax.jvp(lambda w: jax.grad(loss)(w, X, Y), (start,), (along,))[1]
    found = case.weights(objective.hvp(case.params, v))
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-14)


def test_flow_descent_and_comparison(case: Case):
    """Assert that the flow obeys its energy identity, that Euler is gradient descent, and compare.

    The parameters at the end have the model's own structure, and the model gives with them the
    outputs that its loss was computed from.
    """
    objective = objective_of(case)
    path = flow.integrate(objective, t=0.5, save=5)
    assert path.result == "reached t = 0.5"
    assert abs(flow.audit(path).energy_residual) < 1e-6
    assert path.loss[-1] < path.loss[0]
    end = path.params(-1)
    assert isinstance(end, case.kind)
    assert jax.tree.structure(end) == jax.tree.structure(case.params)
    with jax.enable_x64(True):
        outputs = np.asarray(case.apply(end, X))
    assert np.mean((outputs - Y) ** 2) / 2 == pytest.approx(path.loss[-1], rel=1e-13)
    rough = np.asarray(case.apply(end, X))  # in the user's own, single-precision world
    np.testing.assert_allclose(rough, outputs, rtol=0, atol=1e-5)

    steps = flow.descend(objective, learning_rate=0.01, steps=50, save=51)
    theta = objective.theta.copy()
    for _ in range(50):
        theta -= 0.01 * objective.flat_value_and_gradient(theta)[1]
    np.testing.assert_allclose(steps.theta[-1], theta, rtol=0, atol=1e-14)
    halved = flow.descend(objective, learning_rate=0.005, steps=100, save=51)
    far, near = flow.compare(path, steps, halved).distance
    assert far[-1] == pytest.approx(np.linalg.norm(theta - path.theta[-1]), rel=1e-6)
    assert far[-1] / near[-1] == pytest.approx(2.0, rel=0.01)


def test_save_and_load(case: Case, tmp_path: Path):
    """Assert that a loaded run has the model's own structure again, given `like=`."""
    path = flow.integrate(objective_of(case), t=0.5, save=5)
    file = path.save(tmp_path / "x.nc")
    loaded = flow.load(file, like=case.params)
    np.testing.assert_array_equal(loaded.theta, path.theta)
    for i in (0, -1):
        restored, kept = loaded.params(i), path.params(i)
        assert isinstance(restored, case.kind)
        assert jax.tree.structure(restored) == jax.tree.structure(case.params)
        for r, k in zip(case.weights(restored), case.weights(kept), strict=True):
            np.testing.assert_array_equal(r, k)
    with jax.enable_x64(True):
        outputs = np.asarray(case.apply(loaded.params(-1), X))
    assert np.mean((outputs - Y) ** 2) / 2 == pytest.approx(loaded.loss[-1], rel=1e-13)
    audited = flow.audit(loaded, objective_of(case))
    assert audited.energy_residual == flow.audit(path).energy_residual


def test_load_without_like(case: Case, tmp_path: Path):
    """Assert that dicts come back without `like=`, and that other structures ask for it."""
    path = flow.integrate(objective_of(case), t=0.5, save=5)
    loaded = flow.load(path.save(tmp_path / "x.nc"))
    if case.built_in:
        assert jax.tree.structure(loaded.params(-1)) == jax.tree.structure(case.params)
        return
    with pytest.raises(ValueError, match="like=params"):
        loaded.params(-1)


def test_module_must_be_partitioned():
    """Assert that an equinox module with its activation still in it is refused by the path."""
    model = eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"params\.activation.*equinox.partition"):
        flow.Objective(lambda m: jnp.mean(jax.vmap(m)(X) ** 2), model)
