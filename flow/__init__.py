"""Continuous-time gradient flow of neural networks, beside the optimizers that approximate it.

>>> import flow
>>> X, y = flow.datasets.digits(100)
>>> objective = flow.MLP([64, 8, 10]).objective(X, y)
>>> path = flow.integrate(objective, t=10.0)
>>> steps = flow.descend(objective, learning_rate=0.05, steps=200)
>>> bool(flow.compare(path, steps).relative_distance[-1] < 0.05)
True
"""

from flow import (
    backprop,
    circuits,
    datasets,
    dynamics,
    exact,
    methods,
    networks,
    observe,
    plots,
    spectrum,
    stop,
)
from flow._core.opening import Unreadable
from flow._core.precision import PrecisionWarning
from flow._evidence.action import Action, action
from flow._evidence.audit import Audit, audit
from flow._evidence.compare import Comparison, ErrorBarWarning, compare
from flow._evidence.nearest import refine
from flow._evidence.order import OrderStudy, auto_learning_rates, order_study
from flow._evidence.study import Study, load_study, study
from flow._evidence.sweep import sweep
from flow._explain import Explanation, explain
from flow._problem.gradient_check import GradientCheck, check_gradient
from flow._problem.host_batches import HostBatches
from flow._problem.minibatches import BatchWarning
from flow._problem.objective import Objective
from flow._run.checkpoint import Checkpoint, CheckpointWarning
from flow._run.descend import descend
from flow._run.integrate import integrate
from flow._run.resume import resume
from flow._run.trajectory import Trajectory
from flow._run.trajectory_file import load
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
from flow.networks import MLP, Network
from flow.spectrum import (
    EigenvaluesNotConverged,
    bottom_eigenvalues,
    preconditioned_sharpness,
    sharpness,
    spectral_density,
    top_eigenvalues,
)

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
    "refine",
    "resume",
    "sharpness",
    "spectral_density",
    "spectrum",
    "stop",
    "study",
    "sweep",
    "top_eigenvalues",
]


def __getattr__(name: str) -> str:
    """Return `__version__`, which takes milliseconds to look up, and is rarely asked for."""
    if name == "__version__":
        from flow._run.trajectory import current_versions

        return current_versions()["gradient-flow"]
    raise AttributeError(f"module 'flow' has no attribute {name!r}")
