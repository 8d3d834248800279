"""Integrators: scipy's by name, our own, and what flow has to know of each."""

from flow.methods.catalogue import METHODS, Method, find_method
from flow.methods.dissipated import dissipated
from flow.methods.fixed_step import RK4, Euler, Verlet
from flow.methods.rkc2 import RKC2
from flow.methods.stabilised_solver import SpectrumNotReal
from flow.methods.tsrkc3 import TSRKC3

__all__ = [
    "METHODS",
    "RK4",
    "RKC2",
    "TSRKC3",
    "Euler",
    "Method",
    "SpectrumNotReal",
    "Verlet",
    "dissipated",
    "find_method",
]
