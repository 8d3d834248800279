"""The network on which the edge of stability is best seen: it has 300 parameters."""

import numpy as np
from jax import numpy as jnp

from flow._core.checks import positive_integer, random_seed
from flow._core.keywords import own_keywords
from flow._problem.objective import Objective

WIDTH, POINTS, GAIN = 100, 20, 1.9


@own_keywords
def chebyshev(degree: int = 3, seed: int = 0) -> Objective:
    """Return the loss of a 1-100-1 tanh network on the Chebyshev polynomial of a degree.

    f(x) = w₂ᵀ tanh(W₁x + b₁), J = ½ mean (f − T_d)² over 20 points on [−1, 1]; Xavier normal, of
    gain 1.9 in the first layer, b₁ = 0, no output bias. Of degree 3 the flow's sharpness grows
    from 3 to 31 by t = 2,000; gradient descent at η = 0.08 meets 2/η = 25 between t = 1,000 and
    1,800, depending on the seed.

    Parameters
    ----------
    degree
        Of the polynomial.
    seed
        Of the initial weights, ``numpy.random.default_rng``.

    >>> chebyshev().size
    300
    """
    degree = positive_integer("degree", degree)
    x = np.linspace(-1.0, 1.0, POINTS)
    rng = np.random.default_rng(random_seed(seed))
    spread = np.sqrt(2.0 / (WIDTH + 1))
    params = {
        "W1": GAIN * spread * rng.standard_normal((WIDTH, 1)),
        "b1": np.zeros(WIDTH),
        "w2": spread * rng.standard_normal(WIDTH),
    }
    target = np.polynomial.chebyshev.Chebyshev.basis(degree)(x)
    return Objective(
        outputs=lambda p, x: jnp.tanh(x @ p["W1"].T + p["b1"]) @ p["w2"],
        output_loss=lambda z, y: 0.5 * jnp.mean((z - y) ** 2),
        params=params,
        data=(x[:, None], target),
    )
