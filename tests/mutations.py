"""Break flow in twenty places, one at a time, and see whether the tests notice.

``python tests/mutations.py files`` runs the test files beside each mutation, ``quick`` runs
``pytest -m quick``; both stop at the first failure. The tree is copied first, and left as it is.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COMPILED = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "d" / "compiled")}


class Mutation(NamedTuple):
    """One text of one file replaced by another, and the test files that reach it."""

    fault: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation("W for Wᵀ where W is square", "backprop/lemmas.py", "return W.T @ dz",
             "return W @ dz if W.shape[0] == W.shape[1] else W.T @ dz", "backprop layers"),
    Mutation("no 1/N in ∂J/∂A", "backprop/losses.py",
             "self.residual(A, Y) / A.shape[1]", "self.residual(A, Y)",
             "backprop layers named_networks"),
    Mutation("tanh′ = 1 − a", "backprop/activations.py",
             "1.0 - a * a", "1.0 - a", "backprop explain"),
    Mutation("weight decay climbs", "dynamics/gradient_flow.py",
             "sign * g - self.weight_decay * p", "sign * g + self.weight_decay * p",
             "modified_flows"),
    Mutation("friction drives", "dynamics/second_order.py",
             "-self.friction * v - g", "self.friction * v - g", "second_order action"),
    Mutation("η for η/2 in the modified flow", "dynamics/modified_flow.py",
             "-(a + 0.5 * eta * b), g, Hg", "-(a + eta * b), g, Hg", "modified_flows"),
    Mutation("saves one interval early", "_run/save_times.py",
             "return np.linspace(0.0, t, n)", "return np.linspace(0.0, t, n + 1)[:-1]",
             "integration trajectory"),
    Mutation("the last gradient of a descent not counted", "_run/discrete.py",
             "self.k - int(before.k) + (status != RUNNING) + gradients",
             "self.k - int(before.k) + gradients",
             "ends descent"),
    Mutation("a checkpoint without the step size", "_run/checkpoint/solver.py",
             "if callable(value) or isinstance(value, Kernel):",
             'if callable(value) or isinstance(value, Kernel) or name == "h_abs":',
             "checkpoints"),
    Mutation("a changed checkpoint believed", "_run/checkpoint/file.py",
             "if digest.tobytes() != _digest(found):", "if not digest.size:", "checkpoints"),
    Mutation("an array larger than its file believed", "_core/opening.py",
             "if not whole:", "if False:", "opening"),
    Mutation("the dissipated energy added", "_evidence/audit.py",
             "(fallen - dissipated) / whole", "(fallen + dissipated) / whole",
             "trajectory second_order comparison"),
    Mutation("saved steps rounded down", "_run/save_times.py",
             "np.rint(t / self.time_step)", "np.floor(t / self.time_step)",
             "descent descent_ensemble"),
    Mutation("no dt/ds on the log clock", "dynamics/log_clock.py",
             "jnp.exp(t) * x", "x", "log_clock"),
    Mutation("a sign in TSRKC3's w₁", "methods/tsrkc3.py",
             "(1.0 - q) * second", "(1.0 + q) * second", "stabilised"),
    Mutation("the eigenvalue largest in magnitude", "spectrum/eigenpairs.py",
             'which="LA"', 'which="LM"', "spectrum"),
    Mutation("η for √η in the noise", "dynamics/stochastic_flow.py",
             "(self.learning_rate / (self.batch_size * self.examples)) ** 0.5",
             "self.learning_rate / (self.batch_size * self.examples) ** 0.5", "stochastic"),
    Mutation("one branch for the sum over branches", "circuits/backward.py",
             "_plus(derivatives.get(operand, 0.0), term)", "term", "circuits"),
    Mutation("a schedule's clock starts a step late", "_run/descend.py",
             "np.concatenate([[0.0], np.cumsum(clock)])",
             "np.concatenate([[0.0, 0.0], np.cumsum(clock)[:-1]])", "descent checkpoints"),
    Mutation("a flow on the manifold that climbs", "dynamics/stiefel_flow.py",
             "return jax.tree.map(jnp.negative, self.gradient(self.params(state), data))",
             "return self.gradient(self.params(state), data)", "manifold_flows"),
    Mutation("a loss at the threshold does not stop", "stop.py",
             "given[condition.quantity] = max(", "given[condition.quantity] = min(",
             "ends integration engines"),
    Mutation("half of the angle between two runs", "_evidence/compare.py",
             "np.degrees(2 * half)", "np.degrees(half)", "comparison"),
]  # fmt: skip


def outcome(mutation: Mutation, selection: str) -> str:
    """Return the first test that failed, or that none did, with the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "flow"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache"))
        file = tree / "flow" / mutation.file
        text = file.read_text()
        if text.count(mutation.old) != 1:
            return f"NOT APPLIED: {text.count(mutation.old)} places"
        file.write_text(text.replace(mutation.old, mutation.new))
        chosen = (
            ["-m", "quick"]
            if selection == "quick"
            else [f"tests/test_{name}.py" for name in mutation.tests.split()]
        )
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-n0", "-q", "-p", "no:cacheprovider", *chosen],
            cwd=tree, env=COMPILED | os.environ | {"PYTHONPATH": str(tree)}, capture_output=True,
            text=True,
        )  # fmt: skip
        seconds = f"{time.perf_counter() - began:.0f} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    caught = failed[0].split(" - ")[0] if failed else "NOT CAUGHT"
    return f"{caught} | {seconds}" if done.returncode == 1 else f"NOT CAUGHT ({done.returncode})"


def main(selection: str) -> None:
    """Print a table of all mutations, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda m: outcome(m, selection), MUTATIONS)
        for mutation, result in zip(MUTATIONS, found, strict=True):
            print(f"{mutation.fault} | {mutation.file} | {result}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
