"""`sweep`: a function over a grid, each cell kept as it is done, failures among them."""

import io
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from tqdm import tqdm

from flow._core.checks import file_path, mapping, positive_integer, truth
from flow._core.files import write_new
from flow._core.keywords import own_keywords
from flow._core.opening import npz, reading, text
from flow._core.user_warnings import warn

if TYPE_CHECKING:
    import xarray

Cell = dict[str, Any]
# What a cell came to: its arrays by name, its error or "", and its seconds.
Outcome = tuple[dict[str, np.ndarray], str, float]
OWN = {"error", "seconds"}


@own_keywords
def sweep(
    function: Callable[..., Any],
    grid: Mapping[str, Sequence[Any]],
    *,
    folder: str | os.PathLike | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> "xarray.Dataset":
    """Call a function at every point of a grid, and put what it returns into one labelled dataset.

    A cell that fails is recorded with its error, and the rest is kept. With a `folder` each cell is
    written as it is done; calling again computes only what is missing or has failed. Where a worker
    dies, what was not done says so: on a Dask cluster what was there as four workers died, else
    all that were left. Where a cell can't be written, there is a warning, and the sweep goes on.

    It is for runs that differ in kind: widths, methods, data. Runs of one problem that differ in
    numbers alone, θ₀, learning rate or seed, share a compiled loop and go through in one call,
    ``flow.integrate(..., ensemble=...)`` and ``flow.descend(..., learning_rate=[...])``, over
    several devices by ``devices=``; a cell may be such a call.

    Parameters
    ----------
    function
        ``function(**cell)`` -> a number ("value"), an array, or a mapping of names to them, of the
        same shapes in every cell. An array's own dimensions are called ``name_0``, ``name_1``.
    grid
        Name -> values, numbers or strings; all their combinations are cells.
    folder
        Where to keep the cells; made if it is missing.
    jobs
        Processes, by joblib; -1 for as many as there are cores. With
        ``joblib.parallel_config("dask")`` around the call the workers of that cluster take the
        cells, and `jobs` says nothing.
    progress
        Show progress.

    Returns
    -------
    xarray.Dataset
        Each name over the grid, NaN where a cell failed; "error", empty where it did not, and
        "seconds".

    Raises
    ------
    FileExistsError
        The folder is a file.
    TypeError
        The function can't be sent to another process.
    ValueError
        The grid is empty, has values that no file can name, or of several kinds along an axis; or
        the folder holds cells of another function or is not one of a sweep. A function is another
        where its name, code, fixed arguments or the numbers and arrays that it closes over are.

    Examples
    --------
    >>> import flow, numpy as np
    >>> def final_loss(curvature, t):
    ...     objective = flow.Objective(lambda x: 0.5 * curvature * x @ x, np.ones(1))
    ...     return flow.integrate(objective, t, rtol=1e-9, atol=1e-12).loss[-1]
    >>> found = flow.sweep(final_loss, {"curvature": [1.0, 2.0], "t": [0.5, 1.0]}, progress=False)
    >>> float(found["value"].sel(curvature=2.0, t=1.0)), float(np.exp(-4.0))
    (0.0183156, 0.0183156)
    """
    if not callable(function):
        raise TypeError(f"function must be a function of a cell, got {function!r:.80}")
    axes = _axes(grid)
    if not (isinstance(jobs, int) and jobs == -1):
        jobs = positive_integer("jobs", jobs)
    truth("progress", progress)
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    files = None if folder is None else _files(file_path("folder", folder), function, cells)
    found: dict[int, Outcome] = {}
    if files is not None:
        found = {i: _read(file, cells[i]) for i, file in enumerate(files) if file.is_file()}
    todo = [i for i in range(len(cells)) if i not in found]
    bar = tqdm(total=len(cells), initial=len(found), desc="cells", disable=not progress)
    with bar, suppress(KeyboardInterrupt):
        for i, outcome in _outcomes(function, cells, todo, jobs):
            found[i] = outcome
            if files is not None and not outcome[1]:
                _keep(files[i], cells[i], outcome)
            bar.update()
    for i in todo:
        found.setdefault(i, ({}, "not done: interrupted, or its worker died", np.nan))
    return _dataset(axes, [found[i] for i in range(len(cells))])


def _axes(grid: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the grid with plain values, each axis without repetitions."""
    grid = mapping("grid", grid, "{name: values}")
    for name, values in grid.items():
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise TypeError(f"grid[{name!r}] must be a sequence of values, got {values!r:.80}")
    axes = {name: [_plain(name, v) for v in values] for name, values in grid.items()}
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"grid[{name!r}] must have values, each once; got {values}")
        if len({"string" if isinstance(v, str) else "bool" if isinstance(v, bool) else "number"
                for v in values}) > 1:  # fmt: skip
            raise ValueError(f"grid[{name!r}] must have values of one kind, numbers, strings or "
                             f"bools, as one axis has them; got {values}")  # fmt: skip
        if name in OWN:
            raise ValueError(f"grid[{name!r}]: every sweep records {name}; rename it")
    if not axes:
        raise ValueError("grid is empty; give {name: values}")
    return axes


def _plain(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int | float | str) and value == value:  # noqa: PLR0124 - no NaN
        return value
    raise ValueError(f"grid[{name!r}] has the value {value!r}; values are numbers or strings")


def _outcomes(
    function: Callable[..., Any], cells: Sequence[Cell], todo: Sequence[int], jobs: int
) -> Iterator[tuple[int, Outcome]]:
    """Yield outcomes as they come; end early by Ctrl-C, or where a worker dies."""
    from joblib.parallel import get_active_backend

    client = getattr(get_active_backend()[0], "client", None)
    if client is not None:
        yield from _on_dask(client, function, cells, todo)
        return
    if jobs == 1:
        for i in todo:
            with ctrl_c() as pressed:
                outcome = attempt(function, cells[i])
            if pressed:  # and the cell is of a run that ended early by it
                return
            yield i, outcome
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    _check_travels(function)
    work = Parallel(n_jobs=jobs, return_as="generator_unordered")
    try:
        yield from work(delayed(_numbered)(i, function, cells[i]) for i in todo)
    except BrokenProcessPool:
        return


@contextmanager
def ctrl_c() -> Iterator[list[bool]]:
    """Note that it was pressed, even where a run inside ended by it and returned what it had."""
    pressed: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(number: int, frame: Any) -> Any:
        pressed.append(True)
        return before(number, frame)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _numbered(i: int, function: Callable[..., Any], cell: Cell) -> tuple[int, Outcome]:
    return i, attempt(function, cell)


def _on_dask(
    client: Any, function: Callable[..., Any], cells: Sequence[Cell], todo: Sequence[int]
) -> Iterator[tuple[int, Outcome]]:
    """Yield outcomes from the client that joblib names, whose workers may die.

    Not by joblib's own loop, which waits forever for a cell that killed its worker (1.6.0).
    """
    from distributed import as_completed

    _check_travels(function)
    futures = {client.submit(attempt, function, cells[i], pure=False): i for i in todo}
    try:
        for future in as_completed(futures):
            error = future.exception()
            lost = {}, f"not done: its worker died: {type(error).__name__}: {error}", np.nan
            yield futures[future], future.result() if error is None else lost
    except CancelledError:  # the scheduler is lost
        return
    finally:
        client.cancel(list(futures))


def _check_travels(function: Callable[..., Any]) -> None:
    """Refuse what can't be sent to another process."""
    from joblib.externals.loky.backend.reduction import dumps

    try:
        dumps(function)
    except Exception as error:
        raise TypeError(
            f"function can't be sent to another process ({error}); let it make what it needs "
            "itself, or take jobs=1"
        ) from error


def attempt(function: Callable[..., Any], cell: Cell) -> Outcome:
    """Return what a cell came to, or its error."""
    began = time.perf_counter()
    try:
        value = function(**cell)
        named = dict(value) if isinstance(value, Mapping) else {"value": value}
        arrays = {str(k): np.asarray(v) for k, v in named.items()}
        taken = OWN | set(cell)
        for name, array in arrays.items():
            if array.dtype.kind not in "fiub" or isinstance(named[name], np.ma.MaskedArray):
                raise TypeError(f"function must return numbers, got {name}={named[name]!r:.80}")
            for own in (name, *_dimensions(name, array)):
                if own in (taken if own == name else taken | set(arrays)):
                    raise TypeError(f"function must return numbers under names of its own; {own} "
                                    f"is another's, so that {name} needs another name")  # fmt: skip
    except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded
        return {}, f"{type(error).__name__}: {error}", time.perf_counter() - began
    return arrays, "", time.perf_counter() - began


def _files(folder: Path, function: Callable[..., Any], cells: Sequence[Cell]) -> list[Path]:
    """Return a file for each cell, in a folder that belongs to this function."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder {folder} is a file; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"sweep of": fingerprint(function)}).encode()
    mark = folder / "sweep.json"
    if not mark.exists():
        # What is hidden is being written, by another process of the same sweep perhaps.
        if any(not file.name.startswith(".") for file in folder.iterdir() if file != mark):
            raise ValueError(f"folder {folder} holds other files, and no sweep; choose another")
        with suppress(FileExistsError):
            write_new(mark, told)
    if (other := text(mark)) != told.decode():
        raise ValueError(
            f"folder {folder} has cells of another function, {other[:200]}; choose "
            "another folder, where the function has changed as well"
        )
    names = [sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:16] for cell in cells]
    return [folder / f"cell-{name}.npz" for name in names]


def _keep(file: Path, cell: Cell, outcome: Outcome) -> None:
    """Write a cell; where that fails, it is still in what `sweep` returns."""
    arrays, _, seconds = outcome
    content = io.BytesIO()
    kept = {f"value:{name}": array for name, array in arrays.items()}
    np.savez(content, cell=json.dumps(cell, sort_keys=True), seconds=seconds, **kept)
    try:
        write_new(file, content.getvalue())
    except FileExistsError:  # another process has come to it
        return
    except OSError as error:
        warn(
            f"the cell {cell} can't be kept ({error}); it is in what sweep returns, and the next "
            "call computes it again",
        )


def _read(file: Path, cell: Cell) -> Outcome:
    """Return a cell that was done before; nothing in a file is executed."""
    with reading(f"{file} can't be read as a cell", "; remove it, and it is computed again"):
        kept = npz(file)
        if str(kept["cell"]) != json.dumps(cell, sort_keys=True):
            raise ValueError(f"it is of the cell {kept['cell']}")
        arrays = {
            name.removeprefix("value:"): array
            for name, array in kept.items()
            if name.startswith("value:")
        }
        if any(array.dtype.kind not in "fiub" for array in arrays.values()):
            raise ValueError("its values are no numbers")
        return arrays, "", float(kept["seconds"])


def _dataset(axes: Mapping[str, list[Any]], outcomes: Sequence[Outcome]) -> "xarray.Dataset":
    import xarray

    shape = [len(values) for values in axes.values()]
    outcomes, like = _of_one_shape(outcomes)
    variables: dict[str, Any] = {}
    for name, first in like.items():
        rows = np.full((len(outcomes), *first.shape), np.nan)
        for i, (arrays, _, _) in enumerate(outcomes):
            if name in arrays:
                rows[i] = arrays[name]
        variables[name] = ((*axes, *_dimensions(name, first)), rows.reshape(*shape, *first.shape))
    errors = np.array([error for _, error, _ in outcomes], dtype=object).reshape(shape)
    seconds = np.array([s for _, _, s in outcomes]).reshape(shape)
    variables |= {"error": (tuple(axes), errors), "seconds": (tuple(axes), seconds)}
    return xarray.Dataset(variables, coords=dict(axes))


def _dimensions(name: str, array: np.ndarray) -> list[str]:
    return [f"{name}_{i}" for i in range(array.ndim)]


def _of_one_shape(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], dict[str, np.ndarray]]:
    """Return outcomes, an error where a shape is not the first one; and the first of each name."""
    like: dict[str, np.ndarray] = {}
    found = []
    for arrays, error, seconds in outcomes:
        for name, array in arrays.items():
            first = like.setdefault(name, array)
            if first.shape != array.shape:
                error = f"{name} has shape {array.shape} here, but {first.shape} before"  # noqa: PLW2901
        found.append(({} if error else arrays, error, seconds))
    return found, like


def fingerprint(value: Any) -> Any:
    """Return a function, or what it was given, as plain data: the same in every process.

    A function is told by its name, its code and the numbers, texts and arrays that it closes over
    or that a `functools.partial` fixes; what else it closes over by its type. Not by what it reads
    from its module.

    >>> fingerprint(partial(max, 3)), fingerprint([1, "two"])
    (['max', [3], {}], [1, 'two'])
    >>> def times(k):
    ...     return lambda x: k * x
    >>> [fingerprint(times(2)) == fingerprint(times(k)) for k in (2, 3)]
    [True, False]
    """
    if isinstance(value, partial):
        return [fingerprint(value.func), fingerprint(value.args), fingerprint(value.keywords)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return [str(array.dtype), list(array.shape), sha256(array.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(k): fingerprint(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(v) for v in value]
    if hasattr(value, "__code__"):
        closed = [_inner(cell) for cell in value.__closure__ or ()]
        return [*_inner_function(value), closed, fingerprint(value.__defaults__)]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _inner(cell: Any) -> Any:
    """Return what a function closes over; of functions the code, as one may close over itself."""
    try:
        value = cell.cell_contents
    except ValueError:  # not assigned yet
        return None
    return _inner_function(value) if hasattr(value, "__code__") else fingerprint(value)


def _inner_function(function: Any) -> list[str]:
    return [function.__qualname__, _of_code(function.__code__).hexdigest()]


def _of_code(code: CodeType) -> Any:
    digest = sha256(code.co_code + repr((code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        inner = isinstance(constant, CodeType)
        digest.update(_of_code(constant).digest() if inner else repr(constant).encode())
    return digest
