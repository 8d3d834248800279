"""Exceptions by which a run ends early, with what it has."""


class BudgetSpent(Exception):  # noqa: N818 - a message to the driver, no error
    """A budget is spent; the message says which."""


class ObserverFailed(Exception):  # noqa: N818
    """An observer or a stop condition raised half-way; the message says which and what."""


# What may end a run at any moment; what there is then is kept.
ENDINGS = (BudgetSpent, ObserverFailed, KeyboardInterrupt)
