"""`check_gradient` finds planted mistakes and passes right gradients; jvp, vjp and hvp."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flow
from flow import networks
from flow.backprop import AveragePooling, BatchNormalisation, Convolution, Flatten, Linear

NAMED = ["two_three_two", "two_layer_relu", "two_two_two", "logistic", "deep"]
N = 6


def least_squares(params: dict, batch: tuple) -> Any:
    """½ ‖XW + b − Y‖², summed over outputs, a mean over N examples; rows."""
    X, Y = batch
    return 0.5 * jnp.sum((X @ params["W"] + params["b"] - Y) ** 2) / X.shape[0]


def right(params: dict, batch: tuple) -> dict:
    """The gradient of `least_squares`, by hand."""
    X, Y = batch
    residual = (X @ params["W"] + params["b"] - Y) / X.shape[0]
    return {"W": X.T @ residual, "b": residual.sum(axis=0)}


def problem(gradient: Any, width: int = 3) -> flow.Objective:
    """Least squares of W (3, width), with a gradient of one's own."""
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((3, width)), "b": rng.standard_normal(width)}
    data = rng.standard_normal((N, 3)), rng.standard_normal((N, width))
    return flow.Objective(least_squares, params, data=data, gradient=gradient)


def planted(leaf: str, mistake: Any) -> Any:
    """`right`, with a mistake in one leaf."""

    def wrong(params: dict, batch: tuple) -> dict:
        g = right(params, batch)
        return g | {leaf: mistake(g[leaf])}

    return wrong


MISTAKES = {
    "sign flipped": lambda g: -g,
    f"{N} times: a 1/N is missing": lambda g: N * g,
    f"1/{N} of it: divided by N twice": lambda g: g / N,
    f"sign flipped, {N} times: a 1/N is missing": lambda g: -N * g,
    "0.5 times what it should be": lambda g: g / 2,
    "is zero": lambda g: 0 * g,
    "not finite": lambda g: g * jnp.nan,
}


def loops(params: dict, batch: tuple) -> dict:
    """The same as it is first written: numpy alone, loops, and arrays that are written to."""
    (X, Y), W, b = batch, params["W"], params["b"]
    dW, db = np.zeros(W.shape), np.zeros(b.shape)
    for x, y in zip(X, Y, strict=True):
        if np.linalg.norm(x) > 0:
            dW += np.outer(x, W.T @ x + b - y) / len(X)
        db += (W.T @ x + b - y) / len(X)
    for given in (X, Y, W, b):
        given[...] = np.nan
    return {"W": dW, "b": db}


@pytest.mark.quick
def test_a_gradient_in_plain_numpy_is_checked_as_it_is():
    """Assert that it passes, that a mistake in it is named, and that what it spoils is its own."""
    objective = problem(None)
    before = objective.theta, np.asarray(objective.data[0]).copy()
    params = objective.params
    assert flow.check_gradient(objective, params, gradient=loops).passed
    halved = flow.check_gradient(objective, gradient=lambda p, d: {**loops(p, d), "b": np.ones(3)})
    assert [leaf.passed for leaf in halved.leaves] == [True, False]
    flipped = flow.check_gradient(
        objective, gradient=lambda p, d: {"W": -loops(p, d)["W"], "b": p["b"]}
    )
    assert flipped.leaves[0].diagnosis == "sign flipped"
    np.testing.assert_array_equal(params["W"].ravel(), before[0][:9])
    np.testing.assert_array_equal(objective.theta, before[0])
    np.testing.assert_array_equal(objective.data[0], before[1])
    assert objective.tally.gradients == 0
    bowl = flow.Objective(lambda x: jnp.sum(x**2), np.ones(2))  # without data: of params alone
    assert flow.check_gradient(bowl, gradient=lambda x: np.array([2 * float(v) for v in x])).passed


@pytest.mark.quick
def test_plain_numpy_where_jax_traces_says_what_to_do():
    """Assert the remedy of gradient= and of a loss, and that each remedy works."""
    with pytest.raises(TypeError, match=r"plain numpy only.*jax.numpy.*pure_callback.*check_grad"):
        problem(loops)
    back = problem(lambda *a: jax.pure_callback(right_in_numpy, a[0], *a))
    assert flow.check_gradient(back).passed
    with pytest.raises(ZeroDivisionError):  # its own error stays
        problem(lambda p, d: 1 / 0)
    with pytest.raises(jax.errors.TracerArrayConversionError) as raised:
        flow.Objective(lambda x: np.sum(np.exp(np.asarray(x))), np.ones(2))
    assert "write it with jax.numpy" in raised.value.__notes__[-1]


def right_in_numpy(params: dict, batch: tuple) -> dict:
    """`right`, of arrays of any kind."""
    return jax.tree.map(np.asarray, right(*jax.tree.map(np.asarray, (params, batch))))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda p, d: {"W": d[0].T @ d[1], "b": d[1].sum(axis=1)}, r"\(6,\), but .*6 is N, the ex"),
        (
            lambda p, d: {"W": d[0].T @ d[1], "b": d[1].sum()},
            r"shape \(\), .*sum over examples, and",
        ),
        (lambda p, d: {"W": d[0].T @ d[1], "b": np.ones((3, 1))}, r"\(3, 1\), .*; .reshape\(3,\)"),
        (
            lambda p, d: {"W": np.ones((3, 2)), "b": p["b"]},
            r"data\)\['W'\] has shape \(3, 2\), but",
        ),
        (lambda p, d: [p["W"], p["b"]], "has the structure PyTreeDef"),
        (lambda p, d: {"W": "a", "b": p["b"]}, r"\['W'\] has shape \(\), but"),
        (lambda p, d: {"W": p["W"].astype(str), "b": p["b"]}, "must be real numbers, got"),
    ],
)
def test_what_a_gradient_returns_fits_or_is_named(found: Any, message: str):
    """Assert that a leaf of another shape is named, with what was summed over wrongly."""
    with pytest.raises((TypeError, ValueError), match=message):
        flow.check_gradient(problem(None), gradient=found)


@pytest.mark.parametrize("leaf", ["W", "b"])
@pytest.mark.parametrize("diagnosis", MISTAKES)
def test_a_planted_mistake_is_found_and_named(leaf: str, diagnosis: str):
    """Assert that the wrong leaf alone fails, and with the name of its mistake."""
    check = flow.check_gradient(problem(planted(leaf, MISTAKES[diagnosis])))
    assert not check.passed
    assert check.worst.name == f"params['{leaf}']"
    assert check.worst.diagnosis == diagnosis
    assert [c.name for c in check.leaves if not c.passed] == [check.worst.name]
    assert f"failed: worst in params['{leaf}']" in str(check)
    assert diagnosis in str(check)


def test_the_size_of_the_error():
    """Assert that a flipped sign has error 2 and a factor c the error |c − 1|/max(1, c)."""
    errors = {
        c: flow.check_gradient(problem(planted("W", lambda g, c=c: c * g))).worst.error
        for c in (-1.0, 4.0, 0.25)
    }
    assert errors == pytest.approx({-1.0: 2.0, 4.0: 0.75, 0.25: 0.75}, rel=1e-8)


@pytest.mark.parametrize(("width", "mistake"), [(3, jnp.transpose), (2, None)])
@pytest.mark.quick
def test_a_transposed_weight(width: int, mistake: Any):
    """Assert that Gᵀ is recognised, of a square W and of one put back into shape."""
    mistake = mistake or (lambda g: g.T.reshape(g.shape))
    check = flow.check_gradient(problem(planted("W", mistake), width))
    assert check.worst.diagnosis == "transposed"
    flipped = flow.check_gradient(problem(planted("W", lambda g: -mistake(g)), width))
    assert flipped.worst.diagnosis == "transposed, sign flipped"


@pytest.mark.quick
def test_one_wrong_entry_is_the_worst_entry():
    """Assert that its index, the gradient's value and the right value are reported."""
    objective = problem(planted("W", lambda g: g.at[2, 1].add(0.01)))
    leaf = flow.check_gradient(objective).worst
    index, value, difference = leaf.worst
    expected = right(objective.params, tuple(map(np.asarray, objective.data)))["W"][2, 1]
    assert (leaf.name, index, leaf.diagnosis) == ("params['W']", (2, 1), "1 of 9 entries off")
    assert difference == pytest.approx(float(expected), rel=1e-7)
    assert value == pytest.approx(difference + 0.01, rel=1e-7)


@pytest.mark.parametrize("name", NAMED)
def test_named_networks_pass(name: str):
    """Assert that hand-derived gradients agree to 1e-8, with norms as autodiff's."""
    objective = getattr(networks, name)()
    check = flow.check_gradient(objective)
    assert check.passed
    assert max(leaf.error for leaf in check.leaves) < 1e-8
    with jax.enable_x64(True):
        auto = jax.jit(jax.grad(objective.traced_value))(objective.params, objective.data)
    for leaf, g in zip(check.leaves, jax.tree.leaves(auto), strict=True):
        assert leaf.norm == pytest.approx(np.linalg.norm(g), rel=1e-12)


def test_a_large_leaf_is_sampled_and_says_so():
    """Assert the words, and that a mistake outside the sample is seen by the direction."""
    x = np.random.default_rng(1).standard_normal(500)

    def objective(mistake: np.ndarray) -> flow.Objective:
        return flow.Objective(lambda p: 0.25 * jnp.sum(p**4), x, gradient=lambda p: p**3 + mistake)

    check = flow.check_gradient(objective(np.zeros(500)))
    [leaf] = check.leaves
    assert check.passed
    assert leaf.checked == "64 of 500 + direction"
    outside = np.setdiff1d(np.arange(500), leaf.entries)[7]
    found = flow.check_gradient(objective(0.1 * (np.arange(500) == outside)))
    assert found.worst.diagnosis == "entries outside the sample are off"
    assert not found.passed


@pytest.mark.parametrize("of_x", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("of_loss", [1e-8, 1e8])
def test_right_gradients_pass_at_every_scale(of_x: float, of_loss: float):
    """Assert that a right gradient passes, and one that is 1e-5 off fails, at all scales."""
    x = of_x * np.random.default_rng(0).standard_normal(4)

    def loss(p: Any) -> Any:
        return of_loss * (jnp.sum(jnp.cosh(p / of_x)) - p[0] * p[1] / of_x**2)

    slope = of_loss / of_x * (np.sinh(x / of_x) - np.array([x[1], x[0], 0, 0]) / of_x)
    for factor in (1.0, 1.00001):
        objective = flow.Objective(loss, x, gradient=lambda p, c=factor: c * slope + 0 * p)
        assert flow.check_gradient(objective).passed == (factor == 1.0)


def test_zero_gradients_pass():
    """Assert that a bias ahead of batch normalisation, without effect on J, passes."""
    network = flow.Network([Linear(2, 3), BatchNormalisation(3), "tanh", Linear(3, 1)])
    X = np.random.default_rng(0).standard_normal((5, 2))
    check = flow.check_gradient(network.objective(X, X[:, 0]))
    bias = check.leaves[1]
    assert (bias.name, bias.below_floor, bias.norm < 1e-15) == ("params[0]['b']", True, True)
    assert check.passed
    assert "1 of them within the round-off" in str(check)


@pytest.mark.parametrize(
    ("x", "checked"),
    [(1e-2, "all"), (2e-4, "all"), (1e-9, "all, 1 unresolved"), (0.0, "all, 1 un")],
)
@pytest.mark.quick
def test_a_kink_within_the_step(x: float, checked: str):
    """Assert that a step that crosses a kink is cut, and at the kink the entry is left out."""
    objective = flow.Objective(
        lambda p: jnp.sum(jax.nn.relu(p)) + p[1] ** 2, np.array([x, 1.0]), smooth=False
    )
    check = flow.check_gradient(objective)
    assert check.leaves[0].checked.startswith(checked)
    assert check.passed


def test_a_minimum_is_no_kink():
    """Assert that an entry with a vanishing gradient is compared."""
    check = flow.check_gradient(flow.Objective(lambda p: 1 + jnp.sum(p**2), np.zeros(2)))
    assert check.leaves[0].checked == "all"
    assert check.passed


def test_nothing_resolved_is_no_pass():
    """Assert that a gradient of which nothing could be compared does not pass."""
    objective = flow.Objective(
        lambda p: jnp.sum(jnp.where(p > 1, jnp.nan, p)), np.ones(2), gradient=jnp.ones_like
    )
    check = flow.check_gradient(objective)
    assert not check.passed
    assert check.worst.diagnosis == "nothing to compare: differences do not settle"


def test_single_precision_is_judged_by_its_own_round_off():
    """Assert that a float32 objective passes, with a floor, and a flipped sign is still found."""
    X, y = flow.datasets.digits(30)
    objective = flow.MLP([64, 4, 10]).objective(X, y, dtype="float32")
    check = flow.check_gradient(objective)
    assert check.passed
    assert "within the round-off" in str(check)
    flipped = flow.Objective(
        lambda p: jnp.sum(jnp.cosh(p)), np.ones(3), gradient=lambda p: -jnp.sinh(p), dtype="float32"
    )
    assert flow.check_gradient(flipped).worst.error == pytest.approx(2.0, rel=1e-2)


def test_elsewhere_than_at_the_initial_parameters():
    """Assert that params are where it is checked, and the tally stays as it was."""
    objective = flow.Objective(jnp.cosh, np.array(0.0), gradient=lambda x: x)
    assert flow.check_gradient(objective).passed  # sinh(0) = 0
    check = flow.check_gradient(objective, np.array(1.0))
    assert check.worst.worst == ((), 1.0, pytest.approx(np.sinh(1.0), rel=1e-9))
    assert objective.tally.gradients == 0


def test_html_has_a_row_a_leaf():
    """Assert that a notebook shows both leaves and the verdict."""
    html = flow.check_gradient(problem(right))._repr_html_()
    assert html.count("<th>params") == 2
    assert "passed" in html


def test_a_leafs_name_is_no_markup():
    """Assert that what somebody called a leaf is shown, in HTML and on a terminal."""
    name = "<img src=x onerror=alert(1)>\x1b[2J"
    wrong = flow.Objective(
        lambda p: jnp.sum(p[name] ** 2), {name: np.ones(2)}, gradient=lambda p: {name: p[name]}
    )
    check = flow.check_gradient(wrong)
    html = check._repr_html_()
    assert "<img" not in html
    assert html.count("&lt;img") == 2  # its row, and the verdict
    for told in (html, str(check)):
        assert told.replace("\n", "").isprintable()


def test_bad_input():
    """Assert errors at the door, which name what was met."""
    objective = problem(right)
    with pytest.raises(TypeError, match="objective must be a flow.Objective, got <function"):
        flow.check_gradient(least_squares)
    with pytest.raises(TypeError, match="params is a function, .*; give it as gradient="):
        flow.check_gradient(objective, right)
    with pytest.raises(ValueError, match=re.escape("params['W'] has shape (2, 2), but")):
        flow.check_gradient(objective, {"W": np.ones((2, 2)), "b": np.ones(3)})
    with pytest.raises(ValueError, match="params: the loss is nan there"):
        flow.check_gradient(objective, {"W": np.full((3, 3), np.nan), "b": np.ones(3)})


# ---- push-forward and pull-back


def small(name: str) -> flow.Objective:
    """A named network, or one of convolution, pooling and batch normalisation."""
    if name in NAMED:
        return getattr(networks, name)()
    layers = [Convolution(1, 2, (2, 2)), BatchNormalisation(2), "tanh", AveragePooling((2, 2))]
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((4, 1, 3, 3)), rng.standard_normal((4, 2))
    return flow.Network([*layers, Flatten(), Linear(2, 2)]).objective(X, y)


@pytest.mark.parametrize("name", ["two_three_two", "logistic", "convolutional"])
def test_push_forward_and_pull_back_are_the_jacobian(name: str):
    """Assert jvp = Kv, vjp = Kᵀu with the dense K = ∂f/∂θ, and ∇J = Kᵀ∂J/∂f, to 1e-12."""
    objective = small(name)
    rng = np.random.default_rng(4)
    theta = objective.theta + 0.1 * rng.standard_normal(objective.size)
    params = objective.unflatten(theta)
    v, u = rng.standard_normal(objective.size), rng.standard_normal(objective.outputs(params).shape)
    with jax.enable_x64(True):
        network, X = objective._network, objective.data[0]  # noqa: SLF001
        K = jax.jit(jax.jacfwd(lambda t: network(objective.tree(t), X)))(theta)
    K = np.asarray(K).reshape(u.size, objective.size)
    jvp = objective.jvp(params, objective.unflatten(v))
    vjp = objective.flatten(objective.vjp(params, u))
    assert jvp.shape == u.shape
    np.testing.assert_allclose(jvp.ravel(), K @ v, rtol=0, atol=1e-12 * np.abs(K @ v).max())
    np.testing.assert_allclose(vjp, K.T @ u.ravel(), rtol=0, atol=1e-12 * np.abs(vjp).max())
    if name != "logistic":  # ∂J/∂f = (f − y)/N
        residual = (objective.outputs(params) - np.asarray(objective.data[1])) / len(u)
        gradient = objective.flatten(objective.gradient(params))
        pulled = objective.flatten(objective.vjp(params, residual))
        np.testing.assert_allclose(pulled, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())


@pytest.mark.parametrize("name", [*NAMED, "convolutional"])
def test_hvp_is_the_dense_hessian_of_autodiff(name: str):
    """Assert that the JVP of the hand-written backward pass is ∇²J·v to 1e-10."""
    objective = small(name)
    v = np.random.default_rng(5).standard_normal(objective.size)
    with jax.enable_x64(True):
        hessian = jax.hessian(lambda t: objective.traced_value(objective.tree(t), objective.data))
        H = np.asarray(jax.jit(hessian)(objective.theta))
    hvp = objective.flatten(objective.hvp(objective.params, objective.unflatten(v)))
    np.testing.assert_allclose(hvp, H @ v, rtol=0, atol=1e-10 * np.abs(H @ v).max())


def test_hvp_is_the_push_forward_of_the_gradient_that_was_given():
    """Assert that hvp differentiates a hand-written gradient, even one that is no gradient."""
    objective = flow.Objective(lambda x: jnp.sum(x**2), np.ones(2), gradient=lambda x: x[::-1] ** 3)
    np.testing.assert_allclose(objective.hvp(np.ones(2), np.array([1.0, 10.0])), [30.0, 3.0])


def test_jvp_is_the_slope_of_the_outputs():
    """Assert jvp against (f(θ + εv) − f(θ − εv))/2ε, which shares no code with it."""
    objective = networks.two_three_two()
    v = np.random.default_rng(6).standard_normal(objective.size)
    ends = [objective.outputs(objective.unflatten(objective.theta + e * v)) for e in (1e-5, -1e-5)]
    found = objective.jvp(objective.params, objective.unflatten(v))
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-5, rtol=0, atol=1e-9)


def test_bad_tangents_and_cotangents():
    """Assert that v and u are named with their shapes, and an opaque loss has no outputs."""
    objective = networks.two_two_two()
    short = [{"W": np.ones((2, 2))}, {"W": np.ones((2, 3))}]
    for product in (objective.jvp, objective.hvp):
        with pytest.raises(ValueError, match=re.escape("v[1]['W'] has shape (2, 3), but")):
            product(objective.params, short)
        with pytest.raises(ValueError, match="v has the structure"):
            product(objective.params, np.ones(8))
    with pytest.raises(ValueError, match=re.escape("u must be shaped like the outputs, (4, 2), g")):
        objective.vjp(objective.params, np.ones((2, 4)))
    opaque = flow.Objective(jnp.sum, np.ones(2))
    for product in (opaque.jvp, opaque.vjp):
        with pytest.raises(TypeError, match="knows its loss only"):
            product(np.ones(2), np.ones(2))
