"""J, ∇J, ∇²J·v and a network's outputs as JAX traces them, and what is checked of a loss."""

import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Float64

from flow._core.checks import (
    choice,
    function,
    users,
)
from flow._core.devices import check_callbacks, placed
from flow._core.jaxprs import second_derivatives
from flow._core.pickling import Travels
from flow._core.precision import (
    PrecisionWarning,
    coarsest_float,
    double_precision,
    one_precision,
    rounding_noise,
)
from flow._core.progress import compiling
from flow._core.pytrees import (
    PyTree,
    lists_told,
    path_name,
    shape_remedy,
)
from flow._core.user_warnings import warn
from flow._problem.data import Departures, Reduction, departures, rows_of
from flow._problem.host_batches import HostBatches

Theta: TypeAlias = Float64[np.ndarray, "n"]

# What `Traced.evaluated_once` knows: of which loss, and of which arrays, J and ∇J.
_EVALUATED: ContextVar[tuple[dict, Any, list, tuple] | None] = ContextVar("known", default=None)
# A loop that makes a new optimizer in each turn compiles a new function in each.
MAX_COMPILED = 32
_LOSS_ONLY = (
    "this objective knows its loss only; make it with "
    "flow.Objective(outputs=..., output_loss=..., params=..., data=(X, y))"
)


class Traced(Travels):
    """Pure functions of a loss, one of each, and their compiled forms; what `Objective` is made of.

    ∇J is the hand-written gradient where there is one, else backprop by JAX; ∇²J·v is its
    push-forward. Each is a mean over the examples, as they lie in memory and on devices.
    """

    data: PyTree
    device: Any
    size: int
    resolution: float
    _loss: Callable[[PyTree, PyTree], Any]
    _hand_gradient: Callable[[PyTree, PyTree], PyTree] | None
    _network: Callable[[PyTree, Any], Any] | None
    _output_loss: Callable[[Any, Any], Any] | None
    _reduction: Reduction
    _dtype: np.dtype
    _params: PyTree
    _theta: np.ndarray
    _unravel: Callable[[Any], PyTree]
    _shapes: PyTree
    _structure: Any
    _compiled: dict[Any, Any]
    _start: float
    _departures: list[Departures]

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """Return devices that each hold a part of the examples; None where one holds them all."""
        return self._reduction.mesh

    def traced_value(self, params: PyTree, data: PyTree) -> Float[Array, ""]:
        """Return J, to be called under `jax.jit`; `data` is usually `objective.data`."""
        if (known := self._evaluated(params, data)) is not None:
            return known[0]
        J = self._reduction.mean(self._loss, self._inside(params), data)
        return jnp.asarray(J, jnp.float64)

    def traced_gradient(self, params: PyTree, data: PyTree) -> PyTree:
        """Return ∇J, to be called under `jax.jit`."""
        if (known := self._evaluated(params, data)) is not None:
            return known[1]
        gradient = self._hand_gradient or jax.grad(self._loss)
        found = self._reduction.mean(gradient, self._inside(params), data)
        return jax.tree.map(lambda g: g.astype(jnp.float64), found)

    def traced_value_and_gradient(
        self, params: PyTree, data: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        """Return J and ∇J in one pass over the data, to be called under `jax.jit`."""

        def by_hand(params: PyTree, batch: PyTree) -> tuple[Any, PyTree]:
            return self._loss(params, batch), self._hand_gradient(params, batch)

        both = jax.value_and_grad(self._loss) if self._hand_gradient is None else by_hand
        J, gradient = self._reduction.mean(both, self._inside(params), data)
        return jnp.asarray(J, jnp.float64), jax.tree.map(lambda g: g.astype(jnp.float64), gradient)

    @contextmanager
    def evaluated_once(self, params: PyTree, data: PyTree) -> Iterator[None]:
        """Take J and ∇J of these very arrays once, within a traced function.

        XLA merges what is computed twice, but neither what is called back (`jax.pure_callback`)
        nor the loops over batches.
        """
        leaves, structure = jax.tree.flatten((params, data))
        found = self.traced_value_and_gradient(params, data)
        token = _EVALUATED.set((self._compiled, structure, leaves, found))
        try:
            yield
        finally:
            _EVALUATED.reset(token)

    def _evaluated(self, params: PyTree, data: PyTree) -> tuple[Any, PyTree] | None:
        """Return J and ∇J where they are known of these very arrays, by a view of the same loss."""
        if (known := _EVALUATED.get()) is None:
            return None
        compiled, structure, leaves, found = known
        own, like = jax.tree.flatten((params, data))
        same = compiled is self._compiled and structure == like
        return found if same and all(map(operator.is_, leaves, own)) else None

    def traced_hvp(self, params: PyTree, v: PyTree, data: PyTree) -> PyTree:
        """Return ∇²J·v, the JVP of the backward pass; to be called under `jax.jit`."""
        return jax.jvp(lambda p: self.traced_gradient(p, data), (params,), (v,))[1]

    def traced_mean(
        self, of: Callable[[PyTree, PyTree], PyTree], params: PyTree, data: PyTree
    ) -> PyTree:
        """Return the mean over all examples of `of`(params, batch), a mean over a batch.

        To be called under `jax.jit`; `params` is any pytree.
        """
        return self._reduction.mean(of, params, data)

    def traced_outputs(self, params: PyTree, X: Any) -> Any:
        """Return the network's outputs (examples, ...), to be called under `jax.jit`.

        Raises
        ------
        TypeError
            The objective was made from an opaque `loss`.
        """
        self.check_has_outputs()
        return self._network(self._inside(params), X)

    def traced_output_loss(self, outputs: Any, y: Any) -> Any:
        """Return the mean loss of outputs, to be called under `jax.jit`."""
        self.check_has_output_loss()
        return jnp.asarray(self._output_loss(outputs, y), jnp.float64)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise what went wrong in place of JAX's account of it.

        In reading a batch, or of a gradient that has no derivative.
        """
        source = self._reduction.source
        if source is not None:
            source.failure = None
        try:
            with second_derivatives():
                yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # which, is for JAX to choose
            if source is None or source.failure is None or error is source.failure:
                raise
            raise source.failure from error

    def compiled(self, key: Any, build: Callable[[], Any]) -> Any:
        """Return the jitted function kept under `key`, made by `build` on first use.

        Functions live as long as their objective, so a second run compiles nothing; beyond
        `MAX_COMPILED` of them the oldest goes.
        """
        if key not in self._compiled:
            if len(self._compiled) >= MAX_COMPILED:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[key] = placed(build(), self.device)
        return self._compiled[key]

    def compiling(self, key: Any, label: str) -> AbstractContextManager:
        """Tell of the first call of the function kept under `key`, if it lasts."""
        new = key not in self._compiled
        return compiling(label, show=True) if new else nullcontext()

    def tree(self, theta: Float[Any, "n"]) -> PyTree:
        """Return the pytree of a traced flat vector, to be called under `jax.jit`."""
        return self._unravel(theta)

    def _build_value(self) -> Callable:
        return jax.jit(lambda theta, data: self.traced_value(self.tree(theta), data))

    def _build_value_and_gradient(self) -> Callable:
        def value_and_gradient(theta: Any, data: PyTree) -> tuple[Array, Array]:
            value, gradient = self.traced_value_and_gradient(self.tree(theta), data)
            return value, ravel_pytree(gradient)[0]

        return jax.jit(value_and_gradient)

    def _build_hvp(self) -> Callable:
        def hvp(theta: Any, v: Any, data: PyTree) -> Array:
            return ravel_pytree(self.traced_hvp(self.tree(theta), self.tree(v), data))[0]

        return jax.jit(hvp)

    def _build_outputs(self) -> Callable:
        return jax.jit(self._flat_network)

    def _build_jvp(self) -> Callable:
        return jax.jit(
            lambda theta, v, X: jax.jvp(lambda p: self._flat_network(p, X), (theta,), (v,))[1]
        )

    def _build_vjp(self) -> Callable:
        def pull_back(theta: Array, u: Array, X: Any) -> Array:
            outputs, pull = jax.vjp(lambda p: self._flat_network(p, X), theta)
            return pull(u.astype(outputs.dtype))[0]

        return jax.jit(pull_back)

    def _flat_network(self, theta: Array, X: Any) -> Array:
        return self._network(self._inside(self.tree(theta)), X)

    def _inside(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.astype(self._dtype), params)

    def check_has_outputs(self) -> None:
        """Raise TypeError if only the loss is known, and not the network's outputs."""
        if self._network is None:
            raise TypeError(_LOSS_ONLY)

    def check_has_output_loss(self) -> None:
        """Raise TypeError if the loss is not known as one of the network's outputs."""
        if self._network is None or self._output_loss is None:
            raise TypeError(_LOSS_ONLY)

    def arrays(self, who: str) -> PyTree:
        """Return the data, for `who` needs all examples as arrays.

        Raises
        ------
        ValueError
            The objective was made without, or of `flow.HostBatches`.
        """
        if self._reduction.source is not None:
            raise ValueError(
                f"{who} needs all examples as arrays, and this objective reads flow.HostBatches; "
                "make one of as many as memory holds, data=(X, y)"
            )
        if self.data is None:
            raise ValueError(f"{who} needs examples: flow.Objective(loss, params, data=(X, y))")
        return self.data

    def departures(self) -> Departures:
        """Tell how the loss departs from a mean over the examples of its data."""
        if not self._departures:
            split, gradient = self._reduction, self._hand_gradient or jax.grad(self._loss)

            @jax.jit
            def of_batch(theta: Array, batch: PyTree) -> Array:
                params = self._inside(self.tree(theta))
                return ravel_pytree((self._loss(params, batch), gradient(params, batch)))[0]

            some = self.data if split.source is None else split.source.ends()
            most = rows_of(some) if split.chunk is None else max(split.chunk, 4)
            with double_precision(), users("loss, called with some of the examples"):
                found = departures(of_batch, self.theta, some, most, 1e4 * self.resolution)
            self._departures.append(found)
        return self._departures[0]

    def _check_structure(self, params: PyTree, name: str = "params", examples: int = 0) -> None:
        if jax.tree.structure(params) != self._structure:
            flat = getattr(params, "shape", None) == (self.size,)
            remedy = "; objective.unflatten(theta) makes them of a vector" if flat else ""
            remedy = "; is a return missing?" if params is None else remedy
            raise ValueError(
                f"{name} has the structure {jax.tree.structure(params)}, "
                f"but the objective's parameters have {self._structure}{remedy}"
            )
        own = jax.tree.leaves(self._shapes)
        for (path, leaf), mine in zip(jax.tree.leaves_with_path(params), own, strict=True):
            if not isinstance(np.shape(leaf), tuple):
                raise TypeError(f"{path_name(name, path)} must be an array, got {leaf!r:.80}")
            if np.shape(leaf) != mine.shape:
                raise ValueError(
                    f"{path_name(name, path)} has shape {np.shape(leaf)}, but the objective's has "
                    f"{mine.shape}{shape_remedy(np.shape(leaf), mine.shape, examples)}"
                )

    @property
    def _example(self) -> PyTree:
        """Return data, or what a batch of it is like."""
        return self.data if self._reduction.source is None else self._reduction.source.like

    def _called(self, name: str) -> str:
        """Return how a function of the parameters is called: the data is one argument."""
        return f"{name}(params)" if self._example is None else f"{name}(params, data)"

    def _check_loss(self, params: PyTree) -> None:
        theirs = users(f"loss, called with the initial parameters, {self._called('loss')}")
        lists = lists_told(self._params)
        with double_precision(), lists, theirs, one_precision(self._dtype):
            J = jax.eval_shape(lambda p, d: self._loss(self._inside(p), d), params, self._example)
        shape, dtype = getattr(J, "shape", None), getattr(J, "dtype", None)
        if isinstance(J, tuple | list) and J and getattr(J[0], "shape", None) == ():
            raise ValueError(
                f"loss must return a scalar, got a tuple of {len(J)}, the loss and what else it "
                "knows (has_aux); give the loss alone, lambda *a: loss(*a)[0], and watch the rest "
                "by observe={'name': lambda objective, params: ...}"
            )
        if shape != ():
            met = "a pytree" if shape is None else f"an array of shape {shape}"
            raise ValueError(f"loss must return a scalar, got {met}; take the mean over examples")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"loss must return a real floating-point number, got {dtype}")

    def _check_is_mean(self) -> None:
        split = self._reduction
        if split != Reduction(split.examples) and (told := self.departures().halves):
            raise ValueError(
                "batch_chunk=, mesh= and HostBatches need a loss that is a mean over examples, but "
                f"{told}; batch normalisation, which looks at all of its batch, can't be split; "
                "weights must not be divided by their sum, and a hand-written gradient divides by "
                "the examples that it is given"
            )

    def _check_hand_gradient(
        self, gradient: Callable | None, params: PyTree, runs_in_numpy: Callable[..., bool]
    ) -> None:
        if gradient is None:
            return
        theirs = users(f"gradient, called with the initial parameters, {self._called('gradient')}")
        with double_precision(), theirs, one_precision(self._dtype):
            try:
                g = jax.eval_shape(
                    lambda p, d: self._hand_gradient(self._inside(p), d), params, self._example
                )
            except Exception as error:
                if not runs_in_numpy(gradient, params):
                    raise
                raise TypeError(
                    "gradient takes plain numpy only, and JAX traces it: write it with jax.numpy "
                    "(import jax.numpy as jnp), or hand over lambda *a: jax.pure_callback("
                    "gradient, a[0], *a); to check it as it is, leave it out here and call "
                    "flow.check_gradient(objective, gradient=gradient)"
                ) from error
        try:
            self._check_structure(g, examples=self._reduction.examples)
        except ValueError as error:
            raise ValueError(f"gradient must return a pytree like params: {error}") from None

    def _traced(self, params: PyTree) -> Any:
        """Return the jaxpr of J and ∇J."""
        both = lambda p, d: self.traced_value_and_gradient(p, d)  # noqa: E731, PLW0108
        with double_precision(), users("the derivative of loss at the initial parameters"):
            return jax.make_jaxpr(both)(params, self.data)

    def _check_precision(self, params: PyTree, jaxpr: Any) -> float:
        """Return the unit roundoff of J and ∇J: of the coarsest operation whose noise they have."""
        check_callbacks(jaxpr)
        dtype, where = coarsest_float(jaxpr, len(jax.tree.leaves(params)))
        asked, eps = float(np.finfo(self._dtype).eps), float(jnp.finfo(dtype).eps)
        if eps <= asked or (met := self._noise(eps)) < np.sqrt(asked * eps):
            return asked
        or_so = ", or say dtype='float32'" if self._dtype == np.float64 else ""
        warn(
            f"the loss computes in {dtype} inside ({where}) and has its rounding, {met:.0e} of J "
            f"or ∇J; remove the cast there (astype, or a layer's dtype=) to work in {self._dtype}"
            f"{or_so}. flow.integrate will refuse rtol below {100 * eps:.1e}.",
            PrecisionWarning,
        )
        return eps

    def _noise(self, step: float) -> float:
        """Measure the relative rounding noise of J, and of ∇J along a direction, near θ₀."""
        source, along = self._reduction.source, np.random.default_rng(1).standard_normal(self.size)
        function = self.compiled("value_and_gradient", self._build_value_and_gradient)

        def of(theta: np.ndarray) -> np.ndarray:
            value, gradient = function(theta, some)
            return np.array([value, along @ np.asarray(gradient)])

        with double_precision():
            some = self.data if source is None else source.ends()
            return rounding_noise(of, self._theta, step)

    def check_unchanged(self, theta: Theta, loss: float) -> None:
        """Refuse to go on where J(θ₀) is no longer what it was when the objective was made.

        Raises
        ------
        ValueError
            `theta` is θ₀, and `loss`, by a function that was compiled since, is another than J.
        """
        close = np.isclose(
            loss, self._start, rtol=np.sqrt(self.resolution), atol=1e3 * self.resolution
        )
        if not close and np.array_equal(theta, self._theta):
            self._compiled.clear()  # what was compiled since is of another loss
            raise ValueError(
                f"the loss at θ₀ is {loss:.6g}, and was {self._start:.6g} when the objective was "
                "made: it reads something that has changed since, a global or an array; make a new "
                "flow.Objective after a change, or hand over what changes as data= or params"
            )


def precision_of(dtype: Any) -> np.dtype:
    """Return what is computed in, by name or as numpy and JAX write it."""
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except (TypeError, ValueError):
        name = dtype
    # To numpy None is float64.
    return np.dtype(choice("dtype", None if dtype is None else name, ["float64", "float32"]))


def loss_of(
    loss: Any, outputs: Callable | None, output_loss: Callable | None, data: PyTree
) -> Callable:
    if loss is not None:
        if output_loss is not None:
            raise ValueError("give loss, or outputs and output_loss, not both")
        if not callable(loss):
            raise TypeError(f"loss must be a function of the parameters, got {loss!r}")
        return loss
    if outputs is None or output_loss is None:
        raise ValueError("give a loss, or both outputs= and output_loss=, instead of None")
    function("outputs", outputs)
    function("output_loss", output_loss)
    pair = data.like if isinstance(data, HostBatches) else data
    if not (isinstance(pair, tuple | list) and len(pair) == 2):  # noqa: PLR2004
        raise ValueError("outputs= and output_loss= need data=(X, y)")
    return lambda params, batch: output_loss(outputs(params, batch[0]), batch[1])
