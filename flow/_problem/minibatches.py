"""Mini-batches, drawn inside the compiled loop from a seed and the step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flow._core.checks import choice, positive_integer
from flow._core.pytrees import rows_of
from flow._core.user_warnings import warn
from flow._problem.objective import Objective

SAMPLINGS = ["iid", "epoch"]


class BatchWarning(UserWarning):
    """Gradients of mini-batches are in the mean not the gradient of the loss."""


class Batches(NamedTuple):
    """Mini-batches of `size` drawn from `examples`: "iid" with replacement, or "epoch"."""

    size: int
    examples: int
    sampling: str

    def order(self, key: Any, k: Any, order: Any) -> Any:
        """Return the order of the examples in the epoch of step k: a new one as an epoch begins."""
        if self.sampling == "iid":
            return order
        per_epoch = self.examples // self.size
        return jax.lax.cond(
            k % per_epoch == 0,
            lambda: jax.random.permutation(
                jax.random.fold_in(key, k // per_epoch), jnp.arange(self.examples, dtype=jnp.int32)
            ),
            lambda: order,
        )

    def draw(self, key: Any, k: Any, order: Any, data: Any) -> Any:
        """Return the batch of step k."""
        if self.sampling == "iid":
            index = jax.random.randint(
                jax.random.fold_in(key, k), (self.size,), 0, self.examples, dtype=jnp.int32
            )
        else:
            start = (k % (self.examples // self.size)) * self.size
            index = jax.lax.dynamic_slice(order, (start,), (self.size,))
        return jax.tree.map(lambda x: x[index], data)


def batches(objective: Objective, batch_size: Any, sampling: str) -> Batches | None:
    """Check what a user asked for; None is all the data in every step."""
    choice("sampling", sampling, SAMPLINGS)
    if batch_size is None:
        return None
    size = positive_integer("batch_size", batch_size)
    examples = rows_of(objective.arrays("batch_size"))
    if size > examples:
        raise ValueError(f"batch_size={size} is more than the {examples} examples")
    refuse_sums(objective, "batch_size=")
    if told := objective.departures().halves:
        warn(
            f"batch_size= draws batches of a loss that is no mean over examples: {told}. The mean "
            "of their gradients is not ∇J, as under batch normalisation, or where weights are "
            "divided by their sum",
            BatchWarning,
        )
    return Batches(size, examples, sampling)


def refuse_sums(objective: Objective, who: str) -> None:
    """Raise ValueError if the loss grows with the batch that it is given."""
    if told := objective.departures().twice:
        raise ValueError(
            f"{who} needs a loss that is a mean over the examples of a batch, but {told}; divide "
            "by the batch's examples, jnp.mean in place of jnp.sum, also in a hand-written "
            "gradient, and multiply no penalty by their number"
        )


def refuse_mixed(objective: Objective, who: str) -> None:
    """Raise ValueError if the loss is not the mean of what its examples add, each by itself."""
    refuse_sums(objective, who)
    if told := objective.departures().halves:
        raise ValueError(
            f"{who} needs a loss that is a mean over the examples of a batch, but {told}; batch "
            "normalisation mixes examples, and so do weights that are divided by their sum"
        )
