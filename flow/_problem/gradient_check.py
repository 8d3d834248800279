"""`check_gradient`: a gradient against central differences of its objective, leaf by leaf."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from textwrap import fill
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flow._core.display import visible
from flow._core.keywords import own_keywords
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree, path_name, to_numpy
from flow._problem.data import whole as whole_array
from flow._problem.leaf_check import TOLERANCE, LeafCheck, compare_leaves
from flow._problem.mistakes import mistakes, names
from flow._problem.objective import Objective

if TYPE_CHECKING:
    import pandas

# Entries of a leaf that are compared.
SAMPLE = 64
# Mistakes that are told where several come to the same.
MOST = 3
# Of a terminal.
WIDTH = 80


@dataclass(frozen=True, eq=False, repr=False)
class GradientCheck:
    """A gradient beside central differences, leaf by leaf; printed as a table.

    Attributes
    ----------
    leaves
        One `LeafCheck` for each leaf of the parameters.
    """

    leaves: list[LeafCheck]

    @property
    def passed(self) -> bool:
        """Return whether every leaf agrees."""
        return all(leaf.passed for leaf in self.leaves)

    @property
    def worst(self) -> LeafCheck:
        """Return the leaf with the largest error among those that fail, or else among all."""
        failed = [leaf for leaf in self.leaves if not leaf.passed] or self.leaves
        return max(failed, key=lambda leaf: (np.isnan(leaf.error), leaf.error))

    def table(self) -> "pandas.DataFrame":
        """Return a row a leaf: shape, norm, error, what was compared, worst entry, diagnosis."""
        import pandas as pd

        rows = []
        for leaf in self.leaves:
            index, value, difference = leaf.worst
            rows.append(
                {
                    "leaf": leaf.name,
                    "shape": "×".join(map(str, leaf.gradient.shape)) or "scalar",
                    "norm": leaf.norm,
                    "relative error": leaf.error,
                    "compared": leaf.checked,
                    "worst entry": ", ".join(map(str, index)),
                    "gradient": value,
                    "difference": difference,
                    "diagnosis": leaf.diagnosis,
                }
            )
        return pd.DataFrame(rows).set_index("leaf")

    def __str__(self) -> str:
        """Return a row a leaf, a verdict, and the mistakes with the leaves that have them."""
        table = self.table()[["shape", "norm", "relative error", "compared", "worst entry"]]
        text = table.rename_axis(None).to_string(float_format=lambda x: f"{x:.4g}")
        told: dict[str, list[str]] = {}
        for leaf in self.leaves:
            if not leaf.passed:
                told.setdefault(leaf.diagnosis, []).append(leaf.name)
        lines = [text, self._verdict()]
        for diagnosis, leaves in told.items():
            whose = "every leaf" if 1 < len(leaves) == len(self.leaves) else ", ".join(leaves)
            lines += [fill(f"{whose}:", WIDTH), "  " + diagnosis.replace("; or ", "\n  or ")]
        return visible("\n".join(lines), keep="\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.table().to_html(float_format=lambda x: f"{x:.4g}")
        return visible(f"{table}<p>{escape(self._verdict())}</p>", keep="\n")

    def _verdict(self) -> str:
        worst = self.worst
        if self.passed:
            noisy = sum(leaf.error > TOLERANCE for leaf in self.leaves)
            said = f",\n  {noisy} of them within the round-off of J only" if noisy else ""
            return f"passed: every leaf agrees with central differences to {TOLERANCE:g}{said}"
        index, value, difference = worst.worst
        return (
            f"failed: worst in {worst.name} at {index},\n"
            f"  gradient {value:.6g} but difference {difference:.6g}"
        )


@own_keywords
def check_gradient(
    objective: Objective, params: PyTree = None, gradient: Callable[..., PyTree] | None = None
) -> GradientCheck:
    """Compare ∇J with central differences of J, leaf by leaf of the parameters.

    For any objective: hand-derived, autodiff, or with a gradient of the user's own. For an entry
    θ_i, ∂J/∂θ_i ≈ (J(θ + s e_i) − J(θ − s e_i))/2s, extrapolated to fourth order
    (Richardson), with s from 0.01 of the entry or of its leaf's rms downward until estimates
    agree (`scipy.differentiate.derivative`). The error of a leaf is
    ‖gradient − differences‖ / max(‖gradient‖, ‖differences‖); a leaf passes at 1e-6, or where
    the difference is below the floor, what round-off of J may have made: in double precision
    1.1e-11·|J| over an entry's scale.

    Of a leaf of more than 64 entries 64 are compared, half of them the largest of the gradient and
    half a seeded sample, and the derivative along one random direction of all; the table says so.
    Where the pattern is clear, it names the mistake: a flipped sign, a missing 1/N or another
    constant factor, a transposed weight, rows in another order, another leaf's gradient, a
    regulariser's forgotten. Of a `flow.Network`'s objective the whole gradient is held against
    flow's own backward pass with one rule after the other replaced by a wrong one: σ′ forgotten or
    taken at a for z, W for Wᵀ, δ, W or activations of another layer, biases summed wrongly,
    examples paired wrongly. Mistakes that come to the same are all told.

    Differences need J to be smooth within their step. The step is cut away from a kink; an entry
    with one within 1e-4 of its scale (ReLU at 0) has no derivative to be compared with: it is
    left out as unresolved, and told.

    Parameters
    ----------
    objective
        J and its gradient.
    params
        Where; by default the objective's own θ₀. At a special point (all zeros, an optimum) a
        wrong gradient may be right by accident.
    gradient
        ``gradient(params)``, or with data ``gradient(params, data)``, to be checked in place of the
        objective's own: in plain numpy, torch or what it may be, as it is called with numpy arrays
        of its own and not traced by JAX. It returns a pytree like `params`.

    Returns
    -------
    GradientCheck
        ``.passed``, ``.worst``, ``.leaves``; prints as a table.

    Raises
    ------
    TypeError
        `objective` is no `flow.Objective`, or `gradient` no function.
    ValueError
        `params`, or what `gradient` returns, has not the structure or the shapes of θ₀, or J is not
        finite there.

    Examples
    --------
    >>> import numpy as np, flow
    >>> X, y = np.eye(3)[[0, 1, 2, 0]], np.array([1.0, 2.0, 3.0, 4.0])
    >>> def loss(w, batch):
    ...     return 0.5 * ((batch[0] @ w - batch[1]) ** 2).mean()
    >>> def gradient(w, batch):  # the 1/N of the mean is forgotten
    ...     return batch[0].T @ (batch[0] @ w - batch[1])
    >>> objective = flow.Objective(loss, np.ones(3), data=(X, y), gradient=gradient)
    >>> check = flow.check_gradient(objective)
    >>> check.passed, check.worst.name, check.worst.diagnosis
    (False, 'params', '4 times: a 1/N is missing')
    >>> flow.check_gradient(flow.Objective(loss, np.ones(3), data=(X, y))).passed
    True
    """
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective must be a flow.Objective, got {objective!r}; of a loss in jax.numpy it is "
            "flow.check_gradient(flow.Objective(loss, params), gradient=my_gradient)"
        )
    if callable(params):
        raise TypeError(f"params is a function, {params!r:.80}; give it as gradient=")
    params = objective.params if params is None else params
    loss = objective.value(params)
    if not np.isfinite(loss):
        raise ValueError(f"params: the loss is {loss} there; check the gradient elsewhere")
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    structure = jax.tree.structure(params)
    found = (
        objective.counted().gradient(params)
        if gradient is None
        else objective.of_numpy(gradient, params)
    )

    def value(moved: list[Any], data: Any) -> Any:
        return objective.traced_value(jax.tree.unflatten(structure, moved), data)

    checks = compare_leaves(
        value,
        leaves,
        jax.tree.leaves(found),
        [path_name("params", path) for path, _ in jax.tree.leaves_with_path(params)],
        leaves,
        sample=SAMPLE,
        examples=number_of_examples(objective),
        resolution=objective.resolution,
        data=objective.data,
    )
    return GradientCheck(_named(objective, params, checks))


def _named(objective: Objective, params: PyTree, checks: list[LeafCheck]) -> list[LeafCheck]:
    """Return the same, with the mistakes that can be seen by looking at all leaves together."""
    wrong = [k for k, check in enumerate(checks) if not check.passed]
    whole: list[str] = []
    parts: list[list[str]] = [[] for _ in checks]
    finite = all(np.all(np.isfinite(check.gradient)) for check in checks)
    if wrong and finite and objective.backprop is not None:
        from flow.backprop.chain import columns

        chain, loss = objective.backprop
        with double_precision(), np.errstate(all="ignore"):
            X, Y = (np.asarray(columns(whole_array(rows))) for rows in objective.data)
            whole, parts = names(
                [check.gradient for check in checks],
                mistakes(chain, loss, to_numpy(params), X, Y),
                X.shape[-1],
                max(TOLERANCE, 100 * objective.resolution),
            )
    named = list(checks)
    for k in wrong:
        check = checks[k]
        clear = check.pattern and "times what" not in check.pattern
        words = whole or ([] if clear else parts[k] or _of_another(check, checks))
        if words:
            named[k] = replace(check, mistake="; or ".join(words[:MOST]))
    return named


def _of_another(check: LeafCheck, checks: list[LeafCheck]) -> list[str]:
    """Return whether another leaf's gradient stands in this one's place."""
    return [
        f"the gradient of {other.name}"
        for other in checks
        if other is not check
        and other.gradient.shape == check.gradient.shape
        and other.entries.size == check.gradient.size
        and other.resolved.all()
        and np.linalg.norm(check.gradient.ravel() - other.differences)
        <= 1e-6 * np.linalg.norm(other.differences)
    ]


def number_of_examples(objective: Objective) -> int | None:
    """Return N, or None for an objective without data."""
    data = jax.tree.leaves(objective.data)
    return data[0].shape[0] if data else None
