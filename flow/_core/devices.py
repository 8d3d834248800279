"""Devices and threads: where an objective computes, and who else may on the same cores."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
from threadpoolctl import ThreadpoolController

from flow._core.jaxprs import operations, place
from flow._core.user_warnings import warn


def find_device(device: Any) -> jax.Device | None:
    """Return the device named "cpu", "gpu" or "tpu", or one as it is; None for JAX's default.

    >>> find_device("cpu").platform
    'cpu'

    Raises
    ------
    TypeError, ValueError
        It is neither, or there is none here.
    """
    if device is None or isinstance(device, jax.Device):
        return device
    if not isinstance(device, str):
        raise TypeError(
            f"device must be 'cpu', 'gpu', 'tpu' or one of jax.devices(), got {device!r}"
        )
    try:
        return jax.local_devices(backend=device)[0]
    except RuntimeError:
        raise ValueError(
            f"device={device!r} is not here; JAX has {jax.devices()}. Where hardware is missing "
            "there, jax may want another build, pip install 'jax[cuda12]' for instance"
        ) from None


def address(device: jax.Device) -> tuple[str, int]:
    """Return what finds a device in another process."""
    return device.platform, device.id


def resident(address: tuple[str, int]) -> jax.Device | None:
    """Return the device of that address; None where it is not here."""
    try:
        found = jax.local_devices(backend=address[0])
    except RuntimeError:
        return None
    return next((device for device in found if device.id == address[1]), None)


def placed(function: Callable, device: jax.Device | None) -> Callable:
    """Return a jitted function that computes on that device, whatever its arguments are."""
    if device is None:
        return function

    def there(function: Callable) -> Callable:
        @wraps(function)
        def call(*arguments: Any, **more: Any) -> Any:
            with jax.default_device(device):
                return function(*arguments, **more)

        return call

    call = there(function)
    call.lower = there(function.lower)
    return call


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds


class _Limit:
    """One BLAS thread in the process, from the first of the scopes that overlap to the last."""

    def __init__(self) -> None:
        self._lock, self._scopes, self._limited = Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if self._scopes == 0:
                self._limited = _controller().limit(limits=1, user_api="blas")
            self._scopes += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._scopes -= 1
            if self._scopes == 0:
                self._limited.restore_original_limits()


_LIMIT = _Limit()


def single_blas_thread(wanted: bool = True) -> AbstractContextManager:
    """Return a scope in which numpy's and scipy's linear algebra runs in one thread.

    An explicit integrator's own work is on a few vectors and gains nothing from threads, but
    after each product their workers spin for a while: at 55,210 parameters plain `solve_ivp`, with
    threads, took about twice as long as the flow (`experiments/overhead.py`). Scopes of several
    threads may overlap; the last that ends gives BLAS its threads back.
    """
    return _LIMIT if wanted else nullcontext()


def check_callbacks(closed_jaxpr: Any) -> None:
    """Warn of a function that calls Python back with arrays, where XLA has one thread for all.

    The callback holds the thread in which its own arguments are to be copied.
    """
    callbacks = (e for e in operations(closed_jaxpr.jaxpr) if "callback" in e.primitive.name)
    arrays = (e for e in callbacks if any(_is_float(v) for v in e.invars))
    if _xla_threads() > 1 or (met := next(arrays, None)) is None:
        return
    warn(
        f"the loss calls Python back ({place(met)}), and this process may use one CPU: JAX waits "
        "there for ever for arrays that are large, or if the function that is called back calls "
        "JAX itself. Give the process two CPUs, or set the environment variable NPROC=2 before "
        "Python starts",
        RuntimeWarning,
    )


def _is_float(variable: Any) -> bool:
    return jnp.issubdtype(getattr(variable.aval, "dtype", jnp.bool), jnp.floating)


def _xla_threads() -> int:
    """Return how many threads XLA has on the CPU."""
    allowed = getattr(os, "sched_getaffinity", None)
    most = os.cpu_count() if allowed is None else len(allowed(0))
    return int(os.environ.get("NPROC") or most or 1)
