"""Continuous-time gradient flow of neural networks, beside the optimizers that approximate it.

>>> import flow
>>> X, y = flow.datasets.digits(100)
>>> objective = flow.MLP([64, 8, 10]).objective(X, y)
>>> path = flow.integrate(objective, t=10.0)
>>> steps = flow.descend(objective, learning_rate=0.05, steps=200)
>>> bool(flow.compare(path, steps).relative_distance[-1] < 0.05)
True
"""

from typing import Any

from flow import (
    backprop,
    circuits,
    datasets,
    dynamics,
    exact,
    networks,
    observe,
    plots,
    spectrum,
    stop,
)
from flow.action import Action, action
from flow.audit import Audit, audit
from flow.check_gradient import GradientCheck, check_gradient
from flow.checkpoints import Checkpoint, CheckpointWarning
from flow.comparison import Comparison, ErrorBarWarning, compare
from flow.descent import descend
from flow.dynamics import (
    AdamFlow,
    CentralFlow,
    Dynamics,
    GradientFlow,
    HeavyBall,
    KinkWarning,
    LangevinFlow,
    LinearizedFlow,
    ModifiedFlow,
    NaturalGradientFlow,
    Nesterov,
    PrincipalFlow,
    RMSPropFlow,
    ScaleFreeFlow,
    SignFlow,
    StiefelFlow,
    StochasticFlow,
)
from flow.explain import Explanation, explain
from flow.host_batches import HostBatches
from flow.integration import integrate
from flow.networks import MLP, Network
from flow.objective import Objective
from flow.opening import Unreadable
from flow.order import OrderStudy, auto_learning_rates, order_study
from flow.precision import PrecisionWarning
from flow.resume import resume
from flow.sampling import BatchWarning
from flow.spectrum import (
    EigenvaluesNotConverged,
    bottom_eigenvalues,
    preconditioned_sharpness,
    sharpness,
    spectral_density,
    top_eigenvalues,
)
from flow.study import Study, load_study, study
from flow.sweep import sweep
from flow.trajectory import Trajectory, load

__all__ = [
    "MLP",
    "Action",
    "AdamFlow",
    "Audit",
    "BatchWarning",
    "CentralFlow",
    "Checkpoint",
    "CheckpointWarning",
    "Comparison",
    "Dynamics",
    "EigenvaluesNotConverged",
    "ErrorBarWarning",
    "Explanation",
    "GradientCheck",
    "GradientFlow",
    "HeavyBall",
    "HostBatches",
    "KinkWarning",
    "LangevinFlow",
    "LinearizedFlow",
    "ModifiedFlow",
    "NaturalGradientFlow",
    "Nesterov",
    "Network",
    "Objective",
    "OrderStudy",
    "PrecisionWarning",
    "PrincipalFlow",
    "RMSPropFlow",
    "ScaleFreeFlow",
    "SignFlow",
    "StiefelFlow",
    "StochasticFlow",
    "Study",
    "Trajectory",
    "Unreadable",
    "action",
    "audit",
    "auto_learning_rates",
    "backprop",
    "bottom_eigenvalues",
    "check_gradient",
    "circuits",
    "compare",
    "datasets",
    "descend",
    "dynamics",
    "exact",
    "explain",
    "integrate",
    "load",
    "load_study",
    "methods",
    "networks",
    "observe",
    "order_study",
    "plots",
    "preconditioned_sharpness",
    "resume",
    "sharpness",
    "spectral_density",
    "spectrum",
    "stop",
    "study",
    "sweep",
    "top_eigenvalues",
]


def __getattr__(name: str) -> Any:
    """`flow.methods`, which waits for its first use, as scipy.integrate is slow to import."""
    if name == "methods":
        import importlib

        return importlib.import_module("flow.methods")
    raise AttributeError(f"module 'flow' has no attribute {name!r}")
