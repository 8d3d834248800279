"""The three lemmas that the backward pass is composed of.

J is the mean loss over N examples, the columns. A cotangent ∂J/∂z is (units, N) and carries
the 1/N of the mean from the loss on, so that no layer has to know it: with per-example
cotangents dz⁽ⁱ⁾ = N·∂J/∂z⁽ⁱ⁾, lemma 1 is the familiar dW = (1/N) dZ Aᵀ.
"""

from jaxtyping import Array, Float


def linear_parameters(
    dz: Float[Array, "out N"], u: Float[Array, "in N"]
) -> tuple[Float[Array, "out in"], Float[Array, "out 1"]]:
    """Return lemma 1: z = Wu + b ⇒ ∂J/∂W = ∂J/∂z · uᵀ and ∂J/∂b = Σ over examples of ∂J/∂z.

    ∂z_i/∂W_jk = δ_ij u_k is a 3-tensor; summing it against ∂J/∂z entry by entry leaves the
    outer product, and the sum over examples turns the outer products into one matrix product.

    >>> import jax.numpy as jnp
    >>> dW, db = linear_parameters(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0], [0.0, 1.0]]))
    >>> dW.tolist(), db.tolist()
    ([[13.0, 2.0]], [[3.0]])
    """
    return dz @ u.T, dz.sum(axis=1, keepdims=True)


def through_activation(
    da: Float[Array, "*units N"], slope: Float[Array, "*units N"]
) -> Float[Array, "*units N"]:
    """Return lemma 2: a = σ(z) elementwise ⇒ ∂J/∂z = ∂J/∂a ⊙ σ′(z).

    `slope` is σ′ at the stored z. The Jacobian ∂a/∂z is diagonal, hence ⊙; an inverse of σ is
    never needed, which is why ReLU, which has none, is no special case.

    >>> import jax.numpy as jnp
    >>> through_activation(jnp.array([[2.0, 3.0]]), jnp.array([[0.5, 0.0]])).tolist()
    [[1.0, 0.0]]
    """
    return da * slope


def linear_input(W: Float[Array, "out in"], dz: Float[Array, "out N"]) -> Float[Array, "in N"]:
    """Return lemma 3: z = Wu + b ⇒ ∂J/∂u = Wᵀ ∂J/∂z.

    u_k feeds every z_i with weight W_ik, and the terms of its branches add: Σ_i W_ik ∂J/∂z_i.

    >>> import jax.numpy as jnp
    >>> linear_input(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0]])).tolist()
    [[10.0], [20.0], [30.0]]
    """
    return W.T @ dz
