"""Observers: functions of (objective, params), evaluated at the times that a run saves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from flow import spectrum
from flow._core.checks import numbers, positive, positive_integer, random_seed
from flow._core.display import Shown
from flow._core.keywords import own_keywords
from flow._core.pickling import Travels
from flow._problem.objective import Objective
from flow.spectrum.hessian import hessian
from flow.spectrum.warm_start import start_block, track

MOST_SUMS = 2**16  # two bytes


@own_keywords
@dataclass(frozen=True)
class Observer(Shown, Travels):
    """An observer that carries a state from save to save, the last eigenvectors for instance.

    Parameters
    ----------
    init
        ``init(objective, params) -> state``, called once at θ₀.
    update
        ``update(objective, params, state) -> (value, state)``, called at each save.
    reads_run
        Whether `update` also takes what else the run carries, ``update(objective, params, state,
        run)``: a mapping with "t" and what ``path.state`` will have, moments for instance.
    """

    init: Callable[[Objective, Any], Any]
    update: Callable[..., tuple[Any, Any]]
    reads_run: bool = False


@own_keywords
def test_loss(X: Any, y: Any) -> Callable[[Objective, Any], float]:
    """Observe the objective's loss on other examples, rows X and y.

    >>> import flow
    >>> train, held_out = flow.datasets.digits(50, test=20)
    >>> objective = flow.MLP([64, 10]).objective(*train)
    >>> observer = flow.observe.test_loss(*train)
    >>> observer(objective, objective.params) == objective.value(objective.params)
    True
    """
    return partial(_loss_on, (X, y))


def _loss_on(data: Any, objective: Objective, params: Any) -> float:
    return objective.value(params, data=data)


@own_keywords
def accuracy(X: Any, y: Any) -> Callable[[Objective, Any], float]:
    """Observe the fraction of rows X whose largest output is the largest entry of their row y.

    Or, where y is (examples,), the output that it counts, 0, 1, ... A single output is a logit: the
    class is 1 where it is positive.
    """
    return partial(_accuracy, X, numbers("y", y, bools=True))


def _accuracy(X: Any, labels: np.ndarray, objective: Objective, params: Any) -> float:
    outputs = objective.outputs(params, X)
    classes = outputs.shape[-1]
    counted = labels.shape in [outputs.shape[:1], (*outputs.shape[:1], 1)]
    if outputs.ndim > 1 and classes > 1 and counted:
        wrong = labels[(labels != np.rint(labels)) | (labels < 0) | (labels >= classes)]
        if wrong.size:
            raise ValueError(f"y must count the {classes} outputs from 0, got {wrong[0]:g}")
        return float(np.mean(outputs.argmax(axis=1) == labels.ravel()))
    if outputs.size != labels.size:
        raise ValueError(
            f"y has shape {labels.shape}, but the network's outputs on X {outputs.shape}; "
            "classes are one-hot rows, np.eye(classes)[y]"
        )
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return float(np.mean((outputs.ravel() > 0) == (labels.ravel() > 0.5)))  # noqa: PLR2004
    return float(np.mean(outputs.argmax(axis=1) == labels.argmax(axis=1)))


@own_keywords
def projection(k: int = 1024, seed: int = 0) -> Callable[[Objective, Any], np.ndarray]:
    """Observe Pθ (k,), a random projection that keeps distances: E‖P(a − b)‖² = ‖a − b‖².

    Each entry of θ goes with a random sign into a random one of k sums (Charikar, Chen and
    Farach-Colton 2002, count sketch): two bytes an entry and one pass. The standard deviation of
    ‖P(a − b)‖²/‖a − b‖² is at most √(2/k), 4.4 % here. Of no more than k parameters it is θ itself.

    >>> import flow
    >>> objective = flow.Objective(lambda x: x @ x, np.arange(10_000.0))
    >>> P = flow.observe.projection()
    >>> a, b = P(objective, objective.params), P(objective, objective.params + 1.0)
    >>> bool(abs(np.linalg.norm(a - b) / 100.0 - 1.0) < 0.05)
    True
    """
    if positive_integer("k", k) > MOST_SUMS:
        raise ValueError(f"k must be at most {MOST_SUMS:,}, got {k:,}")
    return _Projection(k, random_seed(seed))


@dataclass(frozen=True, eq=False)
class _Projection:
    k: int
    seed: int
    drawn: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the drawn numbers, as another process draws the same."""
        return vars(self) | {"drawn": {}}

    def __call__(self, objective: Objective, params: Any) -> np.ndarray:
        theta = objective.flatten(params)
        if (n := theta.size) <= self.k:
            return theta
        if n not in self.drawn:
            rng = np.random.default_rng(self.seed)
            sums = rng.integers(self.k, size=n, dtype=np.uint16)
            self.drawn[n] = sums, rng.choice(np.array([-1, 1], np.int8), n)
        sums, signs = self.drawn[n]
        return np.bincount(sums, theta * signs, self.k)


@own_keywords
def sharpness(tol: float = 1e-3) -> Observer:
    """Observe λ_max(∇²J), warm-started from save to save.

    Parameters
    ----------
    tol
        Residual ‖Hu − λu‖ over the largest |λ| that was met, which bounds the error of λ alike;
        where λ is apart from the next eigenvalue the error is of the order of its square.

    Examples
    --------
    >>> import flow
    >>> objective = flow.MLP([64, 10, 10]).objective(*flow.datasets.digits(100))
    >>> path = flow.integrate(objective, t=1.0, save=5, observe={"top": flow.observe.sharpness()})
    >>> exact = flow.sharpness(objective, path.params(-1))
    >>> bool(abs(path.observed["top"][-1] / exact - 1) < 1e-4)
    True
    """
    positive("tol", tol)

    def update(objective: Objective, params: Any, block: np.ndarray) -> tuple[float, np.ndarray]:
        pairs, block = track(hessian(objective, params), block, 1, "top", tol)
        return float(pairs.values[0]), block

    return Observer(lambda objective, params: start_block(objective.size, 1), update)


@own_keywords
def top_eigenvalues(k: int, tol: float = 1e-3) -> Observer:
    """Observe the k largest eigenvalues of ∇²J (k,), warm-started; `tol` as in `sharpness`."""
    return _eigenvalues(k, "top", tol)


@own_keywords
def bottom_eigenvalues(k: int = 1, tol: float = 1e-3) -> Observer:
    """Observe the k smallest eigenvalues of ∇²J (k,), warm-started; `tol` as in `sharpness`."""
    return _eigenvalues(k, "bottom", tol)


@own_keywords
def adam_sharpness(
    learning_rate: float, b2: float = 0.999, eps: float = 1e-8, tol: float = 1e-3
) -> Observer:
    """Observe λ_max(P^{−½}∇²J P^{−½}), P = √v̂ + ε, along `optax.adam` or `flow.AdamFlow`.

    v̂ = v/(1 − β₂ᵏ) with k = t/η. The limit is (2 + 2β₁)/((1 − β₁)η), 38/η by default. NaN at
    t = 0, where there is no v̂. Defaults are those of `optax.adam`; `tol` as in `sharpness`.
    """
    positive("learning_rate", learning_rate)
    if positive("b2", b2) >= 1.0:
        raise ValueError(f"b2 must lie between 0 and 1, got {b2}")

    def preconditioner(run: Mapping[str, Any]) -> np.ndarray:
        gone = -np.expm1(run["t"] / learning_rate * np.log(b2))
        return np.sqrt(np.maximum(run["nu"], 0.0) / gone) + eps

    return _preconditioned(preconditioner, eps, tol)


@own_keywords
def rmsprop_sharpness(eps: float = 1e-8, tol: float = 1e-3) -> Observer:
    """Observe λ_max(P^{−½}∇²J P^{−½}), P = √(v + ε), along `optax.rmsprop` or its flow.

    The limit is 2/η. NaN at t = 0, where v = 0; `tol` as in `sharpness`.
    """
    return _preconditioned(lambda run: np.sqrt(np.maximum(run["nu"], 0.0) + eps), eps, tol)


def _preconditioned(
    preconditioner: Callable[[Mapping[str, Any]], np.ndarray], eps: float, tol: float
) -> Observer:
    positive("eps", eps)
    positive("tol", tol)

    def update(
        objective: Objective, params: Any, block: np.ndarray, run: Mapping[str, Any]
    ) -> tuple[float, np.ndarray]:
        if "nu" not in run:
            raise ValueError(
                "the second moment is needed, which this run has not; this observer is for "
                "optax.adam, optax.rmsprop and their flows"
            )
        if run["t"] == 0:
            return np.nan, block
        pairs, block = track(hessian(objective, params, preconditioner(run)), block, 1, "top", tol)
        return float(pairs.values[0]), block

    return Observer(lambda objective, _: start_block(objective.size, 1), update, reads_run=True)


def _eigenvalues(k: int, end: str, tol: float) -> Observer:
    k, tol = positive_integer("k", k), positive("tol", tol)

    def init(objective: Objective, _: Any) -> np.ndarray:
        if k > objective.size:
            raise ValueError(
                f"k={k} eigenvalues of a Hessian of size {objective.size}: k is at most that"
            )
        return start_block(objective.size, k)

    def update(
        objective: Objective, params: Any, block: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        pairs, block = track(hessian(objective, params), block, k, end, tol)
        return pairs.values, block

    return Observer(init, update)


def as_observer(observer: Any) -> Any:
    """Return what a user gave; `flow.sharpness` is warm-started, at a residual of 1e-4."""
    return sharpness(1e-4) if observer is spectrum.sharpness else observer


test_loss.__test__ = False  # pytest collects functions named test_* where users import them
