"""Stochastic gradient descent beside the SDE that models it, as ensembles.

(a) A quadratic whose noise is that of the data, J = mean of ½Σλ(x − aᵢ)²: mean and covariance along
t of the SDE (`flow.StochasticFlow`), of SGD with batches drawn independently, and of SGD on
reshuffled epochs, each against its closed form. In the end the variance is ησ²/(2λ) of the SDE and
ησ²/(λ(2 − ηλ)) of SGD, σ² that of a batch's gradient; that of reshuffled epochs is much smaller.
(b) A network that learns the diabetes data: mean and spread of the loss of both ensembles along t.
(c) |E J(SGD) − E J(SDE)| of the quadratic at a fixed time against η: weak order 1.
Bars are standard errors. Prints tables, writes a figure, the tables, a path of each ensemble and
the configuration.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted, whole_steps

# λ of (a), and where it starts; (c) starts so far out that noise is a small part of J.
CURVATURES, START, FAR = np.array([1.0, 0.25]), np.array([1.0, 1.0]), np.array([5.0, 5.0])
# Euler–Maruyama's step in (a), at most: its stationary variance is hλ/2 too large.
STEP = 0.01
# Its steps in one of SGD's in (b): its own weak error is so small a part of what is seen.
SUBSTEPS = 8


@dataclass(frozen=True)
class Configuration(Options):
    """Stochastic gradient descent beside the SDE that models it."""

    examples: Science[int] = 60
    """Number of examples, of (a) and (b) alike."""
    batch_size: Science[int] = 6
    """Examples in a mini-batch; divides their number."""
    learning_rates: Science[tuple[float, ...]] = (1.0, 0.5, 0.2)
    """Learning rates of (a), below 2."""
    t: Science[float] = 12.0
    """Flow time of (a), learning rate × steps."""
    paths: Science[int] = 1000
    """Paths of each ensemble of (a) and (c)."""
    hidden: Science[int] = 8
    """Hidden units of the network."""
    network_rates: Science[tuple[float, ...]] = (0.4, 0.1)
    """Learning rates of (b)."""
    t_network: Science[float] = 20.0
    """Flow time of (b)."""
    network_paths: Science[int] = 200
    """Paths of each ensemble of (b)."""
    order_rates: Science[tuple[float, ...]] = (0.2, 0.1, 0.05)
    """Learning rates of (c)."""
    t_order: Science[float] = 1.0
    """Flow time of (c)."""
    save: Science[int] = 21
    """Number of saved times of each run."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of data, initial weights and noise."""


class Ensemble(NamedTuple):
    """θ (paths, times, n) and J (paths, times) of many runs."""

    t: np.ndarray
    theta: np.ndarray
    loss: np.ndarray


class Law(NamedTuple):
    """Mean (times, n) and covariance (times, n, n) in closed form."""

    mean: np.ndarray
    covariance: np.ndarray


def quadratic(config: Configuration) -> flow.Objective:
    """Return J = mean of ½Σλ(x − aᵢ)², of normal data with correlation."""
    normal = np.random.default_rng(config.seed).standard_normal((config.examples, 2))
    data = normal @ np.array([[1.0, 0.6], [0.0, 0.8]])

    def loss(x: Any, a: Any) -> Any:
        return 0.5 * (CURVATURES * (x - a) ** 2).sum(axis=1).mean()

    return flow.Objective(loss, START, data)


def network(config: Configuration) -> flow.Objective:
    """Return a 10-hidden-1 network on the diabetes data, both sides standardised."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    X, y = X[: config.examples], y[: config.examples]
    X, y = ((a - a.mean(axis=0)) / a.std(axis=0) for a in (X, y))
    return flow.MLP([10, config.hidden, 1]).objective(X, y, seed=config.seed)


def ensembles(
    dynamics: flow.StochasticFlow, t: float, paths: int, substeps: int, config: Configuration
) -> tuple[dict[str, Ensemble], flow.Trajectory]:
    """Run the SDE, SGD and, at the ends of epochs, SGD on reshuffled data; and one SDE path."""
    rate, per_epoch = dynamics.learning_rate, dynamics.examples // dynamics.batch_size
    last = whole_steps("a learning rate", t, rate)
    steps = np.unique(np.rint(np.linspace(0, last, config.save)).astype(int))
    seed = config.seed + last  # of its own for each learning rate
    sde = flow.integrate(
        dynamics,
        last * rate,
        step=rate / substeps,
        save=steps * rate,
        paths=paths,
        seed=seed,
        progress=not config.quiet,
    )
    if not uninterrupted(sde).result.startswith("reached"):
        raise ValueError(f"the SDE at learning rate {rate:g} diverged: {sde.result}")
    ends = np.unique(steps // per_epoch) * per_epoch
    found = {"SDE": Ensemble(sde.t[0], sde.theta, sde.loss)}
    seeds = np.random.SeedSequence(seed).generate_state(paths).tolist()
    for name, at, sampling in (("SGD", steps, "iid"), ("epochs", ends, "epoch")):
        runs = flow.descend(
            dynamics.objective,
            rate,
            int(at[-1]),
            batch_size=dynamics.batch_size,
            sampling=sampling,
            seed=seeds,
            save=at * rate,
            progress=not config.quiet,
        )
        found[name] = Ensemble(at * rate, uninterrupted(runs).theta, runs.loss)
    return found, sde.member(0)


def laws(
    objective: flow.Objective, rate: float, batch_size: int, times: dict[str, np.ndarray]
) -> dict[str, Law]:
    """Return the closed forms of (a)."""
    data, N = np.asarray(objective.data), len(objective.data)
    centre, spread = data.mean(axis=0), np.cov(data.T, bias=True)
    noise = np.outer(CURVATURES, CURVATURES) * spread
    kept, away = 1.0 - rate * CURVATURES, START - centre
    decay, both = np.add.outer(CURVATURES, CURVATURES), np.outer(kept, kept)
    t = times["SDE"][:, None, None]
    k, e = (np.rint(times[name] / rate) for name in ("SGD", "epochs"))
    # Without replacement Cov(ā_k, ā_l) = S²(δ_kl/B − 1/N), S² = spread·N/(N − 1); the weight of
    # the k-th of an epoch's K batches is (1 − ηλ)^{K−1−k}.
    K = N // batch_size
    powers = kept ** np.arange(K)[:, None]
    shuffled = powers.T @ powers / batch_size - np.outer(powers.sum(0), powers.sum(0)) / N
    epoch = rate**2 * noise * N / (N - 1) * shuffled / (1.0 - both**K)
    return {
        "SDE": Law(
            centre + away * np.exp(-CURVATURES * times["SDE"][:, None]),
            rate * noise / batch_size * -np.expm1(-decay * t) / decay,
        ),
        "SGD": Law(
            centre + away * kept ** k[:, None],
            rate**2 * noise / batch_size * (1.0 - both ** k[:, None, None]) / (1.0 - both),
        ),
        "epochs": Law(centre + away * kept ** e[:, None], epoch * (1.0 - both ** e[:, None, None])),
    }


def deviations(found: Ensemble, law: Law) -> tuple[float, float]:
    """Return the largest deviation of mean and covariance from the law, in standard errors.

    Of a normal ensemble of P paths Var(V_ij) = (V_ii V_jj + V_ij²)/(P − 1).
    """
    theta, P = found.theta[:, 1:], len(found.theta)
    V = law.covariance[1:]
    diagonal = np.einsum("tii->ti", V)
    centred = theta - theta.mean(axis=0)
    covariance = np.einsum("pti,ptj->tij", centred, centred) / (P - 1)
    bar = np.sqrt((diagonal[:, :, None] * diagonal[:, None, :] + V**2) / (P - 1))
    mean = (theta.mean(axis=0) - law.mean[1:]) / np.sqrt(diagonal / P)
    return float(np.abs(mean).max()), float((np.abs(covariance - V) / bar).max())


def quadratic_table(runs: dict[float, Any], config: Configuration) -> pd.DataFrame:
    """Return variances at the end, a row an η, a λ and an ensemble."""
    rows = []
    for rate, (found, theory) in runs.items():
        for name, ensemble in found.items():
            mean, covariance = deviations(ensemble, theory[name])
            for i, curvature in enumerate(CURVATURES):
                variance = ensemble.theta[:, -1, i].var(ddof=1)
                rows.append(
                    {
                        "η": rate,
                        "λ": curvature,
                        "ensemble": name,
                        "variance": variance,
                        "± standard error": variance * np.sqrt(2.0 / (config.paths - 1)),
                        "closed form": theory[name].covariance[-1, i, i],
                        "in ησ²/2λ": variance / stationary(runs, rate, i),
                        "mean off by, at most": mean,
                        "covariance off by, at most": covariance,
                    }
                )
    return pd.DataFrame(rows).set_index(["η", "λ", "ensemble"])


def stationary(runs: dict[float, Any], rate: float, i: int) -> float:
    """Return ησ²/(2λ_i)."""
    law = runs[rate][1]["SDE"].covariance[-1, i, i]
    t = runs[rate][0]["SDE"].t[-1]
    return law / -np.expm1(-2.0 * CURVATURES[i] * t)


def network_table(runs: dict[float, dict[str, Ensemble]]) -> pd.DataFrame:
    """Return mean and spread of J at the end, and the largest gap of SDE and SGD on the way."""
    rows = []
    for found in runs.values():
        (sde, sgd), n = (found["SDE"].loss, found["SGD"].loss), len(found["SDE"].loss)
        gap = sgd.mean(axis=0) - sde.mean(axis=0)
        bar = np.sqrt((sgd.var(axis=0, ddof=1) + sde.var(axis=0, ddof=1)) / n)
        most = int(np.argmax(np.abs(gap)))
        rows.append(
            {
                "E J, SDE": sde[:, -1].mean(),
                "E J, SGD": sgd[:, -1].mean(),
                "± standard error of the gap": bar[-1],
                "largest gap": gap[most],
                "± its standard error": bar[most],
                "at t": found["SDE"].t[most],
                "spread, SDE": sde[:, -1].std(ddof=1),
                "spread, SGD": sgd[:, -1].std(ddof=1),
                "spread, epochs": found["epochs"].loss[:, -1].std(ddof=1),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(runs, name="η"))


# Colour, marker and line of each ensemble.
LOOKS = {
    "SDE": ("black", "D", "-"),
    "SGD": (COLOURS[3], "o", "-"),
    "epochs": (COLOURS[0], "s", ":"),
}


def draw_quadratic(runs: dict[float, Any], axes: Any, config: Configuration) -> None:
    """Draw mean and variance along t at the middle η, and the last variances of all."""
    rate = sorted(runs)[len(runs) // 2]
    found, theory = runs[rate]
    for name, ensemble in found.items():
        colour, marker, dashes = LOOKS[name]
        line = {"color": colour, "linestyle": dashes, "linewidth": 1.2}
        points = {"color": colour, "linestyle": "none", "marker": marker, "markersize": 4}
        x, law = ensemble.theta[:, :, 0], theory[name]
        axes[0].plot(ensemble.t, law.mean[:, 0], **line)
        axes[0].plot(ensemble.t, x.mean(axis=0), **points)
        axes[1].plot(ensemble.t, law.covariance[:, 0, 0], **line)
        axes[1].plot(ensemble.t, x.var(axis=0, ddof=1), **points)
        for other, (ensembles_, _) in runs.items():
            for i, curvature in enumerate(CURVATURES):
                ratio = ensembles_[name].theta[:, -1, i].var(ddof=1)
                ratio /= stationary(runs, other, i)
                bar = 2.0 * ratio * np.sqrt(2.0 / (config.paths - 1))
                axes[2].errorbar(other * curvature, ratio, bar, **points)
    share = np.linspace(0.0, 1.05 * max(runs), 100)
    axes[2].axhline(1.0, color=LOOKS["SDE"][0], linewidth=1.2)
    axes[2].plot(share, 1.0 / (1.0 - share / 2.0), color=LOOKS["SGD"][0], linewidth=1.2)
    axes[0].set(title=f"(a) mean, η = {rate:g}, λ = 1", ylabel="E x₁", xlabel=TIME_LABEL)
    axes[1].set(title=f"(a) variance, η = {rate:g}, λ = 1", ylabel="Var x₁", xlabel=TIME_LABEL)
    axes[2].set(title="(a) last variance ± 2 s.e.", xlabel="ηλ", ylabel="Var x in units of ησ²/2λ")
    for ax in axes[1:]:
        ax.set_ylim(0, None)


def draw_network(runs: dict[float, dict[str, Ensemble]], axes: Any) -> None:
    """Draw mean and standard deviation of J along t."""
    for i, (rate, found) in enumerate(runs.items()):
        for name, dashes in (("SDE", "-"), ("SGD", "none")):
            ensemble = found[name]
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": dashes}
            if name == "SGD":
                look |= {"marker": MARKERS[i % len(MARKERS)], "markersize": 4}
            label = f"{name}, η = {rate:g}"
            axes[0].semilogy(ensemble.t, ensemble.loss.mean(axis=0), **look, label=label)
            axes[1].plot(ensemble.t[1:], ensemble.loss[:, 1:].std(axis=0, ddof=1), **look)
    axes[0].set(title="(b) network, mean loss", xlabel=TIME_LABEL, ylabel="E J")
    axes[1].set(title="(b) network, spread", xlabel=TIME_LABEL, ylabel="standard deviation of J")
    axes[0].legend()


def draw_order(study: flow.OrderStudy, ax: Any) -> None:
    """Draw the weak error against η."""
    rates, slope = study.learning_rates, study.slope
    ax.errorbar(
        rates, study.distance, 2 * study.standard_error, fmt="o", color=COLOURS[0], label="± 2 s.e."
    )
    centre = np.exp(np.mean(np.log(study.distance) - slope * np.log(rates)))
    ax.loglog(rates, centre * rates**slope, color="black", label=f"slope {slope:.2f}")
    ax.set(
        title=f"(c) weak error at t = {study.t:g}",
        xlabel="learning rate η",
        ylabel="|E J(SGD) − E J(SDE)|",
    )
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend()


def draw(quadratics: Any, networks: Any, study: flow.OrderStudy, config: Configuration) -> Any:
    """Draw all panels."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    draw_quadratic(quadratics, axes[0], config)
    draw_network(networks, axes[1, :2])
    draw_order(study, axes[1, 2])
    for ax in axes.flat:
        ax.grid(visible=True, alpha=0.3)
    handles = [
        axes[0, 0].plot([], [], dashes, color=colour, marker=marker, markersize=4)[0]
        for colour, marker, dashes in LOOKS.values()
    ]
    names = ["SDE", "SGD, i.i.d. batches", "SGD, reshuffled epochs (lines: closed forms)"]
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure


def check(config: Configuration) -> None:
    """Refuse what makes no sense, before all."""
    for name, t in (
        ("learning_rates", config.t),
        ("network_rates", config.t_network),
        ("order_rates", config.t_order),
    ):
        for rate in getattr(config, name):
            whole_steps(f"--{name.replace('_', '-')}", t, rate)
    if max(config.learning_rates) >= 2.0 / CURVATURES.max():
        raise ValueError(
            f"--learning-rates {max(config.learning_rates):g} is beyond the limit of stability, "
            f"{2.0 / CURVATURES.max():g}"
        )
    if config.examples % config.batch_size:
        raise ValueError(
            f"--batch-size {config.batch_size} does not divide --examples {config.examples}, as "
            "the closed form of epochs needs"
        )


def experiment(config: Configuration, record: Record) -> str | None:
    """Return the quadratic, the network, and the weak order."""
    check(config)
    objective, quadratics, networks = quadratic(config), {}, {}
    model = network(config)
    for rate in tqdm(config.learning_rates, desc="quadratic", disable=config.quiet):
        dynamics = flow.StochasticFlow(objective, rate, config.batch_size)
        found, path = ensembles(dynamics, config.t, config.paths, int(np.ceil(rate / STEP)), config)
        record.keep(f"quadratic-{rate:g}", path)
        times = {name: ensemble.t for name, ensemble in found.items()}
        quadratics[rate] = found, laws(objective, rate, config.batch_size, times)
    for rate in tqdm(config.network_rates, desc="network", disable=config.quiet):
        dynamics = flow.StochasticFlow(model, rate, config.batch_size)
        networks[rate], path = ensembles(
            dynamics, config.t_network, config.network_paths, SUBSTEPS, config
        )
        record.keep(f"network-{rate:g}", path)
    study = flow.order_study(
        flow.StochasticFlow(objective.starting_at(FAR), config.order_rates[0], config.batch_size),
        config.t_order,
        config.order_rates,
        paths=config.paths,
        seed=config.seed,
        progress=not config.quiet,
    )
    tables = {
        "quadratic": quadratic_table(quadratics, config),
        "network": network_table(networks),
        "order": study.table(),
    }
    record.figure("figure", draw(quadratics, networks, study, config))
    for name, table in tables.items():
        record.table(name, table)
        print(f"{table.to_string(float_format='{:.4g}'.format)}\n")
    print(f"weak order: {study.slope:.2f}")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"batch{c.batch_size}")
