"""Pages of grids, comparisons and re-pricings: numbers that stand in a CSV beside them, links, points that speak."""

from __future__ import annotations

import csv
import io
import itertools
import re
import shutil
import subprocess
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


RATIOS = (0.3, 0.5, 0.7)
SEARCHES = ("fp32", "fp8", "int8")


def masks_of(ratio: float, seed: int) -> dict[str, object]:
    """A map of seven epochs that settles, emerged at the third."""
    size = 7
    far = [[ratio * abs(a - b) / (seed + a + b + 1) for b in range(size)] for a in range(size)]
    return {"emerged": 3, "distances": [far[e][e - 1] for e in range(1, size)], "map": far}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """27 runs: three precisions of the search x three ratios x three seeds."""
    folder = tmp_path_factory.mktemp("cells")
    out = []
    for number, (search, ratio, seed) in enumerate(itertools.product(SEARCHES, RATIOS, (1, 2, 3))):
        dense = f"dense-{search}-{seed}"
        accuracy = 0.95 - ratio / 5 + 0.013 * seed - 0.02 * SEARCHES.index(search)
        facts = {"ratio": ratio, "search_precision": search, "curve": f"t{number}", "trajectory": dense}
        rows = [
            row("dense", 0.93 + 0.01 * seed, 10.0, curve=f"dense-{seed}"),
            row("eb-train", accuracy, 9.0 - 4 * ratio - 0.1 * seed, epoch_drawn=3, **facts),
        ]
        masks = {dense: {"channels": 10, "layers": {}, "ratios": {f"{ratio:g}": masks_of(ratio, seed)}}}
        more = f"[prune]\nratio = [{ratio:g}]\n"
        out.append(write(folder / f"cell-{number}", seed, rows, search, masks=masks, more=more))
    return out


def test_a_page_of_27_cells(cells: list[Path], tmp_path: Path) -> None:
    """Ten lines, a map for each search and ratio of the first seed, and every number in a CSV."""
    found = comparison.compare(cells)
    assert len(found.entries) == 10
    folder = cells[0].parent / "comparisons" / found.folder_name
    page = check(put(folder, found.files(folder)), 80)
    points = [a for tag, a in page.tags if tag == "g" and "tabindex" in a]
    assert len(points) == 10 and all(str(a["aria-label"]) for a in points)
    assert sum(tag == "a" and "cell-" in str(a.get("href")) for tag, a in page.tags) == 27
    rows = list(csv.DictReader(io.StringIO((folder / "figures/mask_maps.csv").read_text())))
    assert {(line["setting"], line["ratio"]) for line in rows} == set(
        itertools.product((f"search {name}" for name in SEARCHES), ("0.3", "0.5", "0.7"))
    )
    assert {line["seed"] for line in rows} == {"1"} and len(rows) == 9 * 7 * 6 / 2
    one = next(line for line in rows if (line["setting"], line["ratio"], line["epoch_a"], line["epoch_b"])
               == ("search fp8", "0.5", "1", "4"))  # fmt: skip
    assert float(one["distance"]) == pytest.approx(0.5 * 3 / 7)


def paper_of(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in contents.items() if name.endswith((".pdf", ".pgf"))}


@pytest.fixture(scope="module")
def for_paper(cells: list[Path]) -> dict[str, dict[str, bytes]]:
    """The files of a comparison and of a re-pricing, with those for a paper."""
    found = comparison.compare(cells[::3])
    run = load_run(sample.write(cells[0].parent.parent / "priced", many.content(4)))
    priced = [reprice(run, name, hypothetical=True) for name in ("horowitz-45nm", "tpu-like-7nm")]
    return {
        "comparison": found.files(cells[0].parent / "comparisons", for_paper=True),
        "pricings": pricings.build(priced, for_paper=True),
    }


def test_every_figure_of_these_pages_has_its_files_for_a_paper(for_paper: dict[str, dict[str, bytes]]) -> None:
    for contents in for_paper.values():
        names = {name.removesuffix(".csv") for name in contents if re.fullmatch(r"figures/\w+\.csv", name)}
        assert names
        for name in names:
            for ending, inches in (("", 6.75), ("-column", 3.25)):
                pdf, pgf = contents[f"{name}{ending}.pdf"], contents[f"{name}{ending}.pgf"].decode()
                box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
                assert box is not None and float(box[1]) <= 72 * inches + 0.01
                assert b"/Type3" not in pdf and pgf.isascii() and "in wide" in pgf
    assert "figures/mask_maps.pgf" in for_paper["comparison"] and "figures/savings.pdf" in for_paper["pricings"]


@pytest.mark.slow
def test_figures_of_these_pages_compile_in_a_paper(for_paper: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    for kind, contents in for_paper.items():
        figures = put(tmp_path / kind, contents) / "figures"
        for ending, head in (("-column", r"\documentclass[twocolumn]{article}\columnsep=10pt"),
                             ("", r"\documentclass{article}")):  # fmt: skip
            names = sorted(path.name for path in figures.glob(f"*{ending}.pgf") if ending or "-column" not in path.name)
            body = "\n\n".join(rf"\noindent\input{{{name}}}\clearpage" for name in names)
            size = r"\textwidth=7in\textheight=10in\oddsidemargin=0in"
            text = rf"{head}\usepackage{{pgf,graphicx}}{size}\begin{{document}}{body}\end{{document}}"
            (figures / "a.tex").write_text(text)
            done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=figures,
                                  capture_output=True)  # fmt: skip
            log = done.stdout.decode(errors="replace")
            assert done.returncode == 0, log[-2000:]
            assert r"Overfull \hbox" not in log


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
