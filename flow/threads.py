"""Threads: one of BLAS beside XLA's, and one of XLA's for what a loss calls back."""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import Lock
from typing import Any

import jax.numpy as jnp
from threadpoolctl import ThreadpoolController

from flow.jaxprs import operations, place
from flow.warn import warn


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
    """Scope in which numpy's and scipy's linear algebra runs in one thread.

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
    """As XLA counts them on the CPU."""
    allowed = getattr(os, "sched_getaffinity", None)
    most = os.cpu_count() if allowed is None else len(allowed(0))
    return int(os.environ.get("NPROC") or most or 1)
