"""Double precision, scoped to the package's own calls, and the search for less inside a loss."""

import re
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.jaxprs import depending, place


class PrecisionWarning(UserWarning):
    """A loss computes in less than the precision that was asked for."""


# JAX's strict switches, as flow's own code needs them.
_LENIENT = {
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "debug_nans": False,
    "debug_infs": False,
    "transfer_guard_host_to_device": "allow",
    "transfer_guard_device_to_device": "allow",
    "transfer_guard_device_to_host": "allow",
}
# Those that were otherwise where the scope began, as the user had set them.
_STRICT: ContextVar[dict[str, Any]] = ContextVar("strict", default={})  # noqa: B039


def double_precision() -> AbstractContextManager:
    """Return a scope in which JAX computes in float64, without touching its global setting.

    Within it JAX's strict switches are off, which an inf that pads an array or a number of numpy's
    would set off; `strict_promotion` and `told_of_nans` have them as the user does.
    """
    met = ((name, getattr(jax.config, f"jax_{name}")) for name in _LENIENT)
    strict = {name: value for name, value in met if value not in (_LENIENT[name], None)}
    return _leniently(strict) if strict else jax.enable_x64(True)


@contextmanager
def _leniently(strict: Mapping[str, Any]) -> Iterator[None]:
    with ExitStack() as scopes:
        scopes.enter_context(jax.enable_x64(True))
        scopes.callback(_STRICT.reset, _STRICT.set(_STRICT.get() | strict))
        _set(scopes, {name: _LENIENT[name] for name in strict})
        yield


def _set(scopes: ExitStack, switches: Mapping[str, Any]) -> None:
    for name, value in switches.items():
        scopes.enter_context(getattr(jax, name)(value))


def strict_promotion(function: Callable) -> Callable:
    """Return a user's function, to be traced under the rules for types and shapes of the user's."""
    return partial(_strictly, function)  # which can be pickled where the function can


def _strictly(function: Callable, *arguments: Any) -> Any:
    with ExitStack() as scopes:
        _set(scopes, {k: v for k, v in _STRICT.get().items() if k.startswith("numpy")})
        return function(*arguments)


def told_of_nans() -> AbstractContextManager:
    """Return a scope for a call of users' functions: NaN is an error there if the user says so."""
    scopes = ExitStack()
    _set(scopes, {k: v for k, v in _STRICT.get().items() if k.startswith("debug")})
    return scopes


@contextmanager
def one_precision(dtype: np.dtype) -> Iterator[None]:
    """Say of JAX's error what to type, where a user's loop or branch is in two precisions.

    Raises
    ------
    TypeError
        JAX's own of a carry (`scan`, `while_loop`) or of branches (`cond`), with what to type.
    """
    try:
        yield
    except TypeError as error:
        told = str(error)
        met = re.search(r"[^\n*]*float(32.*float64|64.*float32).*", told)
        if met is None or not re.search("carry|branch", told):
            raise
        other = "float32" if dtype == np.float64 else "float64"
        raise TypeError(
            "the loss has a loop or branch (scan, while_loop, cond, a recurrent cell) in two "
            f"precisions: {met[0].strip(' .;')}. θ and data are {dtype} here; let what a loop "
            f"starts from be so too, jnp.zeros(shape, x.dtype), and a cell of flax by "
            f"dtype=jnp.{dtype}, param_dtype=jnp.{dtype}. Or compute in the other precision, "
            f'flow.Objective(..., dtype="{other}")'
        ) from error


def keep_precisions_apart() -> None:
    """Let JAX hold a numpy array that a function closes over once for each precision.

    JAX holds what it has made of such an array for as long as a traced function needs it, and
    since 0.9.2 finds it again by the array alone: a loss that was called in single precision has
    its arrays rounded when it is traced in double, and the other way round it gets arrays of
    another type than it was compiled for. Where JAX does so, arrays are found by their precision
    too; all else is as it was.
    """
    from jax._src import dtypes, literals

    def double(array: np.ndarray) -> Any:
        with double_precision():
            return dtypes.canonicalize_value(array)

    array = np.zeros(1)
    with jax.enable_x64(False):
        single = dtypes.canonicalize_value(array)
    if double(array).dtype != single.dtype:
        return
    typed = literals.TypedNdArray
    old = {"weak_type": False} if "weak_type" in signature(typed.__new__).parameters else {}
    held: dict[Any, Any] = {}

    def canonical(x: np.ndarray) -> Any:
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        key = id(x), dtype
        mine, made = held.get(key, (lambda: None,) * 2)
        value = made() if mine() is x else None
        if value is None:
            value = typed(np.asarray(x, dtype), **old)
            # Both by weak references: an array goes when its owner lets it go.
            held[key] = weakref.ref(x, lambda _: held.pop(key, None)), weakref.ref(value)
        return value

    register = getattr(dtypes, "register_canonicalize_value_handler", None)
    (register or dtypes.canonicalize_value_handlers.__setitem__)(np.ndarray, canonical)
    if double(array).dtype != array.dtype:
        raise TypeError("its handler of numpy arrays can't be replaced")


def keep_callbacks_precise() -> None:
    """Let JAX run what it calls back in the double precision of the function that calls.

    Callbacks (`jax.pure_callback`, `io_callback`, `jax.debug`) run in threads of XLA, which do not
    see a scope of the caller's thread: arguments and results would be rounded to single precision.
    One that is compiled in double precision gets a scope of its own, and what returns single
    precision there is told the way; all else is as it was.
    """
    from jax.interpreters import mlir

    add = mlir.ModuleContext.add_host_callback

    def add_host_callback(context: Any, callback: Callable[..., Any]) -> None:
        def precise(*arguments: Any) -> Any:
            with jax.enable_x64(True):
                try:
                    return callback(*arguments)
                except RuntimeError as error:
                    if "Expected: float64, Actual: float" not in str(error):
                        raise
                    raise RuntimeError(
                        f"{error}. What a loss calls back is given double precision here, and "
                        "returns it: np.asarray(found, x.dtype), in torch found.double(); or "
                        "compute in single precision, flow.Objective(..., dtype='float32')"
                    ) from None

        add(context, precise if jax.config.jax_enable_x64 else callback)

    mlir.ModuleContext.add_host_callback = add_host_callback


try:
    keep_callbacks_precise()
except (ImportError, AttributeError) as error:
    warnings.warn(
        f"JAX {jax.__version__} is not known here ({error}): what a loss calls back "
        "(jax.pure_callback) may see single precision; install another version of JAX",
        PrecisionWarning,
        stacklevel=2,
    )
try:
    keep_precisions_apart()
except (ImportError, AttributeError, TypeError) as error:
    warnings.warn(
        f"JAX {jax.__version__} is not known here ({error}): a loss that closes over numpy arrays "
        "must not be called outside of flow too, in single precision; pass them by data=",
        PrecisionWarning,
        stacklevel=2,
    )


def coarsest_float(closed_jaxpr: Any, varying: int) -> tuple[Any, str]:
    """Return the least precise float dtype that a jaxpr computes in, and where.

    Parameters
    ----------
    closed_jaxpr
        What its outputs do not depend on is passed over.
    varying
        So many of its first inputs vary, θ. What does not depend on them is a constant of the
        loss, in whatever precision it was made.

    Returns
    -------
    tuple
        The dtype, and the operation with file and line in words.
    """
    found = [
        (variable.aval.dtype, equation)
        for equation in depending(closed_jaxpr.jaxpr, varying)
        for variable in equation.outvars
        if jnp.issubdtype(getattr(variable.aval, "dtype", jnp.bool), jnp.floating)
    ]
    dtype, equation = max(found, key=lambda f: jnp.finfo(f[0]).eps, default=(np.float64, None))
    return jnp.dtype(dtype), "" if equation is None else place(equation)


# Values along a line, and the order of their differences, in which what is smooth vanishes.
_VALUES, _ORDER = 8, 4


def rounding_noise(of: Callable[[np.ndarray], np.ndarray], theta: np.ndarray, step: float) -> float:
    """Return the largest relative rounding noise of functions of θ; NaN where none is finite.

    By fourth differences along a line, σ² = mean (Δ⁴f)²/70, over the largest |f| there (Moré and
    Wild 2011, "Estimating computational noise"). It is taken at two points near θ: at a minimum,
    or where a last layer is zero, f is another size than on the way.

    Parameters
    ----------
    of
        θ (n,) ↦ values (m,).
    theta
        (n,).
    step
        Between points, relative: the roundoff of the precision that is looked for.

    Examples
    --------
    >>> bool(rounding_noise(np.sin, np.ones(1), 1e-7) < 1e-14)
    True
    >>> bool(rounding_noise(lambda x: np.sin(x.astype(np.float32)), np.ones(1), 1e-7) > 1e-10)
    True
    """
    rng, found = np.random.default_rng(0), []
    size = float(np.sqrt(np.mean(theta**2))) or 1.0
    for _ in range(2):
        near = theta + 0.1 * size * rng.standard_normal(theta.size)
        way = step * (np.abs(near) + size) * rng.standard_normal(theta.size)
        values = np.array([of(near + i * way) for i in range(_VALUES)], np.float64)
        differences = np.diff(values, _ORDER, axis=0)
        sigma = np.sqrt(np.mean(differences**2, axis=0) / comb(2 * _ORDER, _ORDER))
        scale = np.max(np.abs(values), axis=0)
        found.append(np.max(sigma / np.where(scale > 0.0, scale, 1.0)))
    return float(np.fmax.reduce(found))
