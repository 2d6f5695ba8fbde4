"""What the attacks on whole runs share: a tiny experiment in which a ticket emerges, forked children, their outcomes.

A child is forked from a process that has everything loaded, so an attempt costs a fraction of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ebsim import pipeline
from ebsim.errors import EbsimError
from ebsim.files import load_tensors
from ebsim.runs.run_folder import RunFolder

TINY = """\
name = "tiny"
methods = ["dense", "eb-train"]
[data]
subset = 40
augment = false
[model]
depth = 11
[train]
epochs = 4
milestones = [3]
batch_size = 20
threads = 1
checkpoint_minutes = 1e-9
[prune]
ratio = [0.3]
threshold = 0.9
window = 2
"""
VOLATILE = ("seconds", "epochs_trained", "epochs_reused")
BUG = 1


def no_figures() -> contextlib.AbstractContextManager[object]:
    """Pages without pictures as long as it lasts, here and in what is forked."""
    from ebsim.report import figures

    return mock.patch.object(figures, "PLOTS", ())


def run(folder: Path) -> pipeline.Run:
    """The experiment below `folder`; its page without pictures, which are most of what a tiny run takes."""
    path = folder / "tiny.toml"
    folder.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(TINY)
    with no_figures():
        return pipeline.run(path, runs_dir=folder / "runs")


def outcome(folder: Path) -> tuple[str, dict[str, dict[str, torch.Tensor]]]:
    """Results without the clock's figures, and the last weights, momentum and scores of every stage.

    The run has to be done, whole, and to have left nothing half written.
    """
    (path,) = folder.glob("runs/tiny-*")
    assert RunFolder(path).is_done
    RunFolder(path).verify()
    results = json.loads((path / "results.json").read_text())
    assert results["rows"][1]["epoch_drawn"] == 3  # a ticket emerged
    weights = {
        stage.parent.name: load_tensors(stage)[0] for stage in sorted(folder.glob("runs/stages/*/last.safetensors"))
    }
    assert not list(folder.rglob(".*.tmp"))
    return json.dumps({key: results[key] for key in results if key not in VOLATILE}, sort_keys=True), weights


def same(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    """Whether two outcomes are equal, bit for bit."""
    if one[0] != other[0] or one[1].keys() != other[1].keys():
        return False
    return all(
        tensors.keys() == other[1][stage].keys()
        and all(torch.equal(tensor, other[1][stage][name]) for name, tensor in tensors.items())
        for stage, tensors in one[1].items()
    )


def forked(work: Callable[[], object], quiet: Path | None = None) -> int:
    """A child that does `work` and ends with 0, the exit code of a named error, or 1; its output goes to `quiet`."""
    child = os.fork()
    if child == 0:
        code = BUG
        try:
            os.setpgid(0, 0)
            if quiet is not None:
                target = os.open(quiet, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
                os.dup2(target, 1)
                os.dup2(target, 2)
                # pytest's capture stands in front of the descriptors
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            work()
            code = 0
        except EbsimError as error:
            code = error.exit_code
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else BUG
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cpu(child: int) -> float:
    """Seconds of CPU that a process has used; 0 when it has ended."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def killed_after(child: int, seconds: float) -> bool:
    """SIGKILL once it has used so much CPU (how busy the machine is does not count); whether that came in time."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if cpu(child) >= seconds:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.008)
    code = ended(child)
    assert code in (0, -signal.SIGKILL), code
    return code != 0
