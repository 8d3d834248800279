"""`Objective`: J, ∇J and ∇²J·v of a pytree of parameters and of its flat vector."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.checks import (
    flag,
    function,
    mapping,
    numbers,
    single_run,
    users,
)
from flow._core.devices import address, find_device, resident
from flow._core.display import cut
from flow._core.jaxprs import first_not_finite, jumping, place
from flow._core.keywords import own_keywords
from flow._core.precision import (
    double_precision,
    strict_promotion,
    told_of_nans,
)
from flow._core.pytrees import (
    PyTree,
    as_data,
    as_parameters,
    owned,
    path_name,
    ravel,
    unravel_like,
)
from flow._problem.data import Departures, alike, laid_out, whole
from flow._problem.traced import Theta, Traced, loss_of, precision_of


@dataclass
class Tally:
    """A count of gradients of the full data, Hessian-vector products and values of J alone."""

    gradients: int = 0
    hvps: int = 0
    values: int = 0


@own_keywords
class Objective(Traced):
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
        self._dtype = precision_of(dtype)
        self.device = find_device(device)
        params64 = as_parameters(params)
        self._params = owned(params)
        loss = loss_of(loss, outputs, output_loss, data)
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
            self.data, self._reduction = laid_out(data, self._dtype, self.device, batch_chunk, mesh)
            self._theta, self._unravel = ravel(params64)
            self._shapes = jax.eval_shape(lambda p: p, params64)
        self.size: int = self._theta.size
        self._structure = jax.tree.structure(params64)
        self._compiled: dict[Any, Any] = {}
        self._check_loss(params64)
        self._hand_gradient = (
            gradient if gradient is None or data is not None else lambda p, _: gradient(p)
        )
        self._check_hand_gradient(gradient, params64, self._runs_in_numpy)
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
        """Return its size and J(θ₀), and a line a leaf, cut."""
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

    # ---- pure functions, for dynamics and user code that is itself traced by JAX

    # ---- views of θ

    def flatten(self, params: PyTree) -> Theta:
        """Return θ as a flat float64 vector (n,).

        Raises
        ------
        ValueError
            `params` has not the structure or the shapes of θ₀.
        """
        return self._flat("params", params)

    def unflatten(self, theta: np.ndarray) -> PyTree:
        """Return the pytree of numpy float64 leaves whose flat vector is `theta` (n,)."""
        theta = numbers("theta", theta)
        if theta.shape != (self.size,):
            raise ValueError(f"theta must have shape ({self.size},), got {theta.shape}")
        return unravel_like(self._shapes, theta)

    # ---- what users call: pytrees in, numpy float64 out

    def value(self, params: PyTree, data: PyTree = None) -> float:
        """Return J(θ); of other data where `data` is given, held-out examples for instance.

        Raises
        ------
        ValueError
            `data` is not made like the objective's own, or the objective has none.
        """
        theta = self.flatten(params)
        self.tally.values += 1
        with double_precision():
            batch = self.data if data is None else alike(data, self._example, self._dtype)
            with self.reading(), told_of_nans():
                return float(self.compiled("value", self._build_value)(theta, batch))

    def gradient(self, params: PyTree) -> PyTree:
        """Return ∇J(θ), a pytree like `params`."""
        return self.unflatten(self.flat_value_and_gradient(self.flatten(params))[1])

    def value_and_gradient(self, params: PyTree) -> tuple[float, PyTree]:
        """Return J(θ) and ∇J(θ) in one jitted pass."""
        value, gradient = self.flat_value_and_gradient(self.flatten(params))
        return value, self.unflatten(gradient)

    def of_numpy(self, gradient: Callable[..., PyTree], params: PyTree) -> PyTree:
        """Return ``gradient(params)`` or ``gradient(params, data)`` as it was written, not traced.

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
        """Return ∇²J(θ)·v, a pytree like `params`, at the cost of two gradients.

        It is the push-forward (JVP) of the backward pass, hand-written where that is.

        Raises
        ------
        ValueError
            `params` or `v` has not the structure or the shapes of θ₀.
        """
        return self.unflatten(self.flat_hvp(self.flatten(params), self._flat("v", v)))

    def outputs(self, params: PyTree, X: Any = None) -> np.ndarray:
        """Return the network's outputs (examples, ...) on X, or on the objective's own data.

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
        """Return J and ∇J at a flat θ (n,); the gradient is (n,)."""
        self.tally.gradients += 1
        with double_precision(), self.reading(), told_of_nans():
            function = self.compiled("value_and_gradient", self._build_value_and_gradient)
            value, gradient = function(theta, self.data)
            return float(value), np.array(gradient)

    def flat_hvp(self, theta: Theta, v: Theta) -> Theta:
        """Return ∇²J(θ)·v for flat θ and v (n,)."""
        self.tally.hvps += 1
        told = self.compiling("hvp", "∇²J·v")
        with double_precision(), self.reading(), told_of_nans(), told:
            return np.array(self.compiled("hvp", self._build_hvp)(theta, v, self.data))

    def counted(self) -> "Objective":
        """Return a view of the same compiled functions with a tally of its own, at zero."""
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
                self.data, self._reduction = laid_out(
                    self.data, self._dtype, self.device, split.chunk, mesh
                )

    def starting_at(self, params: PyTree) -> "Objective":
        """Return the same loss from another θ₀: a view of the same data and compiled functions.

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
        if hasattr(params, "theta") and hasattr(params, "members"):
            single_run("starting_at", params)
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
        """Return J∘φ: the loss as a function of w, where θ = φ(w) is made like w and w₀ = θ₀.

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
        """Return ``Objective(loss, **options)`` of the same θ₀ and examples, held as here."""
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

    def _flat(self, name: str, tree: PyTree, examples: int = 0) -> Theta:
        self._check_structure(tree, name, examples)
        leaves = jax.tree.leaves_with_path(tree)
        return np.concatenate([np.ravel(numbers(path_name(name, path), x)) for path, x in leaves])

    # ---- the door

    def _runs_in_numpy(self, gradient: Callable, params: PyTree) -> bool:
        """Return whether what can't be traced is fine when it is called with numpy arrays."""
        try:
            self.of_numpy(gradient, params)
        except Exception:  # noqa: BLE001 - the one that tracing raised is told
            return False
        return True

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


def how_made(met: Any) -> str:
    """Return what to type for an objective where a network, a dynamics or a loss was given."""
    own = getattr(met, "objective", None)
    if isinstance(own, Objective):
        return "dynamics.objective"
    return "network.objective(X, y)" if callable(own) else "flow.Objective(loss, params)"
