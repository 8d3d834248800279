"""`Objective`: J, ∇J and ∇²J·v of any pytree, in double precision and with a tally."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import flow

H = np.array([[3.0, 1.0], [1.0, 2.0]])


def nested_loss(p: dict) -> jax.Array:
    """J = ½aᵀHa + t‖B‖² + s³ + cos(c)·s of a dict with a list and a tuple in it."""
    a, (B, (s, c)), t = p["a"], p["inner"], p["t"][0]
    return 0.5 * a @ H @ a + t * jnp.sum(B**2) + s**3 + jnp.cos(c) * s


@pytest.fixture
def nested() -> dict:
    """Parameters of `nested_loss`: float32, float64, JAX and numpy arrays, and scalars."""
    return {
        "t": (np.array(0.5),),
        "a": jnp.asarray([1.0, -2.0], jnp.float32),
        "inner": [np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.25]]), (0.7, np.float64(0.3))],
    }


@pytest.fixture
def direction() -> dict:
    """A direction in the space of `nested`."""
    return {
        "t": (np.array(-1.5),),
        "a": np.array([0.3, 0.9]),
        "inner": [np.array([[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]]), (np.array(1.1), np.array(-0.4))],
    }


@pytest.fixture
def regression() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (7, 3), y (7,) and w (3,)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((7, 3)), rng.standard_normal(7), rng.standard_normal(3)


def squares(w: jax.Array, batch: tuple) -> jax.Array:
    """J = ½ of the mean squared error of a linear model."""
    return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)


def assert_leaves(found: dict, expected: dict, tolerance: float = 1e-13) -> None:
    """Assert one structure, numpy float64 leaves of one shape, and values to a tolerance."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert type(f) is np.ndarray
        assert f.dtype == np.float64
        assert f.shape == np.shape(e)
        np.testing.assert_allclose(f, e, rtol=tolerance, atol=tolerance)


# ---- closed forms


@pytest.mark.quick
def test_value_and_gradient_of_a_nested_pytree(nested: dict):
    """Assert J and ∇J of dicts, lists, tuples and scalars against the closed forms."""
    objective = flow.Objective(nested_loss, nested)
    (B, (s, c)), a = nested["inner"], np.array([1.0, -2.0])
    expected = {
        "t": (np.sum(B**2),),
        "a": H @ a,
        "inner": [B, (3 * s**2 + np.cos(c), -np.sin(c) * s)],  # 2tB = B
    }
    J = 0.5 * a @ H @ a + 0.5 * np.sum(B**2) + s**3 + np.cos(c) * s
    assert type(objective.value(nested)) is float
    assert objective.value(nested) == pytest.approx(J, rel=1e-13)
    assert_leaves(objective.gradient(nested), expected)
    value, gradient = objective.value_and_gradient(nested)
    assert value == pytest.approx(J, rel=1e-13)
    assert_leaves(gradient, expected)
    assert objective.size == 11
    jax.tree.map(np.testing.assert_array_equal, objective.params, nested)


@pytest.mark.quick
def test_hvp_of_a_nested_pytree(nested: dict, direction: dict):
    """Assert ∇²J·v of dicts, lists, tuples and scalars against the closed form."""
    objective = flow.Objective(nested_loss, nested)
    B, (s, c) = nested["inner"]
    dB, (ds, dc) = direction["inner"]
    dt = direction["t"][0]
    expected = {
        "t": (2 * np.sum(B * dB),),
        "a": H @ direction["a"],
        "inner": [
            2 * B * dt + dB,  # 2t·dB = dB
            (6 * s * ds - np.sin(c) * dc, -np.sin(c) * ds - np.cos(c) * s * dc),
        ],
    }
    assert_leaves(objective.hvp(nested, direction), expected)


def test_least_squares(regression: tuple):
    """Assert J, ∇J and ∇²J·v of least squares on data, and J on other data of another length."""
    X, y, w = regression
    objective = flow.Objective(squares, w, data=(X, y))
    v = np.array([1.0, -1.0, 2.0])
    assert objective.value(w) == pytest.approx(np.mean((X @ w - y) ** 2) / 2, rel=1e-14)
    np.testing.assert_allclose(objective.gradient(w), X.T @ (X @ w - y) / 7, rtol=0, atol=1e-14)
    np.testing.assert_allclose(objective.hvp(w, v), X.T @ X @ v / 7, rtol=0, atol=1e-14)
    other = (X[:4] + 1.0, y[:4])
    J = np.mean((other[0] @ w - other[1]) ** 2) / 2
    assert objective.value(w, data=other) == pytest.approx(J, rel=1e-14)
    assert objective.value(w) != objective.value(w, data=other)
    with pytest.raises(ValueError, match="leading axes of the data differ"):
        objective.value(w, data=(X, y[:4]))


def test_flat_forms_are_the_same(nested: dict, direction: dict):
    """Assert that J, ∇J and ∇²J·v of flat vectors are those of the pytrees, flattened."""
    objective = flow.Objective(nested_loss, nested)
    theta, v = objective.flatten(nested), objective.flatten(direction)
    np.testing.assert_array_equal(theta, objective.theta)
    value, gradient = objective.flat_value_and_gradient(theta)
    assert value == objective.value(nested)
    np.testing.assert_array_equal(gradient, objective.flatten(objective.gradient(nested)))
    hvp = objective.flatten(objective.hvp(nested, direction))
    np.testing.assert_array_equal(objective.flat_hvp(theta, v), hvp)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
def test_hvp_is_the_dense_hessian(activation: str):
    """Assert ∇²J·v of an MLP against `jax.hessian` of an independent forward pass."""
    formula = {
        "tanh": jnp.tanh,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "softplus": jax.nn.softplus,
    }[activation]
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    objective = flow.MLP([3, 4, 2], activation).objective(X, y)
    theta = objective.theta + 0.3 * rng.standard_normal(objective.size)

    def loss(theta: jax.Array) -> jax.Array:
        W1, b1, W2, b2 = jnp.split(theta, np.cumsum([12, 4, 8]))
        A = formula(X @ W1.reshape(4, 3).T + b1)
        return 0.5 * jnp.mean(jnp.sum((A @ W2.reshape(2, 4).T + b2 - y) ** 2, axis=1))

    with jax.enable_x64(True):
        hessian = np.asarray(jax.hessian(loss)(jnp.asarray(theta)))
    v = rng.standard_normal((3, objective.size))
    found = [objective.flat_hvp(theta, row) for row in v]
    np.testing.assert_allclose(found, v @ hessian, rtol=0, atol=1e-12)
    tree = objective.hvp(objective.unflatten(theta), objective.unflatten(v[0]))
    np.testing.assert_allclose(objective.flatten(tree), hessian @ v[0], rtol=0, atol=1e-12)


# ---- hand-written gradients


def test_hand_gradient_is_used():
    """Assert that a wrong `gradient=` comes out as planted, and ∇²J·v is its push-forward."""
    x, v = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    objective = flow.Objective(lambda x: 0.5 * x @ x, x, gradient=lambda x: 7.0 * x**3)
    np.testing.assert_allclose(objective.gradient(x), 7 * x**3, rtol=1e-15)
    np.testing.assert_allclose(objective.hvp(x, v), 21 * x**2 * v, rtol=1e-15)
    assert objective.value(x) == 2.5


@pytest.mark.quick
def test_hand_gradient_of_data_is_used(regression: tuple):
    """Assert that a planted `gradient=` gets the data that the loss gets."""
    X, y, w = regression
    objective = flow.Objective(
        squares, w, data=(X, y), gradient=lambda w, batch: w + batch[0].sum(0) + batch[1].sum()
    )
    np.testing.assert_allclose(objective.gradient(w), w + X.sum(0) + y.sum(), rtol=1e-13)


def test_hvp_of_a_network_is_the_push_forward_of_its_hand_gradient():
    """Assert that an MLP's ∇²J·v differentiates the hand-written pass: a planted slope shows."""
    planted = flow.backprop.Activation("planted", jnp.tanh, lambda z, a: z)
    X, y = np.array([[1.0]]), np.array([[0.0]])
    objective = flow.MLP([1, 1, 1], planted, bias=False).objective(X, y)
    u, w = 0.6, 0.9
    params, v = [{"W": np.array([[x]])} for x in (u, w)], [{"W": np.array([[x]])} for x in (1, 0.0)]
    # J = ½(w tanh u)²: by hand, with the planted slope u, ∂J/∂u = w²·tanh(u)·u.
    gradient, hvp = objective.gradient(params), objective.hvp(params, v)
    assert gradient[0]["W"].item() == pytest.approx(w**2 * np.tanh(u) * u, rel=1e-14)
    expected = w**2 * (u / np.cosh(u) ** 2 + np.tanh(u))
    assert hvp[0]["W"].item() == pytest.approx(expected, rel=1e-14)


def test_hand_gradient_of_the_wrong_form_is_refused(nested: dict):
    """Assert that a gradient with another structure, or another shape, is refused by name."""
    with pytest.raises(ValueError, match="gradient must return a pytree like params"):
        flow.Objective(nested_loss, nested, gradient=lambda p: [p["a"]])
    with pytest.raises(ValueError, match=r"gradient must return.*params\['a'\] has shape \(1,\)"):
        flow.Objective(nested_loss, nested, gradient=lambda p: p | {"a": p["a"][:1]})


# ---- outputs


def test_outputs_and_output_loss(regression: tuple):
    """Assert that outputs= and output_loss= are the plain loss, with outputs that can be had."""
    X, y, w = regression
    plain = flow.Objective(squares, w, data=(X, y))
    split = flow.Objective(
        outputs=lambda w, X: X @ w,
        output_loss=lambda f, y: 0.5 * jnp.mean((f - y) ** 2),
        params=w,
        data=(X, y),
    )
    assert split.value(w) == plain.value(w)
    np.testing.assert_array_equal(split.gradient(w), plain.gradient(w))
    np.testing.assert_array_equal(split.hvp(w, 2 * w), plain.hvp(w, 2 * w))
    outputs, other = split.outputs(w), split.outputs(w, X[:2] * 3)
    assert outputs.dtype == np.float64
    np.testing.assert_allclose(outputs, X @ w, rtol=0, atol=1e-14)
    np.testing.assert_allclose(other, 3 * X[:2] @ w, rtol=0, atol=1e-14)
    with pytest.raises(TypeError, match="knows its loss only"):
        plain.outputs(w)


def test_observers_of_other_examples():
    """Assert that test_loss is J of the other rows, and accuracy counts by hand."""
    X, y = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 3.0]]), np.eye(2)[[0, 1, 1, 1]]
    objective = flow.MLP([2, 2], bias=False).objective(X[:2], y[:2])
    params = [{"W": np.eye(2)}]
    assert flow.observe.accuracy(X, y)(objective, params) == 0.75
    found = flow.observe.test_loss(X[2:], y[2:])(objective, params)
    assert found == pytest.approx(0.5 * ((2**2 + 0) + (1 + 2**2)) / 2, rel=1e-14)
    logit = flow.MLP([2, 1], bias=False).objective(X, y[:, 1], loss="binary_cross_entropy")
    row = [{"W": np.array([[-1.0, 1.0]])}]
    for labels in (y[:, 1], y[:, [1]]):
        assert flow.observe.accuracy(X, labels)(logit, row) == 0.75


# ---- precision


def test_arithmetic_outside_stays_double(nested: dict):
    """Assert that params − 0.1·gradient, in the user's own code, is numpy float64."""
    objective = flow.Objective(nested_loss, nested)
    params = objective.unflatten(objective.theta)
    step = jax.tree.map(lambda p, g: p - 0.1 * g, params, objective.gradient(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(step)} == {np.dtype("float64")}
    np.testing.assert_allclose(step["a"], np.array([1, -2]) - 0.1 * (H @ [1, -2]), rtol=1e-15)


@pytest.mark.quick
def test_global_precision_is_left_alone(nested: dict):
    """Assert that JAX's x64 flag is as it was, after calls and after a loss that fails."""
    assert not jax.config.jax_enable_x64
    objective = flow.Objective(nested_loss, nested)
    objective.value_and_gradient(nested)
    objective.hvp(nested, nested)
    flow.integrate(objective, t=0.01)

    def fails(_: jax.Array) -> jax.Array:
        raise RuntimeError("the user's bug")

    with pytest.raises(RuntimeError, match="the user's bug"):
        flow.Objective(fails, np.ones(2))
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == np.float32
    with jax.enable_x64(True):
        J = flow.Objective(nested_loss, nested).value(nested)
        assert jnp.ones(1).dtype == np.float64
    assert objective.value(nested) == J


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cast_inside_the_loss_warns(dtype: str):
    """Assert that a cast to less than double inside the loss is found and named."""
    x = np.ones(3)
    with pytest.warns(flow.PrecisionWarning, match=f"computes in {dtype} inside"):
        objective = flow.Objective(lambda x: jnp.sum(x.astype(dtype) ** 2), x)
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}[dtype]
    assert objective.resolution == eps
    with pytest.raises(ValueError, match="can deliver; raise rtol, or compute the loss in double"):
        flow.integrate(objective, t=1.0, rtol=99 * eps)


def in_jit(x: jax.Array) -> jax.Array:
    return jax.jit(lambda x: jnp.sum(x.astype(jnp.float32) ** 2))(x)


def in_scan(x: jax.Array) -> jax.Array:
    def body(total: jax.Array, xi: jax.Array) -> tuple:
        return total + xi.astype(jnp.float32).astype(jnp.float64) ** 2, None

    return jax.lax.scan(body, jnp.zeros(()), x)[0]


def in_cond(x: jax.Array) -> jax.Array:
    single = lambda x: jnp.sum(x.astype(jnp.float32) ** 2).astype(jnp.float64)  # noqa: E731
    return jax.lax.cond(x[0] > 0, single, lambda x: jnp.sum(x**2), x)


@pytest.mark.parametrize("loss", [in_jit, in_scan, in_cond])
def test_hidden_cast_warns(loss: object):
    """Assert that a cast is found inside a jitted function, a scan and one branch of a cond."""
    with pytest.warns(flow.PrecisionWarning, match="float32"):
        flow.Objective(loss, np.ones(3))


@pytest.mark.parametrize("library", [np, jnp])
def test_single_precision_constants_do_not_warn(library: object):
    """Assert that a float32 array in the closure is no arithmetic in float32: no warning."""
    X = library.asarray([[1.0, 2.0], [3.0, 4.0]], library.float32)
    objective = flow.Objective(lambda w: 0.5 * jnp.sum((X @ w - 1.0) ** 2), np.ones(2) / 3)
    assert objective.resolution == np.finfo(np.float64).eps
    exact = np.array([[1.0, 2.0], [3.0, 4.0]])
    expected = exact.T @ (exact @ np.ones(2) / 3 - 1)
    np.testing.assert_allclose(objective.gradient(np.ones(2) / 3), expected, rtol=0, atol=1e-14)


def test_single_precision_by_choice():
    """Assert that dtype="float32" warns not, returns float64 types and float32 accuracy."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    network = flow.MLP([3, 8, 2])
    single, double = (network.objective(X, y, dtype=d) for d in ("float32", "float64"))
    params = double.params
    v = jax.tree.map(np.ones_like, params)
    eps = 2.0**-23
    assert single.resolution == eps
    assert type(single.value(params)) is float
    pairs = [
        (single.value(params), double.value(params)),
        (single.flatten(single.gradient(params)), double.flatten(double.gradient(params))),
        (single.flatten(single.hvp(params, v)), double.flatten(double.hvp(params, v))),
        (single.outputs(params), double.outputs(params)),
    ]
    for rough, exact in pairs:
        assert np.asarray(rough).dtype == np.float64
        error = np.max(np.abs(rough - exact)) / np.max(np.abs(exact))
        assert 1e-3 * eps < error < 20 * eps
    assert {leaf.dtype for leaf in jax.tree.leaves(single.gradient(params))} == {np.dtype(float)}


# ---- θ as a flat vector

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
LEAVES = st.tuples(SHAPES, st.integers(0, 1000)).map(
    lambda drawn: np.asarray(np.random.default_rng(drawn[1]).standard_normal(drawn[0]))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from("zaWb"), inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@settings(max_examples=15, deadline=None, database=None)
@given(params=TREES)
def test_flatten_is_ravel_pytree(params: dict | list | tuple | np.ndarray):
    """Assert the order of `ravel_pytree` and the round trip, for pytrees of any shape."""
    objective = flow.Objective(
        lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)), params
    )
    theta = objective.flatten(params)
    with jax.enable_x64(True):
        expected = np.asarray(ravel_pytree(params)[0])
    np.testing.assert_array_equal(theta, expected)
    np.testing.assert_array_equal(objective.theta, expected)
    assert_leaves(objective.unflatten(theta), params, 0.0)
    assert_leaves(objective.gradient(params), jax.tree.map(lambda x: 2 * x, params))
    np.testing.assert_array_equal(objective.flatten(objective.unflatten(2 * theta)), 2 * theta)


@pytest.mark.quick
def test_views_are_copies():
    """Assert that writing to what was handed out, or handed in, changes no objective."""
    x = np.array([1.0, 2.0])
    objective = flow.Objective(lambda x: 0.5 * x @ x, x)
    objective.flatten(x)[:] = 9.0
    objective.unflatten(objective.theta)[:] = 9.0
    objective.gradient(x)[:] = 9.0
    np.testing.assert_array_equal(objective.theta, [1.0, 2.0])
    np.testing.assert_array_equal(x, [1.0, 2.0])
    x[:] = 5.0
    np.testing.assert_array_equal(objective.theta, [1.0, 2.0])


# ---- the tally


@pytest.mark.quick
def test_tally_counts_what_is_spent(nested: dict):
    """Assert that gradients and ∇²J·v are counted, values and construction are not."""
    objective = flow.Objective(nested_loss, nested)
    assert (objective.tally.gradients, objective.tally.hvps) == (0, 0)
    objective.value(nested)
    objective.gradient(nested)
    objective.value_and_gradient(nested)
    objective.flat_value_and_gradient(objective.theta)
    objective.hvp(nested, nested)
    assert (objective.tally.gradients, objective.tally.hvps) == (3, 1)
    view = objective.counted()
    view.gradient(nested)
    view.hvp(nested, nested)
    view.flat_hvp(objective.theta, objective.theta)
    assert (view.tally.gradients, view.tally.hvps) == (1, 2)
    assert (objective.tally.gradients, objective.tally.hvps) == (3, 1)


def test_counted_views_share_what_is_compiled():
    """Assert that a view traces nothing anew, and that a second call does not either."""
    traces = []

    def loss(x: jax.Array) -> jax.Array:
        traces.append(1)
        return 0.5 * x @ x

    x = np.ones(2)
    objective = flow.Objective(loss, x)
    objective.gradient(x)
    spent = len(traces)
    objective.gradient(2 * x)
    np.testing.assert_array_equal(objective.counted().gradient(3 * x), 3 * x)
    assert len(traces) == spent


# ---- refusals


def test_refuses_what_is_no_loss():
    """Assert that a loss that is no finite real scalar is refused with what was met."""
    x = np.ones(2)
    with pytest.raises(ValueError, match=r"scalar, got an array of shape \(2,\)"):
        flow.Objective(lambda x: x**2, x)
    with pytest.raises(ValueError, match="scalar, got a tuple of 2.*has_aux"):
        flow.Objective(lambda x: (x.sum(), 1.0), x)
    with pytest.raises(TypeError, match="real floating-point number, got complex128"):
        flow.Objective(lambda x: (1j * x).sum(), x)
    with pytest.raises(ValueError, match="loss is nan at the initial parameters"):
        flow.Objective(lambda x: jnp.log(-x).sum(), x)
    with pytest.raises(ValueError, match="give a loss, or both"):
        flow.Objective(outputs=lambda p, X: X @ p, params=x)
    with pytest.raises(ValueError, match=r"need data=\(X, y\)"):
        flow.Objective(outputs=lambda p, X: X @ p, output_loss=lambda f, y: f.sum(), params=x)


@pytest.mark.parametrize("leaf", [np.arange(3), np.ones(2, complex), "tanh", 3, True])
@pytest.mark.quick
def test_refuses_leaves_that_do_not_move(leaf: object):
    """Assert that a leaf that is no floating-point array is refused by its path."""
    with pytest.raises(TypeError, match=r"params\['inner'\]\[1\] must be a floating-point array"):
        flow.Objective(lambda p: p["a"].sum(), {"a": np.ones(2), "inner": [np.ones(1), leaf]})


def test_refuses_parameters_of_another_form():
    """Assert that parameters and flat vectors that do not fit θ₀ are refused by path and shape."""
    params = {"W": np.ones((2, 3)), "b": np.ones(2)}
    objective = flow.Objective(lambda p: (p["W"] ** 2).sum() + p["b"].sum(), params)
    with pytest.raises(ValueError, match=r"params\['W'\] has shape \(3, 2\), but.*\(2, 3\)"):
        objective.value(params | {"W": np.ones((3, 2))})
    with pytest.raises(ValueError, match="params has the structure"):
        objective.gradient([params["W"], params["b"]])
    with pytest.raises(ValueError, match=r"v\['b'\] has shape \(3,\)"):
        objective.hvp(params, params | {"b": np.ones(3)})
    with pytest.raises(ValueError, match=r"theta must have shape \(8,\), got \(7,\)"):
        objective.unflatten(np.ones(7))
    with pytest.raises(ValueError, match="params has no arrays"):
        flow.Objective(lambda p: 1.0, {})
    with pytest.raises(ValueError, match=r"params\['W'\] is empty"):
        flow.Objective(lambda p: 1.0, {"W": np.ones((0, 3))})


def kept_aside(w: jax.Array) -> jax.Array:
    """A square whose rounded running mean is computed, and left."""

    @jax.jit
    def normalised(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return w**2, 0.9 * jnp.float32(1.0) + 0.1 * jnp.mean(w.astype(jnp.float32))

    return jnp.sum(normalised(w)[0])


X32 = np.array([[3.0, 1.0, 4.0], [1.0, 5.0, 9.0]], np.float32)


@pytest.mark.parametrize(
    "loss",
    [
        lambda w: jnp.sum((jnp.asarray(X32)[:, ::-1].T @ jnp.asarray(X32) @ w) ** 2),
        lambda w: jnp.sum((jnp.asarray(X32) / 255.0 @ w) ** 2),
        lambda w: jnp.sum(w**2 * (jnp.tri(3, dtype=jnp.float32) > 0)),
        lambda w: jnp.sum(w**2 * (w.astype(jnp.float32) > -9.0).astype(jnp.float32)),
        kept_aside,
    ],
    ids=["matrices", "scaled", "mask", "comparison", "dead code"],
)
@pytest.mark.filterwarnings("error::flow.PrecisionWarning")
def test_single_precision_beside_the_way_from_theta_to_the_loss(loss: Callable):
    """Assert that J of float32 constants, comparisons and what is left aside is double."""
    assert flow.Objective(loss, np.ones(3) / 3).resolution == np.finfo(float).eps


def test_the_line_that_rounds_is_named():
    """Assert file, line and remedy, of the user's own cast and not of one that J is free of."""
    line = _rounded.__code__.co_firstlineno + 1
    with pytest.warns(flow.PrecisionWarning, match=f"test_objective.py:{line}.*or say dtype='fl"):
        flow.Objective(lambda w: kept_aside(w) + _rounded(w), np.ones(3) / 3)


def _rounded(w: jax.Array) -> jax.Array:
    return jnp.mean(jnp.exp(w.astype(jnp.float32))) ** 2


def test_other_data_must_be_like_the_own():
    """Assert that targets that would broadcast, and data for a loss without any, are refused."""
    (X, y), (X_test, y_test) = flow.datasets.digits(20, test=20)
    objective = flow.MLP([64, 10]).objective(X, y)
    with pytest.raises(ValueError, match="examples of shape"):
        flow.observe.test_loss(X_test, y_test.argmax(1).astype(float))(objective, objective.params)
    with pytest.raises(ValueError, match="without data="):
        flow.Objective(lambda w: w @ w, np.ones(2)).value(np.ones(2), data=(X, y))
    single = flow.MLP([64, 1]).objective(X, y[:, 0])
    flat, column = ((X_test, y_test[:, 0]), (X_test, y_test[:, :1]))
    assert single.value(single.params, data=flat) == single.value(single.params, data=column)
