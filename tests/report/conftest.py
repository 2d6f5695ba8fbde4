"""One synthetic run and its report, built once for all tests of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebsim import report
from ebsim.runs.load import Run
from tests.report import sample


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic run folder with its report."""
    path = sample.write(tmp_path_factory.mktemp("runs") / sample.NAME, sample.content(blocks=4))
    report.write_report(path)
    return path


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    return report.load_run(folder)
