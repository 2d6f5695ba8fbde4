"""hw import, anchors, memory on the command line: results on stdout, notes on stderr, errors by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ebsim.commands import main
from hw_models import load, reference
from hw_models.workload.layer_file import read_layers, write_layers
from tests.hw_models.test_imports import ERT, TIMELOOP, zigzag


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["hw", *arguments])


def test_an_imported_architecture_is_a_profile_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "z.yaml").write_text(yaml.safe_dump(zigzag(), sort_keys=False))
    out = tmp_path / "mychip.toml"
    done = _run("import", str(tmp_path / "z.yaml"), "--out", str(out), "--clock-ghz", "0.8")
    assert done.exit_code == 0, done.output
    assert "note: process node" in done.stderr and load(out).name == "mychip" and load(out).clock_hz == 0.8e9
    assert _run("check", str(out)).exit_code == 0
    again = _run("import", str(tmp_path / "z.yaml"), "--out", str(out))
    assert again.exit_code == 2 and "exists already" in again.stderr
    shown = _run("import", str(tmp_path / "z.yaml"))
    assert shown.exit_code == 0 and shown.stdout.startswith("# mine, imported from ZigZag")


def test_a_timeloop_architecture_as_json(tmp_path: Path) -> None:
    (tmp_path / "arch.yaml").write_text(TIMELOOP)
    (tmp_path / "ERT.yaml").write_text(ERT)
    done = _run("import", str(tmp_path / "arch.yaml"), "--energies", str(tmp_path / "ERT.yaml"), "--json")
    found = json.loads(done.stdout)
    assert found["kind"] == "accelerator" and any("noc" in note for note in found["notes"])
    wrong = _run("import", str(tmp_path / "arch.yaml"), "--mapping", str(tmp_path / "ERT.yaml"))
    assert wrong.exit_code == 2 and "a mapping file is ZigZag's" in wrong.stderr


def test_a_layer_table_can_be_priced_like_a_network(tmp_path: Path) -> None:
    path = write_layers(reference.resnet18(), tmp_path / "net.json")
    assert read_layers(path) == reference.resnet18()
    done = _run("compare", "horowitz-45nm", "--network", str(path), "--json")
    same = _run("compare", "horowitz-45nm", "--network", "resnet18", "--json")
    assert json.loads(done.stdout)["modelled"][0]["joules"] == json.loads(same.stdout)["modelled"][0]["joules"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[1]", '[{"name": "a"}]', '[{"name": "a", "kind": "odd"}]', "[" * 9999]
)
def test_files_that_are_no_layer_table_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    done = _run("memory", "--network", str(tmp_path / "x.json"))
    assert done.exit_code == 2 and "x.json" in done.stderr


def test_memory_shows_its_peak_and_ways_to_checkpoint() -> None:
    done = _run("memory", "horowitz-45nm", "--network", "resnet18", "--batch", "8", "--checkpoints", "--json")
    found = json.loads(done.stdout)
    assert found["peak"] > found["activations"] > 0 and found["plans"][0]["segments"] == 1
    assert found["peak"] == max(m["bytes"] for m in found["timeline"]) + found["parameters"]
    table = _run("memory", "horowitz-45nm", "--network", "resnet18", "--batch", "8", "--checkpoints", "--within", "2")
    assert (
        table.exit_code == 0
        and "largest batch within 2 GiB" in table.stdout
        and "kept for the backward pass" in table.stdout
        and "Segments" in table.stdout
    )


def test_memory_over_time_is_drawn(tmp_path: Path) -> None:
    arguments = ("memory", "horowitz-45nm", "--network", "vgg16", "--checkpoints", "--figure", str(tmp_path / "m.png"))
    assert _run(*arguments).exit_code == 0 and (tmp_path / "m.png").stat().st_size > 10_000
    again = _run(*arguments)
    assert again.exit_code == 2 and "exists already" in again.stderr


def test_anchors_are_shown_with_their_sources() -> None:
    done = _run("anchors", "a100")
    assert done.exit_code == 0 and "2470" in done.stdout and "DeepLearningExamples" in done.stderr
    assert all(row["source"] for row in json.loads(_run("anchors", "a100", "--json").stdout))


def test_fusing_is_shown_with_its_stacks() -> None:
    arguments = ("fuse", "horowitz-45nm", "--network", "alexnet", "--batch", "4", "--format", "int8", "--inference")
    found = json.loads(_run(*arguments, "--json").stdout)
    assert found["joules_fused"] < found["joules"] and found["stacks"]
    table = _run(*arguments)
    assert table.exit_code == 0 and "Stacks" in table.stdout and "DRAM traffic" in table.stdout
    refused = _run("fuse", "h100")
    assert refused.exit_code == 2 and "h100 is a device" in refused.stderr
