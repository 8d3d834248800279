"""Checks at the door: every message names the argument, the value met and the remedy.

A number is an int, a float, or a scalar of numpy or JAX; bools and text are none, and an array of
one entry is an array. An array is of real numbers: text is not parsed, and neither imaginary parts
nor masks are dropped. A bool is True or False, and nothing that is merely true. What a user's own
function raises stays theirs, with a note that says where it was called.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from difflib import get_close_matches
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# What counts and indexes are kept in has 64 bits.
LARGEST = 2**63 - 1

# What JAX raises where a function that it traces asks for numbers.
_UNTRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def positive(name: str, value: Any) -> float:
    """Return `value` as a float if it is a positive finite number, else raise ValueError."""
    number = real(name, value)
    if not (isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def not_negative(name: str, value: Any) -> float:
    """Return `value` as a float if it is finite and not below zero, else raise ValueError."""
    number = real(name, value)
    if not (isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return number


def positive_integer(name: str, value: Any, remedy: str = "") -> int:
    """Return `value` as an int if it is a positive whole number, 1e3 too, else raise."""
    value = scalar(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a positive integer, got {value!r}{_hint(remedy)}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}{_hint(remedy)}")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most 2⁶³ − 1, got {_size(value)}{_hint(remedy)}")
    return int(value)


def index(name: str, value: Any, length: int, of: str) -> int:
    """Return `value` as a place in a sequence, negative ones from its end, else raise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r:.80}")
    if not -length <= value < length:
        raise IndexError(f"{name} {value!r} of {of}")
    return int(value)


def random_seed(value: Any) -> int:
    """Return the seed of a run as an int: the room that it travels in has 32 bits."""
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= value < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2³² − 1, got {value!r:.80}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is one: "no" and None are not False."""
    value = scalar(value)
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r:.80}")
    return value


def real(name: str, value: Any) -> float:
    """Return `value` as a float if it is one real number, else raise TypeError."""
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be a number below 1.8e308, got {_size(value)}") from error


def scalar(value: Any) -> Any:
    """Return an array of no dimensions, numpy's or JAX's, as Python's own; a PRNG key stays one."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    return value if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value.item()


def truth(name: str, value: Any) -> bool:
    """Return whether `value` is true, of a switch that decides no number; else raise TypeError."""
    try:
        return bool(value)
    except ValueError as error:
        raise TypeError(f"{name} must be true or false, got {value!r:.80}") from error


def numbers(name: str, value: Any, *, bools: bool = False) -> np.ndarray:
    """Return `value` as an array of float64, if it is real numbers and nothing is lost.

    Text is not parsed, imaginary parts and masks are not dropped; `bools` says whether they are
    the numbers 0 and 1.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; leave those entries "
                        f"out, or fill them: got {value!r:.80}")  # fmt: skip
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's
        remedy = f"; give it as {name}{way}" if (way := to_numpy_by(value)) else ""
        raise TypeError(f"{name} must be an array of numbers, got {value!r:.80}{remedy}") from error
    known = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu"
    if not (known or (bools and array.dtype.kind == "b")):
        raise TypeError(
            f"{name} must be real numbers, got {value!r:.80} of dtype {array.dtype}; convert it "
            "with .astype(float)"
        )
    return array.astype(np.float64)


def to_numpy_by(value: Any) -> str:
    """Return what to type behind another library's array to have it as numpy's, or "".

    Of torch, of pandas and its like, and of TensorFlow, none of which is imported.
    """
    if hasattr(value, "detach"):
        away = getattr(getattr(value, "device", None), "type", "cpu") != "cpu"
        return ".detach().cpu().numpy()" if away else ".detach().numpy()"
    return next((f".{way}()" for way in ("to_numpy", "numpy") if hasattr(value, way)), "")


def instance(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raise TypeError unless `value` is `what`, an instance of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {value!r:.80}")


def carrying(name: str, value: Any, attributes: str, what: str) -> None:
    """Raise TypeError unless `value` is `what`, told by the attributes that are asked of it."""
    if not all(hasattr(value, attribute) for attribute in attributes.split()):
        raise TypeError(f"{name} must be {what}, got {value!r:.80}")


def single_run(what: str, run: Any) -> None:
    """Raise ValueError if a run is an ensemble, of whose members `what` takes one."""
    if run.members is not None:
        raise ValueError(
            f"{what} is of one run, but this is an ensemble of {run.members}; take one by "
            "path.member(i)"
        )


def several(name: str, value: Any, what: str) -> list[Any]:
    """Return things in an order as a list, else raise TypeError: text and sets are none."""
    unordered = isinstance(value, str | bytes | Mapping | AbstractSet)
    if unordered or not isinstance(value, Iterable) or getattr(value, "shape", None) == ():
        raise TypeError(f"{name} must be {what}, got {value!r:.80}")
    return list(value)


def function(name: str, value: Any) -> None:
    """Raise TypeError unless `value` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.80}")


def mapping(name: str, value: Any, what: str) -> dict[str, Any]:
    """Return a mapping of names as a dict, else raise TypeError."""
    instance(name, value, Mapping, f"a mapping, {what}")
    for key in value:
        instance(f"a name in {name}", key, str, "a string")
    return dict(value)


def file_path(name: str, value: Any) -> Path:
    """Return `value` as a path, ~ being the user's folder as in a shell, else raise."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(f"{name} must be a path, got {value!r:.80}")
    if "\0" in os.fspath(value):
        raise ValueError(f"{name} has a null character, got {value!r:.80}")
    return Path(os.path.expanduser(value))  # noqa: PTH111 - which leaves an unknown ~user as it is


@contextmanager
def users(what: str) -> Iterator[None]:
    """Say of an error that a function of the user's is called here: it is theirs, and stays so."""
    try:
        yield
    except Exception as error:
        note = f"from {what}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
            if isinstance(error, _UNTRACED):
                error.add_note(
                    "JAX traces it: write it with jax.numpy (import jax.numpy as jnp) in place of "
                    "numpy, jnp.where in place of an if, and without float()"
                )
        raise


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`; else name them, the nearest first."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    nearest = get_close_matches(str(value).lower(), [o.lower() for o in options], 1, 0.4)
    found = [o for o in options if nearest and o.lower() == nearest[0]]
    suggestion = f" Did you mean {found[0]!r}?" if found else ""
    raise ValueError(
        f"{name} {value!r} is unknown.{suggestion} Choose from {', '.join(map(repr, options))}."
    )


def _size(value: Any) -> str:
    """Return what can be said of a number that is too large to be written out."""
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"{value:.3e}"


def _hint(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""
