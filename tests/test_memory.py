"""What large models take: state vectors of the compiled loops, as XLA allots them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import flow
from flow._evidence.streaming_compare import StreamingDistances

# State vectors beyond the gradient's own: what README and notebooks say.
VECTORS = {"TSRKC3": 9, "RKC2": 10, "Euler": 6, "RK4": 9, "Tsit5": 20, "Dopri8": 61}


@pytest.fixture(scope="module")
def large_models() -> ModuleType:
    """The experiment."""
    file = Path(__file__).parent.parent / "experiments" / "large_models.py"
    spec = importlib.util.spec_from_file_location("large_models", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["large_models"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["large_models"]


def test_a_million_parameters(large_models: ModuleType):
    """Assert the vectors of each method's loop, and that nothing of n² is there."""
    X, y = large_models.images(20, seed=0)
    objective = flow.MLP([784, 1000, 200, 10]).objective(X, y, seed=0)
    assert objective.size == 987_210
    found = large_models.allotted(objective, "TSRKC3")
    assert found["carried from step to step"] == pytest.approx(5, abs=0.01)
    # XLA's scratch for 20 examples is a fraction of a vector.
    assert found["beyond the gradient's own"] <= VECTORS["TSRKC3"] + 0.5


@pytest.mark.parametrize("method", VECTORS)
def test_vectors_of_each_method(large_models: ModuleType, method: str):
    """Assert the ceilings at 20,000 parameters."""
    objective = flow.Objective(lambda x: 0.5 * (x**2).sum(), np.ones(20_000))
    assert large_models.allotted(objective, method)["beyond the gradient's own"] <= (
        VECTORS[method] + 0.5
    )


def test_lockstep_holds_two_vectors(monkeypatch: pytest.MonkeyPatch):
    """Assert that of a flow and a descent no more than two θ wait for each other at any time."""
    meet, most = StreamingDistances.meet, [0]

    def counted(distances: StreamingDistances, name: str, record: Any) -> None:
        meet(distances, name, record)
        most[0] = max(most[0], distances.waiting)

    monkeypatch.setattr(StreamingDistances, "meet", counted)
    objective = flow.MLP([64, 4, 10]).objective(*flow.datasets.digits(30), seed=0)
    for engine in ("scipy", "jax"):
        flow.study(
            objective, [0.03], t=3.0, save=20, keep="last", observe={}, progress=False,
            engine=engine,
        )  # fmt: skip
    assert 1 <= most[0] <= 2
