"""The page in a real browser, where there is one: how many pages it prints on, and that it asks for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ebsim.report import write_report
from tests.report import many, sample

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 36 rows: eight methods, five ratios, two precisions."""
    if BROWSER is None:
        pytest.skip("no chromium here")
    folder = sample.write(tmp_path_factory.mktemp("browser") / "run", many.content(36, blocks=3))
    write_report(folder)
    return folder / "report.html"


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    assert BROWSER is not None
    profile = f"--user-data-dir={page.parent / 'profile'}"
    return subprocess.run([BROWSER, *QUIET, profile, *options, page.as_uri()], capture_output=True, timeout=300)


def test_36_rows_print_on_at_most_12_pages(page: Path, tmp_path: Path) -> None:
    browse(page, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    data = (tmp_path / "page.pdf").read_bytes()
    counts = [int(found) for found in re.findall(rb"/Type\s*/Pages\b.*?/Count (\d+)", data, re.DOTALL)]
    if not counts and shutil.which("pdfinfo"):
        told = subprocess.run(["pdfinfo", str(tmp_path / "page.pdf")], capture_output=True, check=True).stdout.decode()
        counts = [int(re.findall(r"Pages:\s+(\d+)", told)[0])]
    assert counts and 1 <= max(counts) <= 12


def test_no_request_and_no_error(page: Path) -> None:
    done = browse(page, "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom")
    said = done.stderr.decode(errors="replace")
    assert b"</html>" in done.stdout
    assert not re.search(r"CONSOLE|Refused|ERR_|net_error", said), said[-2000:]
    assert b'role="button"' in done.stdout  # the one script ran: headings sort
