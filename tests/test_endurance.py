"""Many runs in one process: memory that stays, and threads that do not disturb each other."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import flow

MANY = """
import gc, os
from pathlib import Path
import numpy as np
import flow

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

X, y = flow.datasets.digits(40)
network = flow.MLP([64, 4, 10])
same, sizes = network.objective(X, y, seed=0), []
for i in range(130):
    # A loop of a user's makes a new objective now and then, and runs what it has in between.
    objective = network.objective(X, y, seed=i) if i % 25 == 0 else same
    if i % 3 == 0:
        flow.integrate(objective, 0.5, save=5, progress=False)
    elif i % 3 == 1:
        flow.integrate(objective, 0.5, method="RK4", step=0.05, engine="jax", save=5,
                       progress=False)
    else:
        flow.descend(objective, 0.05, 10, save=5, progress=False)
    if i >= 29:
        sizes.append(resident())
print(sizes[0], max(sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.large
def test_a_hundred_runs_take_no_more_memory_than_the_first(tmp_path: Path):
    """Assert resident memory within 5 % over a hundred runs, new objectives among them."""
    done = subprocess.run(
        [sys.executable, "-c", MANY], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    after_thirty, most = map(int, done.stdout.split())
    assert most < 1.05 * after_thirty


def test_threads_integrate_at_the_same_time():
    """Assert bits of serial runs, of an objective that all share and of each thread's own."""
    X, y = flow.datasets.digits(40)
    shared = flow.MLP([64, 4, 10]).objective(X, y, seed=0)

    own: dict[int, flow.Objective] = {}

    def runs(i: int) -> list[np.ndarray]:
        if i not in own:  # in a thread
            own[i] = flow.MLP([64, 2, 10]).objective(X[:20], y[:20], seed=i)
        quiet = {"save": 5, "progress": False}
        found = [flow.descend(own[i], 0.05, 20, **quiet).theta]
        for objective in (shared, own[i]):
            found += [
                flow.integrate(objective, 1.0, method="RK45", **quiet).theta,
                flow.integrate(
                    objective, 1.0, method="RK4", step=0.05, engine="jax", **quiet
                ).theta,
            ]
        return found

    together: dict[int, list[np.ndarray]] = {}
    threads = [threading.Thread(target=lambda i=i: together.update({i: runs(i)})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(together) == [0, 1, 2]
    for i, found in together.items():
        for mine, alone in zip(found, runs(i), strict=True):
            np.testing.assert_array_equal(mine, alone)
