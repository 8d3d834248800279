"""Any figure of runs as an animation along t."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flow._core.checks import positive, positive_integer, truth
from flow._core.files import refuse_existing, write_new
from flow._core.keywords import own_keywords
from flow.plots.moving import times_of
from flow.plots.style import TIME_LABEL

# Of a frame's palette; figures have few colours, and a GIF of more is larger.
PALETTE = 128
LEAST_DPI = 10


@own_keywords
def animate(
    figure: Any,
    file: str | os.PathLike,
    *,
    frames: int = 60,
    seconds: float = 6.0,
    dpi: int = 80,
    progress: bool = True,
) -> Path:
    """Write a figure of runs as an animated GIF, in which every run grows with t.

    Whatever `flow.plots` draws along t moves, on axes that stay as they are: curves against t,
    paths in the plane and over the loss surface, all at the same t. Times are evenly spaced, in
    log t where an axis of t is logarithmic. The figure is left as it was.

    Parameters
    ----------
    figure
        A figure, or axes, whose figure it is.
    file
        Where to write it, "run.gif".
    frames, seconds
        How many, and how long they last in all; the last stays for a second.
    dpi
        Pixels an inch.
    progress
        Show progress.

    Raises
    ------
    FileExistsError
        The file exists; nothing is overwritten.
    ValueError
        Nothing in the figure moves along t.

    Examples
    --------
    >>> import flow, numpy as np, pathlib, tempfile
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    >>> ax = flow.plots.plane(flow.integrate(objective, t=2.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = flow.plots.animate(ax, pathlib.Path(folder) / "plane.gif", frames=3)
    ...     file.stat().st_size > 1000
    True
    """
    from PIL import Image

    figure = getattr(figure, "figure", figure)
    if not hasattr(figure, "findobj"):
        raise TypeError(f"figure must be a matplotlib figure, or axes of one, got {figure!r:.80}")
    if positive_integer("dpi", dpi) < LEAST_DPI:
        raise ValueError(f"dpi must be at least {LEAST_DPI}, for text to be drawn, got {dpi}")
    truth("progress", progress)
    frames = positive_integer("frames", frames)
    positive("seconds", seconds)
    file = refuse_existing(file)
    if file.suffix.lower() != ".gif":
        raise ValueError(f"file must end in .gif, got {str(file)!r}")
    cuts, t = _cuts(figure)
    if not cuts:
        raise ValueError(
            "nothing in this figure moves along t; draw runs with flow.plots on it, "
            "flow.plots.loss(path) for instance"
        )
    pictures = []
    stamp = figure.text(0.995, 0.005, "", ha="right", va="bottom", fontsize="small")
    before, engine = figure.dpi, figure.get_layout_engine()
    try:
        figure.set_dpi(dpi)
        figure.canvas.draw()  # so that limits and places are settled before anything is cut
        figure.set_layout_engine("none")
        for now in tqdm(_frame_times(figure, t, frames), "frames", disable=not progress):
            for cut in cuts:
                cut(now)
            stamp.set_text(f"t = {now:.3g}")
            pictures.append(_picture(figure))
    finally:
        for cut in cuts:
            cut(np.inf)
        stamp.remove()
        figure.set_dpi(before)
        figure.set_layout_engine(engine)
    # A GIF counts in hundredths of a second, and viewers slow down below two of them.
    ends = np.rint(100.0 * seconds * np.arange(frames + 1) / frames)
    pauses = [10 * max(2, int(pause)) for pause in np.diff(ends)]
    pauses[-1] += 1000
    gif = BytesIO()
    first, *rest = [p.quantize(PALETTE, method=Image.Quantize.MEDIANCUT) for p in pictures]
    first.save(
        gif, "GIF", save_all=True, append_images=rest, loop=0,
        duration=pauses,
    )  # fmt: skip
    return write_new(file, gif.getvalue())


def _picture(figure: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _cuts(figure: Any) -> tuple[list[Callable[[float], None]], np.ndarray]:
    """Return for each moving artist a function that cuts it at a time; and all their times."""
    found = [(artist, times_of(artist)) for artist in figure.findobj()]
    found = [(artist, t) for artist, t in found if t is not None and len(t)]
    times = np.unique(np.concatenate([t for _, t in found])) if found else np.zeros(0)
    return [_cut(artist, t) for artist, t in found], times[np.isfinite(times)]


def _cut(artist: Any, t: np.ndarray) -> Callable[[float], None]:
    """Show what an artist has up to a time."""
    if hasattr(artist, "set_segments"):
        segments, values = artist.get_segments(), artist.get_array()

        def show(now: float) -> None:
            artist.set_segments([s for s, at in zip(segments, t, strict=True) if at <= now])
            artist.set_array(values[t <= now])

    elif hasattr(artist, "set_offsets"):
        places, values = artist.get_offsets(), artist.get_array()

        def show(now: float) -> None:
            artist.set_offsets(places[t <= now])
            artist.set_array(values[t <= now])

    else:
        x, y = artist.get_data()

        def show(now: float) -> None:
            artist.set_data(x[t <= now], y[t <= now])

    return show


def _frame_times(figure: Any, t: np.ndarray, frames: int) -> np.ndarray:
    if frames == 1:
        return t[-1:]
    logarithmic = any(
        ax.get_xscale() == "log" and " ".join(ax.get_xlabel().split()) == TIME_LABEL
        for ax in figure.axes
    )
    if logarithmic and np.any(t > 0):
        return np.geomspace(t[t > 0].min(), t[-1], frames)
    return np.linspace(t[0], t[-1], frames)
