"""What a part of the project may import: docs/architecture.md has the floors."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "models": 1,
    "data": 1,
    "pipelines": 2,
    "making": 3,
    "evaluation": 3,
    "training": 3,
    "cli": 4,
}


def imported(file):
    """Return the full names of the modules and names that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {its.name for its in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{its.name}" for its in node.names)}
    return names


def floor_of(path):
    """Return the floor of a module of the core by its path below flowturbo_core."""
    return FLOORS.get(path.parts[0], 0)


@pytest.mark.parametrize(
    "folder, banned",
    [
        ("flowturbo_core", {"gradio", "demo"}),
        ("demo/tabs", {"torch"}),
        ("demo/service", {"gradio"}),
        ("demo", {"flowturbo_core.evaluation", "flowturbo_core.training"}),
    ],
)
def test_no_module_imports_what_its_floor_may_not(folder, banned):
    found = {
        (str(file.relative_to(ROOT)), name)
        for file in (ROOT / folder).rglob("*.py")
        for name in imported(file)
        if any(f"{name}.".startswith(f"{its}.") for its in banned)
    }
    assert not found


def test_modules_of_the_core_import_only_from_their_floor_or_below():
    core = ROOT / "flowturbo_core"
    upward = set()
    for file in core.rglob("*.py"):
        path = file.relative_to(core)
        for name in imported(file):
            parts = Path(*name.split(".")[1:]) if name.startswith("flowturbo_core.") else Path()
            if parts.parts and floor_of(parts) > floor_of(path) and path.name != "__main__.py":
                upward.add(str(path))
    assert not upward


def modules():
    """Return the file of each module of the project, by its full name."""
    files = (
        file for folder in ("demo", "flowturbo_core") for file in (ROOT / folder).rglob("*.py")
    )
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in named.items()}


def imported_at_once(file):
    """Return what a file imports when it is imported: not in functions, nor for annotations."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {its.name for its in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{its.name}" for its in node.names)}
    return names


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    # A package is imported with each of its modules, which are no circle with it.
    graph = {
        name: {its for its in imported_at_once(file) & known.keys() if not name.startswith(its)}
        for name, file in known.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, with the circle
