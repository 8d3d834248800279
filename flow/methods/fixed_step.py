"""Fixed-step Runge–Kutta methods: the honest way through the kinks of a ReLU network."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy.integrate import DenseOutput, OdeSolver

from flow.methods.interpolation import HermiteOutput


class FixedStep(OdeSolver):
    """Steps of one length, t_k = t₀ + kh; the last is cut to end at `t_bound`.

    t_k is a product, not a running sum, so that it meets the clock of gradient descent exactly.

    Parameters
    ----------
    fun, t0, y0, t_bound, vectorized
        As for every `scipy.integrate.OdeSolver`.
    step
        h, in units of t.
    """

    B: ClassVar[np.ndarray]
    order: ClassVar[int]

    def __init__(
        self,
        fun: Callable,
        t0: float,
        y0: Any,
        t_bound: float,
        vectorized: bool = False,
        *,
        step: float,
    ) -> None:
        super().__init__(fun, t0, y0, t_bound, vectorized)
        self.h, self.t0, self.k = self.direction * step, t0, 0
        self.f = self.fun(self.t, self.y)
        self.K = np.empty((len(self.B), self.n))

    def _step_impl(self) -> tuple[bool, str | None]:
        self.k += 1
        t_new = self.t0 + self.k * self.h
        # Within rounding of the bound the step is the last one: 100 steps of 0.01 are t = 1.
        if self.direction * (t_new - self.t_bound) > -1e-9 * abs(self.h):
            t_new = self.t_bound
        h = t_new - self.t
        self.K[0] = self.f_old = self.f
        self.y_old = self.y
        self.y = self.y + h * self._increment(self.t, self.y, h)
        self.t = t_new
        self.f = self._slope()
        return True, None

    def _slope(self) -> np.ndarray:
        """F at the end of the step."""
        return self.fun(self.t, self.y)

    def _increment(self, t: float, y: np.ndarray, h: float) -> np.ndarray:
        """Fill the stages K[1:] and return the step's mean slope."""
        raise NotImplementedError


class Euler(FixedStep):
    """y_{k+1} = y_k + h f(y_k), order 1: on gradient flow it is gradient descent, η = h.

    >>> import numpy as np, scipy.integrate
    >>> solution = scipy.integrate.solve_ivp(lambda t, y: -y, (0, 1), [1.0], method=Euler, step=0.5)
    >>> solution.y[0].tolist()
    [1.0, 0.5, 0.25]
    """

    B = np.array([1.0])
    order = 1

    def _increment(self, t: float, y: np.ndarray, h: float) -> np.ndarray:
        return self.K[0]

    def _dense_output_impl(self) -> DenseOutput:
        return _Line(self.t_old, self.t, self.y_old, self.y)


class RK4(FixedStep):
    """The classical method of order 4 (Kutta 1901), cubic Hermite between steps.

    >>> import numpy as np, scipy.integrate
    >>> solution = scipy.integrate.solve_ivp(lambda t, y: -y, (0, 1), [1.0], method=RK4, step=0.1)
    >>> bool(abs(solution.y[0, -1] - np.exp(-1)) < 4e-7)
    True
    """

    B = np.array([1.0, 2.0, 2.0, 1.0]) / 6.0
    order = 4

    def _increment(self, t: float, y: np.ndarray, h: float) -> np.ndarray:
        K = self.K
        K[1] = self.fun(t + h / 2, y + h / 2 * K[0])
        K[2] = self.fun(t + h / 2, y + h / 2 * K[1])
        K[3] = self.fun(t + h, y + h * K[2])
        return self.B @ K

    def _dense_output_impl(self) -> DenseOutput:
        return HermiteOutput(self.t_old, self.t, self.y_old, self.y, self.f_old, self.f)


class Verlet(FixedStep):
    """Velocity Verlet, order 2, for y = (x, v) with ẋ = v and v̇ = a(x).

    v_½ = v + (h/2)a(x), x₁ = x + hv_½, v₁ = v_½ + (h/2)a(x₁): one evaluation a step. It is
    symplectic, so that H = ½‖v‖² + J oscillates by O(h²) and does not drift (Hairer, Lubich,
    Wanner 2003, Acta Numerica 12); stable while h√λ < 2.

    >>> import numpy as np, scipy.integrate
    >>> solution = scipy.integrate.solve_ivp(
    ...     lambda t, y: np.array([y[1], -y[0]]), (0, 1000), [1.0, 0.0], method=Verlet, step=0.1
    ... )
    >>> bool(np.abs((solution.y**2).sum(axis=0) - 1).max() < 0.003)
    True
    """

    B = np.array([1.0])
    order = 2

    def _increment(self, t: float, y: np.ndarray, h: float) -> np.ndarray:
        half = self.n // 2
        velocity = y[half:] + h / 2 * self.f[half:]
        between = np.concatenate([y[:half] + h * velocity, velocity])
        self.acceleration = self.fun(t + h, between)[half:]
        return np.concatenate([velocity, (self.f[half:] + self.acceleration) / 2])

    def _slope(self) -> np.ndarray:
        return np.concatenate([self.y[self.n // 2 :], self.acceleration])

    def _dense_output_impl(self) -> DenseOutput:
        return HermiteOutput(self.t_old, self.t, self.y_old, self.y, self.f_old, self.f)


class _Line(DenseOutput):
    def __init__(self, t_old: float, t: float, y_old: np.ndarray, y: np.ndarray) -> None:
        super().__init__(t_old, t)
        self.y_old, self.slope = y_old, (y - y_old) / (t - t_old)

    def _call_impl(self, t: Any) -> np.ndarray:
        return (self.y_old + np.multiply.outer(t - self.t_old, self.slope)).T
