"""Tests and doctests run with the shapes and types checked, by beartype, that signatures state.

In the modules whose signatures state shapes. Not in the loops around them, where a check at each of
1e5 small calls takes longer than they do.
"""

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

# XLA's older code generator for CPUs takes half the time to compile, and most of what tests do is
# that. What it makes differs by rounding; `XLA_FLAGS= python -m pytest` compiles as users do.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

mpl.use("Agg")
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float
CHECKED = "backprop differences dynamics explain.walk leaf_check objective spectrum trajectory"
install_import_hook([f"flow.{name}" for name in CHECKED.split()], "conftest.typecheck")

# The same generated examples in every run; others are drawn by --hypothesis-profile=default.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_stays() -> None:
    """Spare the garbage collector what earlier modules compiled: it would read it all again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _figures_of_its_own() -> Iterator[None]:
    """Close what a test or a doctest has drawn, or the next would draw on it."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path | int]:
    """Run an experiment in this process by its command line: its run folder, or its exit code."""
    from flow.records import run_experiment

    def run(name: str, *arguments: str) -> Path | int:
        experiments = Path(__file__).parent / "experiments"
        monkeypatch.syspath_prepend(experiments)
        spec = importlib.util.spec_from_file_location(name, experiments / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--quiet", "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            run_experiment(module.Configuration, module.experiment)
        if ended.value.code != 0 or "--help" in arguments:
            return ended.value.code
        (folder,) = (tmp_path / name).iterdir()
        return folder

    return run
