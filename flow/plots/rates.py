"""Powers in log–log: distance against the learning rate, error against cost."""

from typing import TYPE_CHECKING, Any

import numpy as np

from flow._core.checks import carrying, instance
from flow._core.keywords import own_keywords
from flow.plots.style import axes, colour, finish, in_lines, ink, marker, readable

if TYPE_CHECKING:
    import pandas


@own_keywords
def order(study: Any, ax: Any = None) -> Any:
    """Return distance at a fixed time against the learning rate, with the fitted line."""
    carrying("study", study, "learning_rates distance slope", "what flow.order_study returns")
    ax = axes(ax)
    rates = study.learning_rates
    centre = np.exp(np.mean(np.log(study.distance)) - study.slope * np.mean(np.log(rates)))
    ax.loglog(rates, centre * rates**study.slope, color=ink(ax), label=f"slope {study.slope:.2f}")
    ax.loglog(rates, study.distance, "o", color=colour(0), label=f"distance at t = {study.t:g}")
    return finish(ax, None, xlabel=study.abscissa, ylabel="distance ‖θ − θ_flow‖")


@own_keywords
def work_precision(
    table: "pandas.DataFrame",
    cost: str = "cost",
    error: str = "error",
    by: str = "method",
    ax: Any = None,
) -> Any:
    """Return error against cost in log–log, one curve a method; NaN where a method has none.

    Parameters
    ----------
    table
        A row a run, with a column (or level of the index) of each of the names.
    cost
        Gradients plus twice the products, or seconds.
    error
        Of θ at the end.
    by
        What makes a curve; they come in the order in which the table has them.

    Raises
    ------
    ValueError
        The table has no such column.

    Examples
    --------
    >>> import flow, pandas as pd
    >>> rows = [{"method": "RK4", "cost": 4 * n, "error": n**-4.0} for n in (10, 20, 40)]
    >>> ax = flow.plots.work_precision(pd.DataFrame(rows))
    >>> ax.get_xscale(), ax.get_legend_handles_labels()[1]
    ('log', ['RK4'])
    """
    import pandas

    instance("table", table, pandas.DataFrame, "a pandas.DataFrame")
    for name, column in (("cost", cost), ("error", error), ("by", by)):
        instance(name, column, str, "the name of a column")
    given, ax, table = ax, axes(ax), table.reset_index()
    for name in (cost, error, by):
        if name not in table:
            raise ValueError(f"the table has no column {name!r}; it has {list(table.columns)}")
    for i, (name, of) in enumerate(table.groupby(by, sort=False)):
        curve = of.dropna(subset=[cost, error])
        if len(curve):
            ax.loglog(
                curve[cost], curve[error], color=colour(i), marker=marker(i),
                markersize=5, label=in_lines(str(name)),
            )  # fmt: skip
    return finish(ax, given, xlabel=readable(cost), ylabel=readable(error))
