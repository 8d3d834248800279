"""Integrators as people call them today: each on the same jitted gradient, at (t, rtol, atol).

A peer is a function (objective, t, rtol) -> function without arguments, which runs and returns θ(t)
and the gradients that it spent; what comes before is set-up and compilation. The absolute
tolerance is a thousandth of rtol, as for flow's own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import flow

Run = Callable[[], tuple[np.ndarray, float]]


def gradient_of(objective: flow.Objective) -> Callable:
    """Return −∇J of the flat vector, to be traced."""
    return lambda theta, data: (
        -ravel_pytree(objective.traced_gradient(objective.tree(theta), data))[0]
    )


def on_the_host(objective: flow.Objective) -> Callable[[float, np.ndarray], np.ndarray]:
    """Return −∇J as solve_ivp wants it: a jitted function behind numpy's door."""
    jitted = jax.jit(gradient_of(objective))
    jitted(objective.theta, objective.data)
    return lambda _, theta: np.asarray(jitted(theta, objective.data))


def scipy_ivp(method: Any, objective: flow.Objective, t: float, rtol: float) -> Run:
    """Return `scipy.integrate.solve_ivp`, with its own methods or a class of another package."""
    from scipy.integrate import solve_ivp  # takes a quarter of a second

    rhs = on_the_host(objective)

    def run() -> tuple[np.ndarray, float]:
        solution = solve_ivp(
            rhs, (0.0, t), objective.theta, method, [t], rtol=rtol, atol=1e-3 * rtol
        )
        return solution.y[:, -1], solution.nfev

    return run


def extensisq(objective: flow.Objective, t: float, rtol: float) -> Run:
    """Return SSV2stab, the stabilised method of extensisq."""
    from extensisq import SSV2stab

    return scipy_ivp(SSV2stab, objective, t, rtol)


def diffrax(solver: str, objective: flow.Objective, t: float, rtol: float) -> Run:
    """Return `diffrax.diffeqsolve`, compiled whole."""
    import diffrax as dx

    made = getattr(dx, solver)()
    field = gradient_of(objective)

    @jax.jit
    def solve(theta: Any, data: Any) -> Any:
        return dx.diffeqsolve(
            dx.ODETerm(lambda t, y, args: field(y, args)),
            made,
            0.0,
            t,
            None,
            theta,
            data,
            saveat=dx.SaveAt(t1=True),
            stepsize_controller=dx.PIDController(rtol=rtol, atol=1e-3 * rtol),
            max_steps=10_000_000,
            adjoint=dx.ForwardMode(),
        )

    def run() -> tuple[np.ndarray, float]:
        solution = solve(objective.theta, objective.data)
        # Each attempted step evaluates every stage but the first, which is the last one's last.
        return np.asarray(solution.ys[0]), float(solution.stats["num_steps"]) * len(made.tableau.c)

    solve.lower(objective.theta, objective.data).compile()
    return run


def rk4(objective: flow.Objective, t: float, _: float) -> Run:
    """Return the classical method at h = 1/λ_max, the rule in the edge-of-stability literature.

    λ_max along the way is known from a run before, and no part of the cost.
    """
    rhs = on_the_host(objective)
    known = flow.integrate(objective, t, method="TSRKC3", rtol=1e-4, save=2, progress=False).stats
    times = np.linspace(0.0, t, 101)
    tops = np.interp(times[:-1], known["lambda_max_t"], known["lambda_max"])

    def run() -> tuple[np.ndarray, float]:
        theta, gradients = objective.theta, 0
        for top in tops:
            steps = int(np.ceil(t / 100 * top))
            h = t / 100 / steps
            for _ in range(steps):
                k1 = rhs(0.0, theta)
                k2 = rhs(0.0, theta + h / 2 * k1)
                k3 = rhs(0.0, theta + h / 2 * k2)
                k4 = rhs(0.0, theta + h * k3)
                theta = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            gradients += 4 * steps
        return theta, gradients

    return run


def torchdiffeq(objective: flow.Objective, t: float, rtol: float) -> Run:
    """Return a run of torchdiffeq's dopri5, on PyTorch's gradient of the same network and data."""
    import torch
    from torchdiffeq import odeint

    sizes = [np.shape(layer["W"]) for layer in objective.params if "W" in layer]
    X, y = (torch.tensor(np.array(a), dtype=torch.float64) for a in objective.data)
    gradients = 0

    def loss(theta: Any) -> Any:
        a, at = X, 0
        for i, (n, m) in enumerate(sizes):
            W = theta[at : at + n * m].reshape(n, m)
            b = theta[at + n * m : at + n * m + n]
            at += n * m + n
            a = a @ W.T + b
            a = torch.tanh(a) if i < len(sizes) - 1 else a
        return 0.5 * ((a - y) ** 2).sum(dim=1).mean()

    def rhs(_: Any, theta: Any) -> Any:
        nonlocal gradients
        gradients += 1
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            return -torch.autograd.grad(loss(theta), theta)[0]

    def run() -> tuple[np.ndarray, float]:
        nonlocal gradients
        gradients = 0
        start = torch.tensor(np.array(objective.theta), dtype=torch.float64)
        ends = torch.tensor([0.0, t], dtype=torch.float64)
        with torch.no_grad():
            theta = odeint(rhs, start, ends, rtol=rtol, atol=1e-3 * rtol, method="dopri5")
        return theta[-1].numpy(), gradients

    return run


PEERS: dict[str, Callable[[flow.Objective, float, float], Run]] = {
    "scipy RK45": partial(scipy_ivp, "RK45"),
    "scipy DOP853": partial(scipy_ivp, "DOP853"),
    "diffrax Tsit5": partial(diffrax, "Tsit5"),
    "extensisq SSV2stab": extensisq,
    "RK4, h = 1/λ_max": rk4,
    "torchdiffeq dopri5": torchdiffeq,
}
