"""Ensembles of gradient descents: each member is the run by itself, however the others end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flow
from flow._run import discrete_ensemble as descent_ensemble
from flow.methods.many import in_turn, side_by_side

SECONDS = {"seconds", "compile_seconds"}
RATES = [0.1, 0.5, 2.5, 0.9]


@pytest.fixture(scope="module")
def quadratic() -> flow.Objective:
    """J = ½|x|², on which a step multiplies θ by 1 − η."""
    return flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, -2.0]))


@pytest.fixture(scope="module")
def network() -> flow.Objective:
    """A 3-4-2 network on twelve examples."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    return flow.MLP([3, 4, 2]).objective(X, y, seed=0)


def assert_same(member: flow.Trajectory, alone: flow.Trajectory) -> None:
    """Assert the same run: numbers to rounding, counts, result and configuration to the letter."""
    for name in ("t", "theta", "loss", "gradient_norm"):
        mine, other = getattr(member, name), getattr(alone, name)
        np.testing.assert_allclose(mine, other, rtol=1e-13, atol=1e-13, err_msg=name)
    for group in ("state", "observed", "work"):
        mine, other = getattr(member, group), getattr(alone, group)
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_allclose(mine[name], other[name], rtol=1e-12, atol=1e-13)
    assert member.result == alone.result
    assert {**member.config, "problem": 0} == {**alone.config, "problem": 0}
    assert member.config["problem"] == pytest.approx(alone.config["problem"], rel=1e-13)
    for name in alone.stats.keys() - SECONDS:
        mine, other = member.stats[name], alone.stats[name]
        assert mine == (other if other is None else pytest.approx(other, rel=1e-12, abs=1e-13))


@pytest.mark.quick
def test_closed_form(quadratic: flow.Objective):
    """Assert θ_k = (1 − η)^k θ₀ at t = ηk for each η, and to the same t by steps of its own."""
    runs = flow.descend(quadratic, RATES, 20, save=21, progress=False)
    assert runs.members == 4
    assert runs.config["learning_rate"] == RATES
    k = np.arange(21)
    for i, eta in enumerate(RATES):
        exact = (1 - eta) ** k[:, None] * quadratic.theta
        np.testing.assert_allclose(runs.theta[i], exact, rtol=1e-12)
        np.testing.assert_allclose(runs.t[i], eta * k, rtol=1e-15)
    assert runs.result == "members 0, 1, 2, 3 reached t = 2 to 50"
    assert runs.label == "GD, η = 0.1, and 3 more"
    assert runs.member(2).label == "GD, η = 2.5"
    assert runs.named("GD").member(2).label == "GD"
    together = flow.descend(quadratic, [0.1, 0.05], [20, 40], save=[1.0, 2.0], progress=False)
    np.testing.assert_allclose(together.t, [[1.0, 2.0]] * 2, rtol=1e-14)
    np.testing.assert_allclose(together.theta[1, -1], 0.95**40 * quadratic.theta, rtol=1e-12)


@pytest.mark.parametrize("how", [side_by_side, in_turn])
@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 1200, "save": 5},
        {"steps": 2000, "save": [0.0, 1.1, 3.0], "stop": flow.stop.gradient_norm(1e-6)},
        {"steps": 2000, "save": 11, "stop": lambda record: record["loss"] < 0.1},
        {"steps": 9, "save": 4, "ascent": True, "observe": {"x": lambda _, p: p[0]}},
    ],
    ids=["diverges", "stops", "stops where it saves", "climbs"],
)
def test_each_member_is_its_own_run(
    quadratic: flow.Objective, monkeypatch: pytest.MonkeyPatch, how: Any, settings: dict
):
    """Assert runs of one learning rate, of which η = 2.5 diverges and the others stop."""
    monkeypatch.setattr(descent_ensemble, "way", lambda *_: how)
    objective = quadratic.reparametrised(lambda x: x)  # no way is chosen yet for this one
    runs = flow.descend(objective, RATES, progress=False, **settings)
    for i, eta in enumerate(RATES):
        assert_same(runs.member(i), flow.descend(quadratic, eta, progress=False, **settings))


def test_one_diverges_and_one_stops(quadratic: flow.Objective):
    """Assert that each end is the member's own, by steps that are known in closed form."""
    stop = flow.stop.loss(1e-6)
    runs = flow.descend(quadratic, [2.5, 0.5, 1e-4], 2000, save=5, stop=stop, progress=False)
    first, second, third = runs.stats["result"]
    # J overflows where 2.5·1.5^{2k} is more than 1.8e308, before which |∇J|² has.
    assert first.startswith("diverged at step 874 (t = 2185): the gradient is not finite")
    assert first.endswith("learning rates below 2/λ_max")
    assert second.startswith("stopped at step 11 (t = 5.5): loss")  # 2.5·4^{−11} = 6e-7
    assert third == "reached t = 0.2 in 2,000 steps"
    assert runs.stats["steps"] == [873, 11, 2000]
    np.testing.assert_allclose(runs.member(2).theta[-1], (1 - 1e-4) ** 2000 * quadratic.theta)
    assert np.isnan(runs.t[1]).sum() == 3  # it has rows at 0 and 5.5 beside the other's five


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": optax.adam(0.05), "time_step": 0.05},
        {"learning_rate": optax.exponential_decay(0.2, 10, 0.5)},
        {"learning_rate": [0.3, 0.2, 0.1], "batch_size": 4, "seed": [5, 5, 7]},
        {"learning_rate": 0.1, "batch_size": 5, "sampling": "epoch", "seed": 3},
    ],
    ids=["adam", "schedule", "rates and seeds", "epochs"],
)
def test_initialisations(network: flow.Objective, options: dict):
    """Assert members of their own θ₀ by any rule, learning rates and seeds taken together."""
    starts = np.stack([network.theta, 2 * network.theta, 0.5 * network.theta])
    runs = flow.descend(network, steps=12, save=4, ensemble=starts, progress=False, **options)
    np.testing.assert_array_equal(runs.theta[:, 0], starts)
    tree = jax.tree.map(lambda *x: np.stack(x), *map(network.unflatten, starts))
    same = flow.descend(network, steps=12, save=4, ensemble=tree, progress=False, **options)
    np.testing.assert_array_equal(runs.theta, same.theta)
    for i, start in enumerate(starts):
        own = {k: v[i] if isinstance(v, list) else v for k, v in options.items()}
        objective = network.starting_at(network.unflatten(start))
        assert_same(
            runs.member(i), flow.descend(objective, steps=12, save=4, progress=False, **own)
        )


def test_an_optimizer_that_carries_a_key(quadratic: flow.Objective):
    """Assert the run by itself where optax's state has what numpy has not."""
    noisy = {"optimizer": optax.noisy_sgd(0.1, key=jax.random.key(0)), "time_step": 0.1, "steps": 3}
    runs = flow.descend(quadratic, ensemble=np.eye(2), save=2, progress=False, **noisy)
    for i, start in enumerate(np.eye(2)):
        alone = flow.descend(quadratic.starting_at(start), save=2, progress=False, **noisy)
        assert_same(runs.member(i), alone)


def test_seeds_alone(network: flow.Objective):
    """Assert that members of one seed draw the same batches, and those of others do not."""
    settings = {"save": 2, "batch_size": 2, "seed": [1, 1, 2], "progress": False}
    runs = flow.descend(network, 0.1, 5, **settings)
    np.testing.assert_array_equal(runs.theta[0], runs.theta[1])
    assert not np.allclose(runs.theta[0], runs.theta[2])


def test_saved_and_loaded(quadratic: flow.Objective, tmp_path: Path):
    """Assert that a file has all members, with what each ran."""
    runs = flow.descend(quadratic, [0.1, 3.0], 900, save=4, progress=False)
    again = flow.load(runs.save(tmp_path / "runs.nc"))
    np.testing.assert_array_equal(again.theta, runs.theta)
    assert again.config == runs.config
    for i in range(2):
        assert_same(again.member(i), runs.member(i))
    assert again.member(1).config["learning_rate"] == 3.0
    assert again.member(0).params(-1) == pytest.approx(0.9**900 * quadratic.theta)


def test_members_that_keep_the_last(quadratic: flow.Objective):
    """Assert θ at the end alone, that of each member."""
    runs = flow.descend(quadratic, [0.1, 0.2], 9, save=4, keep="last", progress=False)
    assert (runs.theta.shape, runs.loss.shape) == ((2, 1, 2), (2, 4))
    np.testing.assert_allclose(runs.member(1).params(-1), 0.8**9 * quadratic.theta, rtol=1e-14)


def test_a_member_beside_the_flow(quadratic: flow.Objective):
    """Assert that a member compares as the run alone does, and the ensemble says how."""
    runs = flow.descend(quadratic, [0.1, 0.2], [10, 5], save=3, progress=False)
    path = flow.integrate(quadratic, 1.0, rtol=1e-10, atol=1e-13, progress=False)
    members = [runs.member(i) for i in range(2)]
    comparison = flow.compare(path, *members, error_bar=False, progress=False)
    exact = [abs(np.exp(-1) - (1 - e) ** k) * np.sqrt(5) for e, k in ((0.1, 10), (0.2, 5))]
    np.testing.assert_allclose(comparison.table()["distance"], exact, rtol=1e-6)
    with pytest.raises(ValueError, match="an ensemble of 2"):
        flow.compare(path, runs)


def test_ctrl_c_and_seconds_end_all(quadratic: flow.Objective, monkeypatch: pytest.MonkeyPatch):
    """Assert that what there is comes back, each member with its last row."""
    runs = flow.descend(quadratic, [0.1, 0.2], 10**9, max_seconds=1e-9, progress=False)
    assert all("1e-09 seconds (max_seconds)" in result for result in runs.stats["result"])

    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flow._core.progress.Progress.update", press)
    runs = flow.descend(quadratic, [0.1, 0.2], 10**9, progress=False)
    assert runs.stats["result"] == [f"interrupted at step 1 (t = {e})" for e in (0.1, 0.2)]
    np.testing.assert_allclose(runs.theta[:, -1], np.outer([0.9, 0.8], quadratic.theta))


def test_a_stop_that_only_the_loop_sees(quadratic: flow.Objective, monkeypatch: pytest.MonkeyPatch):
    """Assert that a run ends where J of the loop, and not that of the row, meets the condition."""
    monkeypatch.setattr("flow.stop.StopConditions.holding", lambda *_, **__: None)
    run = flow.descend(quadratic, 0.5, 50, stop=flow.stop.loss(0.1), progress=False)
    assert run.result == "stopped at step 3 (t = 1.5): loss 0.0390625"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": []}, r"learning_rate must be one for all .* got \[\]"),
        ({"learning_rate": [[0.1]]}, r"learning_rate must be one for all .* got \[\[0.1\]\]"),
        (
            {"learning_rate": [0.1, 0.2], "ensemble": np.ones((3, 2))},
            r"the i-th of each, but there are {'ensemble': 3, 'learning_rate': 2}; give as many",
        ),
        ({"learning_rate": [0.1, -0.2]}, "ensemble member 1: learning_rate must be .* -0.2"),
        ({"learning_rate": [0.1, 0.2], "save": [15.0]}, r"ensemble member 0: save times .* \[0, 1"),
        (
            {"learning_rate": [0.1, 0.2], "checkpoint": "here"},
            "give each member of an ensemble one",
        ),
        ({"learning_rate": 0.1, "ensemble": np.ones((2, 3))}, r"or be flat, \(members, 2\)"),
        ({"learning_rate": 0.1, "devices": jax.devices()}, "this is a single run; flow.Objective"),
        ({"learning_rate": [0.1], "devices": jax.devices() * 2}, "devices has one twice"),
    ],
)
@pytest.mark.quick
def test_what_makes_no_ensemble(quadratic: flow.Objective, options: dict, message: str):
    """Assert that each is refused by its name, the value met and the remedy."""
    with pytest.raises(ValueError, match=message):
        flow.descend(quadratic, steps=100, progress=False, **options)


@pytest.mark.parametrize("devices", [8, "cpu", [], [0, 1]])
def test_what_is_no_device(quadratic: flow.Objective, devices: Any):
    """Assert the type that is asked for."""
    with pytest.raises(TypeError, match=r"devices must be a list of JAX's, jax.devices\(\)"):
        flow.descend(quadratic, [0.1, 0.2], 3, devices=devices)


def test_an_ensemble_of_the_flow_has_no_second_loop(quadratic: flow.Objective):
    """Assert that `integrate` takes devices for members alone, too."""
    with pytest.raises(ValueError, match="are for the members of an ensemble"):
        flow.integrate(quadratic, 1.0, devices=jax.devices())


def test_a_gradient_that_is_not_finite():
    """Assert that it is refused at the door by the member's number."""
    objective = flow.Objective(lambda x: jnp.sqrt(x).sum(), np.ones(1))
    with pytest.raises(ValueError, match="ensemble member 1: at the initial parameters the loss"):
        flow.descend(objective, 0.1, 3, ensemble=np.array([[1.0], [0.0]]))


DEVICES = """
import json, jax, numpy as np, flow
from flow._run import compiled, discrete_ensemble
from flow.methods.many import OnDevices, in_turn

devices, found = jax.devices(), {}
X = np.random.default_rng(0).standard_normal((30, 2))
loss = lambda w, x: ((x @ w - 1) ** 2).mean()
objective = flow.Objective(loss, np.ones(2), data=X)
theta = objective.theta * np.linspace(0.5, 1.5, 11)[:, None]  # 11 on 8: five are padding

parts = []
def split(driver, name):
    advance = getattr(driver, name)
    def looked_at(self, *arguments):
        result = advance(self, *arguments)
        parts.append([s.data.shape[0] for s in jax.tree.leaves(self.carry)[0].addressable_shards])
        return result
    setattr(driver, name, looked_at)
split(discrete_ensemble.DescentEnsemble, "finish")
split(compiled.EnsembleDriver, "finish")

rates = np.geomspace(0.01, 500, 11)
langevin = flow.LangevinFlow(objective, 0.01)
calls = {
    "descend": lambda d: flow.descend(
        objective, rates, 40, ensemble=theta, save=5, batch_size=20, devices=d),
    "integrate": lambda d: flow.integrate(
        objective, 2.0, method="RK4", step=0.1, engine="jax", ensemble=theta, save=5, devices=d),
    "paths": lambda d: flow.integrate(langevin, 0.5, step=0.05, paths=11, save=5, devices=d),
}
for name, call in calls.items():
    one, many = call(None), call(devices)
    gap = np.nanmax(np.abs(one.theta - many.theta)) / np.nanmax(np.abs(one.theta))
    same = one.result == many.result and one.stats["gradients"] == many.stats["gradients"]
    found[name] = [float(gap), same, *parts[-2:]]
step = jax.jit(lambda x: OnDevices(in_turn, tuple(devices))(
    lambda _, x: jax.lax.while_loop(lambda x: x < 9.0, lambda x: x + 1.0, x), None, x))
found["program"] = step.lower(np.zeros(16, np.float32)).compile().as_text()
mesh = jax.sharding.Mesh(np.array(devices[:2]), ("examples",))
sharded = flow.Objective(loss, np.ones(2), data=X, mesh=mesh)
for run in (lambda: flow.descend(sharded, [0.1, 0.2], 3, devices=devices),
            lambda: flow.integrate(sharded, 1.0, engine="jax", ensemble=theta, devices=devices)):
    try:
        run()
    except ValueError as error:
        found.setdefault("errors", []).append(str(error))
print(json.dumps(found))
"""


def test_members_on_several_devices(tmp_path: Path):
    """Assert runs of eight devices: to rounding those of one, and two members on each."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    answer = subprocess.run(
        [sys.executable, "-c", DEVICES],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    program, errors = found.pop("program"), found.pop("errors")
    assert len(found) == 3
    for name, (gap, same, one, many) in found.items():
        assert gap < 1e-12, name
        assert same, name
        assert one == [11], name
        assert many == [2] * 8, name
    # Each runs its own two to their end, and none hears of the others.
    assert "f32[2]" in program
    assert not any(word in program for word in ("all-reduce", "all-gather", "collective", "f32[16"))
    assert len(errors) == 2
    assert all("examples lie on a mesh of 2 already" in error for error in errors)
