"""Locks: one holder at a time, whoever dies wherever; no `flock` anywhere, so network file systems are no exception."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest

from ebsim.runs import locks
from ebsim.runs.locks import FolderLock, Holder


def held(lock: FolderLock) -> Holder:
    holder = lock.try_acquire()
    assert holder is not None
    return holder


def test_one_holder_at_a_time_and_it_is_named(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.try_acquire() is None
    assert held(second).pid == os.getpid()
    assert f"process {os.getpid()} on " in str(held(second))
    first.release()
    assert second.try_acquire() is None
    first.release()  # of a lock that it no longer has: nothing happens
    assert held(first).pid == os.getpid()
    second.release()
    assert [path.name for path in tmp_path.iterdir()] == [".claim-000002"]


def contend(folder: Path, seed: int) -> None:
    """Take the lock until this process dies with it; while it is held a file is made that must not be there."""
    rng, lock, inside = random.Random(seed), FolderLock(folder), folder / "inside"
    while True:
        while lock.try_acquire() is not None:
            time.sleep(rng.random() / 2000)
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        with (folder / "log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        if rng.random() < 0.3:  # held across a moment at which others look
            time.sleep(rng.random() / 2000)
        inside.unlink()
        if rng.random() < 0.1:
            os._exit(0)
        lock.release()


@pytest.mark.parametrize("links", [True, False])
def test_many_processes_never_hold_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    started, running = 0, 0
    while started < 12 or running:
        while started < 12 and running < 4:
            if os.fork() == 0:
                try:
                    contend(tmp_path, started)
                finally:
                    os._exit(1)
            started, running = started + 1, running + 1
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        running -= 1
    assert len((tmp_path / "log").read_text().splitlines()) > 30
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_killed_holder_is_noticed_at_once(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        FolderLock(tmp_path).try_acquire()
        time.sleep(60)
    while not list(tmp_path.glob(".claim-*")):
        time.sleep(0.005)
    lock = FolderLock(tmp_path)
    assert held(lock).pid == child
    os.kill(child, signal.SIGKILL)
    while lock.try_acquire() is not None:  # not yet waited for, so it still has its process id
        time.sleep(0.005)
    os.waitpid(child, 0)
    lock.release()


def test_another_machine_counts_as_dead_when_it_has_been_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, near = FolderLock(tmp_path), FolderLock(tmp_path)
    monkeypatch.setattr(locks, "machine", lambda: "far away")
    assert far.try_acquire() is None
    monkeypatch.setattr(locks, "machine", lambda: "here")
    claim = next(tmp_path.glob(".claim-*"))
    os.utime(claim, (time.time() - 60, time.time() - 60))
    assert "last sign of life 60 s ago" in str(held(near))
    far.renew()
    assert "last sign of life 0 s ago" in str(held(near))
    os.utime(claim, (time.time() - 1000, time.time() - 1000))
    assert near.try_acquire() is None
    far.renew()  # it was only frozen
    assert far.lost and not near.lost
    far.release()
    assert held(FolderLock(tmp_path)).pid == os.getpid()
    near.renew()
    assert not near.lost


@pytest.mark.parametrize("content", ["", "[]", "rubbish", '{"pid": "x"}', '{"pid": true, "machine": 3}', "[" * 5000])
def test_a_damaged_claim_holds_only_until_it_is_old(tmp_path: Path, content: str) -> None:
    claim = tmp_path / ".claim-000041"
    claim.write_text(content)
    assert held(FolderLock(tmp_path)).silent is not None
    os.utime(claim, (0, 0))
    lock = FolderLock(tmp_path)
    assert lock.try_acquire() is None
    assert [path.name for path in tmp_path.iterdir()] == [".claim-000042"]


def test_a_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.try_acquire()
    claim = next(tmp_path.glob(".claim-*"))
    started = locks._started(os.getpid())
    if started == "alive":
        pytest.skip("this system does not say when a process started")
    claim.write_text(claim.read_text().replace(f'"{started}"', '"1"'))
    assert FolderLock(tmp_path).try_acquire() is None


@pytest.mark.parametrize("call", ["open", "replace", "truncate"])
def test_a_release_that_cannot_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A full disk at that moment: neither this process nor, if it can be helped, another waits for it for ever."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lock = FolderLock(tmp_path)
    assert lock.try_acquire() is None
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, call, refuse)
    lock.release()
    monkeypatch.undo()
    if call != "truncate":
        child = os.fork()
        if child == 0:
            os._exit(0 if FolderLock(tmp_path).try_acquire() is None else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert FolderLock(tmp_path).try_acquire() is None


def test_the_heart_beats_while_a_lock_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.02)
    lock = FolderLock(tmp_path)
    lock.try_acquire()
    claim = next(tmp_path.glob(".claim-*"))
    os.utime(claim, (0, 0))
    deadline = time.monotonic() + 10
    while claim.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert claim.stat().st_mtime > 0
    lock.release()


@pytest.mark.parametrize("kind", ["folder", "dangling link", "link to itself", "pipe"])
def test_what_is_no_file_is_a_damaged_claim_too(tmp_path: Path, kind: str) -> None:
    """A dangling link was once looked at again without end."""
    path = tmp_path / ".claim-000007"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if kind == "dangling link" else path.name)
    lock = locks.FolderLock(tmp_path)
    assert lock.holder() is not None
    os.utime(path, (0, 0), follow_symlinks=False)
    assert lock.try_acquire() is None
    lock.release()
