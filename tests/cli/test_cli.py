"""The command line as its users meet it: exit codes, stdout and stderr apart, nothing written on a mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ebsim.commands import main

ROOT = Path(__file__).parents[2]
TINY = """\
name = "tiny"
[model]
depth = 11
[train]
epochs = 7
milestones = [5]
batch_size = 128
[prune]
ratio = [0.3, 0.5]
threshold = 0.6
window = 2
"""


def cli(*words: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """One small run through the command line; its working folder and its --json."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(TINY)
    done = cli("run", "tiny.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_help_explains_itself(tmp_path: Path) -> None:
    top = cli("--help", cwd=tmp_path)
    assert top.returncode == 0
    for command in ("run", "report", "energy", "data", "hw", "precision"):
        assert f"\n  {command}" in top.stdout
        assert cli(command, "--help", cwd=tmp_path).returncode == 0


def test_the_process_ends_with_the_command_and_loses_nothing(tmp_path: Path) -> None:
    """Output in a pipe is whole, what is registered for the end runs, a thread that is waited for ends first."""
    code = (
        "import atexit, sys, threading, time\n"
        "class Never:\n"
        "    def __del__(self): print('torn down')\n"
        "kept = Never()\n"
        "atexit.register(lambda: print('at the end'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "from ebsim.commands.process import command\n"
        "sys.argv = ['ebsim', *sys.argv[1:]]\n"
        "command()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words, exit_code in ((["--version"], 0), (["hw", "show", "no-such"], 2), (["no-such"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == exit_code, done.stderr
        assert done.stdout.splitlines()[-2:] == ["thread", "at the end"]
        assert (exit_code == 0) == ("version" in done.stdout) and (exit_code == 0) != bool(done.stderr)


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys, cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_mistake_is_exit_2_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('name = "a"\n[train]\nepohcs = 3\n[model]\nname = "prerestnet"\n')
    done = cli("run", "bad.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "bad.toml:3: train.epohcs: unknown key. Did you mean train.epochs?" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"]
    (tmp_path / "bad.toml").write_text('name = "a"\n[model]\nname = "prerestnet"\n[precision]\nsearch = "fp9"\n')
    done = cli("run", "bad.toml", cwd=tmp_path)
    assert "Did you mean preresnet?" in done.stderr
    assert "precision.search" in done.stderr


def test_a_missing_dataset_is_exit_3_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    done = cli("run", "tiny.toml", "--set", "data.name=cifar10", cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_ends_in_a_folder_with_everything(finished: tuple[Path, dict]) -> None:
    folder, results = finished
    run = folder / results["run"]
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"experiment.toml", "results.json", "report.md", "report.html", "MANIFEST.json"} <= names
    assert any(name.endswith(".svg") for name in names) and any(name.endswith(".png") for name in names)
    assert [row["method"] for row in results["rows"]] == ["dense", "eb-train", "eb-train"]
    dense, *tickets = results["rows"]
    for row in tickets:
        assert row["emerged"]
        assert row["parameters"] < dense["parameters"]
        assert row["macs"] < dense["macs"]
        assert row["energy"]["joules"] < dense["energy"]["joules"]
        assert 0 < row["saving_vs_dense"] < 1


def test_the_ledger_counts_what_was_really_trained(finished: tuple[Path, dict]) -> None:
    folder, results = finished
    per_epoch = results["dataset"]["train_images"]
    for row in results["rows"]:
        assert sum(entry["epochs"] for entry in row["ledger"]) == 7  # no epoch lost, none twice
        assert sum(entry["images"] for entry in row["ledger"]) == 7 * per_epoch
        if row["method"] == "eb-train":
            search, retrain = row["ledger"]
            assert search["epochs"] == search["mask_draws"] == row["epoch_drawn"]
            assert retrain["epochs"] == 7 - row["epoch_drawn"]
    events = [
        json.loads(line) for path in folder.glob("runs/stages/*/events.jsonl") for line in path.read_text().splitlines()
    ]
    trained = [event for event in events if event["event"] == "epoch"]
    assert len(trained) == results["epochs_trained"] == 7 + sum(7 - row["epoch_drawn"] for row in results["rows"][1:])


def test_the_same_command_says_that_it_is_done(finished: tuple[Path, dict]) -> None:
    folder, results = finished
    again = cli("run", "tiny.toml", cwd=folder)
    assert again.returncode == 0
    assert f"Already done: {results['run']}" in again.stderr
    assert "Dense" in again.stdout
    assert "\x1b" not in again.stdout + again.stderr


def test_a_changed_result_is_noticed(finished: tuple[Path, dict]) -> None:
    folder, results = finished
    path = folder / results["run"] / "results.json"
    whole = path.read_text()
    try:
        path.write_text(whole.replace('"seed": 1', '"seed": 2'))
        done = cli("run", "tiny.toml", cwd=folder)
        assert done.returncode == 4
        assert "results.json was changed" in done.stderr
    finally:
        path.write_text(whole)


def test_pricing_again_trains_nothing(finished: tuple[Path, dict]) -> None:
    folder, results = finished
    done = cli("energy", results["run"], "--hw", "horowitz-45nm", "--reuse", "macs", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (priced,) = json.loads(done.stdout)
    for new, old in zip(priced["rows"], results["rows"], strict=True):
        assert new["train_macs"] == old["train_macs"]
        assert 0 < new["energy"]["joules"] < old["energy"]["joules"]
    split = cli("energy", results["run"], "--split", cwd=folder).stdout
    for part in ("energy by stage", "energy by component", "retrain", "interconnect", "dram.pj_per_bit", "\np = 0.5 "):
        assert part in split, part
    assert cli("energy", results["run"], "--hw", "nonesuch", cwd=folder).returncode == 2
    assert cli("energy", "nowhere", "--hw", "horowitz-45nm", cwd=folder).returncode == 4


def test_the_report_can_be_rebuilt_to_the_same_bytes(finished: tuple[Path, dict]) -> None:
    folder, results = finished
    page = folder / results["run"] / "report.html"
    before = page.read_bytes()
    assert cli("report", results["run"], cwd=folder).returncode == 0
    assert page.read_bytes() == before


def test_stopped_by_a_signal_it_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 7", "epochs = 4000"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), "run", "tiny.toml", "--set", 'methods=["dense"]']
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch   2/" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Run the same command again to go on." in rest


def test_two_processes_one_run_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 7", "epochs = 4000"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["run", "tiny.toml", "--set", 'methods=["dense"]']
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob("runs/tiny-*/.claim-*")):
            time.sleep(0.05)
        second = cli(*words, cwd=tmp_path)
        assert second.returncode == 5
        assert f"held by process {first.pid}" in second.stderr
    finally:
        first.kill()
        first.wait()


def test_more_processes_than_the_machine_has_cpus_are_refused(tmp_path: Path) -> None:
    """Each is a whole Python; 160 of them bring a small machine to its knees."""
    (tmp_path / "tiny.toml").write_text(TINY)
    words = ["run", str(tmp_path / "tiny.toml"), "--runs-dir", str(tmp_path / "runs"), "--set", "train.devices=1000"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "train.devices = 1000: this machine has" in done.output
