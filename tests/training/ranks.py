"""Run a function in several forked processes that form a gloo group; results come back through files."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ebsim.files import parse_json, write_json


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def in_ranks(size: int, folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """`work(rank)` in `size` processes; its JSON results in the order of ranks."""
    port, children = free_port(), []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ |= {
                    "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
                from ebsim.training import team

                team.join(torch.device("cpu"))
                write_json(folder / f"rank-{rank}.json", work(rank))
                team.leave()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * size, codes
    return [parse_json((folder / f"rank-{rank}.json").read_bytes()) for rank in range(size)]
