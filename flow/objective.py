"""`Objective`: J, ∇J and ∇²J·v of a pytree of parameters and of its flat vector."""

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Float64

from flow.checks import choice, flag, function, mapping, numbers, positive_integer, users
from flow.host_batches import HostBatches
from flow.jaxprs import first_not_finite, jumping, place, second_derivatives
from flow.keywords import own_keywords
from flow.placement import address, find_device, placed, resident
from flow.precision import (
    PrecisionWarning,
    coarsest_float,
    double_precision,
    one_precision,
    rounding_noise,
    strict_promotion,
    told_of_nans,
)
from flow.processes import Travels
from flow.progress import compiling
from flow.pytrees import (
    PyTree,
    as_data,
    as_parameters,
    lists_told,
    owned,
    path_name,
    ravel,
    shape_remedy,
    unravel_like,
)
from flow.reduction import Departures, Reduction, departures, mesh_of, rows_of, spread, whole
from flow.shown import cut
from flow.threads import check_callbacks
from flow.warn import warn

Theta: TypeAlias = Float64[np.ndarray, "n"]

# What `Objective.evaluated_once` knows: of which loss, and of which arrays, J and ∇J.
_EVALUATED: ContextVar[tuple[dict, Any, list, tuple] | None] = ContextVar("known", default=None)
# A loop that makes a new optimizer in each turn compiles a new function in each.
MAX_COMPILED = 32
_LOSS_ONLY = (
    "this objective knows its loss only; make it with "
    "flow.Objective(outputs=..., output_loss=..., params=..., data=(X, y))"
)


@dataclass
class Tally:
    """What was spent: gradients of the full data, Hessian-vector products, values of J alone."""

    gradients: int = 0
    hvps: int = 0
    values: int = 0


@own_keywords
class Objective(Travels):
    """A loss J(θ) to be followed downhill: value, gradient and Hessian-vector products.

    θ is any pytree of floating-point arrays. Everything is computed in double precision and
    comes back as numpy float64, whatever JAX's global setting is.

    Parameters
    ----------
    loss
        ``loss(params) -> scalar``, or with data ``loss(params, batch) -> scalar``, the mean over
        the leading axis of the batch. Any JAX function.
    params
        θ₀, a pytree of floating-point arrays. Partition an equinox module first:
        ``params, static = equinox.partition(model, equinox.is_inexact_array)``.
    data
        A pytree of arrays with one leading axis of examples in common, (X, y) for instance, that
        is copied; or `flow.HostBatches` where memory does not hold them.
    outputs, output_loss
        Instead of `loss`, where the network's outputs matter: ``outputs(params, X)`` is
        (examples, ...) and ``output_loss(outputs, y)`` their mean loss; `data` is then (X, y).
    gradient
        A hand-written ``gradient(params)`` or ``gradient(params, batch)``, a pytree like
        `params`, traced by JAX; without it the gradient is ``jax.grad(loss)``. One in plain numpy
        is checked by ``flow.check_gradient(objective, gradient=...)``.
    conserved
        Name -> function of the parameters that the gradient flow keeps constant, audited by
        `flow.audit`. `flow.MLP` declares its own.
    smooth
        False if the gradient of the loss jumps (ReLU), where error-controlled integrators stall.
        Not needed of what JAX sees: see `flow.KinkWarning`.
    dtype
        "float64", or "float32" to compute in single precision inside.
    device
        Where all of it is computed, and the data lies: "cpu", "gpu" or "tpu", the first of these,
        or one of ``jax.devices()``; JAX's default unless given. A `mesh` names its own.
    batch_chunk
        Examples that J, ∇J and ∇²J·v are computed on at once, on each device; their sum is the
        same but for rounding, and the same from run to run. Memory is that of one chunk. The
        loss must be a mean over examples.
    mesh
        A `jax.sharding.Mesh` whose devices each hold a part of the examples, and a copy of θ: a
        gradient is then one all-reduce of n numbers. Data whose arrays are sharded over their
        rows already bring their mesh along.

    Attributes
    ----------
    params
        θ₀ as it was given, a copy each time.
    size
        Number of entries of θ, n.
    theta
        θ₀ as a flat vector (n,), in `jax.flatten_util.ravel_pytree` order, a copy each time.
    resolution
        Unit roundoff of what is computed inside, 2.2e-16 or 1.2e-7; tolerances below a hundred
        times it are refused by `flow.integrate`.
    tally
        Gradients and Hessian-vector products spent through this object's methods.
    backprop
        The chain of layers and the loss of a `flow.Network`'s objective, for `flow.explain`; None
        of any other.

    Raises
    ------
    TypeError
        A leaf of `params` is not floating-point or is masked (its path is named), the loss is
        complex, or what is to be a function is none.
    ValueError
        The loss is not a scalar or not finite at θ₀; the data is empty or ragged; it is to be
        split, and is no mean over examples or does not divide over the devices.

    Examples
    --------
    >>> import numpy as np, flow
    >>> H = np.diag([1.0, 10.0])
    >>> objective = flow.Objective(lambda x: 0.5 * x @ H @ x, np.array([1.0, 1.0]))
    >>> objective.value(objective.params), objective.gradient(objective.params)
    (5.5, array([ 1., 10.]))
    >>> objective.hvp(objective.params, np.array([0.0, 1.0]))
    array([ 0., 10.])
    """

    backprop: Any = None

    def __init__(
        self,
        loss: Any = None,
        params: PyTree = None,
        data: PyTree = None,
        *,
        outputs: Callable[[PyTree, Any], Any] | None = None,
        output_loss: Callable[[Any, Any], Any] | None = None,
        gradient: Callable[..., PyTree] | None = None,
        conserved: Mapping[str, Callable[[PyTree], Any]] | None = None,
        smooth: bool = True,
        dtype: str = "float64",
        device: Any = None,
        batch_chunk: int | None = None,
        mesh: Any = None,
    ) -> None:
        self._dtype = _precision(dtype)
        self.device = find_device(device)
        params64 = as_parameters(params)
        self._params = owned(params)
        loss = _loss_of(loss, outputs, output_loss, data)
        loss = strict_promotion(loss)
        self._loss = loss if data is not None else (lambda p, _: loss(p))
        self._network = outputs and strict_promotion(outputs)
        self._output_loss = output_loss and strict_promotion(output_loss)
        self.conserved = (
            {} if conserved is None else mapping("conserved", conserved, "{name: function}")
        )
        for name, quantity in self.conserved.items():
            function(f"conserved[{name!r}]", quantity)
        self.smooth = flag("smooth", smooth)
        if gradient is not None:
            function("gradient", gradient)
            gradient = strict_promotion(gradient)
        self.tally = Tally()
        with double_precision():
            self.data, self._reduction = self._split(data, batch_chunk, mesh)
            self._theta, self._unravel = ravel(params64)
            self._shapes = jax.eval_shape(lambda p: p, params64)
        self.size: int = self._theta.size
        self._structure = jax.tree.structure(params64)
        self._compiled: dict[Any, Any] = {}
        self._check_loss(params64)
        self._hand_gradient = (
            gradient if gradient is None or data is not None else lambda p, _: gradient(p)
        )
        self._check_hand_gradient(gradient, params64)
        jaxpr = self._traced(params64)
        self.resolution = self._check_precision(params64, jaxpr)
        # What may jump in ∇J, and what is known of it by any view; see `flow.dynamics.kinks`.
        found = jumping(jaxpr.jaxpr, len(jax.tree.leaves(params64)))
        self.jumping = list(dict.fromkeys(map(place, found)))
        self.kinks: dict[str, bool] = {}
        self._departures: list[Departures] = []  # once they were looked at, by any view
        self._check_is_mean()
        self._start = self._finite_value(params64)
        self.tally = Tally()

    def __repr__(self) -> str:
        """Its size and J(θ₀), and a line a leaf, cut."""
        examples, leaves = self._reduction.examples, jax.tree.leaves_with_path(self._shapes)
        of = f"{self.size:,} parameters" + (f", {examples:,} examples" if examples else "")
        lines = [f"{path_name('params', path)} {leaf.shape}" for path, leaf in leaves]
        return cut("\n".join([f"<Objective of {of}; J(θ₀) = {self._start:.4g}>", *lines]))

    @property
    def params(self) -> PyTree:
        """Return θ₀ as it was given, a copy."""
        return owned(self._params)

    @property
    def theta(self) -> Theta:
        """Return θ₀ as a flat vector (n,), a copy."""
        return self._theta.copy()

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """Devices that each hold a part of the examples; None where one holds them all."""
        return self._reduction.mesh

    # ---- pure functions, for dynamics and user code that is itself traced by JAX

    def traced_value(self, params: PyTree, data: PyTree) -> Float[Array, ""]:
        """J, to be called under `jax.jit`; `data` is usually `objective.data`."""
        if (known := self._evaluated(params, data)) is not None:
            return known[0]
        J = self._reduction.mean(self._loss, self._inside(params), data)
        return jnp.asarray(J, jnp.float64)

    def traced_gradient(self, params: PyTree, data: PyTree) -> PyTree:
        """∇J, to be called under `jax.jit`."""
        if (known := self._evaluated(params, data)) is not None:
            return known[1]
        gradient = self._hand_gradient or jax.grad(self._loss)
        found = self._reduction.mean(gradient, self._inside(params), data)
        return jax.tree.map(lambda g: g.astype(jnp.float64), found)

    def traced_value_and_gradient(
        self, params: PyTree, data: PyTree
    ) -> tuple[Float[Array, ""], PyTree]:
        """J and ∇J in one pass over the data, to be called under `jax.jit`."""

        def by_hand(params: PyTree, batch: PyTree) -> tuple[Any, PyTree]:
            return self._loss(params, batch), self._hand_gradient(params, batch)

        both = jax.value_and_grad(self._loss) if self._hand_gradient is None else by_hand
        J, gradient = self._reduction.mean(both, self._inside(params), data)
        return jnp.asarray(J, jnp.float64), jax.tree.map(lambda g: g.astype(jnp.float64), gradient)

    @contextmanager
    def evaluated_once(self, params: PyTree, data: PyTree) -> Iterator[None]:
        """Scope in a traced function in which J and ∇J of these very arrays are taken once.

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
        """J and ∇J where they are known of these very arrays, by a view of the same loss."""
        if (known := _EVALUATED.get()) is None:
            return None
        compiled, structure, leaves, found = known
        own, like = jax.tree.flatten((params, data))
        same = compiled is self._compiled and structure == like
        return found if same and all(map(operator.is_, leaves, own)) else None

    def traced_hvp(self, params: PyTree, v: PyTree, data: PyTree) -> PyTree:
        """∇²J·v, the push-forward (JVP) of the backward pass, to be called under `jax.jit`."""
        return jax.jvp(lambda p: self.traced_gradient(p, data), (params,), (v,))[1]

    def traced_mean(
        self, of: Callable[[PyTree, PyTree], PyTree], params: PyTree, data: PyTree
    ) -> PyTree:
        """Mean over all examples of what `of`(params, batch) is the mean of over a batch.

        To be called under `jax.jit`; `params` is any pytree.
        """
        return self._reduction.mean(of, params, data)

    def traced_outputs(self, params: PyTree, X: Any) -> Any:
        """The network's outputs (examples, ...), to be called under `jax.jit`.

        Raises
        ------
        TypeError
            The objective was made from an opaque `loss`.
        """
        self.check_has_outputs()
        return self._network(self._inside(params), X)

    def traced_output_loss(self, outputs: Any, y: Any) -> Any:
        """The mean loss of outputs, to be called under `jax.jit`."""
        self.check_has_output_loss()
        return jnp.asarray(self._output_loss(outputs, y), jnp.float64)

    # ---- views of θ

    def flatten(self, params: PyTree) -> Theta:
        """θ as a flat float64 vector (n,).

        Raises
        ------
        ValueError
            `params` has not the structure or the shapes of θ₀.
        """
        return self._flat("params", params)

    def unflatten(self, theta: np.ndarray) -> PyTree:
        """The pytree of numpy float64 leaves whose flat vector is `theta` (n,)."""
        theta = numbers("theta", theta)
        if theta.shape != (self.size,):
            raise ValueError(f"theta must have shape ({self.size},), got {theta.shape}")
        return unravel_like(self._shapes, theta)

    # ---- what users call: pytrees in, numpy float64 out

    def value(self, params: PyTree, data: PyTree = None) -> float:
        """J(θ); of other data where `data` is given, held-out examples for instance.

        Raises
        ------
        ValueError
            `data` is not made like the objective's own, or the objective has none.
        """
        theta = self.flatten(params)
        self.tally.values += 1
        with double_precision():
            batch = self.data if data is None else self._other_data(data)
            with self.reading(), told_of_nans():
                return float(self.compiled("value", self._build_value)(theta, batch))

    def gradient(self, params: PyTree) -> PyTree:
        """∇J(θ), a pytree like `params`."""
        return self.unflatten(self.flat_value_and_gradient(self.flatten(params))[1])

    def value_and_gradient(self, params: PyTree) -> tuple[float, PyTree]:
        """J(θ) and ∇J(θ) in one jitted pass."""
        value, gradient = self.flat_value_and_gradient(self.flatten(params))
        return value, self.unflatten(gradient)

    def of_numpy(self, gradient: Callable[..., PyTree], params: PyTree) -> PyTree:
        """``gradient(params)`` or ``gradient(params, data)`` as it was written, not traced.

        It is given numpy arrays of its own; float64, and a pytree like θ₀, comes back.

        Raises
        ------
        TypeError, ValueError
            It returns something else; the leaf is named. Or the data is `flow.HostBatches`.
        """
        function("gradient", gradient)
        arguments = [self.unflatten(self.flatten(params))]
        if self._example is not None:
            arguments.append(jax.tree.map(whole, self.arrays("a gradient in numpy")))
        called = "gradient(params)" if len(arguments) == 1 else "gradient(params, data)"
        with double_precision(), users(f"{called}, called with numpy arrays"):
            found = gradient(*arguments)
        return self.unflatten(self._flat(called, found, self._reduction.examples))

    def hvp(self, params: PyTree, v: PyTree) -> PyTree:
        """∇²J(θ)·v, a pytree like `params`, at the cost of two gradients.

        It is the push-forward (JVP) of the backward pass, hand-written where that is.

        Raises
        ------
        ValueError
            `params` or `v` has not the structure or the shapes of θ₀.
        """
        return self.unflatten(self.flat_hvp(self.flatten(params), self._flat("v", v)))

    def outputs(self, params: PyTree, X: Any = None) -> np.ndarray:
        """The network's outputs (examples, ...) on X, by default on the objective's own data.

        Raises
        ------
        TypeError
            The objective was made from an opaque `loss`.
        """
        self.check_has_outputs()
        theta = self.flatten(params)
        with double_precision(), users("outputs, called with X"):
            X = self.arrays("outputs without X")[0] if X is None else as_data(X, self._dtype, "X")
            return whole(self.compiled("outputs", self._build_outputs)(theta, X)).astype(np.float64)

    def jvp(self, params: PyTree, v: PyTree) -> np.ndarray:
        """Push v forward through the network: ∂f/∂θ·v, how its outputs f move with θ along v.

        f(θ + εv) = f(θ) + ε ∂f/∂θ·v + O(ε²), on the objective's own data. The chain rule taken
        from θ to the outputs: each layer hands on ∂z/∂u·u̇ + ∂z/∂W·Ẇ.

        Parameters
        ----------
        params, v
            θ, and a tangent, a pytree like it.

        Returns
        -------
        ndarray
            Shaped like the outputs, (examples, ...).

        Raises
        ------
        TypeError
            The objective was made from an opaque `loss`.
        ValueError
            `params` or `v` has not the structure or the shapes of θ₀.

        >>> import numpy as np, flow
        >>> objective = flow.MLP([1, 1], bias=False).objective([[2.0], [3.0]], [0.0, 0.0])
        >>> objective.jvp(objective.params, [{"W": np.array([[10.0]])}])  # f = Wx
        array([[20.], [30.]])
        """
        self.check_has_outputs()
        theta, tangent, X = self.flatten(params), self._flat("v", v), self.arrays("jvp")[0]
        with double_precision():
            function = self.compiled("jvp", self._build_jvp)
            return whole(function(theta, tangent, X)).astype(np.float64)

    def vjp(self, params: PyTree, u: Any) -> PyTree:
        """Pull u back through the network: (∂f/∂θ)ᵀu, the gradient of ⟨u, f(θ)⟩ by θ.

        The transpose of `jvp`, ⟨u, ∂f/∂θ·v⟩ = ⟨(∂f/∂θ)ᵀu, v⟩: the chain rule taken from the
        outputs to θ. With u = ∂J/∂f it is ∇J, which is what backprop is.

        Parameters
        ----------
        params
            θ.
        u
            A cotangent, shaped like the outputs on the objective's own data, (examples, ...).

        Returns
        -------
        PyTree
            Like `params`.

        Raises
        ------
        TypeError
            The objective was made from an opaque `loss`.
        ValueError
            `params` has not the structure or the shapes of θ₀, or `u` not the outputs' shape.

        >>> import numpy as np, flow
        >>> objective = flow.MLP([1, 1], bias=False).objective([[2.0], [3.0]], [0.0, 0.0])
        >>> objective.vjp(objective.params, [[1.0], [10.0]])  # Σ u x
        [{'W': array([[32.]])}]
        """
        self.check_has_outputs()
        theta, u, X = self.flatten(params), numbers("u", u), self.arrays("vjp")[0]
        with double_precision():
            network = self.compiled("outputs", self._build_outputs)
            outputs = jax.eval_shape(network, theta, X)
            if u.shape != outputs.shape:
                raise ValueError(
                    f"u must be shaped like the outputs, {outputs.shape}, got {u.shape}"
                )
            function = self.compiled("vjp", self._build_vjp)
            return self.unflatten(np.array(function(theta, u, X)))

    # ---- the same of flat vectors

    def flat_value_and_gradient(self, theta: Theta) -> tuple[float, Theta]:
        """J and ∇J at a flat θ (n,); the gradient is (n,)."""
        self.tally.gradients += 1
        with double_precision(), self.reading(), told_of_nans():
            function = self.compiled("value_and_gradient", self._build_value_and_gradient)
            value, gradient = function(theta, self.data)
            return float(value), np.array(gradient)

    def flat_hvp(self, theta: Theta, v: Theta) -> Theta:
        """∇²J(θ)·v for flat θ and v (n,)."""
        self.tally.hvps += 1
        told = self.compiling("hvp", "∇²J·v")
        with double_precision(), self.reading(), told_of_nans(), told:
            return np.array(self.compiled("hvp", self._build_hvp)(theta, v, self.data))

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

    def counted(self) -> "Objective":
        """A view of the same compiled functions with a tally of its own, at zero."""
        view = copy.copy(self)
        view.tally = Tally()
        return view

    def __deepcopy__(self, memo: dict[int, Any]) -> "Objective":
        """Return a view with a tally of its own; nothing else of it changes."""
        memo[id(self)] = view = copy.copy(self)
        view.tally = copy.copy(self.tally)
        return view

    def __getstate__(self) -> dict[str, Any]:
        """Return what it is made of, for another process: all but what is compiled here."""
        here = {"_compiled", "_unravel", "_structure"}
        state = {name: x for name, x in vars(self).items() if name not in here}
        if (mesh := self.mesh) is not None and mesh.is_multi_process:
            raise ValueError("its examples lie in several processes; make one there")
        places = None if mesh is None else np.vectorize(address, [object])(mesh.devices)
        return state | {
            "data": jax.tree.map(np.asarray, self.data),
            "device": self.device and address(self.device),
            "_reduction": replace(self._reduction, mesh=None),
            "mesh": mesh and (places, mesh.axis_names, mesh.axis_types),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it up, on the devices where it was if they are here."""
        mesh, split = state.pop("mesh"), state["_reduction"]
        vars(self).update(state, _compiled={})
        params = as_parameters(self._params)
        self._structure = jax.tree.structure(params)
        self.device = self.device and resident(self.device)
        if mesh is not None:
            devices = np.vectorize(resident, [object])(mesh[0])
            mesh = jax.sharding.Mesh(devices, *mesh[1:]) if np.all(devices) else None
        with double_precision():
            self._unravel = ravel(params)[1]
            if split.source is None:
                self.data, self._reduction = self._split(self.data, split.chunk, mesh)

    def starting_at(self, params: PyTree) -> "Objective":
        """The same loss from another θ₀: a view of the same data and compiled functions.

        So a run begins where another ended: ``flow.integrate(objective.starting_at(path), t)``. It
        takes the weights alone; t begins at 0, and velocities and moments as of any new run, at
        rest. `flow.resume` goes on with all of them, from a checkpoint.

        Parameters
        ----------
        params
            θ₀, of the structure and shapes of the objective's own; or a run, of which it is the
            last θ.

        Raises
        ------
        TypeError
            A leaf is not floating-point.
        ValueError
            Structure or shapes differ, or the loss is not finite there; or the run is an ensemble.

        Examples
        --------
        >>> import numpy as np, flow
        >>> objective = flow.Objective(lambda x: x @ x, np.array([1.0, 2.0]))
        >>> elsewhere = objective.starting_at(np.array([3.0, 4.0]))
        >>> elsewhere.theta, objective.theta
        (array([3., 4.]), array([1., 2.]))
        >>> path = flow.integrate(elsewhere, t=1.0, method="Euler", step=0.25)
        >>> objective.starting_at(path).theta  # (1 − 2h)⁴ of [3, 4]
        array([0.1875, 0.25  ])
        """
        from flow.trajectory import Trajectory, check_single

        if isinstance(params, Trajectory):
            check_single("starting_at", params)
            params = self.unflatten(params.theta[-1])
        as_parameters(params)
        view = self.counted()
        theta, start = self.flatten(params), self._finite_value(params)
        vars(view).update(_params=owned(params), _theta=theta, _start=start)
        return view

    def reparametrised(
        self,
        change: Callable[[PyTree], PyTree],
        conserved: Mapping[str, Callable[[PyTree], Any]] | None = None,
    ) -> "Objective":
        """J∘φ: the loss as a function of w, where θ = φ(w) is made like w and w₀ = θ₀.

        Its gradient is the chain rule on this objective's own, (∂θ/∂w)ᵀ∇J, hand-written where
        that is.

        Parameters
        ----------
        change
            φ, traced by JAX.
        conserved
            What the gradient flow of J∘φ keeps constant, as in `Objective`.

        Examples
        --------
        >>> import numpy as np, flow
        >>> objective = flow.Objective(lambda x: x.sum(), np.array([1.0, 2.0]))
        >>> squared = objective.reparametrised(lambda w: w**2)
        >>> squared.value(squared.params), squared.gradient(squared.params)
        (5.0, array([2., 4.]))
        """
        function("change", change)
        with double_precision(), users("change, called with the initial parameters"):
            start = as_parameters(self.params)
            moved = jax.eval_shape(change, jax.tree.map(jnp.asarray, start))
        self._check_structure(moved, "change(params)")

        # Of one batch: the mean over all of them is the new objective's to take.
        return self.beside(
            partial(_composed, self._loss, change) if self._output_loss is None else None,
            outputs=self._network and partial(_composed, self._network, change),
            output_loss=self._output_loss,
            gradient=partial(_pulled_back, self._hand_gradient or jax.grad(self._loss), change),
            conserved=conserved,
            smooth=self.smooth,
        )

    def beside(self, loss: Any = None, **made: Any) -> "Objective":
        """``Objective(loss, **made)`` of the same θ₀ and examples, held and computed as here."""
        split = self._reduction
        return Objective(
            loss,
            self.params,
            self.data if split.source is None else split.source,
            dtype=self._dtype.name,
            device=self.device,
            batch_chunk=split.chunk,
            mesh=split.mesh,
            **made,
        )

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
        """The pytree of a traced flat vector, to be called under `jax.jit`."""
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

    def _flat(self, name: str, tree: PyTree, examples: int = 0) -> Theta:
        self._check_structure(tree, name, examples)
        leaves = jax.tree.leaves_with_path(tree)
        return np.concatenate([np.ravel(numbers(path_name(name, path), x)) for path, x in leaves])

    def _inside(self, params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.astype(self._dtype), params)

    # ---- the door

    def check_has_outputs(self) -> None:
        """Raise TypeError if only the loss is known, and not the network's outputs."""
        if self._network is None:
            raise TypeError(_LOSS_ONLY)

    def check_has_output_loss(self) -> None:
        """Raise TypeError if the loss is not known as one of the network's outputs."""
        if self._network is None or self._output_loss is None:
            raise TypeError(_LOSS_ONLY)

    def arrays(self, who: str) -> PyTree:
        """The data, for `who` needs all examples as arrays.

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

    def _split(self, data: PyTree, chunk: Any, mesh: Any) -> tuple[PyTree, Reduction]:
        """The data as it is to lie, and how a mean over it is taken."""
        if mesh is not None and self.device is not None:
            raise ValueError(f"device={self.device} is one, and mesh= has its own; leave one out")
        if isinstance(data, HostBatches):
            if chunk is not None or mesh is not None:
                raise ValueError("HostBatches are chunks already, read in one process; leave "
                                 "batch_chunk= and mesh= out")  # fmt: skip
            return None, Reduction(data.examples, source=data)
        if data is None and (chunk is not None or mesh is not None):
            name = "batch_chunk" if mesh is None else "mesh"
            raise ValueError(f"{name}= splits the examples of data=, and there is none")
        data = as_data(data, self._dtype)
        if chunk is not None:
            chunk = positive_integer("batch_chunk", chunk, "a number of examples")
        if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
            raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
        mesh = mesh or mesh_of(data)
        if mesh is not None and self.device is not None:
            raise ValueError(
                f"device={self.device} is one, and data= lies on several already; leave device= out"
            )
        if mesh is not None:
            data = spread(data, mesh)
        elif self.device is not None:
            data = jax.device_put(data, self.device)
        return data, Reduction(rows_of(data), chunk, mesh)

    def _other_data(self, data: PyTree) -> PyTree:
        """Other examples, of the same structure and shapes as the objective's own."""
        own = self._example
        if own is None:
            raise ValueError("this objective was made without data=; its loss takes no other data")
        other = as_data(data, self._dtype)
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

    @property
    def _example(self) -> PyTree:
        """Data, or what a batch of it is like."""
        return self.data if self._reduction.source is None else self._reduction.source.like

    def _called(self, name: str) -> str:
        """How a function of the parameters is called: the data is one argument."""
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

    def _check_hand_gradient(self, gradient: Callable | None, params: PyTree) -> None:
        if gradient is None:
            return
        theirs = users(f"gradient, called with the initial parameters, {self._called('gradient')}")
        with double_precision(), theirs, one_precision(self._dtype):
            try:
                g = jax.eval_shape(
                    lambda p, d: self._hand_gradient(self._inside(p), d), params, self._example
                )
            except Exception as error:
                if not self._runs_in_numpy(gradient, params):
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

    def _runs_in_numpy(self, gradient: Callable, params: PyTree) -> bool:
        """Whether what can't be traced is fine when it is called with numpy arrays."""
        try:
            self.of_numpy(gradient, params)
        except Exception:  # noqa: BLE001 - the one that tracing raised is told
            return False
        return True

    def _traced(self, params: PyTree) -> Any:
        """The jaxpr of J and ∇J."""
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

    def where_not_finite(self) -> str:
        """Say which entry of ∇J(θ₀) is not finite, and what operation makes it so; "" if none."""
        gradient = self.counted().gradient(self.params)
        wrong = [
            f"{path_name('params', path)}{np.argwhere(~np.isfinite(g))[0].tolist() or ''}"
            for path, g in jax.tree.leaves_with_path(gradient)
            if not np.all(np.isfinite(g))
        ]
        if not wrong:
            return ""
        met, params = None, as_parameters(self.params)
        if self.mesh is None and self._reduction.source is None:
            with double_precision():
                inputs = jax.tree.leaves((params, self.data))
                met = first_not_finite(self._traced(params), inputs)
        return f"∇J is not finite in {wrong[0]}" + (f", by {met}" if met else "")

    def _finite_value(self, params: PyTree) -> float:
        value = self.value(params)
        if not np.isfinite(value):
            raise ValueError(
                f"loss is {value} at the initial parameters; start from parameters (and data) "
                "at which it is finite"
            )
        return value


def _composed(function: Callable, change: Callable, w: PyTree, batch: PyTree = None) -> Any:
    return function(change(w), batch)


def _pulled_back(gradient: Callable, change: Callable, w: PyTree, batch: PyTree = None) -> PyTree:
    theta, pull = jax.vjp(change, w)
    slope = gradient(theta, batch)
    return pull(jax.tree.map(lambda g, x: g.astype(x.dtype), slope, theta))[0]


def _precision(dtype: Any) -> np.dtype:
    """What is computed in, by name or as numpy and JAX write it."""
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except (TypeError, ValueError):
        name = dtype
    # To numpy None is float64.
    return np.dtype(choice("dtype", None if dtype is None else name, ["float64", "float32"]))


def _loss_of(
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


def how_made(met: Any) -> str:
    """What to type for an objective where something else was met: a network, a dynamics, a loss."""
    own = getattr(met, "objective", None)
    if isinstance(own, Objective):
        return "dynamics.objective"
    return "network.objective(X, y)" if callable(own) else "flow.Objective(loss, params)"
