"""Downloads one file of a known SHA-256, resumably; a file with another digest is deleted.

The only module of ebsim that opens a network connection, and only for `data fetch` or `data.download = true`.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from ebsim.errors import DataError
from ebsim.files import file_digest

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte


def download(url: str, path: Path, *, sha256: str, size: int) -> None:
    """Fetch `url` to `path`, by way of `path`.part, which a second call continues; raises `DataError`."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if not part.exists() or part.stat().st_size != size:
        try:
            _continue(url, part, size)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise DataError(
                f"{url}: could not be downloaded ({error}). Run the same command again to continue, or get the file "
                f"elsewhere and pass it with --from FILE (SHA-256 {sha256})."
            ) from error
    actual = file_digest(part)
    if actual != sha256:
        received = part.stat().st_size
        if received >= size:
            part.unlink()  # complete but wrong: nothing to continue
        raise DataError(
            f"{url}: received {received:,} of {size:,} bytes, SHA-256 expected {sha256}, actual {actual}; "
            "run the same command again"
        )
    os.replace(part, path)


def _continue(url: str, part: Path, size: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        resumed = have > 0 and response.status == http.client.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as copy:
            left = size - have if resumed else size
            while left > 0 and (chunk := response.read(min(CHUNK, left))):
                copy.write(chunk)
                left -= len(chunk)
