"""Runs of one problem from many θ₀ as one `Trajectory`, whose first axis is the member."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flow.trajectory import Trajectory

# So many members are listed by number.
LISTED = 6


def stacked(runs: Sequence[Trajectory]) -> Trajectory:
    """The members as one; rows that a member lacks beside the longest are NaN.

    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: x @ x, np.ones(2))
    >>> long, short = (flow.integrate(objective, t=1.0, save=n) for n in (3, 2))
    >>> stacked([long, short]).t
    array([[0. , 0.5, 1. ],
           [0. , 1. , nan]])
    """

    def stack(pick: Any) -> np.ndarray:
        arrays = [pick(run) for run in runs]
        # A member whose observer failed at once has one NaN a row, whatever the others' shape.
        inner = max((a.shape[1:] for a in arrays), key=len)
        rows = np.full((len(arrays), max(map(len, arrays)), *inner), np.nan)
        for row, a in zip(rows, arrays, strict=True):
            row[: len(a)] = a.reshape(a.shape + (1,) * (row.ndim - a.ndim))
        return rows

    first = runs[0]
    results = [run.result for run in runs]
    names = {name for run in runs for name in run.stats}
    return replace(
        first,
        t=stack(lambda run: run.t),
        theta=stack(lambda run: run.theta),
        loss=stack(lambda run: run.loss),
        gradient_norm=stack(lambda run: run.gradient_norm),
        state={k: stack(lambda run, k=k: run.state[k]) for k in first.state},
        observed={k: stack(lambda run, k=k: run.observed[k]) for k in first.observed},
        work={k: stack(lambda run, k=k: run.work[k]) for k in first.work},
        stats={
            **{k: [run.stats.get(k, []) for run in runs] for k in sorted(names)},
            "result": results,
        },
        result=summary(results, [run.stats["t_end"] for run in runs]),
        config=_configs([run.config for run in runs]),
        dynamics=None if first.dynamics is None else tuple(run.dynamics for run in runs),
    )


def _configs(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was run: of what members differ in a list, one entry each, named in "each"."""
    first = configs[0]
    each = [k for k in first if k == "problem" or any(c[k] != first[k] for c in configs)]
    return first | {k: [config[k] for config in configs] for k in each} | {"each": each}


def summary(results: Sequence[str], ends: Sequence[float]) -> str:
    """One sentence of all members' results, told apart by how they ended.

    >>> summary(["reached t = 3"] * 2, [3.0, 3.0])
    'reached t = 3'
    >>> summary(["reached t = 3", "stopped at t = 1: loss 0.1 ≤ 0.1", "reached t = 3"], [3, 1, 3])
    'members 0, 2 reached t = 3; member 1 stopped at t = 1: loss 0.1 ≤ 0.1'
    >>> summary(["interrupted at t = 1", "interrupted at t = 2"], [1, 2])
    'members 0, 1 interrupted at t = 1 to 2'
    >>> summary(["reached t = 1 in 9 steps", "reached t = 2 in 9 steps"], [1, 2])
    'members 0, 1 reached t = 1 to 2'
    """
    if len(set(results)) == 1:
        return results[0]
    kinds: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        kinds.setdefault(re.split(r" at t = | at step | t = ", result)[0], []).append(i)
    sentences = []
    for kind, which in kinds.items():
        many = f"members {', '.join(map(str, which))}"
        who = many if len(which) <= LISTED else f"{len(which)} members"
        if len({results[i] for i in which}) == 1:
            how = results[which[0]]
        else:
            t = [ends[i] for i in which]
            at = "" if kind == "reached" else "at "
            how = f"{kind} {at}t = {min(t):g} to {max(t):g}"
        sentences.append(f"{who if len(which) > 1 else f'member {which[0]}'} {how}")
    return "; ".join(sentences)
