"""Start and go on: the two functions of a method that a driver or a solver calls."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from flow.methods import compiled_loop, stabilised
from flow.methods.backend import HOST
from flow.methods.chebyshev import Plan
from flow.methods.compiled_loop import Stepper
from flow.methods.loop_state import RUNNING, Fixed, Limits, Problem, Tolerance
from flow.methods.many import OnDevices
from flow.methods.packing import pack, unpack

# Where the carry stands among the arguments of a compiled `chunk`.
CARRY = 4


@dataclass(frozen=True)
class Kernel:
    """A method on a problem.

    Parameters
    ----------
    start
        (tolerance, limits, t, y) ↦ carry.
    advance
        (tolerance, limits, carry) ↦ carry after the steps that the limits allow.
    chunk
        (tolerance, limits, times, carry) ↦ carry and what was found on the way. Of a single run
        the given carry is used up: its arrays are gone.
    measured
        (times, found) ↦ J and ‖∇J‖ at the states that a chunk found.
    remainder
        (carry, t) ↦ the energy dissipated from t to the end of the last step.
    """

    start: Callable
    advance: Callable
    chunk: Callable | None = None
    measured: Callable | None = None
    remainder: Callable | None = None


def host_kernel(plan: Callable[..., Plan], problem: Problem) -> Kernel:
    """Return a stabilised method on numpy, with Python's loops."""

    def advance(tolerance: Tolerance | Fixed, limits: Limits, carry: Any) -> Any:
        while carry.status == RUNNING and carry.steps < limits.steps:
            carry = stabilised.attempt(HOST, plan, problem, tolerance, limits, carry)
        return carry

    return Kernel(partial(stabilised.start, HOST, problem), advance)


def device_kernel(
    name: str,
    make: Callable[[], Stepper],
    keep: Callable[[Any, Callable], Callable],
    derivative: Callable,
    rate: Callable,
    uphill: bool,
    data: Any,
    over: Callable | None = None,
    diffusion: Callable | None = None,
) -> Kernel:
    """Return a method compiled for one problem.

    Parameters
    ----------
    name, make
        Of the method, and its step.
    keep
        (key, build) ↦ the compiled function of that key, built on first use.
    derivative
        (t, y, data) ↦ (ẏ, measures).
    rate
        Derivatives (points, n) ↦ rates (points,).
    uphill
        Whether J is to rise.
    data
        Handed to the compiled functions, so that it is no constant of theirs.
    over
        How members share a call (`flow.methods.many`), for all but `remainder` to be of many at
        once: then every argument has a leading axis, the member.
    diffusion
        Of an SDE: (t, y, data) ↦ (ξ ↦ Bξ, shape of ξ).
    """
    # Scalars travel as one type, or every new Python type would compile again.
    as_scalars = partial(jax.tree.map, np.float64)
    seen = over.copied(data) if isinstance(over, OnDevices) else data

    def compiled(function: Callable, over: Callable | None) -> Callable:
        def build() -> Callable:
            stepper = make()

            def run(data: Any, *arguments: Any, **layout: Any) -> Any:
                problem = Problem(
                    lambda t, y: derivative(t, y, data),
                    rate,
                    uphill,
                    diffusion and (lambda t, y: diffusion(t, y, data)),
                )
                found = function(stepper, problem, *arguments, **layout)
                # Python's scalars make weak types, for which the next call would compile again.
                return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), found)

            def members(data: Any, *arguments: Any) -> Any:
                return over(run, data, *arguments)

            if over:
                return jax.jit(members)
            # The next carry takes the place of the last: five vectors less of θ's size.
            spent = CARRY if function is compiled_loop.chunk else ()
            return jax.jit(run, static_argnames="layout", donate_argnums=spent)

        return partial(keep((function.__name__, name, over), build), seen if over else data)

    def start(stepper: Stepper, problem: Problem, *arguments: Any) -> Any:
        return stepper.start(problem, *arguments)

    begin, go, take, measured = (
        compiled(f, over)
        for f in (start, compiled_loop.advance, compiled_loop.chunk, compiled_loop.measured)
    )

    def advance(tolerance: Tolerance | Fixed, limits: Limits, carry: Any) -> Any:
        packed = pack(np, (as_scalars(tolerance), as_scalars(limits), carry))
        numbers, arrays = go(*packed[:2], layout=packed[2])
        return unpack(packed[2], np.asarray(numbers), arrays)[2]

    return Kernel(
        lambda tolerance, limits, t, y: begin(as_scalars(tolerance), as_scalars(limits), t, y),
        advance,
        lambda tolerance, limits, times, carry: take(
            as_scalars(tolerance), as_scalars(limits), times, carry
        ),
        measured,
        compiled(compiled_loop.remainder, None),
    )
