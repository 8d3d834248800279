"""Losses with a loop whose carry, or a branch whose result, is in another precision than θ."""

import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flow

X = np.random.default_rng(0).standard_normal((3, 4, 2))  # sequences, times, inputs
CELLS = ["SimpleCell", "GRUCell", "LSTMCell", "OptimizedLSTMCell"]
# What is told of a carry in single precision: the types, and what to type.
TOLD = r"float32.*float64[\s\S]*param_dtype=jnp.float64[\s\S]*dtype=\"float32\""
single = lambda shape: jnp.zeros(shape, jnp.float32)  # noqa: E731


def linen(cell: str, precision: str = "float64", **made: object) -> flow.Objective:
    model = nn.RNN(getattr(nn, cell)(3, **made))
    params = model.init(jax.random.key(0), jnp.asarray(X, jnp.float32))
    return flow.Objective(
        lambda p, x: jnp.mean(model.apply(p, x) ** 2), params, data=X, dtype=precision
    )


def of_nnx(cell: str, **made: object) -> flow.Objective:
    model = nnx.RNN(getattr(nnx, cell)(2, 3, rngs=nnx.Rngs(0), **made))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(p: nnx.State, x: jax.Array) -> jax.Array:
        # The cell draws its carry, and so moves on its keys.
        return jnp.mean(nnx.merge(graph, p, jax.tree.map(jnp.copy, rest))(x) ** 2)

    return flow.Objective(loss, params, data=X)


def equinox(zeros: object) -> flow.Objective:
    cell = eqx.nn.GRUCell(2, 3, key=jax.random.key(0))
    params, static = eqx.partition(cell, eqx.is_inexact_array)

    def loss(p: object, x: jax.Array) -> jax.Array:
        cell = eqx.combine(p, static)
        last = lambda u: jax.lax.scan(lambda h, v: (cell(v, h), None), zeros(3), u)[0]  # noqa: E731
        return jnp.mean(jax.vmap(last)(x) ** 2)

    return flow.Objective(loss, params, data=X)


LOOPS = {
    "scan": lambda w: jax.lax.scan(lambda h, _: (w * h, None), single(2), None, 3)[0],
    "while": lambda w: jax.lax.while_loop(lambda h: h[0] < 3.0, lambda h: h + w, single(2)),
    "fori": lambda w: jax.lax.fori_loop(0, 3, lambda _, h: h + w, single(2)),
    "cond": lambda w: jax.lax.cond(w[0] > 0.0, lambda: w, lambda: single(2)),
    "switch": lambda w: jax.lax.switch(0, [lambda: w, lambda: single(2)]),
}
REFUSED = {
    **{f"linen {cell}": lambda cell=cell: linen(cell) for cell in [*CELLS, "MGUCell"]},
    **{f"nnx {cell}": lambda cell=cell: of_nnx(cell) for cell in CELLS[1:]},
    "equinox": lambda: equinox(single),
    **{
        name: lambda loop=loop: flow.Objective(lambda w: jnp.sum(loop(w)), np.ones(2))
        for name, loop in LOOPS.items()
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_told(name: str):
    """Assert the types that met, and both ways to go on."""
    with pytest.raises(TypeError, match=TOLD):
        REFUSED[name]()


def test_what_is_to_be_typed():
    """Assert that it is accepted, J to rounding what a loop in numpy makes of the same weights."""
    typed = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    with warnings.catch_warnings():
        # A user's parameters are made in single precision.
        warnings.filterwarnings("ignore", "Explicitly requested dtype")
        double, of_flax_nnx = linen("SimpleCell", **typed), of_nnx("SimpleCell", **typed)
    (p,) = double.params["params"].values()
    W, U, b = (
        np.asarray(a, np.float64) for a in (p["i"]["kernel"], p["h"]["kernel"], p["i"]["bias"])
    )
    h, met = np.zeros((3, 3)), []
    for t in range(4):
        h = np.tanh(X[:, t] @ W + b + h @ U)
        met.append(h)
    J = np.mean(np.square(met))
    assert double.value(double.params) == pytest.approx(J, rel=1e-14)
    assert of_flax_nnx.resolution == double.resolution == 2.0**-52
    assert linen("SimpleCell", precision="float32").value(double.params) == pytest.approx(
        J, rel=1e-6
    )
    assert equinox(jnp.zeros).resolution == 2.0**-52


def test_a_cell_that_is_single_throughout():
    """Assert that it is run and told of: that of nnx has dtype=float32 unless another is given."""
    with pytest.warns(flow.PrecisionWarning, match=r"a layer's dtype=.*dtype='float32'"):
        of_nnx("SimpleCell")


def test_another_type_error_is_as_it_was():
    """Assert that only precisions are told of so."""
    with pytest.raises(TypeError, match="pytree structure") as raised:
        flow.Objective(lambda w: jax.lax.scan(lambda h, _: ((h, h), None), w, None, 3)[0], X[0, 0])
    assert "param_dtype" not in str(raised.value)
