"""Integrators: scipy's by name, fixed steps of our own, and what flow has to know of each."""

from flow.methods.catalogue import METHODS, Method, find_method
from flow.methods.dissipated import dissipated
from flow.methods.fixed_step import RK4, Euler

__all__ = ["METHODS", "RK4", "Euler", "Method", "dissipated", "find_method"]
