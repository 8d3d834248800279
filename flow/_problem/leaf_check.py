"""One array of a gradient against central differences: error, worst entry, diagnosis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flow._problem.differences import central_differences

# A hand-derived gradient agrees to rounding and differences to about 1e-9 of the largest entries;
# no mistake of a derivation is as small as this.
TOLERANCE = 1e-6
# To this a wrong gradient is a multiple of the right one, or its transpose.
_PATTERN = 1e-4


@dataclass(frozen=True, eq=False)
class LeafCheck:
    """A gradient's leaf beside central differences of J on some of its entries.

    Attributes
    ----------
    name
        What the leaf is called.
    gradient
        The leaf of the gradient, in the shape of its variable.
    entries
        Flat positions (k,) of those compared; all, or a sample.
    differences
        Central differences there (k,).
    resolved
        (k,); False at a kink, where differences did not settle, or where J is not finite nearby.
        These entries are left out of the error.
    floor
        What round-off of J may have made of an entry's difference (k,).
    direction
        (gradient · v, the difference along v, its floor, ‖gradient ⊙ v‖) for a random direction v
        of the whole leaf where only a sample of entries was compared, else None; None too where
        the difference along it did not settle.
    examples
        N of the mean, where it is known, for the diagnosis.
    variable
        The variable's value, likewise.
    mistake
        What was found to be wrong otherwise, in the diagnosis' place.
    """

    name: str
    gradient: Float[np.ndarray, "..."]
    entries: Int[np.ndarray, "k"]
    differences: Float[np.ndarray, "k"]
    resolved: Bool[np.ndarray, "k"]
    floor: Float[np.ndarray, "k"]
    direction: tuple[float, float, float, float] | None
    examples: int | None
    variable: Float[np.ndarray, "..."]
    mistake: str = ""

    @property
    def norm(self) -> float:
        """Return the Euclidean norm of the gradient's leaf."""
        return float(np.linalg.norm(self.gradient))

    @property
    def error(self) -> float:
        """Return ‖gradient − differences‖ / max(‖gradient‖, ‖differences‖) over entries compared.

        Where a direction was compared too, the larger of both errors; NaN if nothing is resolved
        or the gradient is not finite.
        """
        return max((error for error, _ in self._errors()), key=lambda e: (np.isnan(e), e))

    @property
    def below_floor(self) -> bool:
        """Return whether the difference is no larger than round-off of J may have made it."""
        return all(below for _, below in self._errors())

    @property
    def passed(self) -> bool:
        """Return whether the error is below `TOLERANCE`, or below the floor."""
        return all(below or error <= TOLERANCE for error, below in self._errors())

    @property
    def worst(self) -> tuple[tuple[int, ...], float, float]:
        """Return the index of the entry that is furthest off, its value there, and J's."""
        off = np.abs(self._values - self.differences)
        k = int(np.argmax(np.where(self.resolved, np.nan_to_num(off, nan=np.inf), -1.0)))
        index = np.unravel_index(self.entries[k], self.gradient.shape)
        return tuple(map(int, index)), float(self._values[k]), float(self.differences[k])

    @property
    def checked(self) -> str:
        """Return what was compared, in words."""
        text = "all"
        if self.entries.size < self.gradient.size:
            text = f"{self.entries.size} of {self.gradient.size}"
            text += "" if self.direction is None else " + direction"
        left_out = int(np.sum(~self.resolved))
        return f"{text}, {left_out} unresolved" if left_out else text

    @property
    def diagnosis(self) -> str:
        """Return what the mistake looks like, where a pattern is clear; "" if the leaf passed."""
        if self.passed:
            return ""
        if self.mistake:
            return self.mistake
        if not np.any(self.resolved):
            return "nothing to compare: differences do not settle"
        d = self.differences[self.resolved]
        off = int(np.sum(np.abs(self._values[self.resolved] - d) > TOLERANCE * np.abs(d).max()))
        return self.pattern or (
            "no clear pattern" if off > d.size / 2 else f"{off} of {d.size} entries off"
        )

    @property
    def pattern(self) -> str:
        """Return the mistake that is seen from this leaf alone; "" where it is not clear.

        Not finite, zero, a flipped sign or another factor, transposed, rows or columns in another
        order, a multiple of the variable missing or too much, or a mistake outside the sample.
        """
        if not np.all(np.isfinite(self.gradient)):
            return "not finite"
        d = self.differences[self.resolved]
        if d.size == 0:
            return ""
        if np.linalg.norm(d) == 0:
            return "should be zero"
        if self.norm == 0:
            return "is zero"
        if np.abs(self._values[self.resolved] - d).max() <= TOLERANCE * np.abs(d).max():
            return "entries outside the sample are off"
        # The gradient of Wᵀ put into the shape of W.
        transposed = self.gradient.reshape(self.gradient.shape[::-1]).T
        for candidate, name in ((self.gradient, ""), (transposed, "transposed")):
            g = candidate.ravel()[self.entries][self.resolved]
            factor = float(g @ d / (d @ d))
            if np.linalg.norm(g - factor * d) <= _PATTERN * np.linalg.norm(g):
                words = ", ".join(filter(None, [name, self._factor(factor)]))
                return words or f"off by less than {_PATTERN:g} of it"
        return self._reordered() or self._term(d)

    def _reordered(self) -> str:
        """Return in what other order rows, columns or entries stand, where all were compared."""
        if not (self.resolved.all() and self.entries.size == self.gradient.size):
            return ""
        d = self.differences.reshape(self.gradient.shape)
        for axis, name in enumerate(("rows", "columns")[: d.ndim] if d.ndim > 1 else ["entries"]):
            both = [np.moveaxis(x, axis, 0).reshape(d.shape[axis], -1) for x in (self.gradient, d)]
            # By sums of their entries with unequal weights, in which rounding does not tell.
            weights = np.random.default_rng(0).standard_normal(both[0].shape[1])
            g, right = (x[np.argsort(x @ weights)] for x in both)
            if np.linalg.norm(g - right) <= _PATTERN * np.linalg.norm(d):
                return f"{name} in another order"
        return ""

    def _term(self, d: Float[np.ndarray, "k"]) -> str:
        """Return whether a multiple of the variable, or of its sign, is missing or too much."""
        missing = d - self._values[self.resolved]
        theta = self.variable.ravel()[self.entries][self.resolved]
        for x, term, of in (
            (theta, "θ", "½c‖θ‖²"),
            (np.sign(theta), "sign(θ)", "c‖θ‖₁"),
        ):
            c = float(missing @ x / max(x @ x, np.finfo(float).tiny))
            tells = x.size > 2 and np.ptp(x) > 0  # noqa: PLR2004 - or an offset looks like one
            if tells and np.linalg.norm(missing - c * x) <= _PATTERN * np.linalg.norm(missing):
                what = "is missing" if c > 0 else "is too much"
                return f"c·{term}, c = {abs(c):.4g}, {what}: the gradient of a regulariser {of}"
        return ""

    @property
    def _values(self) -> Float[np.ndarray, "k"]:
        return self.gradient.ravel()[self.entries]

    def _errors(self) -> list[tuple[float, bool]]:
        """Return (relative error, whether below the floor) of entries, and of the direction."""
        g, d, floor = (x[self.resolved] for x in (self._values, self.differences, self.floor))
        if g.size == 0:
            return [(np.nan, False)]
        pairs = [(np.linalg.norm(g - d), np.linalg.norm(floor), np.linalg.norm([g, d], axis=1))]
        if self.direction is not None:
            along, difference, floor, scale = self.direction
            pairs.append((abs(along - difference), floor, [scale, abs(difference)]))
        return [
            (float(off / max(*sizes, np.finfo(float).tiny)), bool(off <= floor))
            for off, floor, sizes in pairs
        ]

    def _factor(self, factor: float) -> str:
        if abs(factor - 1) <= _PATTERN:
            return ""
        for size, words in ({1.0: ""} | factors(self.examples or 1)).items():
            if abs(abs(factor) / size - 1) <= _PATTERN:
                return ", ".join(filter(None, ["sign flipped" if factor < 0 else "", words]))
        return f"{factor:.6g} times what it should be"


def factors(N: int) -> dict[float, str]:
    """Return factor -> the mistake that makes a gradient so many times what it should be.

    >>> factors(4)
    {4.0: '4 times: a 1/N is missing', 0.25: '1/4 of it: divided by N twice'}
    """
    if N == 1:
        return {}
    return {float(N): f"{N} times: a 1/N is missing", 1 / N: f"1/{N} of it: divided by N twice"}


def compare_leaves(
    J: Callable[[list[Array], Any], Array],
    leaves: Sequence[np.ndarray],
    gradient: Sequence[np.ndarray],
    names: Sequence[str],
    scales: Sequence[np.ndarray],
    *,
    sample: int,
    examples: int | None,
    resolution: float,
    data: Any = None,
) -> list[LeafCheck]:
    """Compare each leaf of a gradient with central differences of J.

    An entry moves by steps relative to max(|x|, rms of its leaf), x its value in `scales`; where
    a whole leaf is zero, to the rms of all. Of a leaf of more than `sample` entries, a sample is
    compared, half of it where the gradient is largest and half drawn from a fixed seed, and the
    derivative along one random direction of all its entries, ±step each, which sees a mistake
    anywhere.

    Parameters
    ----------
    J
        Of a list of arrays like `leaves`, and of `data`; traced by JAX.
    leaves, gradient, names
        Where, ∂J/∂leaf to be checked, and what they are called.
    scales
        Values like `leaves` that set the steps.
    sample
        Entries of a leaf to compare.
    examples
        N of the mean, if known.
    resolution
        Unit round-off of J.
    data
        A pytree of arrays.
    """
    rng = np.random.default_rng(0)
    sizes = [leaf.size for leaf in leaves]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.cumsum(sizes)
    x = np.concatenate([leaf.ravel() for leaf in leaves])
    scale = np.concatenate(_scales(scales))
    signs = rng.choice([-1.0, 1.0], x.size)
    picked = [_sample(g.ravel(), sample, rng) for g in gradient]
    sampled = [l for l, n in enumerate(sizes) if n > sample]
    # A direction is coded by −1 − the number of its leaf.
    codes = [p + end - n for p, end, n in zip(picked, ends, sizes, strict=True)]
    directions = np.concatenate([*codes, [-1 - l for l in sampled]]).astype(np.int64)

    def along(s: Array, code: Array, data: Any) -> Array:
        step = jnp.where(
            code >= 0, jnp.arange(x.size) == code, jnp.where(owner == -1 - code, signs, 0.0)
        )
        moved = jnp.split(x + s * scale * step, ends[:-1])
        parts = [part.reshape(leaf.shape) for part, leaf in zip(moved, leaves, strict=True)]
        return J(parts, data)

    found = central_differences(along, directions, x.size, resolution, data)
    parts = iter(np.split(np.arange(directions.size), np.cumsum([p.size for p in picked])))
    last = {l: directions.size - len(sampled) + i for i, l in enumerate(sampled)}
    checks = []
    for l, (name, g, part) in enumerate(zip(names, gradient, parts, strict=False)):
        own = scale[codes[l]]
        direction = None
        if l in last and found.resolved[last[l]]:
            v = scale[owner == l] * signs[owner == l]
            direction = (
                float(g.ravel() @ v),
                float(found.value[last[l]]),
                found.floor,
                float(np.linalg.norm(g.ravel() * v)),
            )
        checks.append(
            LeafCheck(
                name,
                g,
                picked[l],
                found.value[part] / own,
                found.resolved[part],
                found.floor / own,
                direction,
                examples,
                np.asarray(scales[l]),
            )
        )
    return checks


def _sample(gradient: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return positions of all entries, or of the largest and of random others."""
    if gradient.size <= size:
        return np.arange(gradient.size)
    order = np.argsort(-np.abs(gradient), kind="stable")
    others = rng.choice(order[size // 2 :], size - size // 2, replace=False)
    return np.sort(np.concatenate([order[: size // 2], others]))


def _scales(values: Sequence[Any]) -> list[np.ndarray]:
    """Return what an entry's step is relative to."""
    overall = np.sqrt(np.mean(np.concatenate([np.ravel(v) for v in values]) ** 2)) or 1.0
    return [
        np.maximum(np.abs(v).ravel(), np.sqrt(np.mean(np.square(v))) or overall) for v in values
    ]
