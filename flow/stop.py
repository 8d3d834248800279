"""Stop conditions: ``stop=flow.stop.gradient_norm(1e-8)``, or a list, of which any one stops.

Conditions on the loss and the gradient's norm are tested at every accepted step. Any function of
a record (a mapping with "t", "theta", "loss", "gradient_norm", "gradients" spent, and the
observables by name) may stand beside them, ``lambda record: record["accuracy"] > 0.95``; it is
tested at the saved times, where observables are known.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, isnan
from typing import Any, TypeAlias

from flow._core.checks import flag, positive, real, users
from flow._core.endings import ObserverFailed
from flow._core.keywords import own_keywords

Condition: TypeAlias = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Below:
    """True once a quantity of the record is at most a threshold."""

    quantity: str
    threshold: float

    def __call__(self, record: Mapping[str, Any]) -> bool:
        """Test one record."""
        return record[self.quantity] <= self.threshold


@own_keywords
def loss(threshold: float) -> Below:
    """Stop when J ≤ threshold.

    >>> loss(1e-3)({"loss": 5e-4})
    True
    """
    threshold = real("threshold", threshold)
    if isnan(threshold):
        raise ValueError("threshold must be a number, got nan: no loss is ever below it")
    return Below("loss", threshold)


@own_keywords
def gradient_norm(threshold: float) -> Below:
    """Stop when ‖∇J‖ ≤ threshold."""
    return Below("gradient_norm", positive("threshold", threshold))


@dataclass(frozen=True)
class StopConditions:
    """The conditions of a run, told apart by when they can be tested."""

    each_step: tuple[Below, ...]
    each_save: tuple[Condition, ...]

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.each_step or self.each_save)

    @property
    def thresholds(self) -> tuple[float, float]:
        """Return the loss and gradient norm at or below which a run stops, −∞ where not given."""
        given = {"loss": -inf, "gradient_norm": -inf}
        for condition in self.each_step:
            given[condition.quantity] = max(given[condition.quantity], condition.threshold)
        return given["loss"], given["gradient_norm"]

    def holding(self, record: Mapping[str, Any], *, saved: bool) -> str | None:
        """Say which condition a record meets, if any."""
        for condition in self.each_step:
            if condition(record):
                name = condition.quantity.replace("_", " ")
                return f"{name} {record[condition.quantity]:.6g} ≤ {condition.threshold:g}"
        for condition in self.each_save if saved else ():
            name = getattr(condition, "__name__", str(condition))
            try:
                with users(f"stop condition {name}"):
                    holds = flag("what a stop condition returns", condition(record))
            except Exception as error:
                if record["t"] == 0:
                    raise
                raise ObserverFailed(
                    f"stop condition {name} raised {type(error).__name__}: {error}"
                ) from error
            if holds:
                return f"condition {name} holds"
        return None


def conditions(
    stop: Condition | Iterable[Condition] | None, *, ascent: bool = False
) -> StopConditions:
    """Sort what a user gave as `stop` into what is tested when."""
    many = isinstance(stop, list | tuple)
    given: list[Any] = [] if stop is None else list(stop) if many else [stop]
    for condition in given:
        if not callable(condition):
            raise TypeError(
                f"stop must be flow.stop.loss(...), flow.stop.gradient_norm(...), a function of "
                f"the record, or a list of them; got {condition!r}"
            )
        if ascent and isinstance(condition, Below) and condition.quantity == "loss":
            raise ValueError(
                f"stop=flow.stop.loss({condition.threshold:g}) ends a run at J ≤ "
                f"{condition.threshold:g}, but with ascent=True J rises; give a function, "
                f"lambda record: record['loss'] >= {condition.threshold:g}"
            )
    return StopConditions(
        tuple(c for c in given if isinstance(c, Below)),
        tuple(c for c in given if not isinstance(c, Below)),
    )
