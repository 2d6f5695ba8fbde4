"""Figures for a paper: both widths, embedded fonts, PGF that compiles, looks that survive grey and color blindness."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ebsim.report import load_run, write_report
from ebsim.report.figures import for_paper, marks, masks, plane, split_bars, style
from ebsim.report.figures.plane import PlanePoint
from ebsim.runs.load import Run
from tests.report import many, sample

METHODS = [f"method {number}" for number in range(8)]
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


def linear(color: str) -> np.ndarray:
    """Linear RGB of a hex color (IEC 61966-2-1)."""
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lightness(color: str) -> float:
    """L* of CIELAB, what a grey-scale print keeps."""
    y = float(linear(color) @ (0.2126, 0.7152, 0.0722))
    return 116 * (y ** (1 / 3) if y > 0.008856 else 7.787 * y + 16 / 116) - 16


def test_no_two_points_look_the_same() -> None:
    pairs = [(method, ratio) for method in METHODS for ratio in RATIOS]
    looks = marks.marks(pairs)
    assert len({(look.color, look.shape) for look in looks}) == 40
    for method in METHODS:  # in grey the shade alone tells the ratios of a method, the shape the methods
        own = [look for look, (name, _) in zip(looks, pairs, strict=True) if name == method]
        levels = [lightness(look.color) for look in own]
        assert len({look.shape for look in own}) == 1
        assert all(a - b > 6 for a, b in itertools.pairwise(levels)), levels
    assert len({look.shape for look in looks}) == 8
    assert marks.marks([("Dense", None)])[0].color == style.FAINT


# Vienot, Brettel and Mollon 1999: linear RGB as a protanope and a deuteranope see it.
BLIND = {
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


@pytest.mark.parametrize("kind", BLIND)
def test_hues_stay_apart_for_the_color_blind(kind: str) -> None:
    """Of the first six, every pair in linear light; shapes tell the others apart as well."""
    seen = [BLIND[kind] @ linear(color) for color in style.CYCLE]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 0.08


def test_neighbors_in_a_bar_differ_in_grey_or_by_hatching() -> None:
    for looks in (split_bars.STAGES, split_bars.COMPONENTS):
        for (one, hatch), (other, other_hatch) in itertools.pairwise(looks.values()):
            assert hatch != other_hatch or abs(lightness(one) - lightness(other)) > 5


def test_text_on_a_color_is_readable() -> None:
    """At least 4.5 : 1, the AA level of WCAG 2 for text."""
    for color in [*(c for c, _ in split_bars.COMPONENTS.values()), *(c for c, _ in split_bars.STAGES.values())]:
        ink = style.text_on(color)
        y = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (ink, color))
        assert (y[1] + 0.05) / (y[0] + 0.05) >= 4.5, color


def test_both_widths_as_pdf_and_pgf_with_the_same_bytes_each_time(run: Run) -> None:
    made = for_paper("mask_map", lambda width: masks.plot_map(run, width))
    names = {name for name in made if not name.endswith(".png")}
    assert names == {"mask_map.pdf", "mask_map-column.pdf", "mask_map.pgf", "mask_map-column.pgf"}
    for name, inches in (("mask_map", 6.75), ("mask_map-column", 3.25)):
        assert f"{inches:.2f} in wide" in made[f"{name}.pgf"].decode()
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", made[f"{name}.pdf"])
        assert box is not None and float(box[1]) == pytest.approx(72 * inches, abs=0.01)
        assert b"/Type3" not in made[f"{name}.pdf"] and b"CreationDate" not in made[f"{name}.pdf"]
    assert for_paper("mask_map", lambda width: masks.plot_map(run, width)) == made


def test_a_crowd_is_drawn(run: Run) -> None:
    points = [
        PlanePoint(f"{m}, {r}", m, r, 10.0 * (1 - r) + n, 0.9 - r / 10 + n / 100, (9.0, 11.0), (0.85, 1.2))
        for n, m in enumerate(METHODS)
        for r in RATIOS
    ]
    for width in (style.COLUMN, style.PAGE):
        with style.styled():
            svg = style.svg(plane.plot(points, width)).decode()
        assert all(f'id="point-{number}"' in svg for number in range(40))


@pytest.mark.slow
def test_every_figure_compiles_in_a_paper(tmp_path: Path) -> None:
    """PGF in a real LaTeX, one column and two, with no box overfull; fonts of the PDFs embedded."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    folder = sample.write(tmp_path / "run", many.content(15))
    written = [path.name for path in write_report(folder, for_paper=True)]
    figures = folder / "figures"
    for ending, head in (
        ("-column", r"\documentclass[twocolumn]{article}\columnsep=10pt"),
        ("", r"\documentclass{article}"),
    ):
        names = [name for name in written if name.endswith(f"{ending}.pgf") and (ending or "-column" not in name)]
        assert len(names) == 10
        body = "\n\n".join(rf"\noindent\input{{{name}}}\clearpage" for name in names)
        size = r"\textwidth=7in\textheight=10in\oddsidemargin=0in"
        text = rf"{head}\usepackage{{pgf,graphicx}}{size}\begin{{document}}{body}\end{{document}}"
        (figures / "a.tex").write_text(text)
        found = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=figures,
                               capture_output=True)  # fmt: skip
        log = found.stdout.decode(errors="replace")
        assert found.returncode == 0, log[-2000:]
        assert r"Overfull \hbox" not in log
    if shutil.which("pdffonts"):
        for path in figures.glob("*.pdf"):
            out = subprocess.run(["pdffonts", str(path)], capture_output=True, check=True).stdout.decode()
            fonts = [line.split() for line in out.splitlines()[2:]]
            assert path.name == "a.pdf" or (
                fonts and all("yes" in line and "Type 3" not in " ".join(line) for line in fonts)
            )
    run_again = load_run(folder)  # the manifest holds with the figures for a paper
    assert run_again.rows
