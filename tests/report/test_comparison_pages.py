"""Pages of grids, comparisons and re-pricings: numbers that stand in a CSV beside them, links, points that speak."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebsim.pricing.reprice import reprice
from ebsim.report import load_run
from ebsim.report.comparison import pricings
from ebsim.report.comparison import runs as comparison
from tests.grid.made_up import row, write
from tests.report import many, sample
from tests.report.hostile import STRINGS
from tests.report.test_page import TAGS, Page, numbers_of


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def check(folder: Path, least: int) -> Page:
    """Numbers are in CSVs, nothing is loaded, one script, links lead to files of the folder or to other pages."""
    source = (folder / "report.html").read_text()
    page, known = Page(source), numbers_of(folder)
    assert page.stack == [] and {tag for tag, _ in page.tags} <= TAGS
    assert len(page.data) > least
    assert [pair for pair in page.data if float(pair[0]) not in known] == []
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and "default-src 'none'" in source
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        target = attributes.get("href") or attributes.get("src") or ""
        if tag == "a" and target.startswith("figures/"):
            assert (folder / target).is_file()
        elif tag == "a" and not target.startswith("#"):
            assert re.fullmatch(r"[\w%./-]+/report\.html", target), target
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds in two precisions, the ticket less accurate than dense in each."""
    folder = tmp_path_factory.mktemp("runs")
    out = []
    for search, loss in (("fp32", 0.0), ("fp8", 0.02)):
        for seed in (1, 2, 3):
            rows = [
                row("dense", 0.93 + 0.02 * seed, 10.0, curve=f"dense-{seed}"),
                row("eb-train", 0.9 + 0.03 * seed - loss, 6.0, ratio=0.5, search_precision=search, curve=f"t{seed}"),
            ]
            out.append(write(folder / f"{search}-{seed}", seed, rows, search))
    return out


def test_a_comparison_has_a_page(runs: list[Path], tmp_path: Path) -> None:
    found = comparison.compare(runs)
    folder = runs[0].parent / "comparisons" / found.folder_name
    page = check(put(folder, found.files(folder)), 20)
    links = [str(a["href"]) for tag, a in page.tags if tag == "a" and "report.html" in str(a["href"])]
    assert len(links) == 6
    assert all((folder / link).parent.resolve() in [run.resolve() for run in runs] for link in links)
    points = [a for tag, a in page.tags if tag == "g" and "tabindex" in a]
    assert len(points) == 3 and all("Accuracy (%)" in str(a["aria-label"]) for a in points)
    assert found.files(folder) == found.files(folder)  # the same bytes again


def test_no_interval_leaves_what_an_accuracy_can_be(runs: list[Path]) -> None:
    """The interval of dense over three seeds reaches above 100 %; what is drawn ends there."""
    import matplotlib.figure

    from ebsim.report.comparison import figures

    found = comparison.compare(runs)
    dense = next(entry.line for entry in found.entries if entry.line.method == "dense")
    sample_of = dense.sample("accuracy")
    assert sample_of is not None and (sample_of.high or 0) > 1
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    figures._curve(axes, [(0, dense)], "accuracy", 0.01, {"label": "dense"})
    tops = [segment[:, 1].max() for bars in axes.collections for segment in bars.get_segments()]
    assert max(tops) <= 100 + 1e-9


def test_a_run_on_several_accelerators_has_a_page(tmp_path: Path) -> None:
    run = load_run(sample.write(tmp_path / "run", many.content(4)))
    priced = [reprice(run, name, hypothetical=True) for name in ("horowitz-45nm", "tpu-like-7nm", "eyeriss-like-65nm")]
    folder = put(tmp_path / pricings.folder_name(priced), pricings.build(priced))
    page = check(folder, 50)
    assert sum(1 for tag, _ in page.tags if tag == "svg") == 2
    assert pricings.folder_name(priced) != pricings.folder_name(priced[:2])
    again = [reprice(run, "horowitz-45nm", model=model) for model in ("closed", "compulsory")]
    assert pricings.accelerator_names(again) == ["horowitz-45nm, closed", "horowitz-45nm, compulsory"]


HALVES = ["\n".join(STRINGS[:25]), "\n".join(STRINGS[25:])]


@pytest.mark.parametrize("text", [HALVES[0], pytest.param(HALVES[1], marks=pytest.mark.slow)])
def test_hostile_names_stay_text(tmp_path: Path, text: str) -> None:
    """All of them in the names of methods and networks, with a setting of that name too."""
    runs = []
    for seed in (1, 2):
        rows = [row("dense", 0.9, 10.0), row("eb-train", 0.8 + seed / 100, 6.0, ratio=0.5, label=text, curve="t")]
        runs.append(write(tmp_path / f"r{seed}", seed, rows))
    found = comparison.compare(runs)
    folder = tmp_path / "comparisons" / found.folder_name
    check(put(folder, found.files(folder)), 5)
    for path in folder.rglob("*.tex"):
        assert path.read_text().isascii()
