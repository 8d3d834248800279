"""JAX's cache of compiled programs, that tests share between processes and runs."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import flow


@pytest.fixture
def events(tmp_path: Path) -> Counter:
    """What the cache is asked for and has, in a folder of its own."""
    counts: Counter = Counter()

    def note(event: str, **_: object) -> None:
        counts[event.removeprefix("/jax/compilation_cache/")] += 1

    settings = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in settings}
    jax.monitoring.register_event_listener(note)
    _use(jax_compilation_cache_dir=str(tmp_path), jax_enable_compilation_cache=True)
    yield counts
    jax.monitoring.unregister_event_listener(note)
    _use(**before)


def _use(**settings: Any) -> None:
    compilation_cache.reset_cache()
    for name, value in settings.items():
        jax.config.update(name, value)


def runs() -> list[np.ndarray]:
    """θ of flows by both engines and of a descent, by functions that are compiled anew."""
    rng = np.random.default_rng(0)
    objective = flow.MLP([4, 3, 2]).objective(rng.random((6, 4)), rng.random((6, 2)))
    how = {"save": 3, "progress": False}
    return [
        flow.integrate(objective, 5.0, **how).theta,
        flow.integrate(objective, 5.0, method="TSRKC3", engine="jax", **how).theta,
        flow.descend(objective, optimizer=optax.adam(0.01), time_step=0.01, steps=40, **how).theta,
    ]


def test_the_cache_changes_no_bit(events: Counter):
    """Assert the same bits without it, as it is filled, and from it, where nothing is compiled."""
    _use(jax_enable_compilation_cache=False)
    without = runs()
    assert not events["cache_hits"]
    _use(jax_enable_compilation_cache=True)
    filling = runs()
    asked, events["cache_hits"] = events["compile_requests_use_cache"], 0
    filled = runs()
    assert events["cache_hits"] == events["compile_requests_use_cache"] - asked > 5
    for one, *others in zip(without, filling, filled, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_other_optimisations_are_other_programs(events: Counter):
    """Assert that nothing is taken that was compiled with others."""
    before = jax.config.read("jax_disable_most_optimizations")
    for disabled in (False, True):
        jax.config.update("jax_disable_most_optimizations", disabled)
        flow.Objective(lambda x: (x**4).sum(), np.ones(3))
    jax.config.update("jax_disable_most_optimizations", before)
    assert events["cache_misses"] == events["compile_requests_use_cache"] == 2
