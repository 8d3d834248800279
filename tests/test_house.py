"""Rooms of the house: who imports whom, by reading the imports. As a script it prints the counts.

python tests/test_house.py
"""

# ruff: noqa: T201

import ast
import os
import re
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).parent.parent
FLOW = ROOT / "flow"
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(FLOW.rglob("*.py"))
}
# What users import as a module, and no room holds.
LOOSE = {"__init__.py", "__main__.py", "datasets.py", "exact.py", "observe.py", "stop.py"}
MOST_LINES, MOST_FLOORS, MOST_ENTERED = 600, 11, 20


def room_of(module: str) -> str:
    """The room of a module: its first folder, or itself where it is loose."""
    name = module.split(".")[1:2]
    return name[0] if name and name != ["__main__"] else "flow"


def imports() -> dict[str, set[str]]:
    """Whom each module of flow imports, in functions too; but there not plots, which draw."""
    found = defaultdict(set)
    for module, file in FILES.items():
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flow"):
                for name in node.names:
                    whole = f"{node.module}.{name.name}"
                    target = whole if whole in FILES else node.module
                    if node in tree.body or not target.startswith("flow.plots"):
                        found[module].add(target)
    return found


def between_rooms() -> dict[str, set[str]]:
    """Whom each room imports."""
    found = defaultdict(set)
    for module, targets in imports().items():
        found[room_of(module)] |= {room_of(target) for target in targets}
    return {room: others - {room} for room, others in found.items()}


def floors() -> dict[str, int]:
    """How far up each room is: the ground, which imports nobody, is floor 1."""
    rooms, floor = between_rooms(), {}
    for room in TopologicalSorter(rooms).static_order():
        floor[room] = 1 + max((floor[other] for other in rooms.get(room, ())), default=0)
    return floor


def entered(method: str) -> list[str]:
    """Files of flow, but the ground's, that a second `integrate` of a 64-4-10 network enters."""
    import flow

    X, y = flow.datasets.digits(100)
    objective = flow.MLP([64, 4, 10]).objective(X, y)
    met = set()

    def note(frame: object, event: str, _: object) -> None:
        if event == "call":
            met.add(frame.f_code.co_filename)

    flow.integrate(objective, t=1.0, method=method)
    sys.setprofile(note)
    flow.integrate(objective, t=1.0, method=method)
    sys.setprofile(None)
    ground = str(FLOW / "_core") + os.sep
    return sorted(f for f in met if f.startswith(str(FLOW) + os.sep) and not f.startswith(ground))


@pytest.mark.quick
def test_rooms():
    """Assert the loose files, few floors and no circle: each room imports from those below."""
    assert {file.name for file in FLOW.glob("*.py")} == LOOSE
    try:
        assert max(floors().values()) <= MOST_FLOORS
    except CycleError as error:
        pytest.fail(f"rooms import each other: {error.args[1]}")
    assert not {"plots", "records", "flow"} & between_rooms()["_evidence"]
    assert "_evidence" not in between_rooms()["plots"]


@pytest.mark.quick
def test_files_import_in_no_circle_and_are_short():
    """Assert it of files too, of all that are imported where they begin."""
    long = [m for m, f in FILES.items() if len(f.read_text().splitlines()) > MOST_LINES]
    assert long == []
    names = {module: targets - {module} for module, targets in imports().items()}
    inner = {m: {t for t in targets if t.startswith(m + ".")} for m, targets in names.items()}
    # A room's face takes from its files; what a file takes from the face of its own room is none.
    TopologicalSorter({m: t - inner.get(m, set()) for m, t in names.items()}).prepare()


@pytest.mark.quick
def test_experiments_import_nothing_private():
    """Assert that experiments and notebooks use flow as anybody can."""
    for file in [*ROOT.glob("experiments/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]:
        assert not re.search(r"(from|import) flow\._|flow\._[a-z]", file.read_text()), file


@pytest.mark.quick
def test_what_mutations_break_is_there():
    """Assert that each fault put in by tests/mutations.py replaces one text of flow's."""
    for mutation in run_path(str(Path(__file__).with_name("mutations.py")))["MUTATIONS"]:
        text = (FLOW / mutation.file).read_text()
        assert text.count(mutation.old) == 1, mutation.fault


def test_few_files_are_entered():
    """Assert that one call is followed through few files."""
    for method in ("DOP853", "TSRKC3"):
        assert len(entered(method)) <= MOST_ENTERED


if __name__ == "__main__":
    levels = floors()
    lines = {module: len(file.read_text().splitlines()) for module, file in FILES.items()}
    print("loose files at the root", len(list(FLOW.glob("*.py"))))
    print("rooms", len(levels), "on floors", max(levels.values()))
    for level in sorted(set(levels.values()), reverse=True):
        print(f"  {level:2}", *sorted(room for room in levels if levels[room] == level))
    print("circles between rooms", 0)
    print("lines", sum(lines.values()), "the longest file", *max((n, m) for m, n in lines.items()))
    for method in ("DOP853", "TSRKC3"):
        files = entered(method)
        print(f"files entered by a second integrate with {method}: {len(files)}")
        print("  ", *(Path(file).relative_to(FLOW) for file in files))
