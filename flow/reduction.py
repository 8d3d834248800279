"""The mean over all examples: in chunks that memory holds, and on each device its own part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flow.host_batches import HostBatches
from flow.pytrees import PyTree, rows_of

Mean = Callable[[PyTree, PyTree], PyTree]


@dataclass(frozen=True)
class Reduction:
    """How a function that is a mean over a batch's rows is taken over all examples.

    Parameters
    ----------
    examples
        Rows of all the data; a batch of other length is taken as it is. 0 without data.
    chunk
        Rows that are computed at once, on each device; None for all.
    mesh
        Devices that each hold a part of the rows; None where one holds them all.
    source
        What the rows are read from as they are needed, in place of data.
    """

    examples: int
    chunk: int | None = None
    mesh: Mesh | None = None
    source: HostBatches | None = None

    def mean(self, of: Mean, params: PyTree, data: PyTree) -> PyTree:
        """Mean of `of`(params, batch) over all rows of the data, traced by JAX.

        On a mesh, where the rows of each device have been averaged, there is one all-reduce of as
        many numbers as `of` returns, whatever the number of rows.
        """
        if data is None and self.source is not None:
            return self._of_batches(of, params, self.source)
        if data is None or rows_of(data) != self.examples:
            return of(params, data)
        if self.mesh is None:
            return self._in_chunks(of, params, data)
        axes = self.mesh.axis_names

        def own(params: PyTree, part: PyTree) -> PyTree:
            # Marked as each device's own: the gradient is to be of its rows, and summed once.
            params = jax.tree.map(lambda p: jax.lax.pcast(p, axes, to="varying"), params)
            flat, unravel = ravel_pytree(self._in_chunks(of, params, part))
            return unravel(jax.lax.pmean(flat, axes))

        split = jax.shard_map(own, mesh=self.mesh, in_specs=(P(), P(axes)), out_specs=P())
        return split(params, data)

    def _in_chunks(self, of: Mean, params: PyTree, data: PyTree) -> PyTree:
        """Σ (rows of chunk / rows) · mean of chunk, in the order of the rows."""
        rows = rows_of(data)
        size = rows if self.chunk is None else min(self.chunk, rows)
        whole, rest = divmod(rows, size)

        def share(start: Any, length: int) -> PyTree:
            part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), data)
            return _times(length / rows, of(params, part))

        if whole == 1 and rest == 0:
            return of(params, data)
        total = _sum(lambda k: share(k * size, size), whole)
        return _add(total, share(whole * size, rest)) if rest else total

    @staticmethod
    def _of_batches(of: Mean, params: PyTree, source: HostBatches) -> PyTree:
        """The same, of batches that are read one by one."""
        most, rest = (rows_of(like) / source.examples for like in (source.like, source.last_like))
        whole = len(source) if most == rest else len(source) - 1
        dtype = jax.tree.leaves(params)[0].dtype  # in which everything is computed

        def share(k: Any, of_all: float, *, last: bool = False) -> PyTree:
            batch = jax.tree.map(
                lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
                source.traced(k, last=last),
            )
            return _times(of_all, of(params, batch))

        total = _sum(lambda k: share(k, most), whole)
        return total if whole == len(source) else _add(total, share(whole, rest, last=True))


def _times(share: float, mean: PyTree) -> PyTree:
    return jax.tree.map(lambda m: m * share, mean)


def _add(total: PyTree, part: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, total, part)


def _sum(share: Callable[[Any], PyTree], count: int) -> PyTree:
    """Σ share(k) in order, in a loop that is compiled once and keeps one term at a time."""
    add = lambda total, k: (_add(total, share(k)), None)  # noqa: E731
    return jax.lax.scan(add, share(jnp.asarray(0)), jnp.arange(1, count))[0]


def mesh_of(data: PyTree) -> Mesh | None:
    """The mesh on which given arrays are sharded along their rows already."""
    for leaf in jax.tree.leaves(data):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return sharding.mesh
    return None


def spread(data: PyTree, mesh: Mesh) -> PyTree:
    """Data with each device of the mesh holding its part of the rows, in every process alike.

    Raises
    ------
    ValueError
        The rows do not divide over the devices.
    """
    rows, devices = rows_of(data), mesh.size
    if rows % devices:
        raise ValueError(
            f"mesh has {devices} devices, over which {rows} examples do not divide; leave out "
            f"{rows % devices} of them, or use fewer devices"
        )
    place = NamedSharding(mesh, P(mesh.axis_names))

    def put(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding == place:
            return x
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    return jax.tree.map(put, data)


def whole(x: Any) -> np.ndarray:
    """An array of numpy's, where each device, of this process or another, holds a part of it."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        from jax.experimental.multihost_utils import process_allgather

        x = process_allgather(x, tiled=True)
    return np.array(x)


def check_is_mean(loss: Callable, params: PyTree, data: PyTree, rtol: float) -> None:
    """Refuse a loss that is no mean over examples: chunks of it are not its parts.

    Raises
    ------
    ValueError
        On four examples, or two where there are no more, it is not the mean of its halves'.
    """
    half = min(rows_of(data), 4) // 2
    if half == 0:
        return
    mesh = mesh_of(data)
    place = None if mesh is None else NamedSharding(mesh, P())
    first = jax.jit(lambda d: jax.tree.map(lambda x: x[: 2 * half], d), out_shardings=place)
    few = jax.tree.map(np.asarray, first(data))
    halves = [jax.tree.map(lambda x, k=k: x[k : k + half], few) for k in (0, half)]
    whole, parts = loss(params, few), [loss(params, half) for half in halves]
    if not np.isclose(whole, np.mean(parts), rtol=rtol, atol=rtol):
        raise ValueError(
            f"batch_chunk=, mesh= and HostBatches need a loss that is a mean over examples, but on "
            f"{2 * half} of them it is {float(whole):.6g}, and on their halves "
            f"{float(np.mean(parts)):.6g} in the mean; "
            "batch normalisation, which looks at all of its batch, can't be split"
        )
