"""Documentation: every command is in it, its site builds without a warning, its pages load nothing from elsewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

import cli

ROOT = Path(__file__).parents[1]


def commands(group: click.Group, words: tuple[str, ...] = ()) -> list[str]:
    out = []
    for name, command in group.commands.items():
        inner = (*words, name)
        out += commands(command, inner) if isinstance(command, click.Group) else [" ".join(inner)]
    return out


def test_every_command_is_in_the_docs() -> None:
    text = " ".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    missing = [name for name in commands(cli.main) if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_every_command_that_the_docs_name_is_one() -> None:
    known = commands(cli.main)
    groups = {name for name, command in cli.main.commands.items() if isinstance(command, click.Group)}
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "experiments").rglob("*.toml")]:
        for first, second in re.findall(r"(?:python cli\.py|\bebsim) ([a-z]+)(?: ([a-z]+))?", path.read_text()):
            if f"python cli.py {first}" not in path.read_text():
                continue  # "ebsim ..." in a sentence
            name = f"{first} {second}" if first in groups else first
            assert name in known, f"{path.name}: {name}"


def test_every_import_of_the_docs_works() -> None:
    """What README, docs and examples import of ours is there."""
    texts = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "examples").rglob("*.py")]
    found = {
        line.strip()
        for path in texts
        for line in re.findall(r"^[ >]*((?:from|import) (?:ebsim|hw_models)[\w., ]*)$", path.read_text(), re.MULTILINE)
    }
    assert len(found) > 10
    for line in sorted(found):
        tree = ast.parse(line).body[0]
        module = tree.module if isinstance(tree, ast.ImportFrom) else tree.names[0].name  # type: ignore[attr-defined]
        if module in FRAMEWORKS:
            continue  # a slow test runs the examples
        exec(compile(ast.Module([tree], []), line, "exec"), {})


FRAMEWORKS = ("ebsim.adapters.lightning", "ebsim.adapters.transformers")


def test_paper_page_names_every_experiment() -> None:
    page = (ROOT / "docs/paper.md").read_text()
    shipped = {path.name for path in (ROOT / "experiments").rglob("*.toml")}
    assert {name for name in shipped if f"`{name}`" not in page} == set()
    for name in re.findall(r"`([a-z0-9-]+\.toml)`", page):
        assert list((ROOT / "experiments").rglob(name)), name


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert {path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}" not in text} == set()
    assert yaml.safe_load(text)["site_name"] == "ebsim"


def test_citation_and_versions_agree() -> None:
    import ebsim

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ebsim.__version__ and citation["license"] == "MIT"
    assert f"## {ebsim.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= 10
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag), (page.name, tag)
    api = (tmp_path / "api/index.html").read_text()
    for name in ("EarlyBird", "compact", "training_cost", "plan_run"):
        assert name in api
