"""The text of a grid's Slurm scripts: searches, cells, table, and the one that submits them. Nothing is run or written.

What stands in an #SBATCH line is quoted as sbatch reads it, what stands in a command as bash does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ebsim.config import Cluster
from ebsim.errors import BusyError, ConfigError, StoppedError
from ebsim.grid.tasks import Tasks
from ebsim.runs.grid_folder import EXITS, LOGS, TASKS

CHUNK = 1000  # tasks of an array: Slurm's default allows indices up to 1000
RESTARTS = 20  # times that a task tries again while another process holds its run

_RUN = """
cell=$(( ${{1:-0}} + SLURM_ARRAY_TASK_ID ))  # $1: what was subtracted to keep the index of a task small
file=$(printf '%s/%04d.toml' {cells} "$cell")
{forget}
# USR1 comes before the time limit; TERM when Slurm ends the task (scancel, preemption, requeue). Both end the run at a
# checkpoint, with exit code {stopped}: the task is then queued again, unless it was Slurm that ended it.
ended=
trap 'kill -USR1 "$child" 2>/dev/null' USR1
trap 'ended=yes; kill -TERM "$child" 2>/dev/null' TERM
{command} "$file" {options} &
child=$!
while :; do
  wait "$child"; code=$?
  [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null || break  # a signal to this script ends wait, not the run
done
[ "$code" -gt 128 ] && {{ wait "$child"; code=$?; }}
again=
[ "$code" = {stopped} ] && again=yes
[ "$code" = {busy} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && again=yes  # another process holds its run
if [ -n "$again" ] && [ -z "$ended" ]; then
  scontrol requeue "$SLURM_JOB_ID" && for i in {{1..60}}; do [ -z "$ended" ] && sleep 1; done  # Slurm ends this script
fi
{note}exit "$code"
"""

_NOTE = """log=cell-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.log
printf '%s %s\\n' "$code" "$log" > "$record.new" && mv "$record.new" "$record"
"""


def sbatch_quoted(text: str) -> str:
    """A value in an #SBATCH line. Raises `ConfigError` for one that cannot stand in a line."""
    if not text.isprintable():
        raise ConfigError(f"{text!r}: cannot stand in a script for Slurm; choose a path of plain text.")
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _log(path: Path) -> str:
    """An --output pattern for a path whose own % signs mean nothing."""
    if "\\" in str(path):
        raise ConfigError(f"{path}: Slurm takes no backslash in the path of a log; choose another --runs-dir.")
    return str(path).replace("%", "%%")


def _head(title: str, job: str, log: str, cluster: Cluster, cpus: int, *, gpus: bool = True) -> str:
    if not title.isprintable():
        raise ConfigError(f"{title!r}: a path that cannot stand in a script for Slurm; choose one of plain text.")
    options = [f"--job-name={job}", f"--output={log}", "--open-mode=append", f"--cpus-per-task={cpus}"]
    options += [f"--partition={cluster.partition}"] if cluster.partition else []
    options += [f"--time={cluster.time}"] if cluster.time else []
    options += [f"--mem={cluster.memory}"] if cluster.memory else []
    options += [f"--gpus={cluster.gpus}"] if cluster.gpus and gpus else []
    options += ["--requeue", f"--signal=B:USR1@{cluster.warning}", *cluster.sbatch]
    lines = "".join(f"#SBATCH {sbatch_quoted(option)}\n" for option in options)
    return f"#!/bin/bash\n# {title}\n{lines}"


def _place(cwd: Path, threads: int) -> str:
    return f"cd {shlex.quote(str(cwd))} || exit 74\nexport OMP_NUM_THREADS={threads}\n"


def run_script(
    kind: str, name: str, folder: Path, cluster: Cluster, program: Sequence[str], *,
    cwd: Path, runs_dir: str, threads: int, processes: int = 1, strict: bool = False,
) -> str:  # fmt: skip
    """The script of an array. kind: "search" or "cell"; task N runs (or searches) cell N of the grid in `folder`."""
    tasks = folder / TASKS
    options = (
        f"--runs-dir {shlex.quote(runs_dir)}"
        + (" --search-only" if kind == "search" else "")
        + (" --strict" if strict else "")
    )
    command = shlex.join([*program, "run"])
    exits = shlex.quote(str(tasks / EXITS))
    record = f"record={exits}/$(printf '%04d' \"$cell\")"
    body = _RUN.format(
        cells=shlex.quote(str(tasks / "cells")),
        forget=f'{record}\nrm -f "$record"\n' if kind == "cell" else "",
        note=_NOTE if kind == "cell" else "",
        command=command,
        options=options,
        stopped=StoppedError.exit_code,
        busy=BusyError.exit_code,
        restarts=RESTARTS,
    )
    log = f"{_log((cwd / tasks / LOGS).absolute())}/{kind}-%A_%a.log"
    does = "trains the dense networks that cell N shares with others" if kind == "search" else "runs cell N"
    typed = f"{command} {shlex.quote(str(tasks / 'cells'))}/NNNN.toml {options}"
    head = _head(f"Task N {does}:  {typed}", f"{name}-{kind}", log, cluster, threads * processes)
    return head + _place(cwd, threads) + body


def table_script(name: str, folder: Path, cluster: Cluster, typed: Sequence[str], *, cwd: Path, threads: int) -> str:
    """The script of the last job; typed: its command (`tasks.table_command`)."""
    log = f"{_log((cwd / folder / TASKS / LOGS).absolute())}/table-%j.log"
    head = _head("The grid's table.", f"{name}-table", log, cluster, 1, gpus=False)
    return f"{head}{_place(cwd, threads)}exec {shlex.join(typed)}\n"


def submit_script(tasks: Tasks, folder: Path, cwd: Path) -> str:
    """What submits a grid: all of it, or (a job is refused) nothing; prints the ids of its jobs."""
    scripts = folder / TASKS
    lines = [
        "#!/bin/bash",
        "# Submits the searches, the cells that wait for them, and the table. Cells wait for their searches to end,",
        "# however they do: a cell whose search failed says by itself why.",
        "set -eu",
        f"cd {shlex.quote(str(cwd))}",
        "jobs=()",
        """trap '[ $? = 0 ] || [ "${#jobs[@]}" = 0 ] || scancel "${jobs[@]}"' EXIT""",
        'submit() { job=$(sbatch --parsable "$@"); job=${job%%;*}; jobs+=("$job"); }',
        "",
    ]
    for chunk, numbers in _chunks(tasks.searches):
        lines += [f"submit --array={ranges(numbers)} {_script(scripts, 'search', chunk)}", f"search{chunk}=$job"]
    ends: list[str] = []
    for needed, members in tasks.groups():
        waits = ":".join(f"${{search{_chunk(first)}}}_{first - _chunk(first)}" for first in sorted(needed))
        after = f"--dependency=afterany:{waits} " if needed else ""
        for chunk, numbers in _chunks(members):
            lines.append(f"submit --array={ranges(numbers)} {after}{_script(scripts, 'cell', chunk)}")
            ends.append(f"cells{len(ends)}")
            lines.append(f"{ends[-1]}=$job")
    waits = ":".join(f"${end}" for end in ends)
    lines += [
        f"submit --dependency=afterany:{waits} {shlex.quote(str(scripts / 'table.sbatch'))}",
        'echo "${jobs[@]}"',
        "",
    ]
    return "\n".join(lines)


def _script(scripts: Path, kind: str, chunk: int) -> str:
    return f"{shlex.quote(str(scripts / f'{kind}.sbatch'))}{f' {chunk}' if chunk else ''}"


def _chunk(number: int) -> int:
    """What is subtracted from a cell's number to make the index of its task: 0, 1000, 2000, ..."""
    return (number - 1) // CHUNK * CHUNK


def _chunks(numbers: Collection[int]) -> Iterator[tuple[int, list[int]]]:
    parts: dict[int, list[int]] = {}
    for number in sorted(numbers):
        parts.setdefault(_chunk(number), []).append(number - _chunk(number))
    yield from parts.items()


def ranges(numbers: Sequence[int]) -> str:
    """`1-3,7`: rising numbers as sbatch takes them."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
