"""Our solvers as `scipy.integrate.OdeSolver`: scipy's checks of its own, with ours put in."""

import ast
import inspect
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from flow.methods import SpectrumNotReal
from flow.methods.rkc2 import RKC2
from flow.methods.tsrkc3 import TSRKC3

SOLVERS = (RKC2, TSRKC3)
# Read and not imported, as it asks for marks of scipy's suite.
THEIRS = Path(find_spec("scipy.integrate._ivp.tests.test_ivp").origin)
METHODS = {"RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"}


class PutIn(ast.NodeTransformer):
    """A list of scipy's methods is one of ours, and of spans forward and backward the forward."""

    def visit_FunctionDef(self, node: Any) -> Any:
        """Leave out marks of their suite."""
        node.decorator_list = []
        return self.generic_visit(node)

    # The methods' names are ast's.
    def visit_List(self, node: Any) -> Any:
        """Put ours in."""
        return self._visit(node)

    def visit_Tuple(self, node: Any) -> Any:
        """Put ours in."""
        return self._visit(node)

    def _visit(self, node: Any) -> Any:
        names = [getattr(x, "value", getattr(x, "id", None)) for x in node.elts]
        if names and all(isinstance(n, str) and n in METHODS for n in names):
            node.elts = [ast.Name("SOLVER", ast.Load())]
        if ast.unparse(node) in ("[[5, 9], [5, 1]]", "([5, 9], [5, 1])"):
            node.elts = node.elts[:1]
        return self.generic_visit(node)


@cache
def checks(solver: type) -> dict[str, Callable]:
    """Their checks of solvers, with one of ours in the place of each method."""
    tree = ast.fix_missing_locations(PutIn().visit(ast.parse(THEIRS.read_text())))
    inside: dict[str, Any] = {"SOLVER": solver}
    exec(compile(tree, THEIRS, "exec"), inside)  # noqa: S102 - scipy's installed tests

    def put_in(*arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The following arguments have no effect")
            return solve_ivp(*arguments, **options | {"method": solver})

    inside["solve_ivp"] = put_in
    return {name: f for name, f in inside.items() if name.startswith("test_")}


# What a check meets that the methods are not for: the refusal, or what they can't do.
COMPLEX = SpectrumNotReal, "eigenvalues of the Jacobian are complex"
BACKWARD = ValueError, "backward in time the spectrum is positive"
NOT_FOR = {
    "test_integration_complex": (ValueError, "`y0` is complex"),
    "test_classes": COMPLEX,  # to t = ∞
    "test_event_terminal_integer": COMPLEX,
    "test_event_terminal_iv": COMPLEX,
    "test_integration_const_jac": COMPLEX,
    "test_events": BACKWARD,  # once all events forward have been found
    "test_t_eval": BACKWARD,  # likewise
    # At most 40 evaluations: the spectral radius alone takes so many, once.
    "test_integration": (AssertionError, "^$"),
    # rtol 1e-7 where 1e-3 is asked for, as methods of order 5 have by chance.
    "test_args_single_value": (AssertionError, "rtol=1e-07"),
    # 1 % of an entry of 2e-4, where 1e-3 |y| + 1e-6 is asked for in each step.
    "test_integration_sparse_difference": (AssertionError, "rtol=0.01"),
}
# An error of 1e-9 after 20 rad at a local one of 1e-10.
NOT_FOR_ONE = {("test_args", RKC2): (AssertionError, "rtol=1e-09")}
# Robertson's kinetics to t = 1e8, hρ of 1e12: for implicit methods, and endless for these.
ENDLESS = {"test_integration_stiff"}
SLOW = {"test_args", "test_duplicate_timestamps"}
CHECKS = [
    pytest.param(name, marks=[pytest.mark.large] * (name in SLOW))
    for name in sorted(checks(RKC2).keys() - ENDLESS)
]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", CHECKS)
def test_scipy_checks(name: str, solver: type):
    """Assert that each passes, or ends in what the methods are not for."""
    check = checks(solver)[name]
    given = inspect.signature(check).parameters
    values = {"num_parallel_threads": 1, "method": solver, "n_events": 3, "f0_fill": np.nan}
    refused = NOT_FOR.get(name) or NOT_FOR_ONE.get((name, solver))
    with pytest.raises(refused[0], match=refused[1]) if refused else nullcontext():
        check(**{k: values[k] for k in given})


def decay(_: float, y: np.ndarray) -> np.ndarray:
    """−λy, with λ of 1 and 1,000."""
    return -np.array([1.0, 1000.0]) * y


@pytest.mark.quick
@pytest.mark.parametrize("solver", SOLVERS)
def test_tolerances_are_those_of_scipy(solver: type):
    """Assert that those too small are raised, and that negative ones and other shapes are none."""
    for rtol in (0.0, 1e-16, [1e-3, 0.0]):
        with pytest.warns(UserWarning, match="element of `rtol` is too small"):
            found = solve_ivp(decay, (0, 1e-3), [1.0, 1.0], method=solver, rtol=rtol, atol=1e-9)
        exact = np.exp([-1e-3, -1.0])
        np.testing.assert_allclose(found.y[:, -1], exact, rtol=1e-6)
    each = solve_ivp(decay, (0, 1), [1.0, 1.0], method=solver, atol=[1e-9, 1e-3], rtol=1e-6)
    one = solve_ivp(decay, (0, 1), [1.0, 1.0], method=solver, atol=1e-9, rtol=1e-6)
    assert each.success
    assert each.nfev < one.nfev
    for atol, message in ((-1e-6, "must be positive"), ([1e-6] * 3, "wrong shape")):
        with pytest.raises(ValueError, match=message):
            solve_ivp(decay, (0, 1), [1.0, 1.0], method=solver, atol=atol)


@pytest.mark.quick
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [1e200, 1e300])
def test_a_state_of_any_size(size: float, solver: type):
    """Assert a decay in units in which squares overflow: the run in other units, to the bit."""
    found, plain = (
        solve_ivp(decay, (0, 0.1), [y, y], method=solver, atol=1e-6 * y, dense_output=True)
        for y in (2.0 ** np.floor(np.log2(size)), 1.0)
    )
    np.testing.assert_array_equal(found.t, plain.t)
    np.testing.assert_array_equal(found.y / found.y[0, 0], plain.y)
    np.testing.assert_array_equal(found.sol(0.05) / found.y[0, 0], plain.sol(0.05))


@pytest.mark.quick
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_has_no_effect_is_told(solver: type):
    """Assert scipy's warning."""
    with pytest.warns(UserWarning, match="no effect for a chosen solver: `jac`, `min_step`"):
        solve_ivp(decay, (0, 1), [1.0, 1.0], method=solver, jac=None, min_step=1.0)
