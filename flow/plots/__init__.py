"""Figures: each function takes and returns matplotlib axes. Flows are lines, discrete runs points.

Runs are given one by one or in a list.
The first run is black, on dark axes white, the others in colours that colour-blind readers tell
apart; t is in units of learning rate × steps. A flow's line joins its saved times. Without ``ax=``
a function draws a figure of its own, with a legend: the current one while it is empty, else a new
one. Given axes, ``ax=plt.gca()`` for instance, are part of a figure of yours, whose legend is yours
too, by `shared_legend`. matplotlib's own settings, where you changed them, win. `animate` makes a
GIF of any of them.
"""

from flow.plots.along import distance, gradient_norm, loss, observable, sharpness, stages, step_size
from flow.plots.animation import animate
from flow.plots.circuit import draw as circuit
from flow.plots.overview import comparison, study
from flow.plots.parameters import conserved, layer_norms, weights
from flow.plots.plane import plane
from flow.plots.rates import order, work_precision
from flow.plots.spectra import spectral_density, spectrum
from flow.plots.style import COLOURS, MARKERS, TIME_LABEL, shared_legend
from flow.plots.surface import surface

__all__ = [
    "COLOURS",
    "MARKERS",
    "TIME_LABEL",
    "animate",
    "circuit",
    "comparison",
    "conserved",
    "distance",
    "gradient_norm",
    "layer_norms",
    "loss",
    "observable",
    "order",
    "plane",
    "shared_legend",
    "sharpness",
    "spectral_density",
    "spectrum",
    "stages",
    "step_size",
    "study",
    "surface",
    "weights",
    "work_precision",
]
