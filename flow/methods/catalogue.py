"""The methods by name, and what flow has to know of each beyond scipy's interface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import isclass, signature
from math import inf
from typing import Any

import numpy as np
from scipy.integrate import BDF, DOP853, LSODA, RK23, RK45, OdeSolver, Radau

from flow._core.checks import choice
from flow.methods.compiled_loop import Stepper, stabilised_stepper
from flow.methods.fixed import euler, fixed_stepper, rk4, verlet
from flow.methods.noisy import euler_maruyama, heun, noisy_stepper
from flow.methods.ode_solver import StabilisedSolver
from flow.methods.rkc2 import RKC2
from flow.methods.tsrkc3 import TSRKC3

# Dense linear algebra on n × n matrices: at n = 2,000 a factorisation takes about as long as a
# thousand gradients of a small network, and grows as n³.
MAX_DENSE_PARAMETERS = 2000
# Where Dopri8's dense output is watched, and its defect there over its largest error in the step:
# on ẏ = λy 0.51 to 1.11 for real hλ from −6 to −0.3.
DOPRI8_WATCHED = (0.22, 0.5)


@dataclass(frozen=True)
class Method:
    """An integrator and its manners.

    Parameters
    ----------
    name
        What users type.
    solver
        A `scipy.integrate.OdeSolver` class; None where there is none.
    adaptive
        Whether it takes rtol and atol (and not `step`).
    dense
        Whether it factorises n × n matrices, and takes the exact Jacobian.
    real_limit
        The largest h·λ at which an explicit method is stable on the negative real axis; None
        where there is no such limit, or the step is not its own to choose.
    stepper
        Makes its step as the compiled engine takes it, which then runs it; None of scipy's.
    attempts
        From the times at which one step evaluated the right-hand side, the number of attempts
        that it took; None where scipy gives no way to know.
    noise
        None; "any" for an Itô method of SDEs; "additive" for one that is right where noise does
        not depend on the state (those of Stratonovich's calculus among them).
    hamiltonian
        Whether it is for separable Hamiltonian motion only.
    longest
        The longest step that it may take, of those that choose their own.
    order
        Of fixed steps: errors fall by 2^order when the step is halved.
    """

    name: str
    solver: type[OdeSolver] | None
    adaptive: bool = True
    dense: bool = False
    real_limit: float | None = None
    stepper: Callable[[], Stepper] | None = None
    attempts: Callable[[Sequence[float], float], int] | None = None
    noise: str | None = None
    hamiltonian: bool = False
    longest: float = inf
    order: int = 1

    @property
    def stabilised(self) -> bool:
        """Return whether it is one of our own, for a real negative spectrum."""
        return self.solver is not None and issubclass(self.solver, StabilisedSolver)


def _runge_kutta(solver: type[OdeSolver], real_limit: float) -> Method:
    # Each attempt evaluates every stage but the first, which is the last of the step before, and
    # the right-hand side at its end: n_stages in all.
    return Method(
        solver.__name__,
        solver,
        real_limit=real_limit,
        attempts=lambda times, t_old: len(times) // solver.n_stages,
    )


def _distinct_ends(nodes: int) -> Callable[[Sequence[float], float], int]:
    # An implicit attempt evaluates at `nodes` times beyond t_old, the same in each Newton step.
    return lambda times, t_old: len({t for t in times if t > t_old}) // nodes


def _diffrax(name: str, watched: tuple[float, float] | None = None) -> Stepper:
    import diffrax  # a second of imports

    from flow.methods.explicit import runge_kutta

    return runge_kutta(getattr(diffrax, name), watched)


def _fixed(name: str, stepper: Callable, **more: Any) -> Method:
    return Method(name, None, adaptive=False, stepper=stepper, **more)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        _runge_kutta(RK23, 2.5127),
        _runge_kutta(RK45, 3.3065),
        _runge_kutta(DOP853, 6.3936),
        Method("Radau", Radau, dense=True, attempts=_distinct_ends(3)),
        Method("BDF", BDF, dense=True, attempts=_distinct_ends(1)),
        Method("LSODA", LSODA, dense=True),
        Method("RKC2", RKC2, stepper=lambda: stabilised_stepper(RKC2.plan)),
        Method("TSRKC3", TSRKC3, stepper=lambda: stabilised_stepper(TSRKC3.plan)),
        Method("auto", None),
        Method("Tsit5", None, stepper=lambda: _diffrax("Tsit5")),
        Method("Dopri8", None, stepper=lambda: _diffrax("Dopri8", DOPRI8_WATCHED)),
        _fixed("Euler", lambda: fixed_stepper(euler, 1, straight=True)),
        _fixed("RK4", lambda: fixed_stepper(rk4, 4), order=4),
        _fixed("Verlet", lambda: fixed_stepper(verlet, 1), order=2, hamiltonian=True),
        _fixed("EulerMaruyama", lambda: noisy_stepper(euler_maruyama, 1), noise="any"),
        _fixed("Heun", lambda: noisy_stepper(heun, 3), noise="additive"),
    )
}


DIFFRAX = ("Tsit5", "Dopri8")
COMPILED = tuple(name for name, method in METHODS.items() if method.stepper is not None)


def find_method(
    method: str | type[OdeSolver] | Method | None, engine: str | None, dynamics: Any
) -> Method:
    """Return the method of that name, or of a user's own OdeSolver class; by default the engine's.

    The engine that runs it follows: "jax", the compiled one, where the method has a stepper. Asked
    for with engine="scipy", our own run compiled all the same.

    Raises
    ------
    ValueError
        The engine has no such method, or the method is not for what the dynamics declares.
    """
    found = _find(_default(engine, dynamics) if method is None else method)
    _check_noise(found, dynamics)
    _check_declared(found, dynamics)
    if engine == "jax" and found.name not in COMPILED:
        raise ValueError(
            f"engine='jax' has the methods {', '.join(COMPILED)}, got {found.name!r}; "
            "'Dopri8' is nearest to scipy's 'DOP853', 'Tsit5' to 'RK45'"
        )
    if engine == "scipy" and found.name in DIFFRAX:
        raise ValueError(
            f"method {found.name!r} is diffrax's, and runs compiled; leave engine='scipy' out"
        )
    return found


def _default(engine: str | None, dynamics: Any) -> str:
    if dynamics.noise:
        return "Heun" if dynamics.noise == "additive" else "EulerMaruyama"
    if dynamics.suited_method is not None:
        return dynamics.suited_method
    compiled = "TSRKC3" if dynamics.has_real_spectrum else "Dopri8"
    return compiled if engine == "jax" else "DOP853"


def _check_declared(method: Method, dynamics: Any) -> None:
    """Refuse a method that is not for such a right-hand side."""
    if method.stabilised and not dynamics.has_real_spectrum:
        raise ValueError(
            f"method {method.name!r} is for a real negative spectrum, as gradient flow has, and "
            "amplifies oscillations; use 'DOP853' here"
        )
    if method.hamiltonian and not dynamics.hamiltonian:
        raise ValueError(
            f"method {method.name!r} is for Hamiltonian motion, as flow.HeavyBall(objective, "
            "friction=0) is; use 'DOP853' here"
        )
    if method.adaptive and not dynamics.continuous:
        raise ValueError(
            f"the right-hand side of {dynamics.label} jumps, and method {method.name!r} would "
            "stall where it does; use method='Euler' with step=, or smooth it"
        )


def _check_noise(method: Method, dynamics: Any) -> None:
    """Refuse an SDE under a method without noise, and the wrong calculus."""
    name, noise = method.name, dynamics.noise
    if noise and not method.noise:
        raise ValueError(
            f"{dynamics.label} has noise, which method {name!r} knows nothing of; use "
            "'EulerMaruyama', or 'Heun' where the noise is additive"
        )
    if method.noise and not noise:
        raise ValueError(f"method {name!r} is for noise, and {dynamics.label} has none")
    if noise == "multiplicative" and method.noise == "additive":
        raise ValueError(
            f"the noise of {dynamics.label} depends on θ; it is Itô's, and method {name!r} would "
            "solve another equation: use 'EulerMaruyama'"
        )


def _find(method: str | type[OdeSolver] | Method) -> Method:
    if isinstance(method, Method):
        return method
    if isclass(method) and issubclass(method, OdeSolver):
        known = [m for m in METHODS.values() if m.solver is method]
        takes = signature(method.__init__).parameters
        name = method.__name__
        return known[0] if known else Method(name, method, adaptive="step" not in takes)
    return METHODS[choice("method", method, METHODS)]


def check_dense(method: Method, size: int) -> None:
    """Refuse n × n linear algebra beyond what is bearable."""
    if method.dense and size > MAX_DENSE_PARAMETERS:
        megabytes = np.dtype(float).itemsize * size**2 / 1e6
        raise ValueError(
            f"method {method.name!r} factorises {size} × {size} matrices ({megabytes:,.0f} MB "
            f"each) and is refused above {MAX_DENSE_PARAMETERS} parameters; use 'DOP853' (the "
            "default) or 'RK45'"
        )
