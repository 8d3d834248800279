"""What tells one function from another, in files that outlive both."""

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from types import CodeType
from typing import Any

import jax
import numpy as np


def identity(value: Any) -> Any:
    """A function, or what it was given, as plain data: the same in every process.

    A function is told by its name, its code and the numbers, texts and arrays that it closes over
    or that a `functools.partial` fixes; what else it closes over by its type. Not by what it reads
    from its module.

    >>> identity(partial(max, 3)), identity([1, "two"])
    (['max', [3], {}], [1, 'two'])
    >>> def times(k):
    ...     return lambda x: k * x
    >>> identity(times(2)) == identity(times(2)), identity(times(2)) == identity(times(3))
    (True, False)
    """
    if isinstance(value, partial):
        return [identity(value.func), identity(value.args), identity(value.keywords)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return [str(array.dtype), list(array.shape), sha256(array.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(k): identity(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [identity(v) for v in value]
    if hasattr(value, "__code__"):
        closed = [_inner(cell) for cell in value.__closure__ or ()]
        return [*_inner_function(value), closed, identity(value.__defaults__)]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _inner(cell: Any) -> Any:
    """What a function closes over; of a function the code alone, as it may close over itself."""
    try:
        value = cell.cell_contents
    except ValueError:  # not assigned yet
        return None
    return _inner_function(value) if hasattr(value, "__code__") else identity(value)


def _inner_function(function: Any) -> list[str]:
    return [function.__qualname__, _of_code(function.__code__).hexdigest()]


def _of_code(code: CodeType) -> Any:
    digest = sha256(code.co_code + repr((code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        inner = isinstance(constant, CodeType)
        digest.update(_of_code(constant).digest() if inner else repr(constant).encode())
    return digest
