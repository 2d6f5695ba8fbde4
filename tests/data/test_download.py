"""Fetching from a local server that cuts connections, ignores ranges or lies."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ebsim import data
from ebsim.data.cifar import SOURCES, CifarSource
from ebsim.data.download import download
from ebsim.errors import DataError

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it serves, how many bytes before it hangs up, whether it honours ranges; and what was asked."""

    url: str
    content: bytes = CONTENT
    cut_after: int | None = None
    ranges: bool = True
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.asked.append(wanted)
            start = int(wanted.split("=")[1].rstrip("-")) if wanted and behaviour.ranges else 0
            self.send_response(206 if start else behaviour.status)
            body = behaviour.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: behaviour.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    listening = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    behaviour = Server(f"http://127.0.0.1:{listening.server_port}/file.tar.gz")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield behaviour
    listening.shutdown()
    listening.server_close()
    thread.join()


def get(server: Server, path: Path, sha256: str = DIGEST) -> None:
    download(server.url, path, sha256=sha256, size=len(CONTENT))


def test_a_whole_file_arrives(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = 300_000
    with pytest.raises(DataError, match=r"--from FILE|300,000 of 1,024,000"):
        get(server, tmp_path / "file")
    assert not (tmp_path / "file").exists() and (tmp_path / "file.part").stat().st_size == 300_000
    server.cut_after = None
    get(server, tmp_path / "file")
    assert server.asked == [None, "bytes=300000-"] and (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 500)
    server.ranges = False
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=f"SHA-256 expected {DIGEST}, actual"):
        get(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_endless_answer_is_cut_at_the_known_size(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + bytes(5_000_000)
    get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_errors_of_the_server_name_the_way_round_it(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DataError, match=r"503.*--from FILE"):
        get(server, tmp_path / "file")


def archive_of(source: CifarSource, root: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root / source.folder, arcname=source.folder)
    return buffer.getvalue()


Build = Callable[..., tuple[CifarSource, Path]]


@pytest.fixture
def published(tiny_cifar: Build, server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny CIFAR-10 that is pinned, served, and not on disk."""
    source, root = tiny_cifar()
    server.content = archive_of(source, root)
    sha256 = hashlib.sha256(server.content).hexdigest()
    pinned = replace(source, url=server.url, archive_sha256=sha256, archive_bytes=len(server.content))
    monkeypatch.setitem(SOURCES, "cifar10", pinned)
    return server.content


def test_loading_never_downloads_unless_told(published: bytes, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data fetch cifar10"):
        data.load("cifar10", root=tmp_path / "new")
    assert server.asked == []
    assert data.load("cifar10", root=tmp_path / "new", download=True).train_images == 6
    assert data.load("cifar10", root=tmp_path / "new", download=True).train_images == 6
    assert len(server.asked) == 1


def test_fetching_from_a_file_needs_no_network(published: bytes, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "mine.tar.gz"
    file.write_bytes(published)
    assert data.fetch("cifar10", tmp_path / "new", from_file=file)["train_images"] == 6
    assert server.asked == []
    file.write_bytes(published[:-1])
    with pytest.raises(DataError, match=r"mine\.tar\.gz: damaged"):
        data.fetch("cifar10", tmp_path / "new", from_file=file)
    with pytest.raises(DataError, match="not found"):
        data.fetch("cifar10", tmp_path / "new", from_file=tmp_path / "nothing")


def test_fetching_repairs_a_damaged_folder(published: bytes, server: Server, tmp_path: Path) -> None:
    data.fetch("cifar10", tmp_path / "new")
    damaged = tmp_path / "new" / "tiny-batches-py" / "test_batch"
    damaged.write_bytes(b"")
    with pytest.raises(DataError):
        data.verify("cifar10", tmp_path / "new")
    assert data.fetch("cifar10", tmp_path / "new")["test_images"] == 4
    assert len(server.asked) == 1  # the archive was still there
