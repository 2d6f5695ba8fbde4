"""Starts the processes of a distributed training (`train.devices`), as torchrun would, and ends them together."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time

from ebsim import stop

GRACE = 30.0  # seconds that the others have to end by themselves, once one has ended badly or a stop was asked for


def launch(processes: int) -> int:
    """Run this very command in so many processes of this machine; the exit code of the first that failed, or 0.

    Only rank 0 writes to the terminal; errors of the other ranks come through it, or through torch's own lines.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            quiet = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            environment = {**os.environ, **common, **own}
            ranks.append(subprocess.Popen([sys.executable, *sys.argv], env=environment, **quiet))  # type: ignore[call-overload]
        return _wait(ranks)
    finally:
        _end(ranks)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    """The first bad exit code, rank 0's before others that came of it; 0 when all have ended well."""
    while True:
        codes = [rank.poll() for rank in ranks]
        if any(code not in (None, 0) for code in codes):
            _end(ranks)
            bad = [rank.returncode for rank in ranks if rank.returncode]
            named = [code for code in bad if code > 1]  # what ebsim says, before the signal that we sent
            return abs((named or bad or [1])[0])
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def _end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Ask the processes to stop, which lets them write a checkpoint; then end them."""
    stop_asked = stop.requested()
    for rank in ranks:
        with contextlib.suppress(OSError):
            if rank.poll() is None:
                rank.terminate()
    deadline = time.monotonic() + (GRACE if stop_asked else 5.0)
    for rank in ranks:
        try:
            rank.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
