"""Continuous-time gradient flow of neural networks, beside the optimizers that approximate it."""

from flow import backprop, datasets, dynamics, methods, observe, stop
from flow.descent import descend
from flow.dynamics import Dynamics, GradientFlow
from flow.integration import integrate
from flow.networks import MLP
from flow.objective import Objective
from flow.precision import PrecisionWarning
from flow.trajectory import Trajectory, load
