"""`integrate`: a dynamics, a method and what to keep; checked at the door, then driven."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from math import inf, isfinite, isnan, log1p
from typing import TYPE_CHECKING, Any

import numpy as np

from flow._core.checks import choice, positive, positive_integer, random_seed, real
from flow._core.devices import single_blas_thread
from flow._core.keywords import own_keywords
from flow._core.pickling import explained
from flow._core.precision import double_precision
from flow._problem.objective import Objective, how_made
from flow._run.checkpoint.keeper import keeper
from flow._run.ensemble import check_devices, initialisations, refuse_checkpoint
from flow._run.loop import run
from flow._run.recorder import Meter, Recorder
from flow._run.save_times import SPACINGS, is_number, number_of_times, save_times
from flow._run.trajectory import Trajectory, all_units, uninterrupted
from flow.dynamics import Dynamics, GradientFlow
from flow.dynamics.kinks import warn_of_stalling
from flow.dynamics.log_clock import LogClock
from flow.observe import Observer
from flow.stop import Condition, StopConditions, conditions

if TYPE_CHECKING:
    from os import PathLike

    from scipy.integrate import OdeSolver

    from flow._run.checkpoint.keeper import Checkpoint, Keeper
    from flow.methods.catalogue import Method


from flow._core.progress import silent
from flow.spectrum import sharpness

# From this size on, factorising an implicit method's matrices gains from threads.
THREADED_SIZE = 1000
# Of t, below which t + step is t.
ROUNDING = float(np.finfo(float).eps)
CLOCKS = ["linear", "log"]
ENGINES = ["scipy", "jax"]
# Who is to be told what a rerun spent.
_RERUNS: ContextVar[tuple[list[int], ...]] = ContextVar("reruns", default=())


@own_keywords
@explained()
def integrate(
    dynamics: Dynamics | Objective,
    t: float,
    *,
    method: "str | type[OdeSolver] | Method | None" = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    step: float | None = None,
    save: Any = 200,
    spacing: str = "linear",
    keep: str = "theta",
    observe: Mapping[str, Callable | Observer] | None = None,
    stop: Condition | Iterable[Condition] | None = None,
    max_gradients: int | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    checkpoint: "str | PathLike | Checkpoint | Keeper | None" = None,
    progress: bool = True,
    engine: str | None = None,
    ensemble: Any = None,
    paths: int | None = None,
    devices: Sequence[Any] | None = None,
    seed: int = 0,
    clock: str = "linear",
) -> Trajectory:
    """Integrate a dynamics, the gradient flow θ̇ = −∇J(θ) of an objective by default.

    Parameters
    ----------
    dynamics
        A `flow.Objective`, short for ``flow.GradientFlow(objective)``, or a dynamics.
    t
        Flow time to integrate to, in units of learning rate × steps. ``inf`` needs a stop
        condition or a budget; then about `save` accepted steps are saved, evenly thinned.
    method
        scipy's "RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"; our "RKC2" and "TSRKC3", for
        stiff flows whose Jacobian is symmetric; "Euler" or "RK4" with `step`, and "Verlet" for
        motion without friction; "EulerMaruyama" for noise, or "Heun" (the default) where the noise
        does not depend on θ; a
        `scipy.integrate.OdeSolver` class; or "auto", which picks among DOP853, Radau, RKC2 and
        TSRKC3 as it goes and leaves its reasons in ``stats["choices"]``. Radau, BDF and LSODA are
        given the exact Jacobian and refused above 2,000 parameters. The default, DOP853, costs no
        more than RK45 at rtol 1e-3 on stiff flows, where stability and not the tolerance limits
        the step; TSRKC3 costs the square root of that (`experiments/work_precision.py`).
    rtol, atol
        Tolerance of the local error, rtol·|θ| + atol for each parameter.
    step
        Step of "Euler", "RK4", "Verlet", "EulerMaruyama" and "Heun", in units of t. With noise it
        is 0.02/λ_max(θ₀) unless given.
    save
        A number of times (both ends included) or the times themselves, from the step's dense
        output; of DOP853 and Dopri8, where that misses the tolerance, by side steps. It has no say
        in the steps.
    spacing
        "linear", or "log": 0, then evenly in log t over five decades.
    keep
        "theta" keeps θ at all saved times, (times, n) numbers. For large models "last" keeps the
        last alone, and "projection" beside it a random projection on 1,024 numbers at every time,
        ``path.observed["projection"]``, in which distances are right to a few percent
        (`flow.observe.projection`).
    observe
        Name -> function of (objective, params), or a `flow.observe.Observer`; evaluated at the
        saved times.
    stop
        ``flow.stop.loss(...)``, ``flow.stop.gradient_norm(...)``, a function of the record, or a
        list of them, which return True or False. The run ends at the first accepted step
        (functions: saved time) that meets one.
    max_gradients, max_steps, max_seconds
        Budgets; a Hessian-vector product counts as two gradients. The run ends with what it has.
    checkpoint
        A folder, or a `flow.Checkpoint`: every 60 seconds, or as often as that says, all that the
        run needs is kept there, from which `flow.resume` goes on to the same bits after a crash.
        The first is written before the first step. Not for LSODA, whose state is out of reach, nor
        for an ensemble.
    progress
        Show a bar with an estimate if it takes more than a second.
    engine
        It follows from the method: scipy's solvers step on the host, and so does "auto"; "RKC2",
        "TSRKC3", "Euler", "RK4", "Verlet", the methods for noise and diffrax's "Tsit5" and "Dopri8"
        run whole on the device, in chunks of a quarter of a second that Ctrl-C is answered between.
        ``stats["engine"]`` says which. "jax" without a method is "TSRKC3" where the Jacobian is
        symmetric, else "Dopri8"; "scipy" beside one of our own methods changes nothing.
    paths, seed
        Of a dynamics with noise: how many paths, side by side, and the seed of them all. Each has
        noise of its own, the same however it is saved, and is saved at the steps that are nearest
        to the asked times. With an `ensemble` each member is a path.
    ensemble
        Many θ₀ in place of the objective's, integrated side by side: an array
        (members, n), a pytree like the parameters whose leaves have a leading axis of members, or a
        list of θ₀.
        Each member has its own steps, budgets and end, and is what a run from its θ₀ alone is,
        but for rounding; observers are handed the objective of the member. Members share the
        right-hand side that is compiled for `dynamics`: θ₀ may enter it by `initial_state` alone.
        Runs that differ in more, in widths or methods, are for `flow.sweep`.
    devices
        Spread the members, or paths, over several devices, ``jax.devices()`` for all; each has a
        copy of the data, and none waits for another. Not where the objective's examples are spread
        (``flow.Objective(..., mesh=)``).
    clock
        "log" integrates in s = ln(1 + t), in which what slows down as 1/t moves evenly: separable
        data to t = e⁶⁰ in a few hundred gradients. A number of times to save is then evenly spaced
        in s. Times are given and returned in t.

    Returns
    -------
    Trajectory
        Of an ensemble with a leading axis of members; see `Trajectory.member`.
        Also if a budget, Ctrl-C, a stalled or a non-finite right-hand side ended the run early:
        then its last row is the last accepted step, and `result` says what happened.

    Warns
    -----
    KinkWarning
        If the gradient of the loss jumps, as of ReLU, abs, max and clipping, and a method that
        controls its error at rtol below 1e-3 will stall there; once of an objective.

    Raises
    ------
    ValueError, TypeError
        An argument is off; the message names it, the value met and the remedy. What a function of
        yours raises at t = 0 (the loss, an observer, a stop condition) comes as it is, with a note
        that says which.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, 2.0]))
    >>> path = flow.integrate(objective, t=3.0, rtol=1e-10, atol=1e-12, save=[0.0, 1.0, 3.0])
    >>> np.allclose(path.theta[:, 0], np.exp(-path.t), rtol=1e-9)
    True
    >>> path.result
    'reached t = 3'

    A stiff flow, λ_max·t = 10⁵, for which RK45 would take 200,000 gradients:

    >>> H = np.array([1.0, 30.0, 1e4])
    >>> stiff = flow.Objective(lambda x: 0.5 * (H * x**2).sum(), np.ones(3))
    >>> path = flow.integrate(stiff, t=10.0, method="TSRKC3", rtol=1e-3)
    >>> path.stats["gradients"] < 4000, bool(abs(path.theta[-1, 0] - np.exp(-10.0)) < 1e-5)
    (True, True)

    Sixteen initialisations in one call:

    >>> theta = np.random.default_rng(0).standard_normal((16, 2))
    >>> paths = flow.integrate(objective, t=3.0, ensemble=theta, rtol=1e-8)
    >>> paths.theta.shape, np.allclose(paths.theta[:, -1], np.exp(-3.0) * theta, atol=1e-6)
    ((16, 200, 2), True)
    """
    # Not above: scipy.integrate takes most of a second to import, and is wanted for a run alone.
    from flow._run.auto import AutoDriver
    from flow._run.compiled import CompiledDriver, EnsembleDriver, Member
    from flow._run.host import Driver
    from flow.methods.catalogue import check_dense, find_method

    asked = {
        "t": t,
        "keep": keep,
        "spacing": spacing,
        "clock": clock,
        "save": save,
        "seed": seed,
        "max_gradients": max_gradients,
        "max_steps": max_steps,
    }
    if isinstance(dynamics, Objective):
        dynamics = GradientFlow(dynamics)
    if not isinstance(dynamics, Dynamics):
        raise TypeError(
            f"integrate needs a dynamics or an objective, {how_made(dynamics)}; got "
            f"{dynamics!r:.80}"
        )
    engine = check_engine(engine, dynamics, ensemble, paths)
    choice("spacing", spacing, SPACINGS)
    random_seed(seed)
    chosen = find_method(method, engine, dynamics)
    check_dense(chosen, dynamics.objective.size)
    meter = Meter(max_gradients, max_steps, max_seconds)
    stops = conditions(stop, ascent=dynamics.ascent)
    t = _check_horizon(t, stops, meter)
    if dynamics.noise:
        settings = noise_settings(dynamics.objective, step, seed, progress)
    else:
        settings = _check_settings(chosen, rtol, atol, step, dynamics.objective)
    _check_reached(settings, t)
    if choice("clock", clock, CLOCKS) == "log":
        dynamics, t, save = _on_log_clock(dynamics, chosen, t, save)
    thinned = t == inf and is_number(save)
    times = None if thinned else save_times(save, spacing, t)
    if thinned and spacing != "linear":
        raise ValueError(f"spacing={spacing!r} needs a finite t, got inf")
    if dynamics.noise and times is not None:
        times = at_steps(times, settings["step"], t)
    most = number_of_times(save) if thinned else None

    def build(make: "Callable[..., Any]", dynamics: Dynamics, **options: Any) -> Any:
        recorder = Recorder(dynamics.objective, observe, most, keep)
        meter = Meter(max_gradients, max_steps, max_seconds)
        return make(dynamics, chosen, t, settings, times, stops, meter, recorder, **options)

    own = _members(dynamics, ensemble, paths)
    spread = check_devices(devices, dynamics.objective, None if own is None else len(own))
    if own is None:
        plain = Driver if chosen.stepper is None else CompiledDriver
        asked |= {"method": chosen.name, "engine": plain.engine, **settings}
        again = _given_again(dynamics.in_flow_time, chosen)
        kept = keeper(checkpoint, "flow", dynamics.objective.mesh, asked, again, observe, stops)
        driver = build(AutoDriver if chosen.name == "auto" else plain, dynamics, keeper=kept)
    else:
        refuse_checkpoint(checkpoint)
        members = [build(Member, moved, members=len(own), path=i) for i, moved in enumerate(own)]
        driver = EnsembleDriver(dynamics, chosen, members, spread)
    threaded = chosen.dense and dynamics.objective.size > THREADED_SIZE
    return run(driver, partial(_computing, dynamics.objective, threaded), progress)


@contextmanager
def _computing(objective: Objective, threaded: bool) -> Iterator[None]:
    """Enter the scope of all that a run computes, with BLAS in one thread or in many."""
    with (
        objective.reading(),
        double_precision(),
        single_blas_thread(not threaded),
        np.errstate(all="ignore"),
    ):
        yield


def rerun(
    path: Trajectory, times: np.ndarray, *, progress: bool, longest: float = inf, **changes: Any
) -> Trajectory:
    """Repeat a flow, or with changes to its settings, saved at other times.

    What is saved has no say in the steps, so without changes this evaluates the dense output of
    the same trajectory, without having kept it. Steps of adaptive methods are no longer than
    `longest`, in units of the run's own clock.

    Raises
    ------
    ValueError
        Noise moved it: a path is known at its steps only, and with another step is another path.
    """
    if path.noisy:
        raise ValueError(
            f"{path.label!r} is a path of noise, which can't be repeated at other times; save it "
            "where it is needed, integrate(..., save=times)"
        )
    from flow.methods.catalogue import find_method

    settings = {k: path.config[k] for k in ("rtol", "atol", "step") if k in path.config}
    engine = path.config.get("engine", "scipy")
    method = find_method(path.solver or path.config["method"], engine, path.dynamics)
    again = integrate(
        path.dynamics,
        max(path.stats["t_end"], times[-1]),
        method=replace(method, longest=longest),
        save=times,
        engine=engine,
        clock=path.config.get("clock", "linear"),
        progress=progress,
        **settings | changes,
    )
    for spent in _RERUNS.get():
        spent.append(all_units(again))
    return uninterrupted(again)


@contextmanager
def reruns() -> Iterator[list[int]]:
    """List the units of each flow that is repeated within, all that it spends, as they come."""
    spent: list[int] = []
    token = _RERUNS.set((*_RERUNS.get(), spent))
    try:
        yield spent
    finally:
        _RERUNS.reset(token)


def check_engine(engine: Any, dynamics: Dynamics, ensemble: Any, paths: Any) -> str | None:
    """Return the engine that was asked for, or is needed; None where the method decides."""
    if engine is None and (dynamics.noise or ensemble is not None):
        engine = "jax"
    if engine is not None:
        choice("engine", engine, ENGINES)
    if ensemble is not None and engine == "scipy":
        raise ValueError(f"ensemble needs engine='jax', got engine={engine!r}")
    if dynamics.noise and engine == "scipy":
        raise ValueError(f"{dynamics.label} has noise, which engine={engine!r} has not; use 'jax'")
    if paths is not None and (ensemble is not None or not dynamics.noise):
        raise ValueError(
            f"paths={paths!r} is for a dynamics with noise, and without ensemble=, whose members "
            "are paths already"
        )
    return engine


def _given_again(dynamics: Dynamics, method: "Method") -> dict[str, Any]:
    """Return what names a dynamics and a method that no file can hold."""
    from flow.methods.catalogue import METHODS

    made_of = f"{type(dynamics).__name__} {dynamics.constants}"
    return {"dynamics": made_of, "method": None if method.name in METHODS else method.name}


def _members(dynamics: Dynamics, ensemble: Any, paths: Any) -> list[Dynamics] | None:
    """Return the dynamics of each member; None of a single run."""
    if ensemble is None and paths is None:
        return None
    if ensemble is None:
        return [dynamics] * positive_integer("paths", paths)
    starts = initialisations(dynamics.objective, ensemble)
    return [dynamics.starting_at(start) for start in starts]


def _on_log_clock(
    dynamics: Dynamics, method: "Method", t: float, save: Any
) -> tuple[Dynamics, float, Any]:
    """Return the dynamics, its end and the times to save at in s = ln(1 + t)."""
    if dynamics.noise or dynamics.hamiltonian or not method.adaptive:
        raise ValueError(
            "clock='log' is for error-controlled methods, and for dynamics without noise that are "
            f"not Hamiltonian; got {dynamics.label} by {method.name!r}"
        )
    if not is_number(save):
        save = np.log1p(save_times(save, "linear", t))
    return LogClock(dynamics), log1p(t), save


def _check_horizon(t: Any, stops: StopConditions, meter: Meter) -> float:
    t = real("t", t)
    if isnan(t) or t <= 0:
        raise ValueError(f"t must be positive, got {t}; it is learning rate × steps")
    if t == inf and not (stops or meter.limited):
        raise ValueError(
            "t is infinite and nothing ends the run; give stop=flow.stop.gradient_norm(1e-8), "
            "or max_gradients="
        )
    return t


def _check_reached(settings: dict[str, float], t: float) -> None:
    """Refuse fixed steps so short that t + step is t."""
    step = settings.get("step", np.inf)
    if t < inf and step < t * ROUNDING:
        raise ValueError(
            f"step={step:g} is below the rounding of t={t:g}, which such steps never reach; "
            "give a larger step"
        )


def _check_settings(
    method: "Method", rtol: Any, atol: Any, step: Any, objective: Objective
) -> dict[str, float]:
    if not method.adaptive:
        if step is None:
            raise ValueError(f"method {method.name!r} needs step=, in units of t")
        return {"step": positive("step", step)}
    if step is not None:
        raise ValueError(
            f"step={step!r} goes with methods of fixed steps; {method.name!r} chooses its own by "
            "rtol and atol"
        )
    resolution = objective.resolution
    floor = 100 * resolution
    if positive("rtol", rtol) < floor:
        raise ValueError(
            f"rtol={rtol:g} is below {floor:.1e}, what a gradient with unit roundoff "
            f"{resolution:.1e} can deliver; raise rtol"
            + ("" if resolution < 1e-8 else ", or compute the loss in double precision")  # noqa: PLR2004
        )
    atol = real("atol", atol)
    if not (isfinite(atol) and atol >= 0):
        raise ValueError(f"atol must be finite and not negative, got {atol}")
    warn_of_stalling(objective, method.name, rtol)
    return {"rtol": float(rtol), "atol": atol}


# Of 1/λ_max: Euler–Maruyama's stationary variance on a quadratic is 1/(1 − hλ/2) too large,
# 1 % here.
SHARE = 0.02


def noise_settings(objective: Objective, step: Any, seed: Any, show: Any) -> dict[str, Any]:
    """Return the step, 0.02/λ_max(θ₀) unless given, and the seed; `show` what is compiled for it.

    Raises
    ------
    ValueError
        λ_max(θ₀) is not positive and no step is given, or the seed does not fit into 32 bits, the
        room that it travels in.
    """
    seed = random_seed(seed)
    if step is not None:
        return {"step": positive("step", step), "seed": seed}
    with silent(show):
        top = sharpness(objective, objective.params)
    if top <= 0:
        raise ValueError(
            f"the sharpness at the initial parameters is {top:.3g}, by which no step can be "
            "chosen; give step=, in units of t"
        )
    return {"step": SHARE / top, "seed": seed}


def at_steps(times: np.ndarray, step: float, t: float) -> np.ndarray:
    """Return the steps' times that are nearest to the asked ones, and t, where the last ends.

    >>> at_steps(np.array([0.0, 0.1, 0.26, 1.0]), 0.3, 1.0)
    array([0. , 0.3, 1. ])
    """
    grid = np.rint(times / step) * step
    last = (grid > t - 1e-9 * step) | (t - times < np.abs(times - grid))
    return np.unique(np.where(last, t, grid))
