"""The methods by name, and what flow has to know of each beyond scipy's interface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import isclass, signature

import numpy as np
from scipy.integrate import BDF, DOP853, LSODA, RK23, RK45, OdeSolver, Radau

from flow.checks import choice
from flow.methods.fixed_step import RK4, Euler

# Dense linear algebra on n × n matrices: at n = 2,000 a factorisation takes about as long as a
# thousand gradients of a small network, and grows as n³.
MAX_DENSE_PARAMETERS = 2000


@dataclass(frozen=True)
class Method:
    """An integrator and its manners.

    Parameters
    ----------
    solver
        A `scipy.integrate.OdeSolver` class.
    adaptive
        Whether it takes rtol and atol (and not `step`).
    dense
        Whether it factorises n × n matrices, and takes the exact Jacobian.
    attempts
        From the times at which one step evaluated the right-hand side, the number of attempts
        that it took; None where scipy gives no way to know.
    """

    solver: type[OdeSolver]
    adaptive: bool = True
    dense: bool = False
    attempts: Callable[[Sequence[float], float], int] | None = None

    @property
    def name(self) -> str:
        """What users type."""
        return self.solver.__name__


def _runge_kutta(solver: type[OdeSolver]) -> Method:
    # Each attempt evaluates every stage but the first, which is the last of the step before, and
    # the right-hand side at its end: n_stages in all.
    return Method(solver, attempts=lambda times, t_old: len(times) // solver.n_stages)


def _distinct_ends(nodes: int) -> Callable[[Sequence[float], float], int]:
    # An implicit attempt evaluates at `nodes` times beyond t_old, the same in each Newton step.
    return lambda times, t_old: len({t for t in times if t > t_old}) // nodes


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        _runge_kutta(RK23),
        _runge_kutta(RK45),
        _runge_kutta(DOP853),
        Method(Radau, dense=True, attempts=_distinct_ends(3)),
        Method(BDF, dense=True, attempts=_distinct_ends(1)),
        Method(LSODA, dense=True),
        Method(Euler, adaptive=False, attempts=lambda times, t_old: 1),
        Method(RK4, adaptive=False, attempts=lambda times, t_old: 1),
    )
}


def find_method(method: str | type[OdeSolver]) -> Method:
    """The method of that name, or of a user's own OdeSolver class."""
    if isclass(method) and issubclass(method, OdeSolver):
        known = [m for m in METHODS.values() if m.solver is method]
        takes = signature(method.__init__).parameters
        return known[0] if known else Method(method, adaptive="step" not in takes)
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
