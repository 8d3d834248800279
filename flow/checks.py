"""Checks at the door: every message names the argument, the value met and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches
from math import isfinite
from numbers import Integral, Real
from typing import Any


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
    """Return `value` as an int if it is a positive whole number, else raise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a positive integer, got {value!r}{_hint(remedy)}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}{_hint(remedy)}")
    return int(value)


def real(name: str, value: Any) -> float:
    """Return `value` as a float if it is one real number, else raise TypeError."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    return float(value)


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`; else name them, the nearest first."""
    options = list(options)
    if value in options:
        return value
    nearest = get_close_matches(str(value).lower(), [o.lower() for o in options], 1, 0.4)
    found = [o for o in options if nearest and o.lower() == nearest[0]]
    suggestion = f" Did you mean {found[0]!r}?" if found else ""
    raise ValueError(
        f"{name} {value!r} is unknown.{suggestion} Choose from {', '.join(map(repr, options))}."
    )


def _hint(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""
