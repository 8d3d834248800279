"""A network of continuous depth, trained by gradient flow, and the residual networks that near it.

Depth is a time of its own: features move from s = 0 to 1 by dx/ds = V(s) tanh(W(s)x + b(s)), and a
linear layer reads the class off x(1) (Chen et al. 2018). A residual network of L layers,
x_{l+1} = x_l + f(x_l, θ(l/L))/L, is Euler's method on that, as gradient descent is on the gradient
flow: its loss and gradient are off by O(1/L). The weights θ(s) = (1 − s)θ_first + sθ_last move
along θ̇ = −∇J; depth is integrated by RK4 inside the loss, and its gradient is that of the steps.

Trains the continuous network and residual networks of several depths by gradient flow from the same
weights on two half-moons; measures how loss, gradient and trained weights near those of continuous
depth, of order one in 1/L. Prints a table, writes a figure, the runs and the configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment

# Of the residual networks' distances to the continuous one, at most a millionth is RK4's.
TIGHT = {"rtol": 1e-9, "atol": 1e-12}


@dataclass(frozen=True)
class Configuration(Options):
    """A network of continuous depth, and the residual networks that near it."""

    may_be_zero = ("noise",)

    depths: Science[tuple[int, ...]] = (8, 16, 32, 64, 128)
    """Numbers of layers of the residual networks."""
    depth_steps: Science[int] = 32
    """Steps of RK4 through the continuous depth."""
    hidden: Science[int] = 16
    """Units of tanh in the field f."""
    examples: Science[int] = 200
    """Number of points of the two half-moons."""
    noise: Science[float] = 0.1
    """Standard deviation of the points about the half-moons."""
    t: Science[float] = 60.0
    """Flow time, learning rate × steps."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the points and of the initial weights."""
    save: Science[int] = 101
    """Number of saved times."""


@dataclass(frozen=True)
class Result:
    """The continuous network's run, and what is measured of each residual network beside it.

    Parameters
    ----------
    path
        Flow of the continuous network.
    residual
        Flows of the residual networks, by number of layers.
    gaps
        A row a number of layers.
    """

    path: flow.Trajectory
    residual: dict[int, flow.Trajectory]
    gaps: pd.DataFrame


def start(config: Configuration) -> dict[str, Any]:
    """Return θ₀: a field that is the same at all depths, and a random direction to read off."""
    rng = np.random.default_rng(config.seed)
    layer = {
        "W": rng.standard_normal((config.hidden, 2)) / np.sqrt(2),
        "b": np.zeros(config.hidden),
        "V": rng.standard_normal((2, config.hidden)) / np.sqrt(config.hidden),
    }
    return {"first": layer, "last": layer, "readout": rng.standard_normal(2), "bias": np.zeros(())}


def velocity(params: Any, s: Any, X: Any) -> Any:
    """Return f(x, θ(s)) of rows X (examples, 2)."""
    layer = jax.tree.map(lambda a, b: (1 - s) * a + s * b, params["first"], params["last"])
    return jnp.tanh(X @ layer["W"].T + layer["b"]) @ layer["V"].T


def euler(params: Any, s: Any, h: float, X: Any) -> Any:
    """Return a layer of a residual network."""
    return X + h * velocity(params, s, X)


def rk4(params: Any, s: Any, h: float, X: Any) -> Any:
    """Return a step of the classical method of order four."""
    k1 = velocity(params, s, X)
    k2 = velocity(params, s + h / 2, X + h / 2 * k1)
    k3 = velocity(params, s + h / 2, X + h / 2 * k2)
    k4 = velocity(params, s + h, X + h * k3)
    return X + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def through_depth(step: Callable, layers: int, params: Any, X: Any) -> tuple[Any, Any]:
    """Return rows at s = 1 (examples, 2), and at the start of each layer (layers, examples, 2)."""
    h = 1.0 / layers
    return jax.lax.scan(lambda X, s: (step(params, s, h, X), X), X, jnp.arange(layers) * h)


def network(config: Configuration, step: Callable, layers: int) -> flow.Objective:
    """Return binary cross-entropy of the network whose depth that method takes in so many steps."""

    def logits(params: Any, X: Any) -> Any:
        return through_depth(step, layers, params, X)[0] @ params["readout"] + params["bias"]

    return flow.Objective(
        outputs=logits,
        output_loss=lambda z, y: jnp.mean(jnp.logaddexp(0.0, z) - y * z),
        params=start(config),
        data=moons(config),
    )


def moons(config: Configuration) -> tuple[np.ndarray, np.ndarray]:
    """Return rows X (examples, 2), centred, and their class y (examples,)."""
    from sklearn.datasets import make_moons

    X, y = make_moons(config.examples, noise=config.noise, random_state=config.seed)
    return X - X.mean(axis=0), y.astype(float)


def compute(config: Configuration, record: Record) -> Result:
    """Train all networks, and measure their gaps to the continuous one."""
    settings = {"save": config.save, "progress": False, **TIGHT}
    observe = {"accuracy": flow.observe.accuracy(*moons(config))}
    continuous = network(config, rk4, config.depth_steps)
    bar = tqdm(total=1 + len(config.depths), desc="networks", disable=config.quiet)
    path = flow.integrate(continuous, config.t, observe=observe, **settings)
    record.keep("flow", path)
    bar.update()
    reference = measure(continuous, path)
    residual, gaps = {}, {}
    for layers in config.depths:
        objective = network(config, euler, layers)
        run = flow.integrate(objective, config.t, observe=observe, **settings)
        residual[layers] = record.keep(f"flow-{layers}-layers", run)
        bar.update()
        trained = residual[layers].theta[-1]
        gaps[layers] = {
            name: np.linalg.norm(value - reference[name]) / np.linalg.norm(reference[name])
            for name, value in measure(objective, path).items()
        } | {
            "trained weights": np.linalg.norm(trained - path.theta[-1])
            / np.linalg.norm(path.theta[-1] - path.theta[0]),
            "trained loss": residual[layers].loss[-1],
            "accuracy": residual[layers].observed["accuracy"][-1],
        }
    bar.close()
    table = pd.DataFrame.from_dict(gaps, orient="index")
    table.index.name = "layers"
    return Result(path, residual, table)


GAPS = ("loss at θ₀", "gradient at θ₀", "loss at θ_T", "gradient at θ_T", "trained weights")


def measure(objective: flow.Objective, path: flow.Trajectory) -> dict[str, Any]:
    """Return a network's loss and gradient at the continuous one's first and last weights."""
    found = {}
    for place, i in (("θ₀", 0), ("θ_T", -1)):
        value, gradient = objective.flat_value_and_gradient(path.theta[i])
        found |= {f"loss at {place}": value, f"gradient at {place}": gradient}
    return found


def slopes(gaps: pd.DataFrame) -> pd.Series:
    """Return fitted slopes of log gap against log 1/L."""
    depth = np.log(1.0 / gaps.index.to_numpy(float))
    return pd.Series({name: np.polyfit(depth, np.log(gaps[name]), 1)[0] for name in GAPS})


def draw(config: Configuration, result: Result, orders: pd.Series) -> Any:
    """Draw loss along t, the points' way through depth, distances against depth and along t."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    path = result.path
    axes[0, 0].semilogy(path.t, path.loss, color="black", linewidth=2, label="continuous depth")
    moved = np.linalg.norm(path.theta[-1] - path.theta[0])
    for i, (layers, run) in enumerate(result.residual.items()):
        look = {"color": COLOURS[i % len(COLOURS)], "label": f"{layers} layers"}
        axes[0, 0].semilogy(run.t, run.loss, linestyle="--", linewidth=1.4, **look)
        apart = np.linalg.norm(run.theta - path.theta, axis=1) / moved
        axes[1, 1].semilogy(run.t[1:], apart[1:], **look)
    axes[0, 0].set(xlabel=TIME_LABEL, ylabel="loss J", title="trained by gradient flow")
    axes[1, 1].set(
        xlabel=TIME_LABEL,
        ylabel="distance of weights, of the way moved",
        title="residual networks from the continuous one",
    )
    draw_depth(axes[0, 1], config, path.params(-1))
    for i, name in enumerate(GAPS):
        axes[1, 0].loglog(
            *(result.gaps.index, result.gaps[name]),
            color=COLOURS[i],
            marker=MARKERS[i],
            label=f"{name}, slope {orders[name]:.2f}",
        )
    axes[1, 0].set(
        xlabel="layers L of the residual network",
        ylabel="relative gap to continuous depth",
        title="Euler's method through depth",
    )
    low, high = axes[1, 0].get_ylim()
    axes[1, 0].set_ylim(low, high * 50)  # room for the legend
    axes[1, 0].set_xticks(result.gaps.index, result.gaps.index)
    axes[1, 0].xaxis.set_minor_locator(NullLocator())
    for ax in axes.flat:
        ax.grid(visible=True, alpha=0.3)
    for ax, place in ((axes[0, 0], "best"), (axes[1, 0], "upper right"), (axes[1, 1], "best")):
        ax.legend(fontsize="small", loc=place)
    return figure


def draw_depth(ax: Any, config: Configuration, params: Any) -> None:
    """Draw the points' way from s = 0 (small dots) to 1, and the line that parts them there."""
    X, y = moons(config)
    with jax.enable_x64(True):
        end, way = through_depth(rk4, config.depth_steps, params, X)
        way = np.concatenate([way, end[None]])
    for label, colour in enumerate((COLOURS[0], COLOURS[1])):
        of = way[:, y == label]
        ax.plot(of[:, ::4, 0], of[:, ::4, 1], color=colour, alpha=0.35, linewidth=0.8)
        ax.plot(*of[0].T, linestyle="none", marker=".", markersize=2.5, color="0.4")
        ax.plot(*of[-1].T, linestyle="none", marker=MARKERS[label], markersize=3.5, color=colour)
    limits = ax.get_xlim(), ax.get_ylim()
    w, c = params["readout"], params["bias"]
    foot = -c * w / (w @ w)
    along = np.array([-w[1], w[0]]) / np.linalg.norm(w) * 100.0
    ax.plot(*np.stack([foot - along, foot + along]).T, color="black", linestyle="--", linewidth=1)
    ax.set(xlim=limits[0], ylim=limits[1], xlabel="x₁", ylabel="x₂")
    ax.set_title("inputs (grey) through depth to s = 1; dashed: p = ½")


def experiment(config: Configuration, record: Record) -> str | None:
    """Return continuous and residual networks."""
    if len(set(config.depths)) < 2:  # noqa: PLR2004
        raise ValueError(f"--depths needs two numbers of layers for a slope: {config.depths}")
    result = compute(config, record)
    orders = slopes(result.gaps)
    record.table("table", result.gaps)
    record.table("slopes", orders.rename("slope").to_frame())
    record.figure("figure", draw(config, result, orders))
    print(result.gaps.to_string(float_format=lambda x: f"{x:.3g}"), end="\n\n")
    print("slopes against 1/L: " + ", ".join(f"{n} {slope:.2f}" for n, slope in orders.items()))
    path = result.path
    print(
        f"continuous depth: J {path.loss[0]:.4g} → {path.loss[-1]:.4g}, accuracy "
        f"{path.observed['accuracy'][-1]:.3f}, {path.stats['gradients']:,} gradients; "
        f"{path.result}"
    )
    print(f"{flow.audit(path)}\n")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
