"""Observers: functions of (objective, params), evaluated at the times that a run saves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flow.objective import Objective


@dataclass(frozen=True)
class Observer:
    """An observer that carries a state from save to save, the last eigenvectors for instance.

    Parameters
    ----------
    init
        ``init(objective, params) -> state``, called once at θ₀.
    update
        ``update(objective, params, state) -> (value, state)``, called at each save.
    """

    init: Callable[[Objective, Any], Any]
    update: Callable[[Objective, Any, Any], tuple[Any, Any]]


def test_loss(X: Any, y: Any) -> Callable[[Objective, Any], float]:
    """Observe the objective's loss on other examples, rows X and y.

    >>> import flow
    >>> train, held_out = flow.datasets.digits(50, test=20)
    >>> objective = flow.MLP([64, 10]).objective(*train)
    >>> observer = flow.observe.test_loss(*train)
    >>> observer(objective, objective.params) == objective.value(objective.params)
    True
    """
    return lambda objective, params: objective.value(params, data=(X, y))


def accuracy(X: Any, y: Any) -> Callable[[Objective, Any], float]:
    """Observe the fraction of rows X whose largest output is the largest entry of their row y.

    A single output is a logit: the class is 1 where it is positive.
    """
    labels = np.asarray(y)

    def observe(objective: Objective, params: Any) -> float:
        outputs = objective.outputs(params, X)
        if outputs.ndim == 1 or outputs.shape[1] == 1:
            return float(np.mean((outputs.ravel() > 0) == (labels.ravel() > 0.5)))  # noqa: PLR2004
        return float(np.mean(outputs.argmax(axis=1) == labels.argmax(axis=1)))

    return observe


test_loss.__test__ = False  # pytest collects functions named test_* where users import them
