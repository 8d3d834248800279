"""The mean over all examples: in chunks that memory holds, and on each device its own part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flow._core.checks import positive_integer
from flow._core.pytrees import PyTree, as_data, rows_of
from flow._problem.host_batches import HostBatches

Mean = Callable[[PyTree, PyTree], PyTree]
# Examples on which a loss is compared with its halves.
DRAWN = 32


@dataclass(frozen=True)
class Reduction:
    """The mean over all examples of a function that is a mean over a batch's rows.

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
        """Return the mean of `of`(params, batch) over all rows of the data, traced by JAX.

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
        """Return Σ (rows of chunk / rows) · mean of chunk, in the order of the rows."""
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
        """Return the same, of batches that are read one by one."""
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
    """Return Σ share(k) in order, in a loop that is compiled once and keeps one term at a time."""
    add = lambda total, k: (_add(total, share(k)), None)  # noqa: E731
    return jax.lax.scan(add, share(jnp.asarray(0)), jnp.arange(1, count))[0]


def laid_out(
    data: PyTree, dtype: np.dtype, device: Any, chunk: Any, mesh: Any
) -> tuple[PyTree, Reduction]:
    """Return the data as it is to lie, in memory or on devices, and how a mean over it is taken."""
    if mesh is not None and device is not None:
        raise ValueError(f"device={device} is one, and mesh= has its own; leave one out")
    if isinstance(data, HostBatches):
        if chunk is not None or mesh is not None:
            raise ValueError("HostBatches are chunks already, read in one process; leave "
                             "batch_chunk= and mesh= out")  # fmt: skip
        return None, Reduction(data.examples, source=data)
    if data is None and (chunk is not None or mesh is not None):
        name = "batch_chunk" if mesh is None else "mesh"
        raise ValueError(f"{name}= splits the examples of data=, and there is none")
    data = as_data(data, dtype)
    if chunk is not None:
        chunk = positive_integer("batch_chunk", chunk, "a number of examples")
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
    mesh = mesh or mesh_of(data)
    if mesh is not None and device is not None:
        raise ValueError(
            f"device={device} is one, and data= lies on several already; leave device= out"
        )
    if mesh is not None:
        data = spread(data, mesh)
    elif device is not None:
        data = jax.device_put(data, device)
    return data, Reduction(rows_of(data), chunk, mesh)


def alike(data: PyTree, own: PyTree, dtype: np.dtype) -> PyTree:
    """Return other examples, of the same structure and shapes as the objective's `own`."""
    if own is None:
        raise ValueError("this objective was made without data=; its loss takes no other data")
    other = as_data(data, dtype)
    if jax.tree.structure(other) == jax.tree.structure(own):
        # One output may be written without its axis, as MLP.objective takes it.
        other = jax.tree.map(
            lambda x, mine: x[:, None] if x.ndim == 1 and mine.shape[1:] == (1,) else x,
            other,
            own,
        )
    shapes, mine = (jax.tree.map(lambda x: x.shape[1:], d) for d in (other, own))
    if shapes != mine:
        raise ValueError(
            f"the data has examples of shape {shapes}, but the objective's own of {mine}"
        )
    for x, mine in zip(jax.tree.leaves(other), jax.tree.leaves(own), strict=True):
        if jnp.iscomplexobj(x) and not jnp.issubdtype(mine.dtype, jnp.complexfloating):
            raise TypeError(f"the data has {x.dtype}, but the objective's own {mine.dtype}")
    return other


def mesh_of(data: PyTree) -> Mesh | None:
    """Return the mesh on which given arrays are sharded along their rows already."""
    for leaf in jax.tree.leaves(data):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return sharding.mesh
    return None


def spread(data: PyTree, mesh: Mesh) -> PyTree:
    """Return data of which each device of the mesh holds its rows, in every process alike.

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
    """Return a numpy array of one whose parts may lie on devices of this process or another."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        from jax.experimental.multihost_utils import process_allgather

        x = process_allgather(x, tiled=True)
    return np.array(x)


class Departures(NamedTuple):
    """Departures of a loss, or its gradient, from a mean over examples; None where it is one."""

    twice: str | None = None  # where a batch is given twice over
    halves: str | None = None  # from the mean of a batch's halves


def departures(
    of_batch: Callable[[np.ndarray, PyTree], Any],
    theta: np.ndarray,
    data: PyTree,
    most: int,
    rtol: float,
) -> Departures:
    """Compare a loss and its gradient on some examples with those on them twice, and on halves.

    Examples are drawn from all, in three draws, at θ₀ and twice near it: a last layer of zeros
    hides what is before it.

    Parameters
    ----------
    of_batch
        (θ, batch) ↦ J and ∇J in one vector (1 + n,), θ flat.
    theta
        θ₀ (n,).
    data
        Arrays of all examples, or of some.
    most
        Examples that memory surely holds.
    rtol
        Relative difference that is rounding.
    """
    rows = rows_of(data)
    half = max(min(rows, DRAWN, most) // 2, 1)
    mesh, rng = mesh_of(data), np.random.default_rng(0)
    place = None if mesh is None else NamedSharding(mesh, P())
    take = jax.jit(lambda d, i: jax.tree.map(lambda x: x[i], d), out_shardings=place)
    size = float(np.sqrt(np.mean(theta**2))) or 1.0
    first, second, found = np.arange(half), np.arange(half, 2 * half), Departures()
    for far in (0.0, 0.1, 0.1):
        near = theta + far * size * rng.standard_normal(theta.size)
        drawn = rng.choice(rows, 2 * half, replace=rows == 1)
        few = jax.tree.map(
            lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x),
            take(data, drawn),
        )

        def on(*those: np.ndarray, near: np.ndarray = near, few: PyTree = few) -> np.ndarray:
            batch = jax.tree.map(lambda x: x[np.concatenate(those)], few)
            return np.asarray(of_batch(near, batch), np.float64)

        parts = on(first), on(second)
        if told := _apart(on(first, first), parts[:1], "on them once", rtol):
            found = found._replace(twice=f"on {half} examples given twice over {told}")
        if told := _apart(on(first, second), parts, "on their halves in the mean", rtol):
            found = found._replace(halves=f"on {2 * half} examples {told}")
    return found


def _apart(met: np.ndarray, parts: Sequence[np.ndarray], where: str, rtol: float) -> str | None:
    """Tell how J and ∇J differ from the mean of the parts' beyond rounding; None if not."""
    if not np.all(np.isfinite([met, *parts])):
        return None
    mean = np.mean(parts, axis=0)
    if not np.isclose(met[0], mean[0], rtol=rtol, atol=rtol):
        return f"it is {met[0]:.6g}, and {where} {mean[0]:.6g}"
    apart = np.linalg.norm(met[1:] - mean[1:])
    size = max(np.linalg.norm(one[1:]) for one in (met, *parts))
    if not apart <= rtol * (size + 1.0):
        return f"its gradient is off that {where} by {apart / size:.1e} of itself"
    return None
