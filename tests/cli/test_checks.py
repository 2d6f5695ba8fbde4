"""check, schema and doctor: what is said before anything runs."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
import hw_models
from ebsim.errors import ConfigError
from ebsim.pipeline import checking
from hw_models.accelerator.json_schema import accelerator_schema

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.toml"))
PROFILES = sorted((ROOT / "hw_models/profiles").glob("*.toml"))
jsonschema = pytest.importorskip("jsonschema")


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli.main, list(words))


def test_every_shipped_experiment_passes_check() -> None:
    for path in EXPERIMENTS:
        done = invoke("check", str(path), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["experiment"] == tomllib.loads(path.read_text())["name"]


def test_check_says_what_is_missing_and_refuses_mistakes(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f'name = "x"\n[data]\nname = "cifar10"\nroot = "{tmp_path}"\n')
    done = invoke("check", str(tmp_path / "x.toml"))
    assert done.exit_code == 0
    assert f"missing          cifar10 is not in {tmp_path}: python cli.py data fetch cifar10 --root" in done.stdout
    fine = invoke("check", str(tmp_path / "x.toml"), "--set", "data.name=digits")
    assert fine.stdout.endswith(f"{tmp_path / 'x.toml'}: fine\n") and not fine.stderr
    done = invoke("check", str(tmp_path / "x.toml"), "--set", "hardware.reuse=all")
    assert done.exit_code == 2 and "--set hardware.reuse" in done.stderr
    (tmp_path / "chip.toml").write_text('extends = "horowitz-45nm"\nname = "c"\n[dram]\npj_per_bitt = 3\n')
    done = invoke("check", str(tmp_path / "x.toml"), "--set", f"hardware.profile={tmp_path / 'chip.toml'}")
    assert done.exit_code == 2 and "pj_per_bitt" in done.stderr


def test_a_number_format_named_as_a_precision_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('name = "x"\n')
    for name in ("e4m3", "int8/row", "e5m2 stochastic"):
        done = invoke("check", str(tmp_path / "x.toml"), "--set", f'precision.search="{name}"')
        assert done.exit_code == 2
        assert "it is a number format" in done.stderr and f'[precision.backends.mine] weight = "{name}"' in done.stderr
    # What it says to write is accepted.
    table = 'weight = "e4m3"\nactivation = "e4m3"\nerror = "e4m3"\n'
    (tmp_path / "y.toml").write_text(f'name = "x"\n[precision]\nsearch = "mine"\n[precision.backends.mine]\n{table}')
    assert invoke("check", str(tmp_path / "y.toml")).exit_code == 0


def test_check_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, cli\n"
        "try: cli.main(['check', 'experiments/preresnet101.toml'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_check_takes_less_than_a_third_of_a_second_of_cpu() -> None:
    """Median of five; CPU seconds of the child, which do not grow with a busy machine."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "cli.py", "check", "experiments/preresnet101.toml"],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert sorted(spent)[2] < 1.0  # measured 0.2 to 0.3 s; the bound only catches an import of torch


def test_the_shipped_schemas_are_those_of_the_code() -> None:
    for name, content in checking.schemas().items():
        assert json.loads((ROOT / "schemas" / name).read_text()) == content, f"python cli.py schema  writes {name} anew"
        jsonschema.Draft202012Validator.check_schema(content)


@pytest.mark.parametrize("path", [*EXPERIMENTS, *PROFILES], ids=lambda path: path.stem)
def test_shipped_files_name_their_schema_and_obey_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("#:schema ")
    schema = json.loads((path.parent / first.split()[1]).read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(path.read_text()))) == []


def test_the_schema_refuses_what_check_refuses(tmp_path: Path) -> None:
    """Single wrong values and unknown keys, drawn at random; rules between keys are of `check` alone."""
    validator = jsonschema.Draft202012Validator(checking.schemas()["experiment.schema.json"])
    dice = random.Random(3)
    keys = [key for key in _leaves(validator.schema) if not key.startswith(("grid", "precision.backends"))]
    values = [-1, 0, 1, 3, 0.5, 1.5, 1e9, True, "auto", "fp32", "papr", [], [0.3, 0.5], ["x"], {"a": 1}]
    agreed = {True: 0, False: 0}
    for _ in range(150):
        key, value = dice.choice([*keys, "train.epohcs", "zzz"]), dice.choice(values)
        if key in ("precision.plugins", "data.root", "hardware.profile"):
            continue  # names of files
        section, _, name = key.rpartition(".")
        values_of = {"name": "x", **({section: {name: value}} if section else {name: value})}
        path = tmp_path / "x.toml"
        path.write_text(_toml(values_of))
        by_schema = validator.is_valid(tomllib.loads(path.read_text()))
        try:
            checking.check(path)
            by_check = True
        except ConfigError:
            by_check = False
        assert by_schema or not by_check, (key, value)  # what check accepts, the schema must not refuse
        agreed[by_check] += by_schema == by_check
    assert min(agreed.values()) > 10


def _leaves(schema: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key, own in schema["properties"].items():
        out += _leaves(own, f"{prefix}{key}.") if "properties" in own else [prefix + key]
    return out


def _toml(values: dict[str, Any]) -> str:
    from ebsim.config.write import toml

    return toml(values)


def test_every_key_of_the_accelerator_schema_is_one_that_the_loader_knows(tmp_path: Path) -> None:
    """Each key put into a file of its own: whatever else is wrong with it, it is not called unknown."""
    for key in _leaves(accelerator_schema()):
        if key.rpartition(".")[2] in ("source", "band", "derived") or key == "extends":
            continue
        kind = "device" if key.startswith(("device", "pj_per_flop")) else "array"
        base = 'extends = "h100"\n' if kind == "device" else 'extends = "horowitz-45nm"\n'
        section, _, name = key.rpartition(".")
        path = tmp_path / "chip.toml"
        path.write_text(base + (f"[{section}]\n{name} = 1\n" if section else f"{name} = 1\n"))
        try:
            hw_models.load(path)
        except hw_models.ProfileError as error:
            assert "unknown" not in str(error), f"{key}: {error}"
    validator = jsonschema.Draft202012Validator(accelerator_schema())
    assert not validator.is_valid({"dram": {"pj_per_bitt": 3}}) and not validator.is_valid({"kind": "chip"})


def test_schema_puts_its_line_into_files_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in {"x.toml": 'name = "x"\n', "sub/c.toml": 'extends = "h100"\nname = "c"\n'}.items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / "x.toml"), str(tmp_path / "sub/c.toml")]
    for _ in range(2):  # twice changes nothing
        assert invoke("schema", "--out", str(tmp_path / "s"), *files).exit_code == 0
    assert (tmp_path / "x.toml").read_text() == '#:schema s/experiment.schema.json\nname = "x"\n'
    assert (tmp_path / "sub/c.toml").read_text().startswith("#:schema ../s/accelerator.schema.json\nextends")


@pytest.mark.skipif(shutil.which("tombi", path=str(Path(sys.executable).parent)) is None, reason="tombi is not there")
def test_a_public_toml_linter_agrees(tmp_path: Path) -> None:
    tombi = shutil.which("tombi", path=str(Path(sys.executable).parent))
    assert tombi is not None
    whole = subprocess.run(
        [tombi, "lint", "--offline", "experiments", "hw_models/profiles"], cwd=ROOT, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    broken = (ROOT / "experiments/preresnet101.toml").read_text().replace("../schemas", "schemas")
    (tmp_path / "x.toml").write_text(broken.replace('"paper"   ', '"papr"').replace("epochs = 30", "epohcs = 30"))
    found = subprocess.run([tombi, "lint", "--offline", "x.toml"], cwd=tmp_path, capture_output=True, text=True)
    text = found.stdout + found.stderr
    assert found.returncode != 0 and "epohcs" in text and "papr" in text


def test_doctor_tells_versions_and_what_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("doctor", "--runs-dir", str(tmp_path), "--json")
    facts = json.loads(done.stdout)
    import torch

    assert facts["torch build"] == torch.__version__ and facts["threads"] == torch.get_num_threads()
    assert done.exit_code == (2 if facts["problems"] else 0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10**8))
    monkeypatch.setattr(checking, "PACKAGES", ("ebsim", "torch", "no-such-package"))
    done = invoke("doctor", "--runs-dir", str(tmp_path))
    assert done.exit_code == 2
    assert "problem          no-such-package is not installed: pip install no-such-package" in done.stdout
    assert f"less than 1 GB is free at {tmp_path}" in done.stdout and not done.stderr


def completions(*words: str, cwd: Path) -> list[str]:
    """What bash would be offered for the last of these words, by a process that must load neither torch nor numpy."""
    code = (
        "import sys, os, atexit\n"
        "atexit.register(lambda: print(sorted({'torch', 'numpy'} & set(sys.modules)), file=sys.stderr))\n"
        "from ebsim.commands import main\n"
        "main(prog_name='ebsim')"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "_EBSIM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("ebsim", *words)), "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.stderr.strip().endswith("[]"), done.stderr
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_the_shell_completes_commands_keys_and_runs(tmp_path: Path) -> None:
    for name in ("a-1", "b-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "experiment.toml").write_text("")
    assert completions("ru", cwd=tmp_path) == ["run", "runs"]
    assert completions("run", "x.toml", "--set", "train.mo", cwd=tmp_path) == ["train.momentum="]
    assert completions("runs", "show", "b", cwd=tmp_path) == ["b-2"]
    assert completions("export", "", cwd=tmp_path) == ["a-1", "b-2"]


@pytest.mark.parametrize(
    "text",
    [
        'compile = "blocks"',
        "compile = true",
        'compile = "max-autotune"',
        "[cluster]\ntime = 30",
        '[cluster]\ntime = "02:00:00"',
    ],
)
def test_the_schema_knows_every_kind_of_value_that_a_key_takes(tmp_path: Path, text: str) -> None:
    validator = jsonschema.Draft202012Validator(checking.schemas()["experiment.schema.json"])
    path = tmp_path / "x.toml"
    path.write_text(f'name = "x"\n[train]\n{text}\n')
    assert list(validator.iter_errors(tomllib.loads(path.read_text()))) == []
    checking.check(path)
