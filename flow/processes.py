"""What is said when another process of a run has gone."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


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
