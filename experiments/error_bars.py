"""Compare error bars with the true errors of runs: sixteen problems, ten methods.

`flow.audit(path, error_bar=True)` runs a flow again, more tightly, and gives the distance. The
truth is diffrax's Dopri8, none of the ten, at rtol 1e-13, ended at each saved time, so that no
interpolant has a say in it. Each problem is run to its time and to a small part of that, which
takes few steps. Where the error exceeds 1e-12·‖θ‖, at the end and at the save at which it is
largest, the bar is to be half of it or more in 95 % of the runs, and a tenth in all; the study says
where it falls short. Prints how bar/error and the cost of the bar, in units of the run's own, are
distributed; writes all runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd
from problems import unnormalised
from tqdm import tqdm

import flow
from flow.records import Options, Record, Science, run_experiment, uninterrupted

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA", "RKC2", "TSRKC3", "Tsit5", "auto")
HALF, TENTH, MOST = 0.5, 0.1, 0.05
LEAST = 1e-12


@dataclass(frozen=True)
class Configuration(Options):
    """Compare error bars with the true errors of runs."""

    problems: Science[tuple[str, ...]] = ()
    """Problems, by words that their names have; all unless given."""
    methods: Science[tuple[str, ...]] = METHODS
    """Methods; those that are not for a dynamics are left out there."""
    rtols: Science[tuple[float, ...]] = (1e-2, 1e-4, 1e-6)
    """Relative tolerances; the absolute ones are a thousandth of them."""
    shares: Science[tuple[float, ...]] = (1.0, 0.04)
    """Lengths of the runs, as shares of a problem's time."""
    save: Science[int] = 13
    """Number of saved times."""
    dtype: Science[Literal["float64", "float32"]] = "float64"
    """Precision of the gradients; the truth's is double."""


def network(widths: str, X: Any, y: Any, loss: str = "mse", **options: Any) -> Callable:
    """Return a network's objective by precision; it takes as many columns of X as inputs."""
    sizes = [int(width) for width in widths.split("-")]
    made = flow.MLP(sizes, **options)
    return lambda dtype: made.objective(X[:, : sizes[0]], y, loss=loss, seed=1, dtype=dtype)


def function(loss: Callable, start: Any, data: Any = None) -> Callable:
    """Return a function's objective by precision."""
    start = np.array(start, float)
    return lambda dtype: flow.Objective(loss, start, data, dtype=dtype)


def problems() -> dict[str, tuple[Callable, Callable, float]]:
    """Name -> what makes the objective in a precision, what makes the dynamics of it, its time."""
    from sklearn.datasets import load_breast_cancer

    rng = np.random.default_rng(3)
    H, A = np.array([[1.0, 30.0, 1000.0]]), rng.standard_normal((30, 6))
    rows = np.array([[1.0, 0.2], [0.6, 1.5], [2.0, -0.3]])
    flows, ball = flow.GradientFlow, partial(partial, flow.HeavyBall)
    X, y = flow.datasets.digits(60)
    centre = X[:, 24:]
    cells, kinds = (a[:100] for a in load_breast_cancer(return_X_y=True))
    cells = (cells - cells.mean(axis=0)) / cells.std(axis=0)
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    odd = (corners.sum(axis=1, keepdims=True) == 1.0).astype(float)
    line = np.linspace(-1.0, 1.0, 20)[:, None]
    return {
        "quartic": (
            function(lambda x, h: (h * x**2 / 2 + x**4 / 10).sum(), [1, 1, 1], H),
            flows,
            3.0,
        ),
        "Rosenbrock": (
            function(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, [-1.2, 1]),
            flows,
            2.0,
        ),
        "Himmelblau": (
            function(
                lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2, [0.1, 0.1]
            ),
            flows,
            0.3,
        ),
        "product of two": (function(lambda x: (x[0] * x[1] - 3) ** 2 / 2, [0.1, 0.1]), flows, 2.5),
        "product of four": (
            function(lambda x: (jnp.prod(x) - 2) ** 2 / 2, [0.5, 0.6, 0.7, 0.8]),
            flows,
            8.0,
        ),
        "separable logistic": (
            function(lambda w, a: jnp.logaddexp(0.0, -a @ w).mean(), [0, 0], rows),
            flows,
            100.0,
        ),
        "phase retrieval": (
            function(
                lambda x, a: (((a[0] @ x) ** 2 - a[1]) ** 2).mean() / 4,
                0.3 * rng.standard_normal(6),
                (A, (A @ rng.standard_normal(6)) ** 2),
            ),
            flows,
            2.0,
        ),
        "double well, heavy ball": (
            function(lambda x: (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2 * (1 + x[0] ** 2), [0.1, 1]),
            ball(friction=0.3),
            10.0,
        ),
        "30-3-1, heavy ball": (
            network("30-3-1", cells, kinds[:, None].astype(float)),
            ball(friction=0.5),
            0.6,
        ),
        "8-4-10": (network("8-4-10", centre, y), flows, 30.0),
        "8-6-10, cross-entropy": (network("8-6-10", centre, y, "cross_entropy"), flows, 30.0),
        "8-5-5-10, softplus": (network("8-5-5-10", centre, y, activation="softplus"), flows, 30.0),
        "64-4-10, linear layers": (network("64-4-10", X, y, activation="identity"), flows, 20.0),
        "2-3-1 on XOR": (network("2-3-1", corners, odd, activation="sigmoid"), flows, 200.0),
        "1-16-1 on a sine": (network("1-16-1", line, np.sin(4.0 * line)), flows, 50.0),
        "4-24-1 un-normalised": (unnormalised, flows, 2.0),
    }


def truth(dynamics: flow.Dynamics, times: np.ndarray) -> np.ndarray:
    """Return θ at the times (times, n), each the end of a run."""
    tight = {"method": "Dopri8", "rtol": 1e-13, "atol": 1e-16, "progress": False}
    ends = [uninterrupted(flow.integrate(dynamics, t, save=[t], **tight)) for t in times[1:]]
    return np.array([dynamics.objective.theta, *(end.theta[-1] for end in ends)])


def runs(config: Configuration) -> Iterator[dict[str, Any]]:
    """Yield each run's error and bar, at the end and where the error is largest."""
    chosen = {
        name: problem
        for name, problem in problems().items()
        if not config.problems or any(word in name for word in config.problems)
    }
    if not chosen:
        raise ValueError(
            f"--problems {' '.join(config.problems)} is in no problem's name; there are "
            f"{', '.join(problems())}"
        )
    cases = [(name, share) for name in chosen for share in config.shares]
    for name, share in tqdm(cases, "problems", disable=config.quiet):
        make, of, t = chosen[name]
        times = np.linspace(0.0, share * t, config.save)
        exact, dynamics = truth(of(make("float64")), times), of(make(config.dtype))
        for method in config.methods:
            if method in ("RKC2", "TSRKC3") and not dynamics.has_real_spectrum:
                continue
            for rtol in config.rtols:
                path = flow.integrate(
                    dynamics,
                    times[-1],
                    method=method,
                    rtol=rtol,
                    atol=1e-3 * rtol,
                    save=times,
                    progress=False,
                )
                path = uninterrupted(path)
                audit = flow.audit(path, error_bar=True, progress=False)
                bar = audit.error_bar
                error = np.linalg.norm(path.theta - exact, axis=1)
                row = {"problem": name, "t": times[-1], "method": method, "rtol": rtol}
                row["cost"] = audit.units / path.units
                for where, i in (("end", -1), ("worst save", int(np.argmax(error)))):
                    if error[i] > LEAST * np.linalg.norm(exact[i]):
                        row |= {f"error, {where}": error[i], f"bar, {where}": bar[i]}
                yield row


def distribution(of: pd.DataFrame) -> dict[str, float]:
    """Summarise bar/error over runs, at both places; a bar of NaN is too small."""
    places = ("end", "worst save")
    ratio = pd.concat([of[f"bar, {w}"] / of[f"error, {w}"] for w in places])
    ratio = ratio[pd.concat([of[f"error, {w}"] for w in places]).notna()]
    return {
        "bars": len(ratio),
        "below half": 1.0 - (ratio >= HALF).mean(),
        "below a tenth": (~(ratio >= TENTH)).sum(),
        "smallest": ratio.min(),
        "5 %": ratio.quantile(0.05),
        "median": ratio.median(),
        "95 %": ratio.quantile(0.95),
        "largest": ratio.max(),
        "cost": of["cost"].median(),
        "largest cost": of["cost"].max(),
    }


def experiment(config: Configuration, record: Record) -> str | None:
    """Measure all runs, and how good their bars are by method and in all."""
    table = pd.DataFrame(list(runs(config)))
    record.table("runs", table)
    found = {method: distribution(of) for method, of in table.groupby("method", sort=False)}
    summary = pd.DataFrame(found | {"all": distribution(table)}).T
    record.table("summary", summary)
    print(summary.to_string(float_format="{:.3g}".format))
    whole = summary.loc["all"]
    if whole["below half"] > MOST or whole["below a tenth"]:
        return (
            f"{whole['below half']:.1%} of the bars are below half the error, "
            f"{whole['below a tenth']:g} below a tenth"
        )
    return None


if __name__ == "__main__":
    run_experiment(Configuration, experiment)
