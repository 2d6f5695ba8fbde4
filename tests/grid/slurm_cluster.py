"""A real Slurm on this machine alone: munged, slurmctld and two slurmd on the loopback address, in a temporary folder.

Debian's packages slurm-wlm and munge have all that is needed; nothing of the system's own configuration is used.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=3
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=1 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


def path() -> str:
    """The search path with the folders that daemons are installed in."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing() -> list[str]:
    """What has to be installed first."""
    return [name for name in PROGRAMS if shutil.which(name, path=path()) is None]


def _ports() -> int:
    """The first of three free ports in a row."""
    for first in range(17000, 60000, 11):
        with contextlib.ExitStack() as opened:
            try:
                for port in range(first, first + 3):
                    opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return first
            except OSError:
                continue
    raise OSError("no three free ports")


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Two nodes of one CPU each; the environment that its commands need. All of it is ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets have little room for theirs
    folder.chmod(0o755)
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    port = _ports()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname(), folder=folder, user=getpass.getuser(), port=port, first=port + 1, second=port + 2
        )
    )
    environment = {**os.environ, "PATH": path(), "SLURM_CONF": str(folder / "slurm.conf")}
    own = [f"--{word}={folder}/munged.{word.partition('-')[0]}" for word in ("pid-file", "log-file", "seed-file")]
    daemons = [
        ["munged", "--force", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket", *own],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in daemons:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen(words, env=environment, **quiet))  # type: ignore[call-overload]
            time.sleep(1.0)
        for _ in range(120):
            idle = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=environment, capture_output=True, text=True)
            if "idle 2" in idle.stdout:
                break
            time.sleep(0.5)
        else:
            logs = "\n".join(log.read_text(errors="replace")[-1000:] for log in folder.glob("*.log"))
            raise RuntimeError(f"the nodes did not come up:\n{logs}")
        yield environment
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment, check=False, timeout=20)
            time.sleep(2)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
