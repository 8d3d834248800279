"""What a user may type by mistake, and what an argument of each kind makes of it.

A kind has the meaning of a value: what the argument stands for, `REFUSED` where it stands for
nothing, or `ANY` where that is left open (a function of which nothing is known).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import inf, isfinite, isnan, nan
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

REFUSED, ANY = "refused", "any"


class UsersError(Exception):
    """What a function of the user's raises."""


def raises(*_: Any, **__: Any) -> Any:
    """A function of the user's that fails."""
    raise UsersError("of the user")


def read_only(*values: float) -> np.ndarray:
    """An array that can't be written to."""
    array = np.array(values)
    array.setflags(write=False)
    return array


# Label -> what makes the value; a generator is a new one each time.
POOL: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "''": lambda: "",
    "'0.5'": lambda: "0.5",
    "b'0.5'": lambda: b"0.5",
    "'auto'": lambda: "auto",
    "True": lambda: True,
    "False": lambda: False,
    "np.True_": lambda: np.True_,
    "nan": lambda: nan,
    "inf": lambda: inf,
    "-inf": lambda: -inf,
    "0": lambda: 0,
    "-1": lambda: -1,
    "-0.5": lambda: -0.5,
    "1": lambda: 1,
    "2": lambda: 2,
    "2.0": lambda: 2.0,
    "0.5": lambda: 0.5,
    "1.5": lambda: 1.5,
    "1e308": lambda: 1e308,
    "5e-324": lambda: 5e-324,
    "10**30": lambda: 10**30,
    "10**400": lambda: 10**400,
    "1j": lambda: 1j,
    "Fraction": lambda: Fraction(1, 2),
    "Decimal": lambda: Decimal("0.5"),
    "object": object,
    "Ellipsis": lambda: ...,
    "slice": lambda: slice(2),
    "[]": list,
    "[1.0, 2.0]": lambda: [1.0, 2.0],
    "ragged": lambda: [[1.0], [1.0, 2.0]],
    "('a', 'b')": lambda: ("a", "b"),
    "{}": dict,
    "{'a': 1.0}": lambda: {"a": 1.0},
    "set": lambda: {0.5, 1.0},
    "generator": lambda: (x for x in (0.5, 1.0)),
    "int": lambda: int,
    "np": lambda: np,
    "function": lambda: lambda *a: a,
    "np.float32": lambda: np.float32(0.5),
    "np.float64": lambda: np.float64(1.5),
    "np.int64": lambda: np.int64(2),
    "np.uint8": lambda: np.uint8(2),
    "np.complex128": lambda: np.complex128(1.0),
    "np.datetime64": lambda: np.datetime64("2020-01-01"),
    "0-d float": lambda: np.array(0.5),
    "0-d int": lambda: np.array(2),
    "0-d bool": lambda: np.array(True),
    "0-d object": lambda: np.array(None, object),
    "0-d str": lambda: np.array("RK45"),
    "jnp 0-d": lambda: jnp.asarray(0.5),
    "one entry": lambda: np.array([0.5]),
    "empty": lambda: np.empty(0),
    "ones(2)": lambda: np.ones(2),
    "read-only": lambda: read_only(0.25, 0.75),
    "jnp": lambda: jnp.array([0.25, 0.75]),
    "ones(3)": lambda: np.ones(3),
    "ones((2, 1))": lambda: np.ones((2, 1)),
    "ones((1, 2))": lambda: np.ones((1, 2)),
    "ones((2, 2))": lambda: np.ones((2, 2)),
    "ints": lambda: np.array([1, 2]),
    "bools": lambda: np.array([True, False]),
    "complexes": lambda: np.array([1.0 + 1j, 2.0]),
    "strings": lambda: np.array(["1.0", "2.0"]),
    "objects": lambda: np.array([1.0, None], object),
    "numbers as objects": lambda: np.array([0.25, 0.75], object),
    "with nan": lambda: np.array([1.0, nan]),
    "masked": lambda: np.ma.array([0.25, 0.75], mask=[False, True]),
    "float16": lambda: np.array([0.25, 0.75], np.float16),
    "dates": lambda: np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
    "raises": lambda: raises,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What an argument makes of a value, and values of its own that are worth trying."""

    meaning: Callable[[Any], Any]
    tries: Mapping[str, Callable[[], Any]] = field(default_factory=dict)

    def __or__(self, other: "Kind") -> "Kind":
        """What either of them takes."""

        def meaning(value: Any) -> Any:
            first = self.meaning(value)
            return other.meaning(value) if isinstance(first, str) and first == REFUSED else first

        return Kind(meaning, {**self.tries, **other.tries})


def number(value: Any) -> Any:
    """The float that a value is, if it is one number."""
    if isinstance(value, np.ndarray | jax.Array) and value.shape == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return REFUSED
    try:
        return float(value)
    except OverflowError:
        return REFUSED


def real(test: Callable[[float], bool] = lambda x: not isnan(x)) -> Kind:
    """One number that passes a test."""

    def meaning(value: Any) -> Any:
        found = number(value)
        return found if found != REFUSED and test(found) else REFUSED

    return Kind(meaning)


positive = real(lambda x: isfinite(x) and x > 0)
not_negative = real(lambda x: isfinite(x) and x >= 0)


def integer(least: int = 1, most: int = 10**6) -> Kind:
    """A whole number; more than `most` is a request too large to be tried."""

    def meaning(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.shape == ():
            value = value.item()
        if isinstance(value, float | np.floating) and value.is_integer():
            return ANY
        if isinstance(value, bool) or not isinstance(value, Integral):
            return REFUSED
        return int(value) if least <= value <= most else REFUSED

    return Kind(meaning)


seed = integer(0, 2**32 - 1)


def truth(value: Any) -> Any:
    """The bool that a value is."""
    value = value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    return bool(value) if isinstance(value, bool | np.bool_) else REFUSED


flag = Kind(truth)


def option(*names: Any) -> Kind:
    """One of a few names."""

    def meaning(value: Any) -> Any:
        return value if isinstance(value, str) and value in names else REFUSED

    wrong = {f"{n!r}.upper": lambda n=n: str(n).swapcase() for n in names[:1]}
    return Kind(meaning, {repr(n): lambda n=n: n for n in names} | wrong)


none = Kind(lambda v: None if v is None else REFUSED)
never = Kind(lambda v: REFUSED)
anything = Kind(lambda v: ANY)
function = Kind(lambda v: ANY if callable(v) else REFUSED)


def array(*shape: int, finite: bool = False, kinds: str = "fiu") -> Kind:
    """An array of numbers of that shape, −1 for any length; lists are arrays written out."""

    def meaning(value: Any) -> Any:
        if isinstance(value, np.ma.MaskedArray) or not isinstance(value, np.ndarray | jax.Array):
            return REFUSED
        found = np.asarray(value)
        fits = len(found.shape) == len(shape) and all(
            s in (-1, n) for s, n in zip(shape, found.shape, strict=True)
        )
        if not fits or found.dtype.kind not in kinds or (finite and not np.isfinite(found).all()):
            return REFUSED
        return found.astype(float)

    return Kind(meaning)


def rows(*shape: int, finite: bool = False) -> Kind:
    """As `array`, and lists of numbers too."""
    strict = array(*shape, finite=finite)

    def meaning(value: Any) -> Any:
        if isinstance(value, list | tuple):
            try:
                value = np.array(value)
            except ValueError:
                return REFUSED
        return strict.meaning(value)

    return Kind(meaning)


def tries(kind: Kind, **more: Any) -> Kind:
    """The kind with further values of which nothing else is known."""
    labels = {f"own {name}": lambda v=value: v for name, value in more.items()}
    known = {id(value) for value in more.values()}
    return Kind(
        lambda v: ANY if id(v) in known else kind.meaning(v),
        {**kind.tries, **labels},
    )


def wrong(kind: Kind, **more: Any) -> Kind:
    """The kind with further values that are to be refused."""
    labels = {f"wrong {name}": lambda v=value: v for name, value in more.items()}
    known = {id(value) for value in more.values()}
    return Kind(
        lambda v: REFUSED if id(v) in known else kind.meaning(v),
        {**kind.tries, **labels},
    )
