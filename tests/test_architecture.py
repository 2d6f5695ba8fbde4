"""The structure of the house: imports point one way, and what must be light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room may import the rooms of lower floors only (and its own).
FLOORS = [
    {"ebsim.errors"},
    {"ebsim.allocator", "ebsim.files", "ebsim.lazy", "ebsim.torchvision_shim", "ebsim.stats"},
    {"ebsim.config"},
    {"ebsim.tickets", "ebsim.precision", "ebsim.models", "ebsim.data", "ebsim.runs", "ebsim.report"},
    {"ebsim.training"},
    {"ebsim.methods"},
    {"ebsim.pipeline"},
    {"ebsim.grid"},
    {"ebsim.compare"},
    {"ebsim.terminal"},
    {"cli"},
]
MAY_USE_HW = {"ebsim.report", "ebsim.runs", "ebsim.methods", "ebsim.pipeline", "ebsim.grid", "ebsim.compare", "cli"}


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
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "ebsim" else parts[0]


def floor(name: str) -> int | None:
    return next((level for level, rooms in enumerate(FLOORS) if name in rooms), None)


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name, _ in modules()} - {"ebsim", "hw_models"}
    assert {name for name in rooms if floor(name) is None} == set()


def test_imports_point_down() -> None:
    wrong = []
    for name, path in modules():
        home = room(name)
        if floor(home) is None:
            continue
        for target in {room(found) for found in imports(path)} - {home}:
            level = floor(target)
            if level is not None and level >= floor(home):
                wrong.append(f"{name} imports {target}")
            if target == "hw_models" and home not in MAY_USE_HW:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_the_hardware_model_stands_alone() -> None:
    own = [(name, path) for name, path in modules() if room(name) == "hw_models"]
    assert own
    assert [name for name, path in own if any(room(found).startswith("ebsim") for found in imports(path))] == []


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
]


@pytest.mark.parametrize("code", LIGHT)
def test_what_must_not_import_torch(code: str) -> None:
    check = f"{code}\nimport sys\nprint(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
