"""The stabilised methods as `scipy.integrate.OdeSolver`: fused on the device, or on the host."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy.integrate import DenseOutput, OdeSolver
from scipy.integrate._ivp.common import (
    validate_first_step,
    validate_max_step,
    validate_tol,
    warn_extraneous,
)

from flow.methods.chebyshev import Plan
from flow.methods.interpolation import HermiteOutput
from flow.methods.kernel import Kernel, host_kernel
from flow.methods.loop_state import BUDGET, FAILED, Limits, Problem, Tolerance

# Cosine between v and J²v below which the dominant eigenvalues are taken for a complex pair, and
# the hρ of the whole interval up to which that is no matter: two stages resolve it.
REAL, MILD = 0.5, 1.0
# Squares of what is larger overflow: it is integrated in a unit of its own, a power of two.
LARGE = 2.0**500


class SpectrumNotReal(ValueError):  # noqa: N818
    """The stiffest eigenvalues are complex, and the method would amplify them."""


class StabilisedSolver(OdeSolver):
    """A stabilised method for stiff problems whose Jacobian has a real negative spectrum.

    Explicit: no Jacobian, no linear algebra, at most eight vectors of memory. The number of
    stages follows the spectral radius, which nonlinear power iteration on `fun` watches.

    Parameters
    ----------
    fun, t0, y0, t_bound, vectorized
        As for every `scipy.integrate.OdeSolver`; t_bound is beyond t0.
    rtol, atol
        Tolerances of the local error, rtol·|y| + atol, each a number or one for each entry.
    max_step, first_step
        The longest step, and the first, unless it is found.
    kernel, most, resolution
        Compiled functions that stand in for the loops on the host, the evaluations that may be
        spent, and the unit roundoff of `fun`; `flow.integrate` gives them.

    Raises
    ------
    SpectrumNotReal
        The dominant eigenvalues at t0 are a complex pair, and the interval is long beside them.
    ValueError
        t_bound lies before t0, where decaying components grow; or a tolerance or step is off.

    Warns
    -----
    UserWarning
        As scipy's own: rtol is below 100 times the spacing of numbers, which is taken instead, or
        an argument has no effect, as `jac`.
    """

    plan: ClassVar[Callable[..., Plan]]

    def __init__(
        self,
        fun: Callable,
        t0: float,
        y0: Any,
        t_bound: float,
        vectorized: bool = False,
        *,
        rtol: float = 1e-3,
        atol: Any = 1e-6,
        max_step: float = np.inf,
        first_step: float | None = None,
        kernel: Kernel | None = None,
        most: float = np.inf,
        resolution: float = np.finfo(float).eps,
        **extraneous: Any,
    ) -> None:
        warn_extraneous(extraneous)
        if t_bound < t0:
            raise ValueError(
                f"{type(self).__name__} needs t_bound beyond t0 = {t0:g}, got {t_bound:g}: "
                "backward in time the spectrum is positive; use 'DOP853'"
            )
        super().__init__(fun, t0, y0, t_bound, vectorized)
        self.most, self.max_step = most, validate_max_step(max_step)
        rtol, atol = validate_tol(rtol, atol, self.n)
        largest = np.max(np.abs(self.y), initial=0.0)
        self.unit = 2.0 ** np.floor(np.log2(largest)) if largest > LARGE else 1.0
        self.tolerance = Tolerance(rtol, atol / self.unit, resolution)
        self.kernel = kernel or self._on_the_host()
        if first_step is not None:
            validate_first_step(first_step, t0, t_bound)
        if self.n == 0 or t_bound == t0:
            return
        with np.errstate(all="ignore"):
            y = self.y / self.unit if kernel is None else self.y
            self.carry = self.kernel.start(self.tolerance, self._limits(0), self.t, y)
        if kernel is None and float(self.carry.watch.radius) * (t_bound - t0) > MILD:
            check_spectrum(type(self).__name__, self.carry)  # a kernel's dynamics has been checked
        if first_step is not None:
            self.carry = self.carry._replace(h=first_step)

    def _limits(self, steps: int) -> Limits:
        # As scipy's own do, the first step takes no notice of a bound below the spacing of numbers.
        least = 10 * np.spacing(abs(self.t)) if steps == 1 else 0.0
        longest = max(self.max_step, least)
        return Limits(self.t_bound, self.most, steps, -np.inf, -np.inf, longest)

    def _on_the_host(self) -> Kernel:
        nothing, unit = np.zeros(2), self.unit
        derivative = lambda t, y: (self.fun(t, unit * y) / unit, nothing)  # noqa: E731
        return host_kernel(self.plan, Problem(derivative, lambda k: np.zeros(len(k))))

    def _step_impl(self) -> tuple[bool, str | None]:
        with np.errstate(all="ignore"):
            self.carry = self.kernel.advance(
                self.tolerance, self._limits(int(self.carry.steps) + 1), self.carry
            )
        status = int(self.carry.status)
        if status in (FAILED, BUDGET) or float(self.carry.t) == self.t:
            return False, self.TOO_SMALL_STEP
        self.t, self.y = float(self.carry.t), self.unit * np.asarray(self.carry.y)
        return True, None

    def _dense_output_impl(self) -> DenseOutput:
        c = self.carry
        ends = (self.unit * np.asarray(x) for x in (c.y_old, c.y, c.f_old, c.f))
        return HermiteOutput(self.t_old, self.t, *ends)


def check_spectrum(name: str, carry: Any) -> None:
    """Refuse a problem whose stiffest eigenvalues are complex."""
    cosine = float(carry.watch.alignment)
    if cosine < REAL:
        raise SpectrumNotReal(
            f"{name} is for problems with a real negative spectrum, but here the dominant "
            f"eigenvalues of the Jacobian are complex (the cosine between v and J²v is "
            f"{cosine:.2f}, 1 for a real eigenvalue): it would amplify them; use 'DOP853'"
        )
