"""The commands check, schema and doctor: experiment files, JSON Schemas, and this machine, before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from ebsim.commands.app import echo, json_option, main, print_json, runs_dir_option, set_option, show_facts
from ebsim.commands.datasets import root_option


@main.command()
@click.argument("experiment", type=click.Path())
@set_option
@json_option
def check(experiment: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check an EXPERIMENT file without running it or loading torch.

    All mistakes at once, each with file, line and cure (exit code 2); else what it would train, and what it needs that
    is not here yet.
    """
    from ebsim import config
    from ebsim.pipeline import checking

    found = checking.check(experiment, config.parse_settings(settings))
    own = found.experiment
    ratios = ", ".join(f"{ratio:g}" for ratio in own.prune.ratio)
    facts = {
        "experiment": own.name,
        "network": f"{own.model.name}, depth {own.model.depth}",
        "dataset": own.data.name,
        "methods": ", ".join(own.methods),
        "ratios": ratios,
        "epochs": own.train.epochs,
        "accelerator": own.hardware.profile,
    }
    if own.grid:
        facts["grid"] = " x ".join(f"{len(values)} {key}" for key, values in own.grid.items())
    if as_json:
        print_json({**facts, "missing": list(found.missing), "resolved": own.model_dump(mode="json")})
        return
    show_facts(facts, False)
    for line in found.missing:
        echo(f"{'missing':16} {line}")
    echo(f"{experiment}: fine")


@main.command()
@click.option("--out", default="schemas", show_default=True, type=click.Path(file_okay=False), help="Folder.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False))
def schema(out: str, files: tuple[str, ...]) -> None:
    """Write JSON Schemas of experiment and accelerator files.

    Editors then complete keys and names and mark mistakes: a TOML file names its schema in its first line. Given FILES
    (your own TOML files) that line is put into them.
    """
    from ebsim.files import write_atomic
    from ebsim.pipeline import checking

    for name, content in checking.schemas().items():
        write_atomic(Path(out) / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        echo(f"{Path(out) / name}", err=True)
    for file in map(Path, files):
        text = file.read_text(encoding="utf-8")
        kind = "accelerator" if "\nkind = " in f"\n{text}" or "\nextends = " in f"\n{text}" else "experiment"
        line = f"#:schema {os.path.relpath(Path(out) / f'{kind}.schema.json', file.parent)}\n"
        rest = text.partition("\n")[2] if text.startswith("#:schema ") else text
        write_atomic(file, line + rest)
        echo(f"{file}: {line.strip()}", err=True)


@main.command()
@root_option
@runs_dir_option
@json_option
def doctor(root: str, runs_dir: str, as_json: bool) -> None:
    """Show versions, threads, device, data and disk, and what would fail.

    Exit code 2 if something would.
    """
    from ebsim.errors import ConfigError
    from ebsim.pipeline import checking

    facts, problems = checking.doctor(Path(runs_dir), root)
    if as_json:
        print_json({**facts, "problems": problems})
    else:
        show_facts(facts, False)
        for problem in problems:
            echo(f"{'problem':16} {problem}")
        if not problems:
            echo("nothing known that would fail")
    if problems:
        click.get_current_context().exit(ConfigError.exit_code)
