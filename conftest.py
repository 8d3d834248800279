"""Tests and doctests run with the shapes and types checked, by beartype, that signatures state.

In the modules whose signatures state shapes. Not in the loops around them, where a check at each of
1e5 small calls takes longer than they do.
"""

import gc
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

# Half of what tests do is compiling. XLA's older code generator for CPUs, where it has that, in one
# thread and without LLVM's optimisations, takes a third of the time; what it makes differs by
# rounding, and runs longer: see `optimised`. `XLA_FLAGS= python -m pytest` compiles as users do.
if "XLA_FLAGS" not in os.environ:
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    if [int(part) for part in version("jaxlib").split(".")[:2]] < [0, 11]:
        flags += ["--xla_cpu_use_fusion_emitters=false"]  # later ones end at a flag unknown to them
    os.environ["XLA_FLAGS"] = " ".join(flags)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

# What one test has compiled the next need not, in another process and in another run; pytest's
# --cache-clear forgets it. An entry whose writer was killed is compiled again (pyproject.toml).
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent / ".pytest_cache" / "d" / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
for variable, value in CACHE.items():
    os.environ.setdefault(variable, value)

mpl.use("Agg")
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float
CHECKED = (
    "backprop dynamics spectrum _explain.walk _run.trajectory _run.trajectory_file "
    "_problem.differences _problem.leaf_check _problem.objective _problem.traced"
)
install_import_hook([f"flow.{name}" for name in CHECKED.split()], "conftest.typecheck")

# Programs that tests start; to collect their doctests would run them.
collect_ignore = ["tests/bad_calls.py", "tests/bad_targets.py", "tests/bad_values.py"]

# Bytes of compiled programs; every change leaves some that are not asked for again.
MOST_KEPT = 2**30
LARGE_NOTEBOOKS = {
    "03_choosing_an_integrator.ipynb",
    "04_optimizers_in_continuous_time.ipynb",
    "06_edge_of_stability.ipynb",
}


def pytest_sessionstart() -> None:
    """Forget all that was compiled where it has become too much."""
    folder = Path(CACHE["JAX_COMPILATION_CACHE_DIR"])
    first = "PYTEST_XDIST_WORKER" not in os.environ
    if first and sum(f.stat().st_size for f in folder.glob("*")) > MOST_KEPT:
        shutil.rmtree(folder)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read only the files that have the one mark which is asked for, `-m quick` or `-m large`."""
    asked = config.option.markexpr
    if asked not in ("quick", "large") or not collection_path.is_file():
        return None
    if collection_path.suffix == ".ipynb":
        return asked == "quick" or collection_path.name not in LARGE_NOTEBOOKS or None
    if collection_path.suffix != ".py":
        return None
    return f"mark.{asked}" not in collection_path.read_text() or None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Compile a notebook's programs with LLVM's optimisations: it runs longer than it compiles."""
    with pytest.MonkeyPatch.context() as patch:
        if item.path.suffix == ".ipynb":
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the notebooks that take long; they can't do it themselves."""
    for item in items:
        if item.path.name in LARGE_NOTEBOOKS:
            item.add_marker("large")


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


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Iterator[None]:
    """Hear SIGINT also where the tests were started by what ignores it, a script's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ctrl_c_ignored() -> Iterator[None]:
    """Ignore SIGINT, as a process does whose parent ignored it, and has not said so yet."""
    from flow._core.signals import tell_if_ignored

    tell_if_ignored.cache_clear()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)
    tell_if_ignored.cache_clear()


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compile with LLVM's optimisations, for a test that runs longer than it compiles."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def run_in() -> Callable[..., Path | int]:
    """Run an experiment in this process by its command line, (folder, name, *arguments).

    What comes back is its run folder, or its exit code where that is not 0.
    """
    from flow.records import run_experiment

    def run(out: Path, name: str, *arguments: str) -> Path | int:
        file = Path(__file__).parent / "experiments" / f"{name}.py"
        there = set(out.glob(f"{name}/*"))
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(file.parent)
            spec = importlib.util.spec_from_file_location(name, file)
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            patch.setattr(sys, "argv", [name, *arguments, "--quiet", "--out", str(out)])
            with pytest.raises(SystemExit) as ended:
                run_experiment(module.Configuration, module.experiment)
        if ended.value.code != 0 or "--help" in arguments:
            return ended.value.code
        (folder,) = set(out.glob(f"{name}/*")) - there
        return folder

    return run


@pytest.fixture
def run_here(run_in: Callable, tmp_path: Path) -> Callable[..., Path | int]:
    """Run an experiment in this process into a folder of the test's own, (name, *arguments)."""
    return partial(run_in, tmp_path)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """`python -m flow`: its exit code and what it printed."""
    from flow.__main__ import main

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["flow", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code, told.out + told.err

    return run


@pytest.fixture
def refused_here(
    run_here: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """Run an experiment that refuses its options, and leaves nothing behind: what it tells."""

    def run(name: str, *arguments: str) -> str:
        assert run_here(name, *arguments) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert list(tmp_path.glob("*/*")) == []
        return told

    return run
