"""Tables: what is in the results is in the table, at every width and in every format."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from ebsim.report import detail, energy_split, load_run, print_summary, summary, terminal, to_latex, to_markdown, write
from ebsim.report.display import text
from ebsim.report.display.table import Column, Table
from ebsim.report.display.value import Value
from ebsim.report.tables import energy, registry, results
from ebsim.runs.load import Run
from tests.report import sample


def printed(run: Run, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(terminal(summary(run), width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 200])
def test_the_terminal_table_fits_and_cuts_no_number(run: Run, width: int) -> None:
    out = printed(run, width)
    assert max(map(len, out.splitlines())) <= width and "…" not in out
    for row in run.rows:
        assert row.accuracy is not None
        assert row.saving_vs_dense is not None
        numbers = [f"{100 * row.accuracy:.2f}", f"{100 * row.saving_vs_dense:.1f}"]
        assert any(all(number in line.split() for number in numbers) for line in out.splitlines())
    assert "n = 1" in out and "modelled on horowitz-45nm, not" in " ".join(out.split())


def test_a_wide_terminal_shows_all_columns_and_a_narrow_one_says_what_it_leaves_out(run: Run) -> None:
    assert "Not shown" not in printed(run, 120)
    narrow = " ".join(printed(run, 80).split())
    assert "Not shown in 80 characters: Best on test (%)" in narrow


def test_the_summary_says_what_the_results_say(run: Run) -> None:
    table = summary(run)
    cells = {column.heading: column.cells for column in table.columns}
    for number, row in enumerate(run.rows):
        assert row.parameters is not None
        shown = float(str(cells["Params (k)"][number][0]))
        assert shown == pytest.approx(row.parameters / 1e3, rel=5e-3)
        assert float(str(cells["Modelled energy (J)"][number][0])) == pytest.approx(row.energy.joules, rel=5e-3)
        assert float(str(cells["Saving (%)"][number][0])) == pytest.approx(
            100 * (1 - row.energy.joules / run.rows[0].energy.joules), abs=0.051
        )
    assert [str(cell[0]) for cell in cells["Epoch drawn"]] == ["–", *(str(row.epoch_drawn) for row in run.rows[1:])]


def test_flops_are_twice_macs_and_the_authors_count_stands_apart(run: Run) -> None:
    cells = {column.heading: column.cells for column in detail(run).columns}
    exact = next(name for name in cells if name.startswith("Training, exact"))
    authors = next(name for name in cells if name.startswith("Training, authors'"))
    for number, row in enumerate(run.rows):
        assert cells[exact][number][0].raw == 2 * row.train_macs  # type: ignore[union-attr]
        assert row.train_pflops_paper is not None
        assert cells[authors][number][0].raw == pytest.approx(1e15 * row.train_pflops_paper)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["stage", "component"])
def test_parts_sum_to_the_total(run: Run, kind: str) -> None:
    for row in energy_split(run, kind).rows:
        *parts, total = [cell[0].raw for cell in row[1:] if not isinstance(cell[0], str)]
        assert sum(parts) == pytest.approx(total, rel=1e-12)
    assert "Checked" in str(energy.conservation(run)[0][0])


def test_parts_that_do_not_sum_are_shown(tmp_path: Path) -> None:
    files = sample.content(blocks=1)
    files["results.json"]["rows"][2]["energy"]["stages"][0]["joules"] *= 1.01
    wrong = energy.conservation(load_run(sample.write(tmp_path / "run", files)))
    assert len(wrong) == 1 and "p = 0.5: the parts by stage" in str(wrong[0][0])


def test_records_hold_every_figure_unrounded(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(text.csv(*results.records(run)))))
    for line, row in zip(rows, run.rows, strict=True):
        assert float(line["accuracy"]) == row.accuracy and float(line["energy_joules"]) == row.energy.joules
        assert line["ratio"] == ("" if row.ratio is None else str(row.ratio))


def test_precisions_are_shown_where_they_differ(tmp_path: Path) -> None:
    files = sample.content(blocks=1)
    files["results.json"]["rows"][3].update(precision="LF", search_precision="fp8")
    run = load_run(sample.write(tmp_path / "run", files))
    assert "Precision" in [column.heading for column in summary(run).columns]
    assert [row[0][0] for row in detail(run).rows][-1] == "p = 0.7, fp8 → fp32"


def test_markdown_rows_have_one_width(run: Run) -> None:
    lines = [line for line in to_markdown(summary(run)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(run.rows) and len({line.count("|") for line in lines}) == 1


def test_latex_has_every_number_and_every_row_in_each_panel(run: Run) -> None:
    out = to_latex(summary(run))
    panels = out.split(r"\begin{tabular}{@{}")[1:]
    for panel in panels:
        body = [line for line in panel.splitlines() if line.endswith(r"\tabularnewline")]
        assert len(body) == 1 + len(run.rows)
        assert all(rule in panel for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
        assert all("EB Train" in line for line in body[2:])
    numbers = {piece.text for row in summary(run).rows for cell in row for piece in cell if isinstance(piece, Value)}
    assert all(number in out for number in numbers)


def test_print_summary_into_a_pipe_has_no_color(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(run)
    out = capsys.readouterr().out
    assert "EB Train" in out and "\x1b" not in out


def test_averaged_weights_are_held_against_averaged_weights(tmp_path: Path) -> None:
    """A run of an earlier version: its best is that of raw weights, below the accuracy of the averaged ones."""
    files = sample.content(blocks=1)
    row = files["results.json"]["rows"][1]
    curve = files["curves.json"][row["curve"]]
    row.update(averaged=True, accuracy=0.42, best_accuracy=0.3711)
    curve[-2]["average_accuracy"], curve[-1]["average_accuracy"] = 0.43, 0.42
    run = load_run(sample.write(tmp_path / "run", files))
    assert run.best_on_test(run.rows[1]) == 0.43
    cells = {column.heading: column.cells for column in summary(run).columns}
    assert str(cells["Best on test (%)"][1][0]) == "43.00" and str(cells["Accuracy (%)"][1][0]) == "42.00"
    assert run.best_on_test(run.rows[2]) == run.rows[2].best_accuracy
    for line in csv.DictReader(io.StringIO(text.csv(*results.records(run)))):
        assert float(line["best_accuracy"]) >= float(line["accuracy"])


def test_rates_and_energy_delay_products_are_those_of_the_rows(run: Run) -> None:
    header, rows = results.records(run)
    for row, line in zip(run.rows, rows, strict=True):
        found = dict(zip(header, line, strict=True))
        images = sum(entry.images_per_epoch * entry.epochs for entry in row.ledger)
        assert found["images_per_modelled_second"] == images / row.energy.seconds
        assert found["energy_delay_joule_seconds"] == row.energy.joules * row.energy.seconds
        assert found["energy_delay_low"] <= found["energy_delay_joule_seconds"] <= found["energy_delay_high"]
    headings = [column.heading for column in results.detail(run).columns]
    assert any(heading.startswith("Energy-delay product (") for heading in headings)


def test_a_table_of_the_registry_is_on_the_page_and_a_csv(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def channels(run: Run) -> Table:
        rows = tuple((Value(row.ratio or 0.0, f"p is {row.ratio}"),) for row in run.rows)
        return Table("kept", "Ratios once more", (Column("Ratio", rows),))

    monkeypatch.setitem(registry.TABLES, "kept", registry.ReportTable(channels, section="counts"))
    files = write.build(run)
    html, markdown = files["report.html"].decode(), files["report.md"].decode()
    assert "<h3>Ratios once more</h3>" in html[html.index('<section id="counts">') :]
    assert "### Ratios once more" in markdown and f"p is {run.rows[-1].ratio}" in markdown
    assert files["tables/kept.csv"].decode().splitlines()[0] == "Ratio"
