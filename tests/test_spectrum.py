"""Extreme eigenvalues against the dense Hessian."""

import jax
import numpy as np
import pytest

import flow
from flow.spectrum.eigenpairs import DENSE_SIZE


def test_top_eigenvalues_of_a_network():
    """Assert the dense Hessian's largest eigenvalues, by products, of an indefinite Hessian."""
    objective = flow.MLP([64, 5, 10]).objective(*flow.datasets.digits(50), seed=2)
    assert objective.size > DENSE_SIZE
    with jax.enable_x64(True):
        H = jax.hessian(
            lambda theta: objective.traced_value(objective.tree(theta), objective.data)
        )(jax.numpy.asarray(objective.theta))
    expected = np.linalg.eigvalsh(np.asarray(H))
    assert expected[0] < -1e-3
    found = flow.top_eigenvalues(objective, objective.params, k=4)
    np.testing.assert_allclose(found, expected[::-1][:4], rtol=1e-8)
    assert flow.sharpness(objective, objective.params) == pytest.approx(expected[-1], rel=1e-8)


@pytest.mark.parametrize("size", [1, 3, 60])
def test_a_large_negative_eigenvalue_is_no_sharpness(size: int):
    """Assert the largest eigenvalue, not the largest magnitude, dense and by products."""
    spectrum = np.linspace(0.1, 2.0, size)
    spectrum[0] = -50.0 if size > 1 else -3.0
    objective = flow.Objective(lambda x: 0.5 * x @ (spectrum * x), np.ones(size))
    found = flow.sharpness(objective, objective.params)
    assert found == pytest.approx(spectrum.max(), rel=1e-9)


def test_learning_rates_need_a_positive_limit():
    """Assert that a concave loss has no stability limit, and says so."""
    objective = flow.Objective(lambda x: -(x @ x), np.ones(2))
    with pytest.raises(ValueError, match="no stability limit"):
        flow.auto_learning_rates(objective)
