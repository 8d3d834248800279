"""The stabilised methods as `scipy.integrate.OdeSolver`: fused on the device, or on the host."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy.integrate import DenseOutput, OdeSolver

from flow.methods.chebyshev import Plan
from flow.methods.hermite import HermiteOutput
from flow.methods.kernel import Kernel, host_kernel
from flow.methods.stepping import BUDGET, FAILED, Limits, Problem, Tolerance

# Cosine between v and J²v below which the dominant eigenvalues are taken for a complex pair.
REAL = 0.5


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
        Tolerances of the local error, rtol·|y| + atol.
    max_step
        The longest step.
    kernel, most, resolution
        Compiled functions that stand in for the loops on the host, the evaluations that may be
        spent, and the unit roundoff of `fun`; `flow.integrate` gives them.

    Raises
    ------
    SpectrumNotReal
        The dominant eigenvalues at t0 are a complex pair.
    ValueError
        t_bound lies before t0, where decaying components grow.
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
        kernel: Kernel | None = None,
        most: float = np.inf,
        resolution: float = np.finfo(float).eps,
    ) -> None:
        if t_bound < t0:
            raise ValueError(
                f"{type(self).__name__} needs t_bound beyond t0 = {t0:g}, got {t_bound:g}: "
                "backward in time the spectrum is positive; use 'DOP853'"
            )
        super().__init__(fun, t0, y0, t_bound, vectorized)
        self.tolerance = Tolerance(rtol, atol, resolution)
        self.kernel = kernel or self._on_the_host()
        self.most, self.max_step = most, max_step
        with np.errstate(all="ignore"):
            self.carry = self.kernel.start(self.tolerance, self._limits(0), self.t, self.y)
        if kernel is None:  # who brings a kernel knows its dynamics
            check_spectrum(type(self).__name__, self.carry)

    def _limits(self, steps: int) -> Limits:
        return Limits(self.t_bound, self.most, steps, -np.inf, -np.inf, self.max_step)

    def _on_the_host(self) -> Kernel:
        nothing = np.zeros(2)
        derivative = lambda t, y: (self.fun(t, y), nothing)  # noqa: E731
        return host_kernel(self.plan, Problem(derivative, lambda k: np.zeros(len(k))))

    def _step_impl(self) -> tuple[bool, str | None]:
        with np.errstate(all="ignore"):
            self.carry = self.kernel.advance(
                self.tolerance, self._limits(int(self.carry.steps) + 1), self.carry
            )
        status = int(self.carry.status)
        if status in (FAILED, BUDGET):
            return False, self.TOO_SMALL_STEP
        self.t, self.y = float(self.carry.t), np.asarray(self.carry.y)
        return True, None

    def _dense_output_impl(self) -> DenseOutput:
        c = self.carry
        return HermiteOutput(self.t_old, self.t, c.y_old, c.y, c.f_old, c.f)


def check_spectrum(name: str, carry: Any) -> None:
    """Refuse a problem whose stiffest eigenvalues are complex."""
    cosine = float(carry.watch.alignment)
    if cosine < REAL:
        raise SpectrumNotReal(
            f"{name} is for problems with a real negative spectrum, but here the dominant "
            f"eigenvalues of the Jacobian are complex (the cosine between v and J²v is "
            f"{cosine:.2f}, 1 for a real eigenvalue): it would amplify them; use 'DOP853'"
        )
