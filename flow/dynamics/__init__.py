"""Right-hand sides: what moves, what it declares of itself, and the optimizer that it models."""

from flow.dynamics.base import Dynamics
from flow.dynamics.gradient_flow import GradientFlow
from flow.dynamics.scale_free_flow import ScaleFreeFlow
from flow.dynamics.stiefel_flow import StiefelFlow, orthogonal

__all__ = ["Dynamics", "GradientFlow", "ScaleFreeFlow", "StiefelFlow", "orthogonal"]
