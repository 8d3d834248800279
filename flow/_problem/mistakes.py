"""Common mistakes in a backward pass: flow's own, with one of its rules replaced by a wrong one."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow._problem.leaf_check import factors
from flow.backprop import ACTIVATIONS, Activation, Chain, Linear, Loss
from flow.backprop.symbols import node_symbols, parameter_symbol

# Entries that an activation is evaluated at together.
LENGTH = 1024
# ∂J/∂(output) ↦ ∂J/∂(input) and ∂J/∂(parameters), in place of a layer's own.
Rule = Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]]]
# Words with {places}, and the rule of one layer; of one kind in several layers the words are one.
Wrong = Iterator[tuple[str, Rule]]


def mistakes(
    chain: Chain, loss: Loss, params: list[dict[str, Any]], X: Any, Y: Any
) -> Iterator[tuple[str, list[dict[str, np.ndarray]]]]:
    """Yield what a mistake is called, and the gradient that the pass gives with it.

    The first has no name and is the right one. A rule is wrong in one layer, or in all.

    Parameters
    ----------
    chain, loss, params
        The network.
    X, Y
        Columns, as in `flow.backprop`.
    """
    right = _Pass(chain, loss, params, X, Y)
    yield "", right.gradient()
    N = X.shape[-1]
    for factor, words in _multiples(N).items():
        yield words, right.gradient(factor * right.cotangent)
    for words, residual in _residuals(loss, right.values[-1], Y, N * right.cotangent).items():
        yield words, right.gradient(residual / N)
    if isinstance(chain.layers[-1], Activation):
        z, a = right.symbols[-2:]
        inner = np.asarray(loss.cotangent(jnp.asarray(right.values[-2]), jnp.asarray(Y)))
        yield f"{z} for {a} in ∂J/∂{a}", right.gradient(inner)
    yield from right.of_layers()
    yield from _of_data(chain, loss, params, X, Y)
    yield from _of_activations(chain, loss, params, X, Y)


class _Pass:
    """A forward pass in numpy, and backward passes in which rules may be replaced."""

    def __init__(self, chain: Chain, loss: Loss, params: list, X: Any, Y: Any) -> None:
        self.chain, self.params, self.slots = chain, params, chain.slots
        self.symbols = node_symbols(chain)
        self.values, self.rules = [np.asarray(X)], []
        for l, layer in enumerate(chain.layers):
            A, own = self.values[-1], self.own(l)
            if isinstance(layer, Linear):
                Z = layer.factor * (own["W"] @ A) + own.get("b", 0.0)
                rule = self.linear(l)
            elif isinstance(layer, Activation):
                Z = _entries(layer.value, A)
                rule = _elementwise(_slope(layer, A, Z))
            else:
                own = jax.tree.map(jnp.asarray, own)
                Z, kept = layer.forward(own, jnp.asarray(A))
                rule = lambda dA, pull=layer.backward, own=own, kept=kept: _numpy(  # noqa: E731
                    pull(own, kept, jnp.asarray(dA))
                )
            self.values.append(np.asarray(Z))
            self.rules.append(rule)
        outputs, targets = jnp.asarray(self.values[-1]), jnp.asarray(Y)
        self.cotangent = np.asarray(loss.cotangent(outputs, targets))
        self.deltas: list[np.ndarray] = []
        self.gradient()

    def own(self, l: int) -> dict[str, Any]:
        """Return the parameters of layer l."""
        return {} if self.slots[l] is None else self.params[self.slots[l]]

    def symbol(self, key: str, l: int) -> str:
        """Return the name of a parameter of layer l."""
        return parameter_symbol(key, self.symbols[self.slots.index(self.slots[l]) + 1])

    def linear(self, l: int, du: Any = None, dW: Any = None, db: Any = None) -> Rule:
        """Return the rule of a linear layer l, with any of its three parts replaced."""
        own, c, u = self.own(l), self.chain.layers[l].factor, self.values[l]

        def pull(dz: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            term = {"W": c * (dz @ u.T if dW is None else dW(dz))}
            if "b" in own:
                term["b"] = _summed(dz) if db is None else db(dz)
            return c * (own["W"].T @ dz if du is None else du(dz)), term

        return pull

    def gradient(
        self, dA: np.ndarray | None = None, wrong: dict[int, Rule] | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Return ∂J/∂params with another ∂J/∂A_L, or other rules in some layers."""
        deltas = [self.cotangent if dA is None else dA]
        found: list[Any] = [None] * len(self.params)
        for l in reversed(range(len(self.rules))):
            dA, term = (wrong or {}).get(l, self.rules[l])(deltas[-1])
            deltas.append(dA)
            if (slot := self.slots[l]) is not None:
                before = found[slot]
                found[slot] = term if before is None else jax.tree.map(np.add, before, term)
        self.deltas = self.deltas or deltas[::-1]
        return found

    def of_layers(self) -> Iterator[tuple[str, list[dict[str, np.ndarray]]]]:
        """Yield gradients with one rule wrong, of one layer, and of all that have such a rule."""
        kinds: dict[str, dict[int, Rule]] = {}
        for l, layer in enumerate(self.chain.layers):
            if isinstance(layer, Linear | Activation):
                of = self.of_linear if isinstance(layer, Linear) else self.of_activation
                for words, rule in of(l):
                    kinds.setdefault(words, {})[l] = rule
        for words, rules in kinds.items():
            for l, rule in rules.items():
                yield self.worded(words, l), self.gradient(wrong={l: rule})
            if len(rules) > 1 and not re.search("[₀-₉]", words):  # no node in particular
                yield self.worded(words, None), self.gradient(wrong=rules)

    def worded(self, words: str, l: int | None) -> str:
        """Return the words with the symbols of layer l, or of none in particular."""
        if l is None:
            first, rule = words.split(":")
            return f"{first} in every layer:{rule}".format(
                before="Z", u="A", z="Z", a="A", W="W", b="b"
            )
        before, u, z, a = ["", *self.symbols, ""][l : l + 4]
        if isinstance(self.chain.layers[l], Activation):
            return words.format(z=u, a=z)
        return words.format(
            before=before, u=u, z=z, a=a, W=self.symbol("W", l), b=self.symbol("b", l)
        )

    def of_activation(self, l: int) -> Wrong:
        """Return lemma 2, ∂J/∂z = ∂J/∂a ⊙ σ′(z)."""
        layer, (z, a) = self.chain.layers[l], self.values[l : l + 2]
        s = _plain_name(layer)
        right = _slope(layer, z, a)
        lemma = "∂J/∂{z} = ∂J/∂{a} ⊙ σ′({z}), lemma 2"
        slopes = {
            f"{s}′ forgotten: {lemma}": np.ones_like(z),
            f"{s}′({{a}}) for {s}′({{z}}): {lemma}": _slope(layer, a),
            f"{{z}} for {{a}} in {s}′: {lemma}": _slope(layer, z, z),
            f"{{a}} for {s}′({{z}}): {lemma}": a,
            f"{{z}} for {s}′({{z}}): {lemma}": z,
            f"1 − {{a}} for {s}′({{z}}): {lemma}": 1.0 - a,
            f"{s}′ taken twice: {lemma}": right**2,
            f"divided by {s}′: {lemma}": np.divide(1.0, right, where=right != 0, out=0 * right),
            f"{s}′ of −{{z}}: {lemma}": _slope(layer, -z),
        }
        for name, other in ACTIVATIONS.items():
            if name not in {s, "identity"}:
                slopes[f"{name}′ for {s}′: {lemma}"] = _slope(other, z, a)
                slopes[f"{name}′({{z}}) for {s}′({{z}}): {lemma}"] = _slope(other, z)
        if l and "b" in self.own(l - 1):
            words = f"{s}′({{z}} − {self.symbol('b', l - 1)}) for {s}′({{z}}): {lemma}"
            slopes[words] = _slope(layer, z - self.own(l - 1)["b"])
        for k, o in self.elsewhere(self.values, l, l + 1):
            slopes[f"{s}′({o}) for {s}′({{z}}): {lemma}"] = _slope(layer, self.values[k])
        for words, slope in slopes.items():
            yield words, _elementwise(slope)
        at_delta = f"{s}′(∂J/∂{{a}}) for {s}′({{z}}): {lemma}"
        yield at_delta, lambda dA: (dA * _slope(layer, dA), {})

    def of_linear(self, l: int) -> Wrong:
        """Return lemmas 1 and 3, also with δ = ∂J/∂z, W and u of other nodes in their place."""
        ahead = l + 1 < len(self.chain.layers) and isinstance(self.chain.layers[l + 1], Activation)
        deltas = {o: self.deltas[k] for k, o in self.elsewhere(self.deltas, l + 1)}
        if ahead:  # before lemma 2; below all other parameters that is lemma 2 forgotten
            before_lemma = deltas.pop(self.symbols[l + 2])
            deltas |= {"{a}": before_lemma} if l else {}
        inputs = {o: self.values[k] for k, o in self.elsewhere(self.values, l)}
        if l and isinstance(self.chain.layers[l - 1], Activation):
            inputs["{before}"] = inputs.pop(self.symbols[l - 1])
        if ahead and self.symbols[l + 2] in inputs:
            inputs["{a}, a layer ahead,"] = inputs.pop(self.symbols[l + 2])
        yield from self.of_first_lemma(l, deltas, inputs)
        if l:
            yield from self.of_third_lemma(l, deltas)

    def of_first_lemma(self, l: int, deltas: dict, inputs: dict) -> Wrong:
        """Return ∂J/∂W = ∂J/∂z uᵀ and ∂J/∂b = Σ ∂J/∂z."""
        u, (n, N) = self.values[l], self.values[l + 1].shape
        product, total = "∂J/∂{W} = ∂J/∂{z} · {u}ᵀ, lemma 1", "∂J/∂{b} = Σ ∂J/∂{z}, lemma 1"
        for o, delta in deltas.items():
            dW, db = (lambda _, d=delta: d @ u.T), (lambda _, d=delta: _summed(d))
            of_o = f"∂J/∂{o} for ∂J/∂{{z}}"
            yield f"{of_o}: {product}", self.linear(l, dW=dW, db=db)
            yield f"{of_o} in ∂J/∂{{W}} alone: {product}", self.linear(l, dW=dW)
            yield f"{of_o} in ∂J/∂{{b}} alone: {total}", self.linear(l, db=db)
        inputs = {f"{o} for {{u}}": value for o, value in inputs.items()}
        inputs |= {f"examples of {{u}} {how}": u[:, i] for how, i in _orders(N).items()}
        for words, value in inputs.items():
            yield f"{words}: {product}", self.linear(l, dW=lambda dz, v=value: dz @ v.T)
        sums = {
            "a mean over examples for their sum": lambda dz: _summed(dz) / N,
            "summed over units too": lambda dz: np.full((n, 1), dz.sum()),
            "the first example alone, no sum": lambda dz: dz[:, :1],
            "the last example alone, no sum": lambda dz: dz[:, -1:],
        }
        if n == N:
            sums["summed over units, not over examples"] = lambda dz: _summed(dz.T)
        for words, db in sums.items():
            yield f"{words}: {total}", self.linear(l, db=db)

    def of_third_lemma(self, l: int, deltas: dict) -> Wrong:
        """Return ∂J/∂u = Wᵀ ∂J/∂z."""
        W, lemma = self.own(l)["W"], "∂J/∂{u} = {W}ᵀ · ∂J/∂{z}, lemma 3"
        matrices = {}
        if W.shape[0] == W.shape[1]:
            matrices = {"{W} for {W}ᵀ": W, "{W}ᵀ forgotten": np.eye(len(W))}
        for k, other in enumerate(self.chain.layers):
            if isinstance(other, Linear) and self.slots[k] != self.slots[l]:
                V, name = self.own(k)["W"], self.symbol("W", k)
                matrices |= {f"{name}ᵀ for {{W}}ᵀ": V.T, f"{name} for {{W}}ᵀ": V}
        for words, M in matrices.items():
            if M.shape == W.T.shape:
                yield f"{words}: {lemma}", self.linear(l, du=lambda dz, M=M: M @ dz)
        for o, delta in deltas.items():
            du = lambda _, d=delta: W.T @ d  # noqa: E731
            yield f"∂J/∂{o} for ∂J/∂{{z}}: {lemma}", self.linear(l, du=du)

    def elsewhere(self, of: list[np.ndarray], *here: int) -> Iterator[tuple[int, str]]:
        """Yield the other nodes whose numbers have the shape of those of the first one here."""
        for k, (symbol, value) in enumerate(zip(self.symbols, of, strict=True)):
            if k not in here and value.shape == of[here[0]].shape:
                yield k, symbol


def _elementwise(factor: np.ndarray) -> Rule:
    """Return lemma 2 with that for σ′(z)."""
    return lambda dA: (dA * factor, {})


def _slope(layer: Activation, z: np.ndarray, a: np.ndarray | None = None) -> np.ndarray:
    """Return σ′(z), with a = σ(z) or something else for it."""
    return _entries(layer.slope, z, _entries(layer.value, z) if a is None else a)


def _entries(of: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """Return `of` of arrays entry by entry, padded to one of few lengths: it is compiled once."""
    size = arrays[0].size
    length = max(LENGTH, 2 ** (size - 1).bit_length())
    padded = (jnp.asarray(np.pad(x.ravel(), (0, length - size), mode="edge")) for x in arrays)
    return np.asarray(of(*padded))[:size].reshape(arrays[0].shape)


def _plain_name(layer: Activation) -> str:
    """Return what an activation is called, without its arguments."""
    return layer.name.partition("(")[0]


def _summed(dz: np.ndarray) -> np.ndarray:
    """Return over examples, as a column."""
    return dz.sum(axis=1, keepdims=True)


def _residuals(
    loss: Loss, A: np.ndarray, Y: np.ndarray, right: np.ndarray
) -> dict[str, np.ndarray]:
    """Return words -> N·∂J/∂A_L as it is often written."""
    found = {f"divided by the number of outputs, {len(A)}: J sums over them": right / len(A)}
    if loss.name == "mse":
        return found | {
            "2 times: the ½ of ½‖A − Y‖² takes the 2 of its derivative": 2 * right,
            "a factor 2 and a mean over outputs: J is ½ of their sum": 2 * right / len(A),
            "Y forgotten: ∂J/∂A = (A − Y)/N": A,
            "J itself for its derivative: ∂J/∂A = (A − Y)/N": right**2,
            "the sign of A − Y for A − Y": np.sign(right),
        }
    if loss.name not in {"cross_entropy", "binary_cross_entropy", "log_likelihood"}:
        return found
    several = loss.name == "cross_entropy"
    s, sign = "softmax" if several else "sigmoid", -1.0 if loss.name == "log_likelihood" else 1.0
    raised = np.exp(A - A.max(axis=0))
    P = raised / raised.sum(axis=0) if several else 1.0 / (1.0 + np.exp(-A))
    lemma = f"∂J/∂Z = ({s}(Z) − Y)/N has it" if sign > 0 else f"∂J/∂Z = (Y − {s}(Z))/N has it"
    found |= {
        f"{s} forgotten: {lemma.removesuffix(' has it')}": sign * (A - Y),
        f"{s}′ once more: {lemma}": right * P * (1 - P),
        f"{s}′ forgotten, ∂J/∂p for ∂J/∂Z: {lemma}": (-Y / P if several else right / (P * (1 - P))),
        f"Y forgotten: {lemma.removesuffix(' has it')}": sign * P,
        "of −Y log p alone, without 1 − Y": sign * (P * Y - Y),
        "−Y/p, without (1 − Y)/(1 − p)": -sign * Y / P,
        "2 times: no factor 2 comes from a logarithm": 2 * right,
    }
    if several:
        found[f"{s}′ once more, all of its Jacobian: {lemma}"] = P * (
            right - (P * right).sum(axis=0)
        )
    return found


def _orders(N: int) -> dict[str, np.ndarray]:
    """Return how examples get into another order."""
    if N == 1:
        return {}
    order = np.arange(N)
    return {
        "in reversed order": order[::-1],
        "shifted by one": np.roll(order, 1),
        "shifted back by one": np.roll(order, -1),
    }


def _of_data(
    chain: Chain, loss: Loss, params: list, X: np.ndarray, Y: np.ndarray
) -> Iterator[tuple[str, list[dict[str, np.ndarray]]]]:
    """Yield gradients with other data: examples paired wrongly, misshapen, or left out."""
    N = X.shape[-1]
    others = {
        f"rows of y {how}: each x has another's y": (X, Y[:, i]) for how, i in _orders(N).items()
    }
    others["X.reshape for X.T"] = np.moveaxis(X, -1, 0).reshape(X.shape), Y
    others["y.reshape for y.T"] = X, Y.T.reshape(Y.shape)
    for one, i in (("first", slice(0, 1)), ("last", slice(N - 1, N))) if N > 1 else ():
        others[f"the {one} example alone: = for +="] = X[..., i], Y[:, i]
    for words, data in others.items():
        with suppress(ValueError):  # of batch normalisation, which does not take one example
            gradient = _Pass(chain, loss, params, *data).gradient()
            yield words, gradient
            if data[0].shape != X.shape:
                yield words, jax.tree.map(lambda g: g / N, gradient)


def _of_activations(
    chain: Chain, loss: Loss, params: list, X: np.ndarray, Y: np.ndarray
) -> Iterator[tuple[str, list[dict[str, np.ndarray]]]]:
    """Yield gradients of other networks: with another activation, or without biases."""
    used = {_plain_name(layer): layer for layer in chain.layers if isinstance(layer, Activation)}
    for s, layer in used.items():
        for name, other in ACTIVATIONS.items():
            if name != s:
                layers = [other if one is layer else one for one in chain.layers]
                changed = _Pass(Chain(layers), loss, params, X, Y).gradient()
                yield f"the gradient of a network with {name} for {s}", changed
    if any("b" in own and np.any(own["b"]) for own in params):
        without = [own | {"b": 0 * own["b"]} if "b" in own else own for own in params]
        changed = _Pass(chain, loss, without, X, Y).gradient()
        yield "biases forgotten in the forward pass: Z = W · A + b", changed


def _multiples(N: int) -> dict[float, str]:
    """Return factor -> what a gradient is that is so many times what it should be."""
    return {-1.0: "sign flipped"} | factors(N)


def _numpy(tree: Any) -> Any:
    """Return the same with numpy arrays; shapes stay as they are."""
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, tree)


def names(
    found: list[np.ndarray],
    tries: Iterator[tuple[str, list[dict[str, np.ndarray]]]],
    N: int,
    tolerance: float,
) -> tuple[list[str], list[list[str]]]:
    """Name the mistakes that give all of a gradient, and those that give a leaf of it.

    Of all: several where they coincide, a flipped sign or a 1/N beside another if no one alone is
    it. Of a leaf: where it is as the mistake makes it, whatever the others are.

    Parameters
    ----------
    found
        The leaves of the gradient.
    tries
        From `mistakes`.
    N
        Examples.
    tolerance
        Relative error of what is the same.
    """
    right = jax.tree.leaves(next(tries)[1])
    least = 1e-9 * tolerance * np.sqrt(sum(np.sum(g**2) for g in right))

    def same(g: np.ndarray, other: np.ndarray) -> bool:
        return bool(np.linalg.norm(g - other) <= tolerance * np.linalg.norm(other) + least)

    def once(words: list[str]) -> list[str]:
        return list(dict.fromkeys(words))

    whole, beside, leaves = [], [], [[] for _ in found]
    for words, gradient in tries:
        wrong = jax.tree.leaves(gradient)
        changed = [not same(w, g) for w, g in zip(wrong, right, strict=True)]
        if not any(changed):
            continue
        agree = [same(g, w) for g, w in zip(found, wrong, strict=True)]
        if all(agree):
            whole.append(words)
        for k in range(len(found)):
            if agree[k] and changed[k]:
                leaves[k].append(words)
        for factor, of_it in _multiples(N).items():
            twice = factor > 0 and words in _multiples(N).values()
            if not twice and all(same(g, factor * w) for g, w in zip(found, wrong, strict=True)):
                beside.append(f"{of_it}, and {words}")
    return once(whole) or once(beside), [once(words) for words in leaves]
