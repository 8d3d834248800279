"""Integrators: scipy's by name, our own, and what flow has to know of each.

Each name is imported at its first use, as scipy.integrate takes most of a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow.methods.catalogue import METHODS, Method, find_method
    from flow.methods.energy_integral import dissipated
    from flow.methods.ode_solver import SpectrumNotReal
    from flow.methods.rkc2 import RKC2
    from flow.methods.tsrkc3 import TSRKC3

_FILES = {
    "catalogue": ("METHODS", "Method", "find_method"),
    "energy_integral": ("dissipated",),
    "ode_solver": ("SpectrumNotReal",),
    "rkc2": ("RKC2",),
    "tsrkc3": ("TSRKC3",),
}

__all__ = [
    "METHODS",
    "RKC2",
    "TSRKC3",
    "Method",
    "SpectrumNotReal",
    "dissipated",
    "find_method",
]


def __getattr__(name: str) -> Any:
    """Return what is asked for, from its file."""
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"module 'flow.methods' has no attribute {name!r}")
