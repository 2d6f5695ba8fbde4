"""Writers of `Series`, one per tool: each makes a new folder or file that the tool opens or uploads later."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ebsim.errors import ConfigError
from ebsim.export.series import Series


def tensorboard(series: Sequence[Series], out: Path, *, start: float) -> str:
    """Event files, one folder per series. start: Unix time of the first epoch's beginning."""
    writers = _module("tensorboard.summary", "tensorboard")
    for one in series:
        folder = out / slug(one.name)
        for old in folder.glob("events.out.tfevents.*"):  # the same export again replaces, never doubles
            old.unlink()
        writer = writers.Writer(str(folder))
        for point in one.points:
            for tag, value in point.values.items():
                writer.add_scalar(tag, value, point.step, wall_time=start + point.seconds)
        writer.close()
    return f"tensorboard --logdir {out}"


def wandb(series: Sequence[Series], out: Path, *, start: float) -> str:
    """Offline runs of Weights & Biases, one per series, to be uploaded by `wandb sync`."""
    module = _module("wandb", "wandb")
    out.mkdir(parents=True, exist_ok=True)
    quiet = module.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
    )
    for one in series:
        run = module.init(
            mode="offline", dir=str(out), project="ebsim", name=one.name, group=one.facts.get("run"), config=one.facts,
            settings=quiet, reinit="finish_previous",
        )  # fmt: skip
        for point in one.points:
            run.log({**point.values, "time/since_start": point.seconds}, step=point.step)
        run.finish()
    module.teardown()  # waits until the last run is on the disk
    return f"wandb sync {out}/wandb/offline-run-*"


def mlflow(series: Sequence[Series], out: Path, *, start: float) -> str:
    """A database file of MLflow with one experiment per run and one MLflow run per series."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    client_of, entities = _module("mlflow", "mlflow"), _module("mlflow.entities", "mlflow")
    out.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    client = client_of.MlflowClient(tracking_uri=store)
    name = str(series[0].facts.get("run", "ebsim")) if series else "ebsim"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    for old in client.search_runs([experiment]):  # the same export again replaces, never doubles
        if old.info.run_name in {one.name for one in series}:
            client.delete_run(old.info.run_id)
    for one in series:
        run = client.create_run(experiment, run_name=one.name, start_time=int(1000 * start))
        params = [entities.Param(key, str(value)) for key, value in one.facts.items()]
        metrics = [
            entities.Metric(tag, value, int(1000 * (start + point.seconds)), point.step)
            for point in one.points for tag, value in point.values.items()
        ]  # fmt: skip
        client.log_batch(run.info.run_id, params=params)
        for first in range(0, len(metrics), 900):  # a batch has at most 1,000
            client.log_batch(run.info.run_id, metrics=metrics[first : first + 900])
        client.set_terminated(run.info.run_id)
    return f"mlflow ui --backend-store-uri {store}"


def table(series: Sequence[Series], out: Path, *, start: float) -> str:
    """JSON Lines, one object per point: for tools of one's own. Needs nothing."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "curves.jsonl"
    lines: list[dict[str, Any]] = [
        {"series": one.name, "step": point.step, "time": start + point.seconds, **point.values}
        for one in series for point in one.points
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


WRITERS: dict[str, Callable[..., str]] = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow, "jsonl": table}
"""Name -> writer: (series, folder, start) -> what to type next."""


def slug(name: str) -> str:
    """A folder name from a row's label."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.") or "run"


def _module(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f'--to {extra}: needs the package {extra} ({error}); pip install "ebsim[{extra}]"') from None
