"""One kernel, two machines: the same code runs on numpy with Python's loops, and inside XLA."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Backend:
    """Array functions and control flow, with the signatures of `jax.numpy` and `jax.lax`."""

    xp: Any
    fori_loop: Callable
    while_loop: Callable
    cond: Callable


def _fori_loop(lower: Any, upper: Any, body: Callable, carry: Any) -> Any:
    for i in range(lower, int(upper)):
        carry = body(i, carry)
    return carry


def _while_loop(condition: Callable, body: Callable, carry: Any) -> Any:
    while condition(carry):
        carry = body(carry)
    return carry


def _cond(predicate: Any, yes: Callable, no: Callable, *operands: Any) -> Any:
    return yes(*operands) if predicate else no(*operands)


HOST = Backend(np, _fori_loop, _while_loop, _cond)
DEVICE = Backend(jnp, jax.lax.fori_loop, jax.lax.while_loop, jax.lax.cond)
