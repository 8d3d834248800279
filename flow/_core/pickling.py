"""Other processes: what travels to them, and what is said when one of a run has gone."""

import copy
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

from flow._core.precision import double_precision

# Whether what is being pickled is inside of something that travels already.
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


class Travels:
    """A base of what holds functions, and goes to another process and back by any pickle.

    Closures and lambdas, which a plain pickle refuses, go by value, as cloudpickle has them, and so
    do classes that were made in a script or a notebook; what a module holds goes by its name.
    Copies, which stay in the process, share what nobody changes.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return flow's own by name; else all of it in one piece, with what it shares inside."""
        for name, value in vars(sys.modules[type(self).__module__]).items():
            if value is self and type(self).__module__.startswith("flow."):
                return name
        return super().__reduce_ex__(protocol) if _INSIDE.get() else (_unpacked, (_packed(self),))

    def __copy__(self) -> Any:
        """Return the same attributes."""
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        return view

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return attributes of its own."""
        memo[id(self)] = view = copy.copy(self)
        vars(view).update({name: copy.deepcopy(x, memo) for name, x in vars(self).items()})
        return view


def _packed(what: Any) -> bytes:
    """Return a pickle by value.

    Raises
    ------
    TypeError
        Something that it holds stays in this process: a lock, an open file, a generator.
    """
    import cloudpickle

    token = _INSIDE.set(True)
    try:
        return cloudpickle.dumps(what)
    except Exception as error:
        raise TypeError(
            f"{type(what).__name__} can't be sent to another process ({error}): a function that it "
            "holds reads what stays in this one; give it functions of a module, or arrays in place "
            "of what they close over, or have the function that runs there make it, as flow.sweep "
            "does"
        ) from error
    finally:
        _INSIDE.reset(token)


def _unpacked(packed: bytes) -> Any:
    """Return what was packed, its arrays in the precision that they had."""
    with double_precision():
        return pickle.loads(packed)  # noqa: S301 - within a pickle that is being loaded


@contextmanager
def explained() -> Iterator[None]:
    """Say of an error of JAX's runtime, in one of several processes, what it most likely is.

    The runtime itself ends a process after this, as its peers do not answer: at once where the
    first is gone, else after its time-out, ``heartbeat_timeout_seconds`` of
    `jax.distributed.initialize`.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if (processes := jax.process_count()) > 1:
            error.add_note(
                f"one of the {processes} processes of this run was probably lost; start all of "
                "them again, and go on with flow.resume(folder, dynamics) where the run was given "
                "checkpoint=folder"
            )
        raise
