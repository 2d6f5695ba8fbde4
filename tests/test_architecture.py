"""The structure of the house: imports point one way, and what must be light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]

# A package may import the packages of lower floors only (and its own modules).
FLOORS = [
    {"ebsim.errors"},
    {"ebsim.files", "ebsim.lazy", "ebsim.seeds", "ebsim.stop", "ebsim.torchvision_shim"},
    {"ebsim.config", "ebsim.models"},
    {"ebsim.tickets", "ebsim.precision", "ebsim.data", "ebsim.runs"},
    {"ebsim.training", "ebsim.pricing", "ebsim.adapters", "ebsim.export"},
    {"ebsim.experiment", "ebsim.report"},
    {"ebsim.methods"},
    {"ebsim.pipeline"},
    {"ebsim.grid"},
    {"ebsim.commands"},
    {"cli"},
]
MAY_USE_HW = {
    "ebsim.lazy",  # the one helper of both packages
    "ebsim.precision",  # the presets' tables and the record's form: data that torch has no part in
    "ebsim.runs", "ebsim.pricing", "ebsim.experiment", "ebsim.report", "ebsim.methods", "ebsim.pipeline", "ebsim.grid",
    "ebsim.commands", "cli",
}  # fmt: skip
# hw_models stands alone, in wings of its own: each may import the wings below it.
WINGS = [
    {"hw_models.errors", "hw_models.lazy", "hw_models.units"},
    {"hw_models.workload", "hw_models.precision"},
    {"hw_models.accelerator"},
    {"hw_models.mapping"},
    {"hw_models.cost"},
    {"hw_models.analysis"},
]


def modules() -> list[tuple[str, Path]]:
    found = [("cli", ROOT / "cli.py")]
    for package in ("ebsim", "hw_models"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def room(name: str) -> str:
    """The package (or single module) below `ebsim` or `hw_models` that a dotted name belongs to."""
    parts = name.split(".")
    return ".".join(parts[:2])


def floor(name: str, floors: list[set[str]] = FLOORS) -> int | None:
    return next((level for level, rooms in enumerate(floors) if name in rooms), None)


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name, _ in modules()} - {"ebsim", "hw_models"}
    assert {name for name in rooms if name.startswith("ebsim") and floor(name) is None} == set()


def test_imports_point_down() -> None:
    wrong = set()
    for name, path in modules():
        home = room(name)
        for target in {room(found) for found in imports(path)} - {home}:
            for floors in (FLOORS, WINGS):
                level, own = floor(target, floors), floor(home, floors)
                if level is not None and own is not None and level >= own:
                    wrong.add(f"{name} imports {target}")
            if target.startswith("hw_models") and home.startswith("ebsim.") and home not in MAY_USE_HW:
                wrong.add(f"{name} imports {target}")
    assert wrong == set()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not (strongly connected components of more than one)."""
    names = sorted(graph)
    number = {name: position for position, name in enumerate(names)}
    rows = [number[name] for name in names for _ in graph[name]]
    columns = [number[target] for name in names for target in graph[name]]
    matrix = coo_array(([1] * len(rows), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(matrix.tocsr(), directed=True, connection="strong")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def test_the_hardware_model_is_a_few_wings() -> None:
    """At most ten things lie on top of `hw_models`, so that a reader finds the wing of a question by its name."""
    top = {
        path.name for path in (ROOT / "hw_models").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert len(top - {"__init__.py"}) <= 10


def test_no_modules_import_each_other() -> None:
    """Imports inside functions and for types count; a package's `__init__` gives names and is left out."""
    every = dict(modules())
    packages = {name for name, path in every.items() if path.name == "__init__.py"}
    graph = {
        name: {found for found in imports(path) if found in every and found not in packages and found != name}
        for name, path in every.items()
        if name not in packages
    }
    assert circles(graph) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_the_hardware_model_stands_alone() -> None:
    own = [(name, path) for name, path in modules() if name.startswith("hw_models")]
    assert own
    assert [name for name, path in own if any(found.split(".")[0] == "ebsim" for found in imports(path))] == []


def test_nothing_is_pickled_or_evaluated() -> None:
    """No pickle, torch.load/save, eval or exec anywhere in the product."""
    forbidden = {"eval", "exec"}
    wrong = []
    for name, path in modules():
        tree = ast.parse(path.read_text())
        wrong += [f"{name}: imports {found}" for found in imports(path) if found in {"pickle", "cPickle", "dill"}]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            call = node.func
            if isinstance(call, ast.Name) and call.id in forbidden:
                wrong.append(f"{name}:{node.lineno}: {call.id}")
            if isinstance(call, ast.Attribute) and ast.unparse(call) in {"torch.load", "torch.save"}:
                wrong.append(f"{name}:{node.lineno}: {ast.unparse(call)}")
    assert wrong == []


HEAVY = ("torch", "scipy", "matplotlib", "sklearn")
LIGHT = [
    "import ebsim",
    "import hw_models",
    "import cli",
    "import ebsim.pipeline as p; [list(names()) for names in p.choices().values()]",
    "from hw_models import commands; commands.list_profiles(); import ebsim.report.display.terminal",  # hw list
]


@pytest.mark.parametrize("code", LIGHT)
def test_what_must_not_import_torch(code: str) -> None:
    check = f"{code}\nimport sys\nprint(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
