"""Every optimizer of optax, beside a plain loop over it."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.flatten_util import ravel_pytree

import flow

# The version whose optimizers are these.
OPTAX = "0.2.8"
RATE, STEPS = 0.05, 20
WEIGHTS = {"W": True, "b": False}
SHARP = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
OF_RATE = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars
    lion nadam nadamw novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent radam
    rmsprop rprop sgd sign_sgd signum sm3 yogi acprop ademamix adopt cocob dadapt_adamw dog dowg
    galore madgrad momo momo_adam muon prodigy schedule_free_adamw schedule_free_sgd
    simplified_ademamix sophia
"""


def function(name: str) -> Callable:
    """Return optax's, or that of its contributions."""
    return getattr(optax.contrib, name, None) or getattr(optax, name)


def even(step: Any) -> Any:
    """Return a condition of optax's."""
    return step % 2 == 0


def norm(updates: Any) -> jax.Array:
    """Return what is measured of updates."""
    return jnp.linalg.norm(ravel_pytree(updates)[0])


def before(name: str, *arguments: Any) -> Callable:
    """Return how a transformation stands before plain steps."""
    return lambda: optax.chain(function(name)(*arguments), optax.sgd(RATE))


def after(name: str, *arguments: Any) -> Callable:
    """Return how one stands behind them."""
    return lambda: optax.chain(optax.sgd(RATE), function(name)(*arguments))


# How each is made: as optax's documentation has it, but for numbers.
MADE: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: function(name)(RATE) for name in OF_RATE.split()},
    "MultiSteps": lambda: optax.MultiSteps(optax.polyak_sgd(), 3),
    "add_decayed_weights": before("add_decayed_weights", 0.1),
    "add_noise": before("add_noise", 0.1, 0.5, 3),
    "adaptive_grad_clip": before("adaptive_grad_clip", 0.1),
    "apply_every": after("apply_every", 2),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "centralize": before("centralize"),
    "chain": lambda: optax.chain(optax.clip(1.0), optax.adam(RATE)),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(RATE), even),
    "conditionally_transform": lambda: optax.chain(
        optax.sgd(RATE), optax.conditionally_transform(optax.ema(0.9), even)
    ),
    "differentially_private_aggregate": before("differentially_private_aggregate", 0.5, 0.1, 0),
    "dpsgd": lambda: optax.contrib.dpsgd(RATE, 0.5, 0.1, seed=0, momentum=0.9),
    "ema": before("ema", 0.9),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "freeze": lambda: optax.chain(optax.adam(RATE), optax.freeze(WEIGHTS)),
    "hutchinson_estimator_diag_hessian": before("hutchinson_estimator_diag_hessian"),
    "identity": before("identity"),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.sgd)(RATE),
    "keep_params_nonnegative": after("keep_params_nonnegative"),
    "lbfgs": optax.lbfgs,
    "lookahead": lambda: optax.lookahead(optax.adam(RATE), 5, 0.5),
    "masked": after("masked", optax.scale(0.5), WEIGHTS),
    "measure_with_ema": lambda: optax.chain(
        optax.sgd(RATE),
        optax.monitor(
            {"large": optax.measure_with_ema(lambda u: norm(u) > 0.01, 0.9)}
        ),
    ),
    "mechanize": lambda: optax.contrib.mechanize(optax.adam(RATE)),
    "monitor": after("monitor", {"norm": norm}),
    "multi_transform": lambda: optax.multi_transform(
        {"w": optax.adam(RATE), "b": optax.sgd(RATE)}, {"W": "w", "b": "b"}
    ),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(0.1)), ("adam", optax.adam(RATE))),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "normalize": before("normalize"),
    "normalize_by_update_norm": lambda: optax.normalize_by_update_norm(scale_factor=-RATE),
    "partition": lambda: optax.partition(
        {"w": optax.adam(RATE), "b": optax.polyak_sgd()}, {"W": "w", "b": "b"}
    ),
    "polyak_sgd": optax.polyak_sgd,
    "reduce_on_plateau": lambda: optax.chain(
        optax.adam(RATE), optax.contrib.reduce_on_plateau(patience=2, rtol=0.5)
    ),
    "sam": lambda: optax.contrib.sam(optax.sgd(RATE), SHARP),
    "sam, opaque": lambda: optax.contrib.sam(
        optax.sgd(RATE), SHARP, sync_period=3, opaque_mode=True
    ),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.adam(RATE, b1=0.0), RATE),
    "selective_transform": lambda: optax.selective_transform(
        optax.adam(RATE), freeze_mask=WEIGHTS
    ),
    "set_to_zero": optax.set_to_zero,
    "snapshot": after("snapshot", "norm", norm),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(optax.adam(RATE)),
    "stateless": lambda: optax.stateless(lambda g, _: jax.tree.map(lambda x: -RATE * x, g)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, _: -RATE * g),
    "trace": before("trace", 0.9),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.sgd(RATE)),
    "zero_nans": before("zero_nans"),
}  # fmt: skip
# What their updates are to be given.
NEEDS = {
    **dict.fromkeys(("polyak_sgd", "momo", "momo_adam", "reduce_on_plateau", "partition"), "value"),
    **dict.fromkeys(("sophia", "hutchinson_estimator_diag_hessian"), "obj_fn"),
    **dict.fromkeys(("dpsgd", "differentially_private_aggregate"), "examples"),
    "MultiSteps": "value",
    "lbfgs": "value grad value_fn",
    "lookahead": "pair",
    "sam, opaque": "grad_fn",
}
QUICK = {
    "adam",
    "dpsgd",
    "lookahead",
    "MultiSteps",
    "sam",
    "sam, opaque",
    "sophia",
    "monitor",
    "partition",
}
# What optax itself says of some of them.
OWN = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:Specifying a key will be required")


@pytest.fixture(scope="module")
def objective() -> flow.Objective:
    """½|tanh(XW) + b − y|² in the mean of six examples."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 6, 2))

    def loss(p: dict, batch: tuple) -> jax.Array:
        return 0.5 * jnp.mean((jnp.tanh(batch[0] @ p["W"]) + p["b"] - batch[1]) ** 2)

    params = {"W": rng.standard_normal((2, 2)), "b": np.array([0.3, -0.2])}
    return flow.Objective(loss, params, data=(X, y))


def steps_of(objective: flow.Objective, optimizer: Any, **more: Any) -> flow.Trajectory:
    """Return where it takes gradients, at each of twenty steps."""
    options = {"time_step": RATE, "steps": STEPS, "save": STEPS + 1, "progress": False}
    options |= {"evaluate": lambda state, params: params}
    return flow.descend(objective, optimizer=optimizer, **options | more)


def plainly(objective: flow.Objective, optimizer: Any, needs: str = "") -> np.ndarray:
    """Return the same of a plain loop; of lookahead's parameters the slow ones beside."""
    value = lambda p: objective.traced_value(p, objective.data)  # noqa: E731

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        here = params.fast if needs == "pair" else params
        loss, gradient = jax.value_and_grad(value)(here)
        known = {"value": loss, "grad": gradient, "value_fn": value, "obj_fn": value}
        known["grad_fn"] = lambda p, *_: jax.grad(value)(p)
        extra = {name: known[name] for name in needs.split() if name in known}
        if needs == "examples":
            one = lambda p, x, y: objective.traced_value(p, (x[None], y[None]))  # noqa: E731
            gradient = jax.vmap(jax.grad(one), in_axes=(None, 0, 0))(params, *objective.data)
        updates, state = optimizer.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, objective.params)
        if needs == "pair":
            params = optax.LookaheadParams.init_synced(params)
        state, thetas = optimizer.init(params), [ravel_pytree(params)[0]]
        for _ in range(STEPS):
            params, state = step(params, state)
            thetas.append(ravel_pytree(params)[0])
    return np.array(thetas)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert the same to rounding, of the size of θ."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@OWN
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.quick] * (n in QUICK)) for n in MADE]
)
def test_every_optimizer_is_its_plain_loop(objective: flow.Objective, name: str):
    """Assert twenty steps of each, of what it needs and no more."""
    try:
        optimizer = MADE[name]()
    except AttributeError:
        if optax.__version__ == OPTAX:
            raise
        pytest.skip(f"optax {optax.__version__} has it not")
    run = steps_of(objective, optimizer)
    assert run.result.startswith("reached")
    assert_close(run.theta, plainly(objective, optimizer, NEEDS.get(name, ""))[:, :6])


@pytest.mark.quick
@pytest.mark.filterwarnings("default:optax")
def test_no_optimizer_is_left_out():
    """Assert that the list has all public ones, of the version that it was written for."""
    listed = {name.split(",")[0] for name in MADE}
    missing, gone = public() - listed, listed - public()
    if optax.__version__ == OPTAX:
        assert not missing
        assert not gone
    elif missing:
        warnings.warn(
            f"optax {optax.__version__} has {missing}, not in the list here", stacklevel=1
        )


def public() -> set[str]:
    """Return the names of what makes a transformation, or is one."""
    others = {"apply_updates", "init_empty_state", "WrappedSchedule"}
    found = set()
    for name, made in {**vars(optax), **vars(optax.contrib)}.items():
        if name.startswith(("_", "scale", "clip")) or name in others or not callable(made):
            continue
        if isinstance(made, type):
            made_so = hasattr(made, "init") and hasattr(made, "update")
            makes = made_so and not issubclass(made, optax.GradientTransformation)
        else:
            source = getattr(made, "func", made)
            makes = inspect.isfunction(source) and "GradientTransf" in inspect.getsource(source)
        found |= {name} if makes else set()
    return found


@pytest.mark.quick
def test_slow_parameters_are_recorded(objective: flow.Objective, caplog: pytest.LogCaptureFixture):
    """Assert those of lookahead, J of them, and the label that says so; optax gives no advice."""
    run = steps_of(objective, MADE["lookahead"](), evaluate=None)
    assert not caplog.records
    slow = plainly(objective, MADE["lookahead"](), "pair")[:, 6:]
    assert_close(run.theta, slow)
    assert_close(run.state["slow"], slow)
    assert_close(run.loss, np.array([objective.value(objective.unflatten(x)) for x in slow]))
    assert run.label == "lookahead(adam), 0.05 a step, evaluated"


# ---- updates of one's own

Made, More = optax.GradientTransformation, optax.GradientTransformationExtraArgs


def downhill(gradient: Any, rate: Any = RATE) -> Any:
    """Return −η∇J."""
    return jax.tree.map(lambda g: -rate * g, gradient)


def empty(_: Any) -> tuple:
    """Return the state of what has none."""
    return ()


def single(params: Any) -> Any:
    """Return a velocity in single precision, which 0.1 is not."""
    return jax.tree.map(lambda p: jnp.full(p.shape, 0.1, jnp.float32), params)


def momentum(gradient: Any, state: Any, _: Any = None) -> Any:
    """Take a step of momentum, of whatever precision."""
    state = jax.tree.map(lambda m, g: 0.9 * m + g, state, gradient)
    return downhill(state), state


def begun(gradient: Any, state: Any, _: Any = None) -> Any:
    """Take one by a state that is not there at first."""
    return momentum(gradient, gradient if state == () else state)


def by_value(updates: Any, state: Any, _: Any = None, *, value: Any) -> Any:
    """Take a step as long as J."""
    return downhill(updates, RATE * value), state


def by_place(_: Any, state: Any, params: Any, value: Any, grad_fn: Callable) -> Any:
    """Take the same from further down."""
    return downhill(grad_fn(params), RATE * value), state


def of_name(grad: Any, state: Any, _: Any = None, **__: Any) -> Any:
    """Take a plain step by an argument that is called as an extra one."""
    return downhill(grad), state


def turning(gradient: Any, state: Any, _: Any = None) -> Any:
    """Go from one precision to the other and back."""
    other = {"float64": jnp.float32, "float32": jnp.float64}
    return downhill(gradient), {"m": state["m"].astype(other[str(state["m"].dtype)])}


def asking(_: Any, state: Any, params: Any, *, value: Any, **of: Any) -> Any:
    """Take a plain step, if all that it is given is the same."""
    slopes = of["grad_fn"](params), jax.grad(of["obj_fn"])(params), of["grad"]
    mean = jax.tree.map(lambda *g: sum(g) / 3, *slopes)
    return downhill(mean, RATE * of["value_fn"](params) / value), state


POLYAK = optax.polyak_sgd()
JITTED = POLYAK._replace(update=jax.jit(POLYAK.update))
OWNS = {
    "single precision": (Made(single, momentum), ""),
    "within a chain": (optax.chain(optax.clip(1.0), Made(single, momentum)), ""),
    "begun later": (Made(empty, begun), ""),
    "a counter": (Made(lambda _: 0, lambda g, s, p=None: (downhill(g, RATE / (s + 1)), s + 1)), ""),
    "J": (Made(empty, by_value), "value"),
    "by place": (More(empty, by_place), "value grad_fn"),
    "J within a chain": (optax.chain(optax.clip(1.0), More(empty, by_value)), "value"),
    "a name twice": (optax.chain(optax.clip(1.0), More(empty, of_name)), ""),
    "SAM within a chain": (optax.chain(optax.clip(1.0), MADE["sam"]()), ""),
    "jitted": (JITTED, "value"),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", OWNS)
def test_updates_of_ones_own(objective: flow.Objective, name: str):
    """Assert what they ask for by their signature, in chains too, and states of other types."""
    optimizer, needs = OWNS[name]
    assert_close(steps_of(objective, optimizer).theta, plainly(objective, optimizer, needs))


NOT_GIVEN = {
    "optimizer.update needs 'hessian', 'data', but descend passes value, grad, value_fn, grad_fn, "
    "obj_fn: name it as one of these, or give it a default": More(
        empty, lambda g, s, p=None, *, hessian, data: (g, s)
    ),
    "optimizer.update needs 'loss', but descend passes value, grad": optax.chain(
        optax.clip(1.0), More(empty, lambda g, s, p=None, *, loss, **_: (g, s))
    ),
    "a part of optimizer= needs 'obj_fn', but another does not take 'value' ": optax.chain(
        optax.contrib.sophia(RATE), MADE["sam"]()
    ),
    "a part of optimizer= needs 'value', but another does not take 'value' .* let that take "
    r"\*\*extra_args too": optax.chain(MADE["sam"](), optax.polyak_sgd()),
    r"goes on changing .*: state is float64 of shape \(5,\) and then float64 of shape": Made(
        lambda _: jnp.zeros(1), lambda g, s, p=None: (g, jnp.append(s, 1.0))
    ),
    r"goes on changing .*: state\['m'\] is float": Made(lambda _: {"m": jnp.zeros(1)}, turning),
    "optimizer.update must return updates like the parameters, got ": Made(
        empty, lambda g, s, p=None: (jax.tree.map(jnp.sum, g), s)
    ),
}


@pytest.mark.quick
@pytest.mark.parametrize("message", NOT_GIVEN)
def test_what_an_update_can_not_be_given(objective: flow.Objective, message: str):
    """Assert messages that name it, and say what there is."""
    with pytest.raises((TypeError, ValueError), match=message):
        steps_of(objective, NOT_GIVEN[message])


@OWN
@pytest.mark.quick
def test_gradients_of_examples_are_of_a_mean():
    """Assert that what takes them is refused where there are none, or J is their sum."""
    for loss, data, message in (
        (lambda w: w @ w, None, "takes the gradient of each example, needs examples: flow.Obj"),
        (lambda w, x: jnp.sum((x @ w) ** 2), np.eye(2), "needs a loss that is a mean over the ex"),
    ):
        one = flow.Objective(loss, np.ones(2), data=data)
        with pytest.raises(ValueError, match=message):
            steps_of(one, MADE["dpsgd"]())


# ---- climbing, mini-batches, members


@pytest.mark.quick
@pytest.mark.parametrize("name", ["sam, opaque", "sophia"])
def test_ascent_is_the_descent_of_minus(objective: flow.Objective, name: str):
    """Assert it of what is given as functions."""
    minus = flow.Objective(
        lambda p, batch: -objective.traced_value(p, batch), objective.params, data=objective.data
    )
    up, down = steps_of(minus, MADE[name](), ascent=True), steps_of(objective, MADE[name]())
    assert_close(up.theta, down.theta)
    assert (up.stats["gradients"], up.stats["hvps"]) == (
        down.stats["gradients"],
        down.stats["hvps"],
    )


@pytest.mark.quick
@pytest.mark.parametrize("batches", [{}, {"batch_size": 2, "seed": 4}])
def test_functions_are_of_what_the_gradient_is_of(objective: flow.Objective, batches: dict):
    """Assert it of all extra arguments, of all the data and of each mini-batch."""
    run = steps_of(objective, More(empty, asking), **batches)
    plain = flow.descend(objective, RATE, STEPS, save=STEPS + 1, progress=False, **batches)
    assert_close(run.theta, plain.theta)
    spent = run.stats["batch_gradients"] or run.stats["gradients"] - run.stats["save_gradients"]
    assert spent == 3 * STEPS
    assert run.stats["values"] == STEPS


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lookahead", marks=pytest.mark.quick),
        "MultiSteps",
        "monitor",
        "sam",
        "sam, opaque",
        "sophia",
    ],
)
def test_members(objective: flow.Objective, name: str):
    """Assert of each member what it is by itself, counts of evaluations too."""
    starts = np.stack([objective.theta, 0.5 * objective.theta])
    options = {"evaluate": None, "save": 3}
    runs = steps_of(objective, MADE[name](), ensemble=starts, **options)
    for i, start in enumerate(starts):
        own = objective.starting_at(objective.unflatten(start))
        alone = steps_of(own, MADE[name](), **options)
        assert_close(runs.member(i).theta, alone.theta)
        for kind in ("gradients", "hvps", "values"):
            assert runs.member(i).stats[kind] == alone.stats[kind]
