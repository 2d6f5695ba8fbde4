"""Everything that ebsim writes goes through `ebsim.files`, where each system call is a fault point of its own."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODES = set("wax+")
CALLS = {
    "os.open", "os.replace", "os.rename", "os.link", "os.symlink", "os.unlink", "os.remove", "os.mkdir", "os.makedirs",
    "os.truncate", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree",
    "shutil.copyfileobj",
}  # fmt: skip
METHODS = {"write_text", "write_bytes", "mkdir", "touch", "unlink", "rename", "symlink_to", "hardlink_to", "rmdir"}
# Places that write by themselves, each with the reason why a fault there loses no result.
ALLOWED = {
    "ebsim/files.py": "the one place",
    "ebsim/runs/locks.py": "claims, whose every call the fault test goes through too",
    "ebsim/data/archives.py": "unpacks into a temporary folder beside the target",
    "ebsim/data/download.py": "a .part file that goes on, checked by its digest",
    "ebsim/grid/pool.py": "logs of workers",
    "ebsim/runs/inventory.py": "deletes what the user names",
    "ebsim/export/writers.py": "copies for other programs; run again to have them whole",
    "ebsim/precision/tables.py": "a tool of this project's documentation",
    "ebsim/grid/step_timing.py": "times checkpoints in a temporary folder",
    "ebsim/training/kernels/library.py": "compiles in a temporary folder; ebsim.files puts the library in its place",
    "ebsim/grid/worker.py": "its answers to the driver, on a pipe",
    "ebsim/commands/app.py": "redirects stdout when nobody reads it",
}


def writes(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "os.open" and [ast.unparse(flags) for flags in node.args[1:]] == ["os.O_RDONLY"]:
            continue
        texts = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        mode = next(
            (t for t in texts if isinstance(t, str) and 0 < len(t) < 4 and MODES & set(t) and set(t) <= set("rwaxbt+")),
            "",
        )
        opens = name == "open" or name.endswith(".open") or name == "os.fdopen"
        if name in CALLS or name.rpartition(".")[2] in METHODS or name.startswith("tempfile.") or (opens and mode):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    return found


def test_a_write_anywhere_else_is_noticed(tmp_path: Path) -> None:
    wrong = [line for path in sorted((ROOT / "ebsim").rglob("*.py")) for line in writes(path)]
    assert len(wrong) > 20
    assert [line for line in wrong if line.partition(":")[0] not in ALLOWED] == []
    assert {name for name in ALLOWED if not writes(ROOT / name)} == set()
