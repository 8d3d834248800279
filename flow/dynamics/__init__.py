"""Right-hand sides: what moves, what it declares of itself, and the optimizer that it models."""

from flow.dynamics.base import Dynamics
from flow.dynamics.gradient_flow import GradientFlow

__all__ = ["Dynamics", "GradientFlow"]
