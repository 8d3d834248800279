"""The command line of every experiment: options, the run folder, endings, exit codes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from flow._core.checks import not_negative, positive, positive_integer
from flow._core.display import visible
from flow._core.signals import ignored, tell_if_ignored
from flow.records.record import Record, new_run_folder

DONE, FELL_SHORT, WRONG, INTERRUPTED = 0, 1, 2, 130
# How many times the largest of an option's usual numbers a record may ask for, unless it says more.
TIMES = 10


@dataclass(frozen=True)
class Science:
    """Marks an option as one that decides the numbers, which a rerun may take from a record.

    What is not marked is where a run happens, folders, schedulers, workers and whatever else is
    opened, connected to or written to: that is never read from a record.

    Parameters
    ----------
    most
        Largest number that a record may ask for; by default ten times the largest of the usual.

    Examples
    --------
    >>> Science[int, 1797]
    typing.Annotated[int, Science(most=1797)]
    >>> @dataclass(frozen=True)
    ... class Configuration(Options):
    ...     t: Science[float] = 100.0
    ...     cells: Path | None = None
    >>> science(Configuration)
    {'t': 1000.0}
    """

    most: float | None = None

    def __class_getitem__(cls, of: Any) -> Any:
        """Return the type of an option that is marked."""
        kind, most = of if isinstance(of, tuple) else (of, None)
        return Annotated[kind, cls(most)]


@dataclass(frozen=True)
class Options:
    """Options of every experiment.

    Their numbers are positive, and not negative where the default has a zero, or by `may_be_zero`.
    """

    may_be_zero: ClassVar[tuple[str, ...]] = ()

    out: Path = Path("results")
    """Folder in which run folders are made."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress bars."""


def science(configuration: type[Options]) -> dict[str, float]:
    """Name -> largest number that a record may ask for, of the options that `Science` marks."""
    found = {}
    for field in fields(configuration):
        for mark in getattr(field.type, "__metadata__", ()):
            if isinstance(mark, Science):
                usual = [x for x in _several(field.default) if isinstance(x, int | float)]
                most = TIMES * max(usual, default=0)
                found[field.name] = most if mark.most is None else mark.most
    return found


def run_experiment(
    configuration: type,
    experiment: Callable[[Any, Record], str | None],
    slug: Callable | None = None,
) -> None:
    """Run an experiment from the command line and exit.

    Exit codes: 0 when all was done as asked; 1 where a run fell short of it, and the experiment
    says how; 2 for options that are wrong or do not go together, with nothing left behind; 130
    after Ctrl-C, with what there was in a valid run folder. In a process whose parent ignored
    Ctrl-C it does nothing, and that is said.

    Parameters
    ----------
    configuration
        A dataclass that extends `Options`, in the experiment's script, whose docstring is what
        ``--help`` says.
    experiment
        (configuration, record) ↦ None, or a sentence of how it fell short. A `ValueError` that it
        raises before anything is kept is about the options.
    slug
        Configuration ↦ a word for the folder's name.
    """
    script = sys.modules[configuration.__module__]
    name = Path(script.__file__).stem
    config = _asked(configuration, name, script.__doc__)
    import matplotlib as mpl

    mpl.use("Agg")  # no display is needed
    try:
        # First, so that nothing is computed that could not be written.
        folder = new_run_folder(name, slug(config) if slug else "", config.out)
        record = Record(folder, name, config)
    except OSError as error:
        _leave(name, f"--out {config.out}: {error}", WRONG)
    tell_if_ignored()
    try:
        with _interrupt_noted(record):
            short = experiment(config, record)
        record.close(short or "finished")
    except KeyboardInterrupt:
        record.close("interrupted")
        print(f"\n{name}: interrupted; what there is: {folder}", file=sys.stderr, flush=True)  # noqa: T201
        sys.stdout.flush()
        # Not sys.exit: what XLA was at work on when it was interrupted may crash Python's own end.
        os._exit(INTERRUPTED)
    except ValueError as error:
        if not record.empty:
            record.close(f"failed: {error}")
            raise
        record.discard()
        _leave(name, str(error), WRONG)
    except BrokenPipeError:  # `| head` has seen enough
        _say_no_more()
        record.close("finished; its output was not read to the end")
        sys.exit(DONE)
    except OSError as error:
        _leave(name, f"can't write to {folder}: {error}; what is in there is whole", FELL_SHORT)
    except BaseException as error:
        record.close(f"failed: {type(error).__name__}: {error}")
        raise
    try:
        print(f"{record.seconds:.0f} s in all; folder: {folder}")  # noqa: T201 - a command line
        for figure in sorted(folder.glob("*.png")):
            print(f"figure: {figure}")  # noqa: T201
        sys.stdout.flush()
    except BrokenPipeError:
        _say_no_more()
    sys.exit(FELL_SHORT if short else DONE)


def _asked(configuration: type, name: str, text: str | None) -> Options:
    """Return what the command line asks for; exit where a number is off."""
    config = tyro.cli(configuration, description=text)
    try:
        check_numbers(config)
    except ValueError as error:
        _leave(name, str(error), WRONG)
    return config


def check_numbers(config: Options) -> None:
    """Refuse numbers of an experiment's options that are negative, not finite or not to be zero.

    >>> @dataclass(frozen=True)
    ... class Configuration(Options):
    ...     t: float = 1.0
    >>> check_numbers(Configuration(t=-1.0))
    Traceback (most recent call last):
    ValueError: --t must be positive and finite, got -1.0
    """
    for field in fields(config):
        option, usual = f"--{field.name.replace('_', '-')}", _several(field.default)
        zero = field.name in config.may_be_zero or 0 in usual
        for number in _several(getattr(config, field.name)):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if zero:
                not_negative(option, number)
            elif isinstance(number, int):
                positive_integer(option, number)
            else:
                positive(option, number)


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _say_no_more() -> None:
    """Let what is still printed go nowhere, as nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interrupt_noted(record: Record) -> Iterator[None]:
    """Note Ctrl-C in the record as well as raise it, as a library may swallow what is raised."""

    def note(*_: Any) -> None:
        record.interrupted = True
        raise KeyboardInterrupt

    if ignored() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(name: str, message: str, code: int) -> None:
    print(visible(f"{name}: {message}", keep="\n"), file=sys.stderr)  # noqa: T201
    sys.exit(code)
