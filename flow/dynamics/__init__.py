"""Right-hand sides: what moves, what it declares of itself, and the optimizer that it models."""

from flow.dynamics.adaptive_flows import AdamFlow, RMSPropFlow, SignFlow
from flow.dynamics.base import Dynamics
from flow.dynamics.central_flow import CentralFlow
from flow.dynamics.gradient_flow import GradientFlow
from flow.dynamics.kinks import KinkWarning
from flow.dynamics.linearized_flow import LinearizedFlow, tangent_kernel
from flow.dynamics.modified_flow import ModifiedFlow
from flow.dynamics.natural_gradient_flow import NaturalGradientFlow
from flow.dynamics.principal_flow import PrincipalFlow
from flow.dynamics.scale_free_flow import ScaleFreeFlow
from flow.dynamics.second_order import HeavyBall, Nesterov, nesterov
from flow.dynamics.stiefel_flow import StiefelFlow, orthogonal
from flow.dynamics.stochastic_flow import LangevinFlow, StochasticFlow

__all__ = [
    "AdamFlow",
    "CentralFlow",
    "Dynamics",
    "GradientFlow",
    "HeavyBall",
    "KinkWarning",
    "LangevinFlow",
    "LinearizedFlow",
    "ModifiedFlow",
    "NaturalGradientFlow",
    "Nesterov",
    "PrincipalFlow",
    "RMSPropFlow",
    "ScaleFreeFlow",
    "SignFlow",
    "StiefelFlow",
    "StochasticFlow",
    "nesterov",
    "orthogonal",
    "tangent_kernel",
]
