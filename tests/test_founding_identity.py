"""Gradient descent is Euler's method on gradient flow."""

import numpy as np
import pytest

import flow

pytestmark = pytest.mark.quick


def test_euler_on_the_flow_is_gradient_descent():
    """Assert that both give the same weights at the same times, to rounding, on digits."""
    X, y = flow.datasets.digits(300)
    objective = flow.MLP([64, 32, 10], activation="tanh").objective(X, y, loss="mse", seed=0)
    eta, steps = 0.05, 400
    descent = flow.descend(objective, learning_rate=eta, steps=steps)
    euler = flow.integrate(objective, t=eta * steps, method="Euler", step=eta, save=descent.t)
    np.testing.assert_array_equal(euler.t, descent.t)
    np.testing.assert_allclose(euler.theta, descent.theta, rtol=0, atol=1e-13)
    np.testing.assert_allclose(euler.loss, descent.loss, rtol=1e-13)
    assert euler.stats["steps"] == descent.stats["steps"] == steps
