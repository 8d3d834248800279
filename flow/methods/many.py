"""Ways for members of an ensemble to share a call: side by side, in turn, over several devices.

Each takes (run, common, *arguments): a function of what all members have in common and of the
arguments of one, and arguments that have a leading axis, the member.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flow._core.pytrees import PyTree

# Floating-point operations of a gradient below which a CPU computes several in less time side by
# side: up to 4-12-1 on 40 examples (32,000), not for 4-24-1 on 64.
SMALL = 40_000
AXIS = "members"


def side_by_side(run: Callable, common: PyTree, *arguments: Any) -> Any:
    """Run many members at once, each call of the gradient being of all.

    A loop goes on until every member has ended; those that have are not changed by it, as
    `jax.vmap` masks the carry of a `while_loop`. At each attempt all wait for the member with the
    most stages.
    """
    return jax.vmap(partial(run, common))(*arguments)


def in_turn(run: Callable, common: PyTree, *arguments: Any) -> Any:
    """Run many members in one call, one after the other, none waiting for another's stages."""
    return jax.lax.map(lambda one: run(common, *one), arguments)


def way(gradient: Callable, *arguments: Any) -> Callable:
    """Return how many members are computed in one call, by what a gradient costs: one of the above.

    A CPU has no room beside a gradient of more than `SMALL` operations: there members would only
    wait for each other.
    """
    if jax.default_backend() != "cpu":
        return side_by_side
    cost = jax.jit(gradient).lower(*arguments).cost_analysis() or {}
    return side_by_side if cost.get("flops", np.inf) < SMALL else in_turn


@dataclass(frozen=True)
class OnDevices:
    """Equal parts of the members on each of several devices, none of which waits for another.

    Parameters
    ----------
    over
        How a device computes its own part.
    devices
        Of this process.
    """

    over: Callable
    devices: tuple[Any, ...]

    def __call__(self, run: Callable, common: PyTree, *arguments: Any) -> Any:
        """Run all members, traced by JAX; their number is a multiple of that of the devices."""
        split = jax.shard_map(
            partial(self.over, run),
            mesh=self._mesh,
            in_specs=(P(), *[P(AXIS)] * len(arguments)),
            out_specs=P(AXIS),
            check_vma=False,  # nothing is said to be alike on all devices
        )
        return split(common, *arguments)

    def copied(self, data: PyTree) -> PyTree:
        """Return what all members see, on each device."""
        return jax.device_put(data, NamedSharding(self._mesh, P()))

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))


def shared(over: Callable, devices: tuple[Any, ...] | None) -> Callable:
    """Return the way on one device, or on several."""
    return over if devices is None else OnDevices(over, devices)


def padded(over: Callable, rows: PyTree) -> PyTree:
    """Return rows of the members, the last one repeated until they divide over the devices.

    >>> padded(OnDevices(in_turn, (0, 1, 2)), np.arange(4))
    array([0, 1, 2, 3, 3, 3])
    """
    if not isinstance(over, OnDevices):
        return rows

    def pad(x: Any) -> Any:
        xp = jnp if isinstance(x, jax.Array) else np
        lacking = -len(x) % len(over.devices)
        return xp.concatenate([x, xp.repeat(x[-1:], lacking, axis=0)])

    return jax.tree.map(pad, rows)
