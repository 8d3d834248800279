"""A warning where derivatives are asked for that a loss with kinks has not."""

import warnings

from flow.objective import Objective


class KinkWarning(UserWarning):
    """Higher derivatives of a loss with kinks are taken, which is blind to the kinks."""


def warn_of_kinks(objective: Objective, what: str) -> None:
    """Warn if the objective is known to have kinks; `what` says who takes which derivatives."""
    if not objective.smooth:
        warnings.warn(
            f"{what}, which are those between the kinks of this one (ReLU, max pooling): curvature "
            "that comes of crossing them is not seen. Take a smooth activation, "
            "activation=flow.backprop.softplus(beta=200) for ReLU, 'gelu' or 'tanh'.",
            KinkWarning,
            stacklevel=4,
        )
