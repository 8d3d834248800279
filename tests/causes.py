"""Write what each test costs and why: ``python -m pytest -p tests.causes``, then this file's table.

One line of JSON a test in ``$CAUSES`` (``causes/`` unless set): its seconds, the CPU seconds of its
process and of the processes that it waited for, the seconds that JAX spent in tracing, lowering and
compiling, and how many programs it compiled. ``python tests/causes.py`` adds them up.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

STARTED = time.perf_counter(), time.process_time()
FOLDER = Path(os.environ.get("CAUSES", "causes"))
FILE = FOLDER / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
spent = Counter()


def _note(event: str, seconds: float, **_: object) -> None:
    if stage := STAGES.get(event):
        spent[stage] += seconds
        spent["programs"] += stage == "compiling"


def _now() -> Counter:
    times = os.times()
    clock = {"seconds": time.perf_counter(), "cpu": times.user + times.system}
    return Counter(spent | Counter(clock, children=times.children_user + times.children_system))


def _write(test: str, row: dict) -> None:
    FOLDER.mkdir(exist_ok=True)
    with FILE.open("a") as lines:
        lines.write(json.dumps({"test": test, **row}) + "\n")


def pytest_configure() -> None:
    """Listen to JAX from here on, and forget the run before."""
    from jax import monitoring

    FILE.unlink(missing_ok=True)
    monitoring.register_event_duration_secs_listener(_note)


def pytest_collection_finish() -> None:
    """Write what it took to import and to collect."""
    wall, cpu = time.perf_counter() - STARTED[0], time.process_time() - STARTED[1]
    _write("collection", {"seconds": wall, "cpu": cpu})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Write what one test cost, with its fixtures."""
    before = _now()
    try:
        return (yield)
    finally:
        now = _now()
        _write(item.nodeid, {name: now[name] - before[name] for name in now})


def table(rows: list[dict]) -> str:
    """Return the seconds by cause, by file and by test, largest first."""
    names = ["seconds", "cpu", "children", "tracing", "lowering", "compiling", "programs"]
    files, total = {}, Counter()
    for row in rows:
        total.update({name: row.get(name, 0) for name in names})
        files.setdefault(row["test"].split("::")[0], Counter()).update(
            {name: row.get(name, 0) for name in names} | {"tests": 1}
        )

    def line(label: str, row: dict) -> str:
        return " ".join(f"{row.get(name, 0):9.1f}" for name in names) + f"  {label}"

    def cost(row: dict) -> float:
        return row.get("cpu", 0) + row.get("children", 0)

    head = " ".join(f"{name:>9}" for name in names)
    by_file = sorted(files.items(), key=lambda pair: -cost(pair[1]))
    by_test = sorted(rows, key=cost, reverse=True)[:60]
    return "\n".join([
        head, line("all", total), "",
        *(line(f"{name} ({row['tests']})", row) for name, row in by_file), "",
        *(line(row["test"], row) for row in by_test),
    ])  # fmt: skip


if __name__ == "__main__":
    found = Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER).glob("*.jsonl")
    print(table([json.loads(line) for file in found for line in file.open()]))  # noqa: T201
