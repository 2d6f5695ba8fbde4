"""Exported curves: the row's own numbers, in the files that each tool reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ebsim.errors import ConfigError, DamagedError
from ebsim.export import WRITERS, series_of
from ebsim.export.series import DISTANCE, JOULES
from ebsim.export.writers import _module, slug
from ebsim.files import read_json


def made_up(folder: Path) -> Path:
    """A run of three dense epochs (the test set is evaluated after the second and third), drawn at 2, one retrained."""

    def epoch(number: int, **more: float) -> dict[str, float]:
        return {"epoch": number, "lr": 0.1, "loss": 1.0 / number, "accuracy": 0.1 * number, "images": 100, "steps": 4,
                "seconds": 2.0, **more}  # fmt: skip

    tested = {"test_loss": 0.5, "test_accuracy": 0.8, "test_images": 20}
    curves = {"dense-1": [epoch(1), epoch(2, **tested), epoch(3, **tested)], "ticket-1": [epoch(3, **tested)]}

    def entry(stage: str, epochs: int, tests: int) -> dict[str, object]:
        return {"stage": stage, "epochs": epochs, "images": 100 * epochs, "eval_images": tests}

    def energy(stage: str, train: float, evaluate: float, mask: float) -> dict[str, object]:
        return {"stage": stage, "train": train, "evaluate": evaluate, "mask": mask, "joules": train + evaluate + mask}

    def row(method: str, ratio: float | None, ledger: list, stages: list, **more: object) -> dict[str, object]:
        energy = {"joules": sum(stage["joules"] for stage in stages), "stages": stages}
        return {"method": method, "label": method, "ratio": ratio, "accuracy": 0.8, "parameters": 5, "macs": 7,
                "precision": "FF", "ledger": ledger, "energy": energy, **more}  # fmt: skip

    rows = [
        row("dense", None, [entry("dense", 3, 40)], [energy("dense", 9.0, 4.0, 0.0)], trajectory="dense-1",
            curve="dense-1", epoch_drawn=None),
        row("eb-train", 0.5, [entry("search", 2, 20), entry("score", 0, 0), entry("retrain", 1, 20)],
            [energy("search", 6.0, 2.0, 0.5), energy("score", 0.25, 0.0, 0.0), energy("retrain", 1.0, 1.0, 0.0)],
            trajectory="dense-1", curve="ticket-1", epoch_drawn=2),
    ]  # fmt: skip
    results = {"dataset": {"label": "D"}, "network": {"label": "N"}, "seed": 1, "hardware": "chip", "rows": rows}
    masks = {"dense-1": {"ratios": {"0.5": {"distances": [0.5, 0.25, 0.125]}}}}
    folder.mkdir(parents=True)
    for name, value in {"results": results, "curves": curves, "masks": masks}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_energy_runs_up_to_the_row_and_epochs_are_those_executed(tmp_path: Path) -> None:
    dense, ticket = series_of(made_up(tmp_path / "run"))
    assert [point.values[JOULES] for point in dense.points] == [3.0, 3.0 + 3.0 + 2.0, 13.0]
    # search: 3 J + half of 2 J in the second epoch's test, and 0.25 J of drawing each; then scoring, then retraining
    assert [point.values[JOULES] for point in ticket.points] == [3.25, 8.5, 8.5 + 0.25 + 2.0]
    assert [point.step for point in ticket.points] == [1, 2, 3]
    assert [point.seconds for point in ticket.points] == [2.0, 4.0, 6.0]
    assert [point.values.get(DISTANCE) for point in ticket.points] == [0.5, 0.25, None]
    assert "test/accuracy" not in dense.points[0].values
    assert (ticket.name, ticket.facts["ratio"], ticket.facts["run"]) == ("eb-train p=0.5", 0.5, "run")


def test_a_curve_that_is_not_the_ledgers_is_refused(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run")
    curves = read_json(run / "curves.json")
    curves["ticket-1"][0]["images"] = 99
    (run / "curves.json").write_text(json.dumps(curves))
    with pytest.raises(DamagedError, match="curve of eb-train is not what its ledger says"):
        series_of(run)


def read_tensorboard(out: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for folder in sorted(path for path in out.iterdir()):
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        for tag in events.Tags()["tensors"]:
            values = [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors(tag)]
            found[folder.name, tag] = values
    return found


def read_mlflow(out: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    found = {}
    for experiment in client.search_experiments(filter_string="name = 'run'"):
        for run in client.search_runs([experiment.experiment_id]):
            for tag in run.data.metrics:
                history = client.get_metric_history(run.info.run_id, tag)
                found[slug(run.info.run_name), tag] = [(item.step, item.value) for item in history]
    return found


def read_jsonl(out: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in (out / "curves.jsonl").read_text().splitlines():
        point = json.loads(line)
        for tag in point.keys() - {"series", "step", "time"}:
            found.setdefault((slug(point["series"]), tag), []).append((point["step"], point[tag]))
    return found


READERS: dict[str, Callable[[Path], dict]] = {"tensorboard": read_tensorboard, "jsonl": read_jsonl}


def check(tool: str, reader: Callable[[Path], dict], folder: Path) -> None:
    series = series_of(made_up(folder / "run"))
    for _ in range(2):  # a second export replaces the first
        WRITERS[tool](series, folder / "out", start=1.7e9)
    expected: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for one in series:
        for point in one.points:
            for tag, value in point.values.items():
                expected.setdefault((slug(one.name), tag), []).append((point.step, pytest.approx(value, rel=1e-6)))
    assert reader(folder / "out") == expected


@pytest.mark.parametrize("tool", READERS)
def test_a_tool_reads_back_what_the_run_says(tmp_path: Path, tool: str) -> None:
    if tool == "tensorboard":
        pytest.importorskip("tensorboard")
    check(tool, READERS[tool], tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_mlflow_reads_back_what_the_run_says(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    check("mlflow", read_mlflow, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_wandb_keeps_one_offline_run_per_row(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    WRITERS["wandb"](series_of(made_up(tmp_path / "run")), tmp_path / "out", start=1.7e9)
    stores = list((tmp_path / "out").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(stores) == 2
    content = b"".join(path.read_bytes() for path in stores)
    for text in (b"eb-train p=0.5", b"energy/modelled_joules", b"test/accuracy"):
        assert text in content


def test_a_missing_package_is_named_with_its_cure() -> None:
    with pytest.raises(ConfigError, match=r'needs the package nonesuch .*pip install "ebsim\[nonesuch\]"'):
        _module("nonesuch_package", "nonesuch")


def test_names_of_rows_are_folders() -> None:
    assert slug("EB Train (FL, re-init) p=0.5") == "EB-Train-FL-re-init-p=0.5"
    assert slug("../../x") == "x" and slug("/") == "run"
