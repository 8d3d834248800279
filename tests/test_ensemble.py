"""Ensembles: each member is the run from its θ₀ alone, however the others end."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flow
from flow._core.precision import double_precision
from flow._run import compiled as ensemble_driver
from flow._run.compiled import CompiledDriver
from flow.dynamics.flattened import flatten
from flow.methods.many import in_turn, side_by_side, way

SECONDS = {"seconds", "compile_seconds"}


@pytest.fixture(scope="module")
def network() -> tuple[flow.Objective, np.ndarray]:
    """A 2-3-2 network and five initialisations of it."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 2)), rng.standard_normal((20, 2))
    objectives = [flow.MLP([2, 3, 2]).objective(X, y, seed=seed) for seed in range(5)]
    return objectives[0], np.stack([o.theta for o in objectives])


@pytest.fixture(scope="module")
def well() -> flow.Objective:
    """J = ¼x⁴ − x²: beyond no start does it blow up; the slope is 0 at 0 and ±√2."""
    return flow.Objective(lambda x: (0.25 * x**4 - x**2).sum(), np.array([1.0]))


def ensemble(objective: flow.Objective, theta: Any, t: float, **settings: Any) -> flow.Trajectory:
    """The compiled ensemble, in silence."""
    return flow.integrate(objective, t, engine="jax", ensemble=theta, progress=False, **settings)


def assert_same(member: flow.Trajectory, alone: flow.Trajectory, rtol: float = 1e-12) -> None:
    """Assert the same run: states to rounding, counts and result to the letter.

    The length of a step, which is where a run ends early, magnifies rounding: give rtol there.
    """
    for name in ("t", "theta", "loss", "gradient_norm"):
        mine, other = getattr(member, name), getattr(alone, name)
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=rtol, err_msg=name)
    assert member.result == alone.result
    assert member.config.keys() == alone.config.keys()
    assert member.config["problem"] == pytest.approx(alone.config["problem"], rel=1e-13)
    for name, value in alone.stats.items():
        if name not in SECONDS:
            exact = value is None or isinstance(value, int | str)
            near = value if exact else pytest.approx(value, rel=1e-6, abs=1e-6)
            assert member.stats[name] == near, name


@pytest.mark.parametrize(
    ("method", "how"),
    [("TSRKC3", side_by_side), ("TSRKC3", in_turn), ("RKC2", side_by_side), ("Tsit5", in_turn)],
)
def test_each_member_is_its_own_run(
    network: tuple, monkeypatch: pytest.MonkeyPatch, method: str, how: Any
):
    """Assert states, counts and results of single runs, for both ways of computing members."""
    objective, theta = network
    monkeypatch.setattr(ensemble_driver, "way", lambda *_: how)
    dynamics = flow.GradientFlow(objective.counted())  # no way is chosen yet for this one
    settings = {"method": method, "rtol": 1e-4, "atol": 1e-7, "save": 7}
    paths = flow.integrate(
        dynamics, 5.0, engine="jax", ensemble=theta[:3], progress=False, **settings
    )
    assert paths.members == 3
    assert paths.theta.shape == (3, 7, 17)
    assert paths.result == "reached t = 5"
    # They differ in their steps, so that they do end one after the other.
    assert len(set(paths.stats["gradients"])) > 1
    for i in range(3):
        # The single run of the same compiled functions, moved to another θ₀.
        alone = _moved(objective, theta[i], 5.0, **settings)
        assert_same(paths.member(i), alone)
        np.testing.assert_array_equal(paths.theta[i], paths.member(i).theta)


def _moved(objective: flow.Objective, theta: np.ndarray, t: float, **settings: Any) -> Any:
    """A single run whose compiled functions are made once for all tests."""
    moved = objective.starting_at(objective.unflatten(theta))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_theta", "_start"):
            patch.setattr(objective, name, getattr(moved, name))
        return flow.integrate(objective, t, engine="jax", progress=False, **settings)


def test_large_networks_take_turns(network: tuple):
    """Assert the choice on a CPU: 2-3-2 on 20 examples side by side, 64-32-10 on 300 in turn."""
    large = flow.MLP([64, 32, 10]).objective(*flow.datasets.digits(300))
    with double_precision():
        flats = [flatten(flow.GradientFlow(o)) for o in (network[0], large)]
        ways = [
            way(flat.traced, 0.0, flat.initial, o.data)
            for flat, o in zip(flats, (network[0], large), strict=True)
        ]
    assert ways == [side_by_side, in_turn if jax.default_backend() == "cpu" else side_by_side]


@pytest.mark.quick
def test_closed_form():
    """Assert each member's flow of a quadratic, x(t) = e^{−Ht}x₀, at every saved time."""
    H, starts = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [-2.0, 5.0], [0.0, 0.1]])
    objective = flow.exact.quadratic(H, starts[0]).objective
    times = [0.0, 0.3, 1.7, 2.0]
    paths = ensemble(objective, starts, 2.0, save=times, rtol=1e-10, atol=1e-13, method="Dopri8")
    for i, start in enumerate(starts):
        expected = flow.exact.quadratic(H, start).theta(times)
        np.testing.assert_allclose(paths.theta[i], expected, atol=1e-9)
        energies = 0.5 * np.einsum("ti,ij,tj->t", expected, H, expected)
        np.testing.assert_allclose(paths.loss[i], energies, atol=1e-9)


def test_one_member_blows_up():
    """Assert that J = −x⁴ blows up at t = 1/(8x₀²) where it must, and nowhere else."""
    objective = flow.Objective(lambda x: -(x**4).sum(), np.array([1.0]))
    starts = np.array([[0.1], [1.0], [0.2]])
    paths = ensemble(objective, starts, 2.0, method="Tsit5", save=21, rtol=1e-8)
    reached, blown = paths.result.split("; ", 1)
    assert reached == "members 0, 2 reached t = 2"
    assert blown == f"member 1 {paths.stats['result'][1]}"
    assert blown.startswith("member 1 ended at t = 0.125")
    assert np.isnan(paths.t[1]).sum() == 21 - 3  # 0, 0.1 and the last step
    assert np.isnan(paths.theta[1, 3:]).all()
    assert len(paths.member(1).t) == 3
    for i in (0, 2):
        exact = starts[i] / np.sqrt(1 - 8 * starts[i] ** 2 * paths.t[i])
        np.testing.assert_allclose(paths.theta[i, :, 0], exact, rtol=1e-5)


def test_members_stop_by_themselves(well: flow.Objective):
    """Assert a stop condition's time, and that a member that meets it at θ₀ takes no step."""
    starts = np.array([[0.5], [np.sqrt(2)], [3.0]])
    settings = {"stop": flow.stop.gradient_norm(1e-3), "method": "TSRKC3", "save": 5}
    paths = ensemble(well, starts, np.inf, **settings)
    assert paths.stats["steps"][1] == 0
    assert all("gradient norm" in result for result in paths.stats["result"])
    assert len(set(paths.stats["t_end"])) == 3
    for i, start in enumerate(starts):
        assert_same(paths.member(i), _moved(well, start, np.inf, **settings), 1e-8)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_gradients": 50},
        {"max_gradients": 2},
        {"max_steps": 7},
        {"stop": lambda record: record["theta0"] > 1.2, "observe": {"theta0": lambda o, p: p[0]}},
    ],
    ids=["gradients", "two gradients", "steps", "function"],
)
def test_budgets_and_functions_are_of_each_member(well: flow.Objective, settings: dict):
    """Assert that each member has the budget and the stops that its run alone has."""
    starts = np.array([[0.5], [1.3], [-3.0], [0.01]])
    paths = ensemble(well, starts, 3.0, method="Tsit5", save=[0.1, 0.7, 2.0, 3.0], **settings)
    for i, start in enumerate(starts):
        alone = _moved(well, start, 3.0, method="Tsit5", save=[0.1, 0.7, 2.0, 3.0], **settings)
        assert_same(paths.member(i), alone, 1e-8)


def test_seconds_end_all(well: flow.Objective):
    """Assert that a budget of time ends every member with what it has."""
    paths = ensemble(well, np.array([[0.5], [3.0]]), 3.0, max_seconds=1e-9)
    assert all("1e-09 seconds (max_seconds)" in result for result in paths.stats["result"])
    np.testing.assert_array_equal(paths.theta[:, 0], [[0.5], [3.0]])


def test_observers_see_the_member(network: tuple):
    """Assert that observers are handed each member's own objective and carry its own state."""

    def moved(objective: flow.Objective, params: Any, looks: int) -> tuple:
        distance = np.linalg.norm(objective.flatten(params) - objective.theta)
        return np.array([distance, looks]), looks + 1

    observer = flow.observe.Observer(init=lambda o, p: 0, update=moved)
    objective, theta = network
    paths = ensemble(
        objective,
        theta[:3],
        5.0,
        method="TSRKC3",
        rtol=1e-4,
        atol=1e-7,
        save=7,
        observe={"moved": observer, "J": lambda o, p: o.value_and_gradient(p)[0]},
    )
    distance = np.linalg.norm(paths.theta - theta[:3, None], axis=2)
    np.testing.assert_allclose(paths.observed["moved"][..., 0], distance, rtol=1e-14)
    np.testing.assert_array_equal(paths.observed["moved"][..., 1], np.tile(np.arange(7.0), (3, 1)))
    np.testing.assert_allclose(paths.observed["J"], paths.loss, rtol=1e-13)
    assert paths.stats["observer_gradients"] == [7, 7, 7]


def test_an_observer_fails_in_one_member(well: flow.Objective):
    """Assert that one member ends there, with NaN for what it could not observe."""

    def observe(objective: flow.Objective, params: np.ndarray) -> np.ndarray:
        if objective.theta[0] < 1:
            raise ArithmeticError("too small")
        return np.repeat(params, 2)

    paths = ensemble(
        well,
        np.array([[3.0], [0.5]]),
        3.0,
        method="Tsit5",
        save=[1.0, 3.0],
        observe={"x": observe},
    )
    assert paths.observed["x"].shape == (2, 2, 2)
    assert np.isnan(paths.observed["x"][1]).all()
    assert np.isfinite(paths.observed["x"][0]).all()
    assert "observe['x'] raised ArithmeticError: too small" in paths.stats["result"][1]
    assert paths.stats["result"][0] == "reached t = 3"


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_ctrl_c(well: flow.Objective, monkeypatch: pytest.MonkeyPatch, calls: int):
    """Assert that Ctrl-C in a chunk keeps what the chunks before it brought."""
    starts = np.array([[0.5], [3.0]])
    settings = {"method": "TSRKC3", "save": 5, "stop": flow.stop.gradient_norm(1e-9)}
    whole = ensemble(well, starts, np.inf, **settings)
    advance, done = ensemble_driver.EnsembleDriver._advance, []  # noqa: SLF001

    def interrupted(self: Any, steps: int) -> None:
        done.append(steps)
        if len(done) == calls:
            raise KeyboardInterrupt
        advance(self, steps)

    monkeypatch.setattr(ensemble_driver.EnsembleDriver, "_advance", interrupted)
    paths = ensemble(well, starts, np.inf, **settings)
    assert paths.result.split(" at ")[0] in ("interrupted", "members 0, 1 interrupted")
    for i in range(2):
        member, same = paths.member(i), whole.member(i)
        assert member.result == f"interrupted at t = {member.stats['t_end']:g}"
        assert member.t[-1] == member.stats["t_end"]
        assert member.stats["steps"] == calls - 1 < same.stats["steps"]
        # Thinning drops rows later, but the first steps are those of the whole run.
        shared = np.isin(member.t, same.t)
        np.testing.assert_array_equal(member.theta[shared], same.theta[np.isin(same.t, member.t)])


def test_chunks_have_no_say(well: flow.Objective, monkeypatch: pytest.MonkeyPatch):
    """Assert the same bits when members are saved in many chunks of few states each."""
    starts, settings = np.array([[0.5], [3.0], [-1.0]]), {"method": "Tsit5", "save": 40}
    whole = ensemble(well, starts, 3.0, **settings)
    monkeypatch.setattr("flow._run.compiled.CHUNK_NUMBERS", 9)
    monkeypatch.setattr("flow._run.compiled.FIRST_CHUNK", 2)
    parts = ensemble(well, starts, 3.0, **settings)
    np.testing.assert_array_equal(parts.theta, whole.theta)
    np.testing.assert_array_equal(parts.loss, whole.loss)
    assert parts.stats["gradients"] == whole.stats["gradients"]
    alone = _moved(well, starts[2], 3.0, **settings)
    assert_same(parts.member(2), alone)


def test_round_trip(tmp_path: Path):
    """Assert that a file gives back members of different lengths, and params by `like`."""
    starts = {"x": np.array([[0.5, 0.1], [3.0, 2.0]])}
    objective = flow.Objective(
        lambda p: (0.25 * p["x"] ** 4 - p["x"] ** 2).sum(), {"x": np.ones(2)}
    )
    paths = ensemble(
        objective,
        starts,
        10.0,
        stop=flow.stop.gradient_norm(0.3),
        observe={"two": lambda o, p: p["x"][:, None]},
        save=9,
    )
    again = flow.load(paths.save(tmp_path / "ensemble.nc"))
    for name in ("t", "theta", "loss", "gradient_norm"):
        np.testing.assert_array_equal(getattr(again, name), getattr(paths, name))
    np.testing.assert_array_equal(again.observed["two"], paths.observed["two"])
    assert (again.members, again.result) == (2, paths.result)
    assert (dict(again.stats), dict(again.config)) == (dict(paths.stats), dict(paths.config))
    dataset = paths.to_xarray()
    assert dataset["theta"].dims == ("member", "time", "parameter")
    assert dataset["t"].dims == dataset["loss"].dims == ("member", "time")
    assert dataset["observed:two"].dims[:2] == ("member", "time")
    for i in range(2):
        assert len(again.member(i).t) == len(paths.member(i).t)
        np.testing.assert_array_equal(again.member(i).params(0)["x"], starts["x"][i])
    like = flow.load(tmp_path / "ensemble.nc", like={"y": np.ones((1, 2))})
    np.testing.assert_array_equal(like.member(1).params(0)["y"], starts["x"][1:])


def test_members_are_audited_and_compared():
    """Assert that a member is repeated from its own θ₀, by the engine that ran it."""
    problem = flow.exact.quadratic(np.diag([1.0, 4.0]), np.array([9.0, 9.0]))
    starts = np.array([[1.0, 2.0], [-3.0, 0.5]])
    paths = ensemble(problem.objective, starts, 1.0, method="Tsit5", rtol=1e-6)
    member = paths.member(1)
    report = flow.audit(member, error_bar=True, progress=False)
    assert abs(report.energy_residual) < 1e-5
    assert 0 < report.error_bar.max() < 1e-4
    assert report.error_bar[0] == 0  # the tighter run starts where the member did
    steps = flow.descend(member.dynamics.objective, 0.01, steps=100, progress=False)
    comparison = flow.compare(member, steps, error_bar=False, progress=False)
    exact = starts[1] * np.exp(-np.array([1.0, 4.0]))
    descended = starts[1] * (1 - 0.01 * np.array([1.0, 4.0])) ** 100
    assert comparison.distance[-1] == pytest.approx(np.linalg.norm(exact - descended), rel=1e-3)


def test_pytrees_and_flat_vectors_are_one(network: tuple):
    """Assert that a pytree with a leading axis and the flat array give the same bits."""
    objective, theta = network
    trees = [objective.unflatten(x) for x in theta[:3]]
    tree = jax.tree.map(lambda *x: np.stack(x), *trees)
    settings = {"method": "TSRKC3", "rtol": 1e-4, "atol": 1e-7, "save": 7}
    flat, nested = (ensemble(objective, e, 5.0, **settings) for e in (theta[:3], tree))
    np.testing.assert_array_equal(flat.theta, nested.theta)


def test_one_call_for_all(well: flow.Objective, monkeypatch: pytest.MonkeyPatch):
    """Assert that no member calls the device for a step, or for J where it saves."""
    monkeypatch.setattr(CompiledDriver, "_drive", None)
    evaluated: list[float] = []
    rhs = CompiledDriver._rhs  # noqa: SLF001
    monkeypatch.setattr(
        CompiledDriver, "_rhs", lambda self, t, y: evaluated.append(t) or rhs(self, t, y)
    )
    paths = ensemble(well, np.array([[0.5], [3.0]]), 3.0, method="Tsit5", save=50)
    assert evaluated == [0.0, 0.0]
    assert paths.stats["save_gradients"] == [49, 49]  # at the end J is known


def test_an_ensemble_is_no_single_run(well: flow.Objective):
    """Assert that what is of one run says how to take one."""
    paths = ensemble(well, np.array([[0.5], [3.0]]), 1.0)
    for refuse in (
        lambda: paths.params(0),
        lambda: flow.audit(paths),
        lambda: flow.compare(paths, paths.member(0)),
        lambda: flow.compare(paths.member(0), paths),
        lambda: flow.plots.loss(paths),
        lambda: flow.plots.plane(paths),
    ):
        with pytest.raises(ValueError, match=r"an ensemble of 2; take one by path.member\(i\)"):
            refuse()
    with pytest.raises(IndexError, match="member 2 of an ensemble of 2"):
        paths.member(2)
    with pytest.raises(ValueError, match="single run and has no members"):
        paths.member(0).member(0)
    assert paths.member(0).members is None
    assert "2 members to t = 1, 1 parameters" in repr(paths)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((2, 3)), r"ensemble\['x'\]|an array \(members, 2\).*got an array of shape \(2, 3"),
        (np.ones(2), r"an array \(members, 2\) of flat θ₀.*got an array of shape \(2,\)"),
        (np.ones((0, 2)), "ensemble has no members"),
        ({"x": np.ones((0, 2))}, "ensemble has no members"),
        ({"x": np.ones(2)}, r"ensemble\['x'\] must have shape \(members, 2\); it has \(2,\)"),
        ({"y": np.ones((3, 2))}, "or a pytree like the objective's parameters"),
        (
            [{"x": np.ones(2)}, {"x": np.ones(3)}],
            r"make one of several θ₀ by jax.tree.map\(lambda \*x: np.stack",
        ),
        (np.array([[1.0, 1.0], [1.0, np.nan]]), "ensemble member 1: loss is nan at the initial"),
        (np.array([[1.0, 1.0], [1.0, -1.0]]), "ensemble member 1: loss is nan at the initial"),
    ],
)
@pytest.mark.quick
def test_bad_ensembles(given: Any, message: str):
    """Assert that each is refused by its name, the value met and the remedy."""
    objective = flow.Objective(lambda p: jax.numpy.sqrt(p["x"]).sum(), {"x": np.ones(2)})
    with pytest.raises(ValueError, match=message):
        ensemble(objective, given, 1.0)


def test_other_engines_have_no_ensembles(well: flow.Objective):
    """Assert that the error names the engine that has them."""
    with pytest.raises(ValueError, match="ensemble needs engine='jax', got engine='scipy'"):
        flow.integrate(well, 1.0, engine="scipy", ensemble=np.ones((2, 1)))


def test_a_member_without_a_gradient():
    """Assert that a non-finite ∇J at one member's θ₀ is refused by its number."""
    objective = flow.Objective(lambda x: jax.numpy.sqrt(x).sum(), np.ones(1))
    with pytest.raises(
        ValueError, match="ensemble member 2: at the initial parameters the loss is"
    ):
        ensemble(objective, np.array([[1.0], [2.0], [0.0]]), 0.1)


def test_starting_at(network: tuple):
    """Assert that a view has its own θ₀ and books, and the same compiled functions."""
    objective, theta = network
    view = objective.starting_at(objective.unflatten(theta[3]))
    np.testing.assert_array_equal(view.theta, theta[3])
    np.testing.assert_array_equal(objective.theta, theta[0])
    view.gradient(view.params)
    assert (view.tally.gradients, objective.tally.gradients) == (1, 0)
    with pytest.raises(ValueError, match="has the structure"):
        objective.starting_at([np.ones(17)])


def test_lists_of_initialisations():
    """Assert that several θ₀ in a list are those of their leading axis, on the engine for them."""
    X, Y = np.eye(2), np.ones((2, 1))
    bowl = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, 2.0]))
    network, *thetas = (flow.MLP([2, 2, 1]).objective(X, Y, seed=s) for s in range(3))
    starts = [np.array([1.0, 2.0]), np.array([3.0, -1.0])]
    runs = flow.integrate(bowl, 0.5, ensemble=starts, save=2)
    assert (
        runs.theta.tobytes()
        == flow.integrate(
            bowl, 0.5, engine="jax", ensemble=np.stack(starts), save=2
        ).theta.tobytes()
    )
    for given in ([o.params for o in thetas], [o.theta for o in thetas]):
        runs = flow.descend(network, 0.1, 1, ensemble=given)
        np.testing.assert_array_equal(runs.theta[:, 0], [o.theta for o in thetas])
    with pytest.raises(ValueError, match="ensemble must be an array"):
        flow.integrate(bowl, 0.5, ensemble=[np.ones(2), np.ones(3)])
