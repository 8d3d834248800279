"""Tests and doctests run with the signatures' shapes and types checked by beartype.

The doors (`integrate`, `descend`, ...) are left out: their own checks are to meet what users type.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

mpl.use("Agg")
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float
CHECKED = (
    "audit backprop circuits clock curve descent_loop differences driver dynamics exact "
    "explain.product explain.puzzle explain.rules explain.symbols explain.table explain.walk "
    "files leaf_check methods objective plots precision progress pytrees recording records "
    "sampling spectrum structure threads trajectory"
)
install_import_hook([f"flow.{name}" for name in CHECKED.split()], "conftest.typecheck")


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
        file = Path(__file__).parent / "experiments" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--quiet", "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            run_experiment(module.Configuration, module.experiment)
        if ended.value.code != 0:
            return ended.value.code
        (folder,) = (tmp_path / name).iterdir()
        return folder

    return run
