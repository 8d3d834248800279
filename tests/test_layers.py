"""Convolution, pooling and batch normalisation against independent formulas and their autodiff."""

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import flow
from flow.backprop import (
    ACTIVATIONS,
    LOSSES,
    AveragePooling,
    BatchNormalisation,
    Chain,
    Convolution,
    Flatten,
    Layer,
    Linear,
    MaxPooling,
    Reshape,
)

PROPERTY = settings(max_examples=15, deadline=None, database=None)


def _windows(layer: Any) -> tuple:
    stride = layer.stride or layer.window
    return (1, *layer.window, 1), (1, *stride, 1), "VALID"


def _average(layer: Any, _: dict, A: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(A, 0.0, jax.lax.add, *_windows(layer)) / np.prod(layer.window)


def _max(layer: Any, _: dict, A: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(A, -jnp.inf, jax.lax.max, *_windows(layer))


def _convolve(layer: Any, params: dict, A: jax.Array) -> jax.Array:
    """Examples first, and padding left to JAX."""
    d = len(layer.window)
    Z = jax.lax.conv_general_dilated(
        jnp.moveaxis(A, -1, 0),
        params["W"],
        layer.stride or (1,) * d,
        [(p, p) for p in layer.padding or (0,) * d],
    )
    Z = jnp.moveaxis(Z, 0, -1)
    return Z + params["b"] if layer.bias else Z


def _normalise(layer: Any, params: dict, A: jax.Array) -> jax.Array:
    rows = jnp.moveaxis(A, layer.axis % (A.ndim - 1), -1)
    flat = rows.reshape(-1, layer.features)
    normal = (flat - jnp.mean(flat, 0)) / jnp.sqrt(jnp.var(flat, 0) + 1e-5)
    normal = (params["gamma"] * normal + params["beta"]).reshape(rows.shape)
    return jnp.moveaxis(normal, -1, layer.axis % (A.ndim - 1))


# Layer type -> (layer, params, A) ↦ output.
FORMULAS: dict[type, Callable] = {
    AveragePooling: _average,
    MaxPooling: _max,
    Convolution: _convolve,
    BatchNormalisation: _normalise,
    Reshape: lambda layer, params, A: jnp.stack(
        [A[..., n].ravel().reshape(layer.shape) for n in range(A.shape[-1])], axis=-1
    ),
    Flatten: lambda layer, params, A: jnp.stack(
        [A[..., n].ravel() for n in range(A.shape[-1])], axis=-1
    ),
    Linear: lambda layer, params, A: jnp.einsum("oi,in->on", params["W"], A) + params["b"],
    type(ACTIVATIONS["tanh"]): lambda layer, params, A: layer.value(A),
}


def assert_layer(layer: Any, A: np.ndarray, seed: int = 0) -> None:
    """Assert shape, value and pull-back against the formula, its VJP and central differences."""
    rng = np.random.default_rng(seed)
    params = layer.initialise(rng)
    params = {name: p + 0.3 * rng.standard_normal(p.shape) for name, p in params.items()}
    at, shape = (params, A), layer.output_shape(A.shape)
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), at)
    dout = rng.standard_normal(shape)

    @jax.jit  # one small program compiles sooner than each of its operations
    def everything(at: Any, dout: Any, direction: Any) -> Any:
        out, stored = layer.forward(*at)
        found = layer.backward(at[0], stored, dout)[::-1]
        expected, pull = jax.vjp(lambda at: FORMULAS[type(layer)](layer, *at), at)
        ahead, behind = (
            layer.forward(*jax.tree.map(lambda x, v, h=h: x + h * v, at, direction))[0]
            for h in (1e-5, -1e-5)
        )
        return out, found, expected, pull(dout)[0], jnp.vdot(dout, ahead - behind) / 2e-5

    with jax.enable_x64(True):
        results = jax.tree.map(np.asarray, everything(at, dout, direction))
    out, found, expected, pulled, difference = results
    slope = sum(map(np.vdot, jax.tree.leaves(found), jax.tree.leaves(direction)))
    assert isinstance(layer, Layer)
    assert shape == out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13 * (1 + np.abs(out).max()))
    assert jax.tree.structure(found) == jax.tree.structure(at)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(pulled), strict=True):
        assert f.shape == e.shape
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-12 * (1 + np.abs(e).max()))
    assert abs(slope - difference) < 1e-7 * (1 + abs(slope))


def distinct(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Numbers at least 0.1 apart, so that no finite difference crosses a tie."""
    return 0.1 * rng.permutation(np.prod(shape)).reshape(shape) - 1.0


# A bounded set of shapes, or compilation would take the time.
@st.composite
def spatial(draw: st.DrawFn) -> tuple[tuple, tuple, tuple]:
    """Shape of A, window and stride, on one or two spatial axes."""
    d = draw(st.sampled_from([1, 2]))
    window = draw(st.sampled_from(list(product([1, 2, 3], repeat=d))))
    stride = draw(st.sampled_from(list(product([1, 2], repeat=d))))
    shape = (draw(st.sampled_from([1, 2])), *(5, 4)[:d], draw(st.sampled_from([1, 3])))
    return shape, window, stride


# ---- each layer


@PROPERTY
@given(case=spatial(), layer=st.sampled_from([AveragePooling, MaxPooling]))
@pytest.mark.quick
def test_pooling(case: tuple, layer: Any):
    """Assert pooling over windows that tile, overlap or leave a remainder, one example included."""
    shape, window, stride = case
    assert_layer(layer(window, stride), distinct(np.random.default_rng(0), shape))


@PROPERTY
@given(
    case=spatial(),
    outputs=st.sampled_from([1, 3]),
    padding=st.sampled_from([0, 1]),
    bias=st.booleans(),
)
def test_convolution(case: tuple, outputs: int, padding: int, bias: bool):
    """Assert convolution at any stride and padding, one example included."""
    shape, window, stride = case
    pads = (padding,) * len(window) if padding else None
    layer = Convolution(shape[0], outputs, window, stride, pads, bias=bias)
    assert_layer(layer, np.random.default_rng(1).standard_normal(shape))


@PROPERTY
@given(
    shape=st.sampled_from([(3, 4), (1, 2), (2, 3, 1), (2, 3, 4), (2, 3, 2, 1), (2, 2, 3, 3)]),
    axis=st.sampled_from([0, 1, 2, -1, -2, -3]),
)
def test_batch_normalisation(shape: tuple, axis: int):
    """Assert batch normalisation on every feature axis; one example suffices beside positions."""
    assume(-len(shape) < axis < len(shape) - 1)
    features = shape[:-1][axis]
    A = np.random.default_rng(2).standard_normal(shape)
    assert_layer(BatchNormalisation(features, axis), A)


@pytest.mark.parametrize("N", [1, 3])
def test_flatten_and_reshape(N: int):
    """Assert that examples stay apart and that the two are inverse to each other."""
    A = np.random.default_rng(3).standard_normal((2, 3, 4, N))
    assert_layer(Flatten(), A)
    assert_layer(Reshape((2, 3, 4)), A.reshape(24, N))
    assert_layer(Reshape((4, 6)), A)
    flat, _ = Flatten().forward({}, jnp.asarray(A))
    np.testing.assert_array_equal(Reshape((2, 3, 4)).forward({}, flat)[0], jnp.asarray(A))


@pytest.mark.quick
def test_convolution_is_its_sum():
    """Assert Z(p) = Σ_k W(k) A(ps + k − pad) + b by loops over every index."""
    rng = np.random.default_rng(4)
    layer = Convolution(2, 3, (2, 3), stride=(2, 1), padding=(1, 0))
    params, A = layer.initialise(rng), rng.standard_normal((2, 4, 5, 2))
    params["b"] = rng.standard_normal(params["b"].shape)
    expected = np.zeros((3, 3, 3, 2))
    for o, c, i, j, k, l, n in np.ndindex(3, 2, 3, 3, 2, 3, 2):
        row, column = 2 * i + k - 1, j + l
        if 0 <= row < 4:
            expected[o, i, j, n] += params["W"][o, c, k, l] * A[c, row, column, n]
    with jax.enable_x64(True):
        found, _ = layer.forward(jax.tree.map(jnp.asarray, params), jnp.asarray(A))
    np.testing.assert_allclose(found, expected + params["b"], rtol=0, atol=1e-14)


def test_convolution_over_the_whole_image_is_linear():
    """Assert that a kernel as large as the image is a linear layer on its pixels, gradients too."""
    rng = np.random.default_rng(5)
    layer, dense = Convolution(2, 3, (4, 4)), Linear(32, 3)
    params, A, dZ = (
        layer.initialise(rng),
        rng.standard_normal((2, 4, 4, 5)),
        rng.normal(size=(3, 5)),
    )
    flat = {"W": params["W"].reshape(3, 32), "b": np.zeros((3, 1))}
    with jax.enable_x64(True):
        params, flat, A, dZ = jax.tree.map(jnp.asarray, (params, flat, A, dZ))
        Z, stored = layer.forward(params, A)
        Z_dense, stored_dense = dense.forward(flat, A.reshape(32, 5))
        dA, gradient = layer.backward(params, stored, dZ.reshape(3, 1, 1, 5))
        dA_dense, gradient_dense = dense.backward(flat, stored_dense, dZ)
    np.testing.assert_allclose(Z.reshape(3, 5), Z_dense, rtol=0, atol=1e-14)
    np.testing.assert_allclose(dA.reshape(32, 5), dA_dense, rtol=0, atol=1e-14)
    np.testing.assert_allclose(gradient["W"].reshape(3, 32), gradient_dense["W"], atol=1e-14)
    np.testing.assert_allclose(gradient["b"].reshape(3, 1), gradient_dense["b"], atol=1e-14)


@pytest.mark.parametrize(
    ("init", "variance"), [("lecun", 1 / 90), ("xavier", 2 / 450), ("he", 2 / 90)]
)
def test_variance_of_kernels(init: str, variance: float):
    """Assert gain²·v with fan-in inputs × window, within five standard errors."""
    params = Convolution(10, 40, (3, 3), init=init, gain=2.0).initialise(np.random.default_rng(0))
    n = params["W"].size
    assert np.mean(params["W"] ** 2) == pytest.approx(4 * variance, rel=5 * np.sqrt(2 / n))
    assert params["b"].shape == (40, 1, 1, 1)


@pytest.mark.quick
def test_batch_normalisation_is_blind_to_shift_and_scale():
    """Assert mean β and variance γ²v/(v + ε), and that ∂J/∂u has no part along 1.

    Nor along u − μ where ε is negligible: J does not change when u is shifted or stretched.
    """
    rng = np.random.default_rng(6)
    A, dY = rng.standard_normal((2, 3, 50))
    A = 1e3 * A
    params = {"beta": jnp.array([1.0, 2.0, 3.0]), "gamma": jnp.array([0.5, 1.0, 2.0])}
    with jax.enable_x64(True):
        layer = BatchNormalisation(3)
        Y, stored = layer.forward(params, jnp.asarray(A))
        dA, _ = layer.backward(params, stored, jnp.asarray(dY))
    Y, dA = np.asarray(Y), np.asarray(dA)
    np.testing.assert_allclose(np.mean(Y, axis=1), [1.0, 2.0, 3.0], rtol=1e-14)
    np.testing.assert_allclose(np.var(Y, axis=1), [0.25, 1.0, 4.0], rtol=1e-10)
    np.testing.assert_allclose(np.sum(dA, axis=1), 0, atol=1e-13 * np.abs(dA).sum())
    along = np.sum(dA * (A - A.mean(1, keepdims=True)), axis=1)
    np.testing.assert_allclose(along, 0, atol=1e-9)


# ---- ties and kinks


@PROPERTY
@given(case=spatial(), seed=st.integers(0, 5))
def test_first_of_equal_maxima_takes_all(case: tuple, seed: int):
    """Assert at ties what the derivative of JAX's reduce_window gives, exactly, time after time."""
    shape, window, stride = case
    rng = np.random.default_rng(seed)
    A, layer = rng.integers(0, 2, shape).astype(float), MaxPooling(window, stride)
    dout = rng.integers(1, 9, layer.output_shape(shape)).astype(float)

    @jax.jit
    def both(A: jax.Array, dout: jax.Array) -> tuple:
        found = layer.backward({}, layer.forward({}, A)[1], dout)[0]
        return found, jax.vjp(lambda A: _max(layer, {}, A), A)[1](dout)[0]

    with jax.enable_x64(True):
        (found, expected), (again, _) = both(A, dout), both(A, dout)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, again)


@pytest.mark.quick
def test_a_tied_window_in_full():
    """Assert that of four equal entries the first in row-major order takes all."""
    layer, A = MaxPooling((2, 2)), jnp.ones((1, 2, 2, 1))
    dA, _ = layer.backward({}, layer.forward({}, A)[1], jnp.full((1, 1, 1, 1), 7.0))
    assert dA[0, :, :, 0].tolist() == [[7.0, 0.0], [0.0, 0.0]]


def test_max_pooling_lets_nan_through():
    """Assert that a NaN anywhere in a window is its maximum, as divergence must be seen."""
    for k in range(3):
        A = jnp.zeros(3).at[k].set(jnp.nan).reshape(1, 3, 1)
        assert np.isnan(MaxPooling((3,)).forward({}, A)[0]).all()


def test_second_derivative_at_ties_is_symmetric():
    """Assert a symmetric Hessian where windows tie and ReLUs stand at 0, as on blank images."""
    X, y = np.zeros((2, 4)), np.array([[1.0], [0.0]])
    X[1, 0] = 1.0
    network = flow.Network(
        [
            Reshape((1, 4)),
            Convolution(1, 2, (1,)),
            "relu",
            MaxPooling((2,)),
            Flatten(),
            Linear(4, 1),
        ]
    )
    objective = network.objective(X, y)
    assert not objective.smooth
    H = np.array([objective.flat_hvp(objective.theta, e) for e in np.eye(objective.size)])
    np.testing.assert_array_equal(H, H.T)
    assert np.abs(H).max() > 0


# ---- networks


LAYERS = [
    Reshape((1, 6, 6)),
    Convolution(1, 2, (3, 3), padding=(1, 1)),
    BatchNormalisation(2),
    ACTIVATIONS["tanh"],
    MaxPooling((2, 2)),
    Convolution(2, 2, (2, 2), bias=False),
    AveragePooling((2, 2), stride=(1, 1)),
    Flatten(),
    Linear(2, 2),
]


def reference(params: list, X: jax.Array) -> jax.Array:
    """The outputs of `LAYERS` on rows, by the formulas."""
    A, left = X.T, list(params)
    for layer in LAYERS:
        A = FORMULAS[type(layer)](layer, left.pop(0) if layer.parametrised else {}, A)
    return A.T


def targets(rng: np.random.Generator, loss: str, shape: tuple) -> np.ndarray:
    """Targets that a loss may meet."""
    return rng.standard_normal(shape) if loss == "mse" else rng.uniform(0.1, 0.9, shape)


def probabilities(F: jax.Array) -> jax.Array:
    """The sigmoid as the definition has it."""
    return 1 / (1 + jnp.exp(-F))


LOSS_FORMULAS = {
    "mse": lambda F, y: jnp.mean(jnp.sum((F - y) ** 2, axis=1)) / 2,
    "cross_entropy": lambda F, y: (
        -jnp.mean(jnp.sum(y * (F - jnp.log(jnp.sum(jnp.exp(F), axis=1, keepdims=True))), axis=1))
    ),
    "log_likelihood": lambda F, y: jnp.mean(
        jnp.sum(y * jnp.log(probabilities(F)) + (1 - y) * jnp.log(1 - probabilities(F)), axis=1)
    ),
    "binary_cross_entropy": lambda F, y: -LOSS_FORMULAS["log_likelihood"](F, y),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_network_of_every_layer(loss: str):
    """Assert J, ∇J and ∇²J·v against autodiff of the formulas, and ∇J against differences."""
    rng = np.random.default_rng(7)
    X, y = rng.standard_normal((3, 36)), targets(rng, loss, (3, 2))
    objective = flow.Network(LAYERS).objective(X, y, loss=loss)
    theta = objective.theta + 0.3 * rng.standard_normal(objective.size)
    v = rng.standard_normal(objective.size)
    with jax.enable_x64(True):

        def formula(theta: jax.Array) -> jax.Array:
            return LOSS_FORMULAS[loss](reference(objective.tree(theta), jnp.asarray(X)), y)

        J, gradient = jax.jit(jax.value_and_grad(formula))(theta)
        hvp = jax.jit(lambda x, v: jax.jvp(jax.grad(formula), (x,), (v,))[1])(theta, v)
    found_J, found = objective.flat_value_and_gradient(theta)
    assert found_J == pytest.approx(float(J), rel=1e-13)
    np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
    product = objective.flat_hvp(theta, v)
    np.testing.assert_allclose(product, hvp, rtol=0, atol=1e-11 * np.abs(hvp).max())

    def value(theta: np.ndarray) -> float:
        return objective.value(objective.unflatten(theta))

    differences = [(value(theta + e) - value(theta - e)) / 2e-5 for e in 1e-5 * np.eye(theta.size)]
    np.testing.assert_allclose(found, differences, rtol=0, atol=1e-7 * np.abs(gradient).max())


def test_rows_of_images_are_transposed_once():
    """Assert that X (N, channels, height, width) and its flat rows are one objective."""
    rng = np.random.default_rng(8)
    images, y = rng.standard_normal((4, 2, 3, 3)), rng.standard_normal((4, 2))
    layers = [Convolution(2, 1, (2, 2)), "tanh", Flatten(), Linear(4, 2)]
    direct = flow.Network(layers).objective(images, y)
    flat = flow.Network([Reshape((2, 3, 3)), *layers]).objective(images.reshape(4, 18), y)
    assert direct.value(direct.params) == flat.value(flat.params)
    outputs = direct.outputs(direct.params, images[2:3])
    np.testing.assert_allclose(outputs, direct.outputs(direct.params)[2:3], rtol=1e-14)


@pytest.mark.quick
def test_tied_convolutions_sum_their_gradients():
    """Assert that a convolution used twice has the sum of the gradients of untied copies."""
    rng = np.random.default_rng(9)
    make = lambda: Convolution(1, 1, (3,), padding=(1,))  # noqa: E731
    tied, head = make(), [Flatten(), Linear(4, 1)]
    X, y = rng.standard_normal((5, 1, 4)), rng.standard_normal((5, 1))
    once = flow.Network([tied, "tanh", tied, *head]).objective(X, y)
    twice = flow.Network([make(), "tanh", make(), *head]).objective(X, y)
    shared, last = once.gradient(once.params)
    first, second, other = twice.gradient([once.params[0], *once.params])
    np.testing.assert_allclose(shared["W"], first["W"] + second["W"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(last["W"], other["W"], rtol=0, atol=1e-15)


def test_single_precision_is_a_choice():
    """Assert that all layers compute in float32 where asked to, and agree to its digits."""
    rng = np.random.default_rng(10)
    X, y = rng.standard_normal((4, 36)), rng.standard_normal((4, 2))
    single = flow.Network(LAYERS).objective(X, y, dtype="float32")
    double = flow.Network(LAYERS).objective(X, y)
    assert single.resolution == np.finfo(np.float32).eps
    gradients = [o.flat_value_and_gradient(o.theta)[1] for o in (single, double)]
    assert 0 < np.abs(gradients[0] - gradients[1]).max() < 1e-4 * np.abs(gradients[1]).max()


# ---- on the digits


def digits_network(activation: str, pooling: Layer) -> flow.Objective:
    """A small convolutional network on 40 digits."""
    network = flow.Network(
        [
            Reshape((1, 8, 8)),
            Convolution(1, 2, (3, 3)),
            BatchNormalisation(2),
            activation,
            pooling,
            Flatten(),
            Linear(18, 10),
        ]
    )
    return network.objective(*flow.datasets.digits(40), loss="cross_entropy", seed=0)


def test_convolutional_flow_obeys_the_energy_identity():
    """Assert J₀ − J_T = ∫‖∇J‖² dt along the flow of a convolutional network."""
    path = flow.integrate(digits_network("tanh", AveragePooling((2, 2))), t=10.0, rtol=1e-8)
    assert path.result == "reached t = 10"
    assert path.loss[-1] < 0.5 * path.loss[0]
    assert abs(flow.audit(path).energy_residual) < 1e-8


def test_convolutional_founding_identity():
    """Assert that Euler's method on the flow is gradient descent, kinks and ties included."""
    objective = digits_network("relu", MaxPooling((2, 2)))
    euler = flow.integrate(objective, t=2.0, method="Euler", step=0.05, save=41)
    steps = flow.descend(objective, learning_rate=0.05, steps=40, save=41)
    np.testing.assert_allclose(steps.theta, euler.theta, rtol=0, atol=1e-12)
    assert steps.loss[-1] < 0.8 * steps.loss[0]


# ---- what is refused


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        (
            [Linear(3, 4), ACTIVATIONS["tanh"], Linear(5, 2)],
            (7, 3),
            r"layer 3 \(Linear\) takes \(5, N\), but layer 2 \(tanh\) gives \(4, 7\)",
        ),
        (
            [Linear(3, 2)],
            (7, 4),
            r"layer 1 \(Linear\) takes \(3, N\), but the data gives \(4, 7\)",
        ),
        (
            [Convolution(1, 2, (3, 3)), Linear(8, 2)],
            (7, 1, 4, 4),
            r"layer 2 \(Linear\) takes \(8, N\), but layer 1 \(Convolution\) gives \(2, 2, 2, 7\)",
        ),
        (
            [Convolution(1, 2, (3, 3)), MaxPooling((3, 2))],
            (7, 1, 4, 4),
            r"layer 2 \(MaxPooling\) .* window \(3, 2\), but layer 1 .* gives \(2, 2, 2, 7\)",
        ),
        (
            [AveragePooling((5,))],
            (7, 1, 4),
            r"takes \(channels, length, N\) no smaller than its window \(5,\)",
        ),
        ([MaxPooling((2, 2))], (7, 16), r"takes \(channels, height, width, N\), but the data"),
        (
            [Convolution(3, 2, (3, 3))],
            (7, 1, 4, 4),
            r"takes \(3, height, width, N\), but the data gives \(1, 4, 4, 7\)",
        ),
        ([Convolution(1, 2, (5, 5))], (7, 1, 4, 4), r"no smaller than its window \(5, 5\)"),
        ([Reshape((1, 8, 8))], (7, 63), r"takes 64 numbers an example, for \(1, 8, 8\)"),
        (
            [Linear(3, 4), BatchNormalisation(5)],
            (7, 3),
            r"layer 2 \(BatchNormalisation\) takes 5 features on axis 0, .* gives \(4, 7\)",
        ),
        ([BatchNormalisation(4, axis=1)], (7, 4), "takes 4 features on axis 1"),
        ([BatchNormalisation(4)], (1, 4), "more than one example"),
        ([BatchNormalisation(4)], (1, 4, 1, 1), "more than one example"),
        ([ACTIVATIONS["tanh"]], (7, 2, 3), r"the last layer gives \(2, 3, 7\).*Flatten"),
    ],
)
@pytest.mark.quick
def test_shapes_that_do_not_chain(layers: list, shape: tuple, message: str):
    """Assert that both layers and both shapes are named, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        flow.Network(layers).objective(np.ones(shape), np.ones((shape[0], 2)))


def test_one_example_for_batch_normalisation_is_refused_everywhere():
    """Assert the error for mini-batches and outputs of one example, not NaN."""
    objective = flow.Network([BatchNormalisation(3), Linear(3, 1)]).objective(
        np.random.default_rng(0).standard_normal((5, 3)), np.ones(5)
    )
    with (
        pytest.warns(flow.BatchWarning, match="no mean over examples"),
        pytest.raises(ValueError, match="more than one example"),
    ):
        flow.descend(objective, learning_rate=0.1, steps=3, batch_size=1)
    with pytest.raises(ValueError, match="more than one example"):
        objective.outputs(objective.params, np.ones((1, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxPooling((0, 2)), r"window\[0\] must be a positive integer, got 0"),
        (lambda: MaxPooling((2, 2, 2)), r"window must be \(length,\) or \(height, width\)"),
        (lambda: AveragePooling((2,), stride=(2, 2)), "differ in their axes"),
        (lambda: AveragePooling((2,), stride=(-1,)), r"stride\[0\] must be a positive integer"),
        (lambda: Convolution(0, 2, (3,)), "inputs must be a positive integer"),
        (lambda: Convolution(1, 2, (3,), padding=(-1,)), "padding must be a whole number, 0 or"),
        (lambda: Convolution(1, 2, (3, 3), padding=(1,)), "padding must be .* for each axis"),
        (lambda: Convolution(1, 2, (3,), init="glorot"), "init 'glorot' is unknown"),
        (lambda: Linear(2, 0), "outputs must be a positive integer, got 0"),
        (lambda: Linear(2, 1, gain=0.0), "gain must be positive"),
        (lambda: BatchNormalisation(0), "features must be a positive integer"),
        (lambda: Reshape((4, 0)), r"shape\[1\] must be a positive integer"),
        (lambda: flow.Network(["sine"]), r"layers\[0\] 'sine' is unknown"),
    ],
)
def test_layers_refuse(make: Callable, message: str):
    """Assert that what makes no layer is refused by name."""
    with pytest.raises(ValueError, match=message):
        make()


def test_network_refuses_what_is_no_layer():
    """Assert that a function in the list is named by its place."""
    with pytest.raises(TypeError, match=r"layers\[1\] must be a layer"):
        flow.Network([Linear(2, 1), np.tanh])


@pytest.mark.quick
def test_chain_of_shapes():
    """Assert the shapes on the way through a convolutional chain."""
    chain = Chain(LAYERS)
    assert chain.output_shape((36, 5)) == (2, 5)
    assert Chain(LAYERS[:5]).output_shape((36, 5)) == (2, 3, 3, 5)
