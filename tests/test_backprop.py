"""Hand-derived backprop against autodiff of independently written formulas, and closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flow
from flow._core.precision import double_precision
from flow.backprop import (
    ACTIVATIONS,
    LOSSES,
    Chain,
    Layer,
    Linear,
    leaky_relu,
    linear_input,
    linear_parameters,
    softplus,
    through_activation,
)

# Independent formulas of what `flow.backprop.activations` writes by hand.
FORMULAS = {
    "tanh": lambda z: (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z)),
    "sigmoid": lambda z: 1 / (1 + jnp.exp(-z)),
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jnp.where(z < 0, 0.01 * z, z),
    "softplus": jax.nn.softplus,
    "softplus200": lambda z: jax.nn.softplus(200.0 * z) / 200.0,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "identity": lambda z: z,
}
ACTIVATION = {name: ACTIVATIONS[name] for name in ACTIVATIONS} | {"softplus200": softplus(200.0)}


def _bce(F: jax.Array, y: jax.Array) -> jax.Array:
    log_p, log_not_p = -jnp.log1p(jnp.exp(-F)), -jnp.log1p(jnp.exp(F))
    return -jnp.mean(jnp.sum(y * log_p + (1 - y) * log_not_p, axis=1))


# Of rows F (examples, outputs), in the naive form of the definition; fine at moderate logits.
LOSS_FORMULAS = {
    "log_likelihood": lambda F, y: -_bce(F, y),
    "mse": lambda F, y: jnp.mean(jnp.sum((F - y) ** 2, axis=1)) / 2,
    "cross_entropy": lambda F, y: (
        -jnp.mean(jnp.sum(y * (F - jnp.log(jnp.sum(jnp.exp(F), axis=1, keepdims=True))), axis=1))
    ),
    "binary_cross_entropy": _bce,
}


def forward(params: list, X: np.ndarray, activation: str) -> jax.Array:
    """The network in rows layout: A ← g(A Wᵀ + bᵀ)."""
    A = X
    for l, layer in enumerate(params):
        A = jnp.einsum("ni,oi->no", A, layer["W"])
        A = A + layer["b"].T if "b" in layer else A
        A = FORMULAS[activation](A) if l < len(params) - 1 else A
    return A


def autodiff(params: list, X: Any, y: Any, activation: str, loss: str, jit: bool = False) -> tuple:
    """J and ∇J by `jax.value_and_grad` of the forward pass above; jit pays where shapes vary."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        both = jax.value_and_grad(lambda p: LOSS_FORMULAS[loss](forward(p, X, activation), y))
        J, gradient = (jax.jit(both) if jit else both)(params)
        return float(J), jax.tree.map(np.asarray, gradient)


def targets(rng: np.random.Generator, loss: str, shape: tuple[int, int]) -> np.ndarray:
    """Targets that a loss may meet; cross-entropy's rows do not sum to 1."""
    return rng.standard_normal(shape) if loss == "mse" else rng.uniform(0.1, 0.9, shape)


def perturbed(params: list, rng: np.random.Generator) -> list:
    """Parameters whose biases are not at zero either."""
    return jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape), params)


def assert_same(found: list, expected: list, tolerance: float) -> None:
    """Assert that each leaf agrees relative to its largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert f.shape == e.shape
        np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * np.max(np.abs(e)))


# ---- the three lemmas


@pytest.fixture
def linear() -> dict[str, np.ndarray]:
    """W (3, 4), b (3, 1), u (4, 5) and a cotangent dz (3, 5), all sizes different."""
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 4), "b": (3, 1), "u": (4, 5), "dz": (3, 5)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.quick
def test_lemma_of_linear_parameters(linear: dict[str, np.ndarray]):
    """Assert that lemma 1 is the 3-tensor ∂z_i/∂W_jk = δ_ij u_k summed against ∂J/∂z, and a VJP."""
    W, b, u, dz = linear.values()
    with jax.enable_x64(True):
        dW, db = linear_parameters(jnp.asarray(dz), jnp.asarray(u))
        pulled = jax.vjp(lambda W, b: W @ u + b, W, b)[1](jnp.asarray(dz))
    tensor = np.zeros((3, 3, 4, 5))  # ∂z_in/∂W_jk, indices i j k n
    for i in range(3):
        tensor[i, i] = u
    np.testing.assert_allclose(dW, np.einsum("in,ijkn->jk", dz, tensor), rtol=0, atol=1e-14)
    np.testing.assert_allclose(dW, pulled[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(db, pulled[1], rtol=0, atol=1e-14)
    assert dW.shape == W.shape
    assert db.shape == b.shape


@pytest.mark.quick
def test_lemma_of_linear_input(linear: dict[str, np.ndarray]):
    """Assert that lemma 3 is Σ_i ∂J/∂z_i W_ik, branch by branch, and a VJP."""
    W, _, u, dz = linear.values()
    with jax.enable_x64(True):
        du = linear_input(jnp.asarray(W), jnp.asarray(dz))
        pulled = jax.vjp(lambda u: W @ u, u)[1](jnp.asarray(dz))[0]
    branches = sum(W[i][:, None] * dz[i][None, :] for i in range(3))
    np.testing.assert_allclose(du, branches, rtol=0, atol=1e-14)
    np.testing.assert_allclose(du, pulled, rtol=0, atol=1e-14)
    assert du.shape == u.shape


@pytest.mark.quick
def test_lemma_of_activation():
    """Assert that lemma 2 is the diagonal Jacobian of σ against ∂J/∂a, and a VJP."""
    rng = np.random.default_rng(1)
    z, da = rng.standard_normal((2, 3, 5))
    slope = 3 * z**2
    with jax.enable_x64(True):
        dz = through_activation(jnp.asarray(da), jnp.asarray(slope))
        pulled = jax.vjp(lambda z: z**3, z)[1](jnp.asarray(da))[0]
    columns = [np.diag(slope[:, n]).T @ da[:, n] for n in range(5)]
    np.testing.assert_allclose(dz, np.stack(columns, axis=1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(dz, pulled, rtol=0, atol=1e-14)


# ---- activations


@pytest.mark.parametrize("name", ACTIVATION)
@pytest.mark.quick
def test_activation(name: str):
    """Assert σ and σ′ against an independent formula and its autodiff, near 0 and far out."""
    z = np.concatenate([np.linspace(-8, 8, 161), [-1e-3, 1e-3, -20.0, 20.0]])
    with jax.enable_x64(True):
        value = FORMULAS[name](jnp.asarray(z))
        slope = jax.vmap(jax.grad(FORMULAS[name]))(jnp.asarray(z))
        a, stored = ACTIVATION[name].forward({}, jnp.asarray(z[None]))
        dz, none = ACTIVATION[name].backward({}, stored, jnp.full((1, z.size), -2.0))
    np.testing.assert_allclose(a[0], value, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(dz[0], -2 * np.asarray(slope), rtol=1e-14, atol=2e-15)
    assert none == {}
    assert isinstance(ACTIVATION[name], Layer)


def test_slopes_at_zero():
    """Assert σ′(0): 0 for ReLU, 1 for leaky ReLU, ½ for softplus and GELU, ¼ for the sigmoid."""
    expected = {"relu": 0, "softplus": 0.5, "softplus200": 0.5, "gelu": 0.5, "sigmoid": 0.25}
    with jax.enable_x64(True):
        for name, slope in (
            expected | dict.fromkeys(["tanh", "identity", "leaky_relu"], 1)
        ).items():
            zero = jnp.zeros((1, 1))
            assert ACTIVATION[name].slope(zero, ACTIVATION[name].value(zero)).item() == slope


def test_sharp_softplus_is_relu_without_overflow():
    """Assert that softplus(200) is ReLU to rounding away from 0, log 2/200 at 0, finite at ±1e4."""
    with jax.enable_x64(True):
        z = jnp.asarray([[-1e4, -1.0, 0.0, 1.0, 1e4]])
        a = softplus(200.0).value(z)
        slope = softplus(200.0).slope(z, a)
    np.testing.assert_allclose(a, [[0, 0, np.log(2) / 200, 1, 1e4]], rtol=1e-15, atol=1e-80)
    np.testing.assert_allclose(slope, [[0, 0, 0.5, 1, 1]], rtol=1e-15, atol=1e-80)


@pytest.mark.parametrize("negative", [np.inf, np.nan])
def test_leaky_relu_refuses(negative: float):
    """Assert that a slope that is no number is refused."""
    with pytest.raises(ValueError, match="negative must be a finite slope"):
        leaky_relu(negative)


@pytest.mark.parametrize("beta", [0.0, -1.0, np.inf, np.nan])
def test_softplus_refuses(beta: float):
    """Assert that a β that is no positive number is refused."""
    with pytest.raises(ValueError, match="beta must be positive and finite"):
        softplus(beta)


def test_homogeneous_activations():
    """Assert that those are declared homogeneous for which σ(3z) = 3σ(z)."""
    with jax.enable_x64(True):
        z = jnp.linspace(-2.0, 2.0, 9)
        found = [n for n, a in ACTIVATION.items() if np.allclose(a.value(3 * z), 3 * a.value(z))]
    assert sorted(found) == ["identity", "leaky_relu", "relu"]
    assert found == [name for name, a in ACTIVATION.items() if a.homogeneous]


def test_only_relus_have_a_kink():
    """Assert that the ReLUs alone are declared not smooth; a network of one layer always is."""
    assert [name for name, a in ACTIVATION.items() if not a.smooth] == ["relu", "leaky_relu"]
    X, y = np.ones((2, 3)), np.ones((2, 1))
    assert not flow.MLP([3, 2, 1], activation="relu").objective(X, y).smooth
    assert flow.MLP([3, 1], activation="relu").objective(X, y).smooth


# ---- networks


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", FORMULAS)
def test_gradient_is_autodiff(activation: str, loss: str):
    """Assert J, ∇J and the outputs of networks 1 to 5 layers deep against autodiff, to 1e-12."""
    rng = np.random.default_rng(7)
    X, y = rng.standard_normal((5, 3)), targets(rng, loss, (5, 2))
    for depth in range(1, 6):
        network = flow.MLP([3] + [4] * (depth - 1) + [2], ACTIVATION[activation])
        objective = network.objective(X, y, loss=loss)
        params = perturbed(objective.params, rng)
        J, gradient = autodiff(params, X, y, activation, loss)
        with jax.enable_x64(True):  # not compiled, which would be most of the time
            traced = jax.tree.map(jnp.asarray, params)
            found_J = float(objective.traced_value(traced, objective.data))
            found = objective.traced_gradient(traced, objective.data)
        assert found_J == pytest.approx(J, rel=1e-13)
        assert_same(jax.tree.map(np.asarray, found), gradient, 1e-12)
    compiled_J, compiled = objective.value_and_gradient(params)
    assert compiled_J == pytest.approx(J, rel=1e-13)
    assert_same(compiled, gradient, 1e-12)
    with jax.enable_x64(True):
        outputs = forward(params, X, activation)
    np.testing.assert_allclose(objective.outputs(params), outputs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("activation", "loss"),
    [("tanh", "mse"), ("gelu", "cross_entropy"), ("softplus", "binary_cross_entropy")],
)
@pytest.mark.quick
def test_gradient_is_finite_differences(activation: str, loss: str):
    """Assert ∇J against central differences of J, entry by entry."""
    rng = np.random.default_rng(8)
    X, y = rng.standard_normal((5, 2)), targets(rng, loss, (5, 2))
    objective = flow.MLP([2, 3, 2, 2], activation).objective(X, y, loss=loss)
    theta = objective.theta + 0.3 * rng.standard_normal(objective.size)
    h = 1e-5 * np.eye(objective.size)

    def value(theta: np.ndarray) -> float:
        return objective.value(objective.unflatten(theta))

    differences = [(value(theta + e) - value(theta - e)) / 2e-5 for e in h]
    gradient = objective.flat_value_and_gradient(theta)[1]
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-9)
    assert np.abs(gradient).max() > 0.01


@settings(max_examples=15, deadline=None, database=None)
@given(
    inputs=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 4), max_size=2),
    outputs=st.integers(1, 3),
    examples=st.integers(1, 5),
    bias=st.booleans(),
    activation=st.sampled_from(["tanh", "relu", "gelu"]),
    loss=st.sampled_from(sorted(LOSSES)),
    seed=st.integers(0, 100),
)
def test_gradient_of_any_shape(inputs, hidden, outputs, examples, bias, activation, loss, seed):
    """Assert that gradients have their parameters' shapes and are autodiff's, for any sizes."""
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((examples, inputs)), targets(rng, loss, (examples, outputs))
    network = flow.MLP([inputs, *hidden, outputs], activation, bias=bias)
    objective = network.objective(X, y, loss=loss)
    params = perturbed(network.initialise(seed), rng)
    found = objective.gradient(params)
    expected = autodiff(params, X, y, activation, loss, jit=True)[1]
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, params)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-12 * max(1.0, np.abs(e).max()))


def test_balanced_quantities_do_not_move():
    """Assert that what linear, ReLU and leaky ReLU networks conserve has no rate along −∇J."""
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    cases = [("identity", True), ("identity", False), ("relu", True), ("leaky_relu", True)]
    for activation, bias in [*cases, (leaky_relu(negative=0.3), False)]:
        network = flow.MLP([3, 4, 5, 2], activation, bias=bias)
        objective = network.objective(X, y)
        params = perturbed(objective.params, rng)
        with jax.enable_x64(True):
            for quantity in objective.conserved.values():
                value, rate = jax.jvp(quantity, (params,), (objective.gradient(params),))
                np.testing.assert_allclose(rate, np.zeros_like(value), atol=1e-13)
                assert np.abs(value).max() > 0.1
        assert len(objective.conserved) == 2
    assert flow.MLP([3, 4, 2], "tanh").objective(X, y).conserved == {}


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.quick
def test_forward_pass_is_done_once(layers: int):
    """Assert 3L − 1 matrix products in the compiled ∇J: L forward, L for W, L − 1 for inputs."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((11, 7)), rng.standard_normal((11, 5))
    objective = flow.MLP([7, *range(8, 7 + layers), 5]).objective(X, y)
    with double_precision():
        function = objective.compiled("value_and_gradient", objective._build_value_and_gradient)  # noqa: SLF001
        hlo = function.lower(objective.theta, objective.data).compile().as_text()
    assert hlo.count(" dot(") == 3 * layers - 1


# ---- chains


@pytest.mark.quick
def test_tied_layers_sum_their_gradients():
    """Assert that a layer used twice has the sum of the gradients of its untied copies."""
    rng = np.random.default_rng(4)
    tied, last, activation = Linear(3, 3), Linear(3, 2), ACTIVATIONS["tanh"]
    chain = Chain([tied, activation, tied, activation, last])
    untied = Chain([Linear(3, 3), activation, Linear(3, 3), activation, last])
    params = perturbed(chain.initialise(rng), rng)
    with jax.enable_x64(True):
        X, Y = jnp.asarray(rng.standard_normal((3, 6))), jnp.asarray(rng.standard_normal((2, 6)))
        params = jax.tree.map(jnp.asarray, params)
        J, (shared, end) = chain.value_and_gradient(LOSSES["mse"], params, X, Y)
        J_untied, (first, second, end_untied) = untied.value_and_gradient(
            LOSSES["mse"], [params[0], params[0], params[1]], X, Y
        )

        def loss(p: list) -> jax.Array:
            return LOSS_FORMULAS["mse"](forward([p[0], p[0], p[1]], X.T, "tanh"), Y.T)

        expected = jax.grad(loss)(params)
    assert chain.slots == [0, None, 0, None, 1]
    assert J_untied == J
    assert_same(shared, jax.tree.map(jnp.add, first, second), 1e-15)
    assert_same(end, end_untied, 1e-15)
    assert_same([shared, end], expected, 1e-13)


def test_equal_layers_are_not_tied():
    """Assert that two `Linear`s of one description are two layers, each with its own draw."""
    chain = Chain([Linear(2, 2), Linear(2, 2)])
    first, second = chain.initialise(np.random.default_rng(0))
    assert chain.slots == [0, 1]
    assert not np.any(first["W"] == second["W"])


# ---- losses


def columns(*entries: float) -> jax.Array:
    """One example for each entry of a single output."""
    return jnp.asarray([list(entries)])


@pytest.mark.quick
def test_mse_is_half_the_sum_over_outputs_and_the_mean_over_examples():
    """Assert the mean squared error against an explicit loop."""
    rng = np.random.default_rng(0)
    A, Y = rng.standard_normal((2, 3, 7))
    expected = 0.0
    for n in range(7):
        for k in range(3):
            expected += 0.5 * (A[k, n] - Y[k, n]) ** 2 / 7
    with jax.enable_x64(True):
        found = LOSSES["mse"].value(jnp.asarray(A), jnp.asarray(Y))
        cotangent = LOSSES["mse"].cotangent(jnp.asarray(A), jnp.asarray(Y))
    assert found == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(cotangent, (A - Y) / 7, rtol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_cotangent_is_autodiff(loss: str):
    """Assert J and ∂J/∂A against the definition and its autodiff; targets' sums are not 1."""
    rng = np.random.default_rng(3)
    A, Y = rng.standard_normal((4, 6)), targets(rng, loss, (4, 6))
    assert not np.any(np.isclose(Y.sum(axis=0), 1.0))
    with jax.enable_x64(True):
        A, Y = jnp.asarray(A), jnp.asarray(Y)
        J, expected = jax.value_and_grad(lambda A: LOSS_FORMULAS[loss](A.T, Y.T))(A)
        found = LOSSES[loss].cotangent(A, Y)
        assert LOSSES[loss].value(A, Y) == pytest.approx(float(J), rel=1e-14)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_binary_cross_entropy_at_huge_logits():
    """Assert the limits max(A, 0) − YA and 1[A > 0] − Y at logits ±1e4, by hand and by autodiff."""
    with jax.enable_x64(True):
        A, Y = columns(1e4, 1e4, -1e4, -1e4, 1e4), columns(1, 0, 1, 0, 0.25)
        each = LOSSES["binary_cross_entropy"]
        values = [each.value(A[:, [n]], Y[:, [n]]).item() for n in range(5)]
        residual = each.residual(A, Y)
        traced = jax.grad(lambda A: each.summed(A, Y))(A)
    assert values == [0.0, 1e4, 1e4, 0.0, 7500.0]
    np.testing.assert_array_equal(residual, [[0, 1, -1, 0, 0.75]])
    np.testing.assert_array_equal(traced, residual)


def test_cross_entropy_at_huge_logits():
    """Assert the limits of softmax cross-entropy at logits ±1e4, by hand and by autodiff."""
    with jax.enable_x64(True):
        A = jnp.asarray([[1e4, 1e4, 1e4, -1e4], [-1e4, -1e4, -1e4, -1e4]])
        Y = jnp.asarray([[1.0, 0.0, 0.5, 1.0], [0.0, 1.0, 0.0, 0.0]])
        each = LOSSES["cross_entropy"]
        values = [each.value(A[:, [n]], Y[:, [n]]).item() for n in range(4)]
        residual = each.residual(A, Y)
        traced = jax.grad(lambda A: each.summed(A, Y))(A)
    assert values[:3] == [0.0, 2e4, 0.0]
    assert values[3] == pytest.approx(np.log(2), rel=1e-11)  # a difference of numbers near 1e4
    np.testing.assert_array_equal(residual, [[0, 1, 0, -0.5], [0, -1, 0, 0.5]])
    np.testing.assert_array_equal(traced, residual)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.quick
def test_network_at_huge_logits(loss: str):
    """Assert that a network whose logits are ±1e4, all wrong, has a finite loss and gradient."""
    objective = flow.MLP([1, 2], bias=False).objective([[1.0]], [[0.0, 1.0]], loss=loss)
    J, gradient = objective.value_and_gradient([{"W": np.array([[1e4], [-1e4]])}])
    assert J == 2e4
    np.testing.assert_array_equal(gradient[0]["W"], [[1.0], [-1.0]])


# ---- initialisation


@pytest.mark.quick
def test_lecun_initialisation_is_numpy_layer_by_layer():
    """Assert that θ₀ is drawn from default_rng(seed), in order, with std 1/√fan_in and b = 0."""
    rng = np.random.default_rng(0)
    first, second = flow.MLP([64, 32, 10], init="lecun").initialise(0)
    np.testing.assert_array_equal(first["W"], rng.normal(0.0, np.sqrt(1 / 64), (32, 64)))
    np.testing.assert_array_equal(second["W"], rng.normal(0.0, np.sqrt(1 / 32), (10, 32)))
    np.testing.assert_array_equal(first["b"], np.zeros((32, 1)))
    np.testing.assert_array_equal(second["b"], np.zeros((10, 1)))
    X, y = flow.datasets.digits(5)
    other = flow.MLP([64, 32, 10]).objective(X, y, seed=3).params
    np.testing.assert_array_equal(other[0]["W"], flow.MLP([64, 32, 10]).initialise(3)[0]["W"])
    assert not np.any(other[0]["W"] == first["W"])


@pytest.mark.parametrize(
    ("init", "variance"), [("lecun", 1 / 300), ("xavier", 2 / 500), ("he", 2 / 300)]
)
def test_variance_of_initialisation(init: str, variance: float):
    """Assert mean 0 and gain²·v of 60,000 entries, within five standard errors."""
    (layer,) = flow.MLP([300, 200], init=init, gain=3.0, bias=False).initialise(1)
    n = layer["W"].size
    assert list(layer) == ["W"]
    assert np.mean(layer["W"] ** 2) == pytest.approx(9 * variance, rel=5 * np.sqrt(2 / n))
    assert abs(np.mean(layer["W"])) < 5 * np.sqrt(9 * variance / n)


# ---- data


def test_targets_of_one_output_may_be_a_vector():
    """Assert that y (examples,) means (examples, 1), and does not broadcast to a table."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((5, 2)), rng.standard_normal(5)
    network = flow.MLP([2, 3, 1])
    vector, table = network.objective(X, y), network.objective(X, y[:, None])
    assert vector.value(vector.params) == table.value(table.params)
    residual = table.outputs(table.params).ravel() - y
    assert table.value(table.params) == pytest.approx(np.mean(residual**2) / 2, rel=1e-14)


def test_network_refuses_what_does_not_fit():
    """Assert that sizes, names and data that do not fit are refused with the remedy."""
    X, y = np.ones((4, 3)), np.eye(4)[:, :2]
    network = flow.MLP([3, 2])
    with pytest.raises(ValueError, match="classes are one-hot rows"):
        network.objective(X, [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"X must be \(examples, 3\)"):
        network.objective(X.T, y)
    with pytest.raises(ValueError, match="leading axes of the data differ"):
        network.objective(X, y[:3])
    with pytest.raises(ValueError, match="hinge"):
        network.objective(X, y, loss="hinge")
    with pytest.raises(ValueError, match="sine"):
        flow.MLP([3, 2], activation="sine")
    with pytest.raises(ValueError, match="at least inputs and outputs"):
        flow.MLP([3])


def test_second_derivative_at_the_kink_of_relu():
    """Assert a symmetric Hessian where z = 0 exactly, as at b = 0 for a blank image."""
    objective = flow.MLP([1, 1, 1], activation="relu").objective([[0.0]], [[1.0]])
    H = np.array([objective.flat_hvp(objective.theta, e) for e in np.eye(objective.size)])
    np.testing.assert_array_equal(H, H.T)
