"""The first figure of a comparison: loss, distance, gradient norm and plane."""

from typing import TYPE_CHECKING, Any

from flow.plots.along import distance, gradient_norm, loss
from flow.plots.plane import plane

if TYPE_CHECKING:
    from flow.comparison import Comparison


def comparison(comparison: "Comparison", figure: Any = None) -> Any:
    """Loss, distance, gradient norm and common PCA plane in one 2 × 2 figure."""
    import matplotlib.pyplot as plt

    figure = figure or plt.figure(figsize=(10, 7.6), layout="constrained")
    axes = figure.subplots(2, 2)
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
    loss(*runs, ax=axes[0, 0])
    distance(comparison, ax=axes[0, 1])
    gradient_norm(*runs, ax=axes[1, 0])
    plane(*runs, ax=axes[1, 1])
    shared_legend(figure, axes[0, 0], axes[0, 1])
    return figure


def shared_legend(figure: Any, *axes: Any) -> None:
    """One legend above the figure, each run once."""
    handles = dict(
        reversed(item) for ax in axes for item in zip(*ax.get_legend_handles_labels(), strict=True)
    )
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False
    )
