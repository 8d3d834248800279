"""Text for terminals and tables: control characters written out, long values cut short."""

import reprlib
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

# Characters in all, in a line, and of a run's label in a table; lines.
MOST, WIDE, LABEL, LINES = 2000, 160, 40, 21
# What LaTeX reads as its own, and how it is written.
LATEX_OWN = {c: rf"\{c}" for c in "{}%&#$_"} | {
    "\\": r"\ensuremath{\backslash}",
    "^": r"\ensuremath{\wedge}",
    "~": r"\ensuremath{\sim}",
}


def visible(text: str, keep: str = "") -> str:
    r"""Return text with its control characters written out, but for those to `keep`.

    A terminal obeys them, wherever a name, a label or a result has come from. What else is not
    printable is written out too: what turns the direction of writing, and lone surrogates.

    >>> print(visible("a\x1b[2J\nb"))
    a\x1b[2J\nb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode()
                   for c in text)  # fmt: skip


def latex_text(text: str) -> str:
    r"""Return a name in LaTeX as it was typed, in text or within ``\mathrm{}``.

    >>> print(latex_text(r"50 % of my_loss"), latex_text(r"\input{x}"))
    50 \% of my\_loss \ensuremath{\backslash}input\{x\}
    """
    return visible(text).translate(str.maketrans(LATEX_OWN))


class _Short(reprlib.Repr):
    """An attribute in a few words: an array by its shape, a function by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60

    def repr_ndarray(self, x: Any, level: int) -> str:
        return f"array {x.shape}"

    repr_ArrayImpl = repr_ndarray  # noqa: N815 - JAX's, by which reprlib finds it

    def repr_function(self, x: Any, level: int) -> str:
        return x.__qualname__.replace("<locals>.", "")

    repr_PjitFunction = repr_function  # noqa: N815

    def repr_partial(self, x: Any, level: int) -> str:
        return self.repr1(next(filter(callable, x.args), x.func), level)

    def repr_Objective(self, x: Any, level: int) -> str:  # noqa: N802
        return f"<Objective of {x.size:,} parameters>"


_SHORT = _Short()


class Shown:
    """Shows itself by `shown`, and so do its subclasses that are dataclasses."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Leave nothing to be done for `dataclasses.dataclass`, which writes arrays out."""
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__

    def __repr__(self) -> str:
        return shown(self)


def shown(x: Any) -> str:
    """Return its name and attributes, each in a few words.

    >>> import numpy as np
    >>> from flow.spectrum import SpectralDensity
    >>> SpectralDensity(np.zeros(500), np.ones(500), 3)
    SpectralDensity(nodes=array (500,), weights=array (500,), products=3)
    """
    named = getattr(x, "_fields", None) or vars(x)
    named = [f.name for f in fields(x)] if is_dataclass(x) else named
    parts = (f"{name.removeprefix('_')}={_SHORT.repr(getattr(x, name))}" for name in named)
    return cut(f"{type(x).__name__}({', '.join(parts)})", MOST)


def table(frame: "pandas.DataFrame") -> str:
    """Return a table as text, its labels cut.

    >>> import pandas as pd
    >>> print(table(pd.DataFrame({"t": [1.0]}, index=pd.Index(["GD " * 20], name="run"))))
                                              t
    run
    GD GD GD GD GD GD GD GD GD GD GD GD GD …  1
    """
    short = [
        k[: LABEL - 1] + "…" if len(k) > LABEL else k for k in map(visible, map(str, frame.index))
    ]
    named = frame.set_axis(short).rename_axis(frame.index.name)
    return visible(named.to_string(float_format=lambda x: f"{x:.4g}"), keep="\n")


def cut(text: str, wide: int = WIDE) -> str:
    r"""Return lines, control characters shown, without those in the middle that are too many.

    >>> cut("\n".join(["a" * 150] * 100)).splitlines()[7]
    '… 87 more lines'
    """
    text = visible(text, keep="\n")
    lines = [line if len(line) <= wide else line[: wide - 1] + "…" for line in text.split("\n")]

    def ends(kept: int) -> str:
        if kept == len(lines):
            return "\n".join(lines)
        first = -(-kept // 2)
        gone = f"… {len(lines) - kept} more lines"
        return "\n".join([*lines[:first], gone, *lines[len(lines) - kept + first :]])

    kept = len(lines) if len(lines) <= LINES else LINES - 1
    while len(ends(kept)) > MOST:
        kept -= 1
    return ends(kept)
