"""What the README shows runs, and what it names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.testing import CliRunner

import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run() -> None:
    """The blocks build on each other, as a reader would type them; the ticket must have emerged on the way."""
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["eb"].ticket is not None  # type: ignore[attr-defined]
    model = scope["model"]
    dense = sys.modules["ebsim.models"].build("preresnet", depth=11, classes=10, input_shape=(3, 8, 8), seed=0)
    count = [sum(p.numel() for p in m.parameters()) for m in (model, dense)]  # type: ignore[attr-defined]
    assert count[0] < count[1]
    assert scope["cost"].total > 0  # type: ignore[attr-defined]


def test_the_training_loop_example_is_short() -> None:
    loop = blocks("python")[0].split("eb = ")[1]
    assert len([line for line in loop.splitlines() if line.strip()]) <= 15


def test_every_command_is_one_of_ours() -> None:
    known = set(cli.main.commands)
    named = set(re.findall(r"python cli\.py (\w+)", README))
    assert "run" in named
    assert named <= known


def test_the_tree_names_what_exists() -> None:
    tree = next(block for block in blocks("text") if "cli.py" in block)
    missing, top = [], ""
    for indent, entry in re.findall(r"^( *)(\S+(?:, \S+)*)  +\S", tree, re.MULTILINE):
        for name in entry.split(", "):
            if not (ROOT / (top if indent else "") / name).exists():
                missing.append(name)
        top = top if indent else entry
    assert missing == []


def test_every_shipped_experiment_is_valid_and_has_a_lab_card() -> None:
    from ebsim import config, pipeline
    from ebsim.grid.expand import expand

    paths = sorted((ROOT / "experiments").rglob("*.toml"))
    assert len(paths) >= 9
    for path in paths:
        if config.load(path).grid:
            assert len(expand(path, choices=pipeline.choices(), rules=pipeline.RULES).cells) > 1
        else:
            pipeline.load(path)
        head = path.read_text().split("\n\n")[0]
        for word in ("Shows", "Command", "Takes", "Expect"):
            assert f"\n# {word} " in head, f"{path.name}: the lab card lacks {word}"


def test_help_of_every_command() -> None:
    runner = CliRunner()
    for name, command in cli.main.commands.items():
        assert command.get_short_help_str(), name
        assert runner.invoke(cli.main, [name, "--help"]).exit_code == 0
