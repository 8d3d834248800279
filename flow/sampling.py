"""Mini-batches, drawn inside the compiled loop from a seed and the step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flow.checks import choice, positive_integer
from flow.objective import Objective
from flow.pytrees import rows_of

SAMPLINGS = ["iid", "epoch"]


class Batches(NamedTuple):
    """How mini-batches of `size` are drawn from `examples`: "iid" with replacement, or "epoch"."""

    size: int
    examples: int
    sampling: str

    def order(self, key: Any, k: Any, order: Any) -> Any:
        """The order of the examples in the epoch of step k: a new one as an epoch begins."""
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
        """The batch of step k."""
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
    return Batches(size, examples, sampling)
