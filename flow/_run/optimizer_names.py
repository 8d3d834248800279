"""Names of optax optimizers: the function that made one, told by what it is made of."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from types import FunctionType
from typing import Any, NamedTuple

# A chain ends with one of these, by what its learning rate is.
RATES = {"scale", "scale_by_schedule", "scale_by_learning_rate"}
# What an alias is made of depends on these; each is called with each.
WAYS = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"centered": True},
    {"centered": True, "momentum": 0.9},
    {"linesearch": None},
    {"mask": bool},
)
UNNAMED = "unnamed"
# What a transformation calls what its alias calls otherwise.
TYPED = {("trace", "decay"): "momentum"}


class Made(NamedTuple):
    """A transformation: the function that made it, its numbers, and what it is made of."""

    name: str
    options: tuple[tuple[str, Any], ...]
    parts: tuple["Made", ...]

    @property
    def shape(self) -> Any:
        """Return names alone, by which it is told from others."""
        return self.name, tuple(part.shape for part in self.parts)

    def settings(self) -> Iterator[tuple[str, Any]]:
        """Yield all numbers in it, by name."""
        yield from self.options
        for part in self.parts:
            yield from part.settings()


class Alias(NamedTuple):
    """A function of optax's that makes an optimizer: its parameters, a call, and what that made."""

    name: str
    parameters: tuple[str, ...]
    way: dict[str, Any]
    made: Made

    def differences(self, made: Made) -> dict[str, Any]:
        """Return the numbers of another of the same parts that are not this one's."""
        pairs = zip(made.settings(), self.made.settings(), strict=False)
        return {k: v for (k, v), (_, mine) in pairs if v != mine}

    def call(self, made: Made) -> str:
        """Write how that other is made by the same function, in short."""
        numbers = dict(made.settings())
        given = {k: numbers.get(k, v) for k, v in self.way.items() if not callable(v)}
        given |= {k: v for k, v in self.differences(made).items() if k in self.parameters}
        written = ", ".join(f"{k}={_written(v)}" for k, v in given.items())
        return f"{self.name}({written})" if written else self.name


def optimizer_name(optimizer: Any) -> str | None:
    """Name the function that a user called to make it, with what is no default; None if unknown.

    Optax's functions return closures, which know their parts but not who put them together: it is
    the alias that is made of the same, and of several the one with more of the same numbers.

    >>> import optax
    >>> optimizer_name(optax.adamw(0.1)), optimizer_name(optax.sgd(0.1, momentum=0.5))
    ('adamw', 'sgd(momentum=0.5)')
    >>> optimizer_name(optax.chain(optax.clip(1.0), optax.adam(0.1)))
    'clip + adam'
    """
    made = _made(optimizer.update, optimizer.init)
    return None if made is None else _name(made)


def _name(made: Made) -> str:
    if known := _aliases().get(made.shape):
        return min(known, key=lambda alias: len(alias.differences(made))).call(made)
    inner = [_name(part) for part in made.parts]
    if made.name == "chain":
        return " + ".join(name for name in inner if name != "identity") or "identity"
    return f"{made.name}({', '.join(inner)})" if inner else made.name


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _made(update: Callable, init: Callable | None = None) -> Made | None:
    """Find what made a transformation; None where that has no name."""
    inside = closure(update)
    if _maker(update) == "with_extra_args_support":
        return _made(inside["tx"].update, inside["tx"].init)
    if (name := _maker(update) or _maker(init)) is None:
        return None
    if name in RATES:
        return Made("scale", (), ())
    if name == "inject_hyperparams":
        return _injected(inside | closure(init))
    options, parts = [], []
    for key, value in inside.items():
        if key.endswith("learning_rate"):
            continue  # the clock has it
        if isinstance(value, bool | int | float):
            options.append((TYPED.get((name, key), key), value))
        else:
            parts += [_made(u, i) or Made(UNNAMED, (), ()) for u, i in transformations(value)]
    return Made(name, tuple(options), tuple(parts))


def _injected(inside: Mapping[str, Any]) -> Made:
    """Find what `optax.inject_hyperparams` makes by its numbers: of other schedules its name."""
    factory = inside.get("inner_factory")
    others, numbers, scheduled = (inside.get(f"{k}_hps") for k in ("other", "numeric", "sched"))
    known = None not in (others, numbers, scheduled)
    if known and all(key.endswith("learning_rate") for key in scheduled):
        given = {k: v.item() if hasattr(v, "item") else v for k, v in numbers.items()}
        if made := _made(factory(**others, **given, **dict.fromkeys(scheduled, 0.1)).update):
            return made
    return Made(getattr(factory, "__name__", UNNAMED), (), ())


def transformations(value: Any) -> Iterator[tuple[Callable, Callable | None]]:
    """Yield the updates and inits among what a function closes over."""
    if hasattr(value, "update") and hasattr(value, "init"):
        yield value.update, value.init
    elif isinstance(value, Mapping):
        yield from transformations(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from [(one, None)] if isinstance(one, FunctionType) else transformations(one)


def closure(function: Any) -> dict[str, Any]:
    """Return what a function closes over, by name."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {k: cell.cell_contents for k, cell in zip(names, cells, strict=True) if _full(cell)}


def _full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # not assigned yet
        return False
    return True


def _maker(function: Any) -> str | None:
    """Name the function, or class, that another was made in; None of a lambda, or outside any."""
    *outer, last = getattr(function, "__qualname__", "").replace("<locals>.", "").split(".")
    if not outer or last == "<lambda>":
        return None
    return outer[0] if function.__module__.startswith("optax") else outer[-1]


@cache
def _aliases() -> dict[Any, list[Alias]]:
    """Return optax's optimizers, by what they are made of."""
    import optax
    import optax.contrib

    found: dict[Any, list[Alias]] = {}
    functions = {name: f for module in (optax, optax.contrib) for name, f in vars(module).items()}
    with warnings.catch_warnings(action="ignore"):  # of functions that are to go
        for name, function in functions.items():
            if isinstance(function, FunctionType | partial) and not name.startswith(("_", "scale")):
                for alias in _ways(name, function):
                    found.setdefault(alias.made.shape, []).append(alias)
    return found


def _ways(name: str, function: Callable) -> Iterator[Alias]:
    """Yield what a function makes of a learning rate, alone and beside what adds parts."""
    known = inspect.signature(function).parameters
    rate = next((k for k in known if k.endswith("learning_rate")), None)
    first = {k: v for k, v in {rate: 0.1, "key": 0}.items() if k in known}
    for way in WAYS if rate else ():
        if way.keys() <= known.keys():
            try:
                optimizer = function(**first, **way)
            except (TypeError, ValueError):  # it takes more
                return
            if made := _made(optimizer.update, optimizer.init):
                yield Alias(name, tuple(known), way, made)
