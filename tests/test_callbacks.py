"""What a loss calls back (`jax.pure_callback`) is in double precision in every thread, and once."""

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

import flow
from flow._core import devices as threads

H = np.array([1.0, 3.0, 10.0])
START = np.array([1.0, -0.5, 0.25])
CALLS: dict[str, list[int]] = defaultdict(list)
# As what happens depends on the thread.
TIMES = 20


def called(name: str, of: Callable, like: jax.Array, *arguments: jax.Array) -> jax.Array:
    """Return what plain numpy makes of the arguments, noting the thread that it ran in."""

    def back(*arguments: jax.Array) -> np.ndarray:
        CALLS[name].append(threading.get_ident())
        assert {x.dtype for x in arguments} == {np.dtype("float64")}
        return np.asarray(of(*map(np.asarray, arguments)))

    shape = jax.ShapeDtypeStruct(like.shape, like.dtype)
    return jax.pure_callback(back, shape, *arguments, vmap_method="sequential")


@jax.custom_jvp
def product(x: jax.Array) -> jax.Array:
    """Return ∇J = Hx."""
    return called("slope", lambda x: H * x, x, x)


@jax.custom_jvp
def bowl(x: jax.Array) -> jax.Array:
    """Return J = xᵀHx/2."""
    return called("value", lambda x: 0.5 * x @ (H * x), x[0], x)


@product.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    return product(*primals), called("product", lambda v: H * v, *tangents, *tangents)


@bowl.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    return bowl(*primals), jnp.vdot(product(*primals), *tangents)


@pytest.fixture(scope="module")
def objective() -> flow.Objective:
    return flow.Objective(bowl, START)


# And the evaluations by which a compiled loop starts, a first time as it is compiled.
FLOWS = {
    "DOP853": ({}, 0),
    "Radau": ({}, 0),
    "auto": ({}, 2),
    "TSRKC3": ({}, 2),
    "TSRKC3 on the host": ({"engine": "scipy"}, 2),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(k, marks=[pytest.mark.quick] * (k in {"DOP853", "TSRKC3"})) for k in FLOWS],
)
def test_flows(objective: flow.Objective, name: str):
    """Assert e^{−Ht}θ₀, and a slope called back for each gradient told of, time after time."""
    settings, more = FLOWS[name]
    run = partial(flow.integrate, objective, 0.1, method=name.partition(" ")[0], save=3, rtol=1e-6)
    for _ in range(TIMES):
        CALLS["slope"].clear()
        path = run(progress=False, **settings)
        exact = np.exp(-H * path.t[:, None]) * START
        np.testing.assert_allclose(path.theta, exact, rtol=0, atol=1e-5)
        assert len(CALLS["slope"]) == path.stats["gradients"] + more


def test_descents_and_ensembles(objective: flow.Objective):
    """Assert (1 − ηH)ᵏθ₀ of one descent, and of several and of Euler's method at once."""
    starts = np.stack([START, 2.0 * START])
    for _ in range(TIMES):
        CALLS["slope"].clear()
        steps = flow.descend(objective, 0.05, 10, progress=False)
        assert len(CALLS["slope"]) == steps.stats["gradients"]
        many = flow.descend(objective, 0.05, 10, ensemble=starts, progress=False)
        euler = flow.integrate(
            objective, 0.5, method="Euler", step=0.05, engine="jax", ensemble=starts, progress=False
        )
        for path, start in ((steps, START), (many, starts), (euler, starts)):
            exact = (1.0 - 0.05 * H) ** 10 * start
            np.testing.assert_allclose(path.theta[..., -1, :], exact, rtol=1e-13)


def test_eigenvalues(objective: flow.Objective):
    """Assert those of H, alone and beside a flow."""
    for _ in range(TIMES):
        found = flow.top_eigenvalues(objective, START, 2)
        np.testing.assert_allclose(found, [10.0, 3.0])
        path = flow.integrate(
            objective, 0.1, save=2, observe={"sharpness": flow.sharpness}, progress=False
        )
        np.testing.assert_allclose(path.observed["sharpness"], 10.0)


def test_batches_are_read_once_for_a_gradient():
    """Assert that J and ∇J come of one reading, along a flow too, whose rhs is ∇J again."""
    reads = []

    class Batches:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> np.ndarray:
            reads.append(i)
            return np.full((4, 1), float(i))

    loss = lambda c, x: jnp.mean((x - c) ** 2)  # noqa: E731
    objective = flow.Objective(loss, np.zeros(1), data=flow.HostBatches(Batches()))
    reads.clear()
    np.testing.assert_allclose(objective.gradient(objective.params), -2.0)
    assert reads == [0, 1, 2]
    reads.clear()
    path = flow.integrate(objective, 1.0, method="DOP853", save=2, progress=False)
    np.testing.assert_allclose(path.theta[-1], 1.0 - np.exp(-2.0), rtol=1e-5)
    assert len(reads) == 3 * path.stats["gradients"]
    reads.clear()
    steps = flow.descend(objective, 0.1, 5, progress=False)
    np.testing.assert_allclose(steps.theta[-1], 1.0 - 0.8**5, rtol=1e-14)
    # XLA reads the first batch ahead of a loop.
    assert 3 * steps.stats["gradients"] <= len(reads) < 3 * (steps.stats["gradients"] + 1)


@pytest.mark.quick
def test_a_process_with_one_cpu_is_warned(monkeypatch: pytest.MonkeyPatch):
    """Assert that the place and what to do are named, where XLA has one thread, and there only."""
    monkeypatch.setenv("NPROC", "1")
    with pytest.warns(RuntimeWarning, match=r"pure_callback, .*test_callbacks.*NPROC=2"):
        flow.Objective(bowl, START)
    flow.Objective(lambda x: x @ x, START)
    monkeypatch.setenv("NPROC", "2")
    flow.Objective(bowl, START)


@pytest.mark.quick
def test_blas_gets_its_threads_back():
    """Assert one thread until the last of the scopes that overlap has ended, then as many again."""

    def blas() -> set[int]:
        return {x["num_threads"] for x in ThreadpoolController().info() if x["user_api"] == "blas"}

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        first, second = threads.single_blas_thread(), threads.single_blas_thread()
        before = blas()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas() == {1}
        second.__exit__(None, None, None)
        assert blas() == before == {2}


@pytest.mark.quick
def test_a_callback_in_single_precision_is_told_the_way():
    """Assert the remedy where J is computed in float32, as torch does, and that it is one."""

    @jax.custom_vjp
    def of(x: jax.Array) -> jax.Array:
        single = lambda x: np.float32(0.5 * np.sum(np.asarray(x) ** 2))  # noqa: E731
        return jax.pure_callback(single, jax.ShapeDtypeStruct((), x.dtype), x)

    of.defvjp(lambda x: (of(x), x), lambda x, g: (g * x,))
    with pytest.raises(RuntimeError, match=r"Actual: float32\. .* dtype='float32'\)"):
        flow.Objective(of, START)
    single = flow.Objective(of, START, dtype="float32")
    steps = flow.descend(single, 0.5, 2, save=3, progress=False)
    np.testing.assert_allclose(steps.theta[-1], START / 4, rtol=1e-6)
