"""The problems on which integrators are compared, each a gradient flow with a time to end at.

Run as a script it lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro

import flow
from flow.networks import chebyshev


@dataclass(frozen=True)
class Problem:
    """A gradient flow θ̇ = −∇J to time t.

    Parameters
    ----------
    make
        Builds the objective.
    t
        Where it ends.
    reference
        Method whose run at a far tighter tolerance the others are measured by.
    rtol
        Of that run.
    """

    make: Callable[[], flow.Objective]
    t: float
    reference: str = "DOP853"
    rtol: float = 1e-10


def digits(dtype: str = "float64") -> flow.Objective:
    """Return 64-32-10 tanh on 300 digits, J = ½ squared error; W ~ N(0, 1/fan_in), b = 0."""
    return flow.MLP([64, 32, 10]).objective(*flow.datasets.digits(300), dtype=dtype)


def all_digits(dtype: str = "float64") -> flow.Objective:
    """Return 64-200-200-10 tanh on all 1,797 digits: 55,210 parameters."""
    return flow.MLP([64, 200, 200, 10]).objective(*flow.datasets.digits(1797), dtype=dtype)


def small(dtype: str = "float64") -> flow.Objective:
    """Return 2-3-2 tanh on 100 points of the plane, to tell two half-planes: 17 parameters."""
    X = np.random.default_rng(0).standard_normal((100, 2))
    y = np.stack([X.sum(axis=1) > 0, X[:, 0] > X[:, 1]], axis=1).astype(float)
    return flow.MLP([2, 3, 2]).objective(X, y, dtype=dtype)


def unnormalised(dtype: str = "float64") -> flow.Objective:
    """Return 4-24-1 tanh on 64 normal inputs, one feature scaled ×30: sharpness above 1,000."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 4))
    y = np.sin(X[:, :1]) + 0.5 * X[:, 1:2] * X[:, 2:3]
    X[:, 3] *= 30.0
    return flow.MLP([4, 24, 1]).objective(X, y, seed=0, dtype=dtype)


def regression() -> flow.Objective:
    """Return linear regression on standardised breast-cancer data: 31 parameters, J quadratic."""
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return flow.MLP([30, 1], activation="identity").objective(X, y[:, None].astype(float), seed=0)


def teacher(seed: int) -> flow.Objective:
    """Return 2-4-1 tanh on 100 points of the plane, with another's outputs: J falls to 0."""
    network, X = flow.MLP([2, 4, 1]), np.random.default_rng(0).standard_normal((100, 2))
    other = network.objective(X, np.zeros((100, 1)), seed=100 + seed)
    return network.objective(X, other.outputs(other.params), seed=seed)


PROBLEMS = {
    "digits, T = 100": Problem(digits, 100.0),
    "digits, T = 1,000": Problem(digits, 1000.0),
    "2-3-2": Problem(small, 2000.0, "Radau"),
    "1-100-1 on Chebyshev degree 3": Problem(chebyshev, 2000.0, "Radau"),
    "4-24-1 un-normalised": Problem(unnormalised, 800.0, "Radau"),
    "linear regression": Problem(regression, 1000.0, "Radau"),
    "64-200-200-10, all digits": Problem(all_digits, 20.0),
}


def main() -> None:
    """List the problems."""
    print(f"{'problem':32}{'parameters':>11}{'T':>8}{'λ_max(θ₀)':>12}")
    for name, problem in PROBLEMS.items():
        objective = problem.make()
        top = flow.sharpness(objective, objective.params)
        print(f"{name:32}{objective.size:11,}{problem.t:8,g}{top:12.3g}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
