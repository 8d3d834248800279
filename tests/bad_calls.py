"""Generated calls over the public API, each of which must end in an explanation or a right answer.

``python tests/bad_targets.py PART SHARE`` takes the valid calls of a part, spoils one or two of
their arguments with values of `bad_values.POOL`, and exits with a list of the faults: an error that
flow did not raise or note, one of another type than documented or that does not say what was met,
a value that was taken for what it is not, another answer than that of the value it stands for, a
call that took too long, or a library's warning.

It runs outside pytest, whose conftest checks types that users' calls are not checked by.
"""

import dis
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bad_values import ANY, POOL, REFUSED, Kind
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import flow

FLOW = Path(flow.__file__).parent
SECONDS = 30.0
OURS = (flow.PrecisionWarning, flow.KinkWarning, flow.ErrorBarWarning)


@dataclass(frozen=True)
class Target:
    """A call that works, what its arguments are, and how its answer is judged.

    Parameters
    ----------
    call
        Takes the arguments by name.
    arguments
        Name -> (what makes a valid value, its kind).
    read
        The answer as numbers, equal for equal calls.
    check
        Asserts what is known of an answer of given arguments.
    errors
        Documented beside TypeError and ValueError.
    aliases
        Name -> what messages call it, a pattern.
    examples
        How many calls.
    """

    call: Callable[..., Any]
    arguments: Mapping[str, tuple[Callable[[], Any], Kind]]
    read: Callable[[Any], Any] = lambda answer: answer
    check: Callable[..., None] = lambda answer, **arguments: None
    errors: tuple[type[Exception], ...] = ()
    aliases: Mapping[str, str] | None = None
    examples: int = 40


class FaultError(AssertionError):
    """What is wrong with how a call ended."""


def spoiled(target: Target) -> st.SearchStrategy[dict[str, str]]:
    """Name -> label of what one or two arguments are given."""

    def labels(name: str) -> st.SearchStrategy[tuple[str, str]]:
        own = [*target.arguments[name][1].tries]
        pool = st.sampled_from([*POOL])
        return st.tuples(st.just(name), pool if not own else st.one_of(pool, st.sampled_from(own)))

    one = st.sampled_from([*target.arguments]).flatmap(labels)
    few = st.lists(one, min_size=1, max_size=2, unique_by=lambda pair: pair[0])
    return few.map(dict)


def made(target: Target, chosen: Mapping[str, str]) -> dict[str, Any]:
    """The arguments, with what was chosen."""
    values = {}
    for name, (valid, kind) in target.arguments.items():
        label = chosen.get(name)
        make = valid if label is None else kind.tries.get(label) or POOL[label]
        values[name] = make()
    return values


def judge(target: Target, chosen: Mapping[str, str]) -> None:
    """Make the call and raise `FaultError` if it ends wrongly."""
    values = made(target, chosen)
    meanings = {name: target.arguments[name][1].meaning(values[name]) for name in chosen}
    answer = error = None
    with warnings.catch_warnings(record=True) as met, at_most(SECONDS):
        warnings.simplefilter("always")
        try:
            answer = target.read(target.call(**values))
        except Exception as caught:  # noqa: BLE001 - judged below
            error = caught
    for warning in met:
        if not issubclass(warning.category, (*OURS, DeprecationWarning)):
            raise FaultError(f"warns {warning.category.__name__}: {str(warning.message)[:100]}")
    if error is not None:
        judge_error(target, error, {name: values[name] for name in chosen})
        return
    refused = [name for name, meaning in meanings.items() if _is(meaning, REFUSED)]
    if refused:
        raise FaultError(
            f"takes {refused[0]}={values[refused[0]]!r:.60}, and answers {answer!r:.60}"
        )
    known = {name: m for name, m in meanings.items() if not _is(m, ANY)}
    meant = made(target, chosen) | known
    try:
        if len(known) == len(meanings):
            same(answer, target.read(target.call(**meant)))
        target.check(answer, **meant)
    except AssertionError as off:
        text = " ".join(str(off).split())[:300]
        raise FaultError(f"another answer than of {meanings!r:.80}: {text}") from None
    except Exception as off:
        raise FaultError(f"{meanings!r:.80} itself fails: {off!r:.100}") from off


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `FaultError` where what is inside takes longer."""

    def late(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TooLongError:
        raise FaultError(f"takes more than {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class TooLongError(BaseException):
    """Not to be caught by what recovers from a user's errors."""


def _is(meaning: Any, mark: str) -> bool:
    return isinstance(meaning, str) and meaning == mark


def same(answer: Any, expected: Any) -> None:
    """Assert that two answers are equal, NaN with NaN."""
    if isinstance(answer, tuple | list):
        assert len(answer) == len(expected), (answer, expected)
        for one, other in zip(answer, expected, strict=True):
            same(one, other)
    elif isinstance(answer, np.ndarray | float):
        np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=0.0)
    else:
        assert answer == expected, (answer, expected)


def judge_error(target: Target, error: Exception, given: Mapping[str, Any]) -> None:
    """Raise `FaultError` if an error does not explain itself."""
    text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    said = f"{type(error).__name__}: {' | '.join(text.split(chr(10)))[:160]}"
    noted = any(note.startswith("from ") for note in getattr(error, "__notes__", ()))
    if not noted and not isinstance(error, (TypeError, ValueError, *target.errors)):
        raise FaultError(f"undocumented {said}")
    if not noted and not raised_by_flow(error):
        raise FaultError(f"bare {said}")
    if not noted and not any(
        _names(text, (target.aliases or {}).get(name, name), value) for name, value in given.items()
    ):
        raise FaultError(f"names neither argument nor value: {said}")


def raised_by_flow(error: Exception) -> bool:
    """Whether the innermost frame is a ``raise`` of flow's own."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if not Path(code.co_filename).is_relative_to(FLOW):
        return False
    operations = {i.offset: i.opname for i in dis.get_instructions(code)}
    return operations.get(trace.tb_lasti) in {"RAISE_VARARGS", "RERAISE"}


def _names(text: str, name: str, value: Any) -> bool:
    shape = getattr(value, "shape", None)
    met = [re.escape(repr(value)[:12]), *([re.escape(str(shape))] if shape else [])]
    met += [re.escape(str(value))] if isinstance(value, str | Path) and str(value) else []
    return any(
        re.search(rf"(?<!\w)(?:{pattern})(?!\w)" if pattern[-1:].isalnum() else pattern, text)
        for pattern in [name, *met]
    )


def run(targets: Mapping[str, Target], share: float) -> list[str]:
    """Every fault that is met in that share of the calls, a line each."""
    found: list[str] = []
    calls = 0
    for title, target in targets.items():
        began = time.perf_counter()
        plain = target.read(target.call(**made(target, {})))
        target.check(plain, **made(target, {}))
        faults, count = examined(target, round(share * target.examples))
        found += [f"{title}({chosen}): {fault}" for fault, chosen in faults.items()]
        calls += count
        print(f"{title}: {count} in {time.perf_counter() - began:.1f} s", file=sys.stderr)  # noqa: T201
    print(f"{calls} calls, {len(found)} faults", file=sys.stderr)  # noqa: T201
    return found


def examined(target: Target, most: int) -> tuple[dict[str, str], int]:
    """Fault -> the first arguments at which it was met, and the number of calls."""
    faults: dict[str, str] = {}
    calls = 0

    @settings(
        max_examples=most,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spoiled(target))
    def examine(chosen: dict[str, str]) -> None:
        nonlocal calls
        calls += 1
        try:
            judge(target, chosen)
        except FaultError as fault:
            shown = ", ".join(f"{name}={label}" for name, label in chosen.items())
            faults.setdefault(str(fault), shown)

    examine()
    return faults, calls
