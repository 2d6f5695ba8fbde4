"""LaTeX: every character has a form, every table fits, and a real LaTeX agrees (where there is one)."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from ebsim.report.display.latex import breakable, escape, number
from ebsim.report.display.latex_table import COLUMN, FULL, to_latex, to_macros
from ebsim.report.display.table import Column, Table
from ebsim.report.display.value import Value
from tests.report.hostile import STRINGS
from tests.report.test_terminal import random_table

COMMANDS = re.compile(r"\\[a-zA-Z]+")


def test_every_character_of_unicode_has_a_form_in_ascii() -> None:
    """The planes that have letters and signs: nothing becomes a question mark, nothing raises."""
    for point in range(32, 0x3000):
        char = chr(point)
        if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029":
            continue
        out = escape(char)
        assert out.isascii() and ("?" not in out or "?" in unicodedata.normalize("NFKC", char)), hex(point)
        assert out.strip() or char.isspace(), hex(point)


def test_forms_that_readers_know() -> None:
    assert escape("Δ ± µ × − → é ß ő") == (r"$\Delta$ $\pm$ $\mu$ $\times$ $-$ $\to$ {\'{e}} \ss{} {\H{o}}")
    assert escape("日") == "{[}U+65E5{]}"
    assert escape("a_b & 50% of $x$ #1 {y} ~ ^ \\") == (
        r"a\_b \& 50\% of \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape("--set ?` ''") == "-{}-set ?{}` '{}'"
    assert escape("x² H₂") == r"x$^{\mathrm{2}}$ H$_{\mathrm{2}}$"


def test_minus_signs_of_numbers_only() -> None:
    assert number("-1.5") == "$-$1.5"
    assert number("-0.5 ± 0.1") == r"$-$0.5 $\pm$ 0.1"
    assert number("eb-train 3-5") == "eb-train 3-5"
    assert number("32–287") == "32--287"


def test_a_number_has_a_name() -> None:
    table = Table(
        "results",
        "c",
        (
            Column("Method", (("EB Train",), ("EB Train",)), numeric=False, key=True),
            Column("p", ((Value(0.3, "0.3"),), (Value(0.5, "0.5"),)), key=True),
            Column("Modelled energy (J)", ((Value(72.6, "72.6"),), (Value(-1.0, "-1.0"),))),
        ),
    )
    text = to_macros([table])
    assert r"\ebsim@def{results/eb-train-0.3/modelled-energy}{72.6}{J}" in text
    assert r"\ebsim@def{results/eb-train-0.5/modelled-energy}{$-$1.0}{J}" in text


def test_a_narrow_table_says_what_it_left_out() -> None:
    dice = random.Random(1)
    for _ in range(50):
        table = random_table(dice, 12, 2)
        text = to_latex(table, COLUMN, drop=True)
        missing = [c for c in table.columns if not all(p.text in text for p in c.cells[0] if isinstance(p, Value))]
        said = next((line for line in text.splitlines() if line.startswith("% Left out")), "")
        assert all(escape(column.heading) in said for column in missing)
        whole = to_latex(table, FULL)
        assert all(p.text in whole for c in table.columns for cell in c.cells for p in cell if isinstance(p, Value))


def test_tables_say_what_they_need() -> None:
    assert r"\usepackage{booktabs}" in to_latex(random_table(random.Random(0), 3, 1))


def compile_tex(folder: Path, body: str, head: str) -> str:
    """The log of a real LaTeX; fails where it does."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    (folder / "a.tex").write_text(f"{head}\n\\begin{{document}}\n{body}\n\\end{{document}}\n")
    found = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
        cwd=folder, capture_output=True, timeout=300,
    )  # fmt: skip
    log = found.stdout.decode(errors="replace")
    assert found.returncode == 0, log[-3000:]
    return log


CLASSES = {
    "article": (r"\documentclass{article}\usepackage{booktabs}", FULL, False),
    "article, T1": (r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}", FULL, False),
    "article, two columns, a4": (r"\documentclass[a4paper,twocolumn]{article}\usepackage{booktabs}", COLUMN, True),
    "article, two columns, T1": (
        r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{booktabs}", COLUMN, False),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_random_and_hostile_tables_fit_a_real_page(tmp_path: Path, kind: str) -> None:
    """No overfull box, no error, in one column and in two, with both font encodings."""
    head, limit, drop = CLASSES[kind]
    dice = random.Random(7)
    tables = [random_table(dice, dice.randint(1, 14), 2) for _ in range(40)]
    for text in STRINGS:
        numbers = (Value(-0.5, "-0.50"), " ± ", Value(0.1, "0.10"))
        columns = (Column(text, ((text,), ("b",))[:2], numeric=False), Column(text, (numbers, numbers)))
        tables.append(Table("t", text, columns, ((text,),)))
    body = "\n\n".join(to_latex(table, limit, drop=drop) for table in tables)
    log = compile_tex(tmp_path, body, head)
    assert r"Overfull \hbox" not in log, re.findall(r"Overfull.*\n.*", log)[:5]


@pytest.mark.slow
def test_what_is_printed_is_what_was_given(tmp_path: Path) -> None:
    """Through a PDF and back: letters, digits and punctuation of ASCII come out as they went in."""
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext here")
    given = ["".join(chr(c) for c in range(first, first + 16)) for first in range(33, 126, 16)]
    given += ["--set a=b ?` !` '' `` << >> ,,", "50% of $x_1^2$ & {y} \\end"]
    given = [line.replace("\x7f", "").replace("\x80", "") for line in given]
    body = "\n\n".join(rf"\noindent {escape(line)}" for line in given)
    compile_tex(tmp_path, body, r"\documentclass{article}\pagestyle{empty}\usepackage[T1]{fontenc}")
    out = subprocess.run(["pdftotext", "-layout", "a.pdf", "-"], cwd=tmp_path, capture_output=True, check=True)
    found = unicodedata.normalize("NFKC", out.stdout.decode()).translate(str.maketrans("’‘−”“˜ˆ", '\'`-""~^'))
    squeezed = [sorted(re.sub(r"\s", "", text)) for text in (found, "".join(given))]  # raised signs are read first
    assert squeezed[0] == squeezed[1]


@pytest.mark.slow
def test_macros_print_their_numbers_and_refuse_others(tmp_path: Path) -> None:
    table = random_table(random.Random(3), 6, 3)
    (tmp_path / "macros.tex").write_text(to_macros([table]))
    keys = re.findall(r"\\ebsim@def\{([^}]*)\}", (tmp_path / "macros.tex").read_text())
    assert len(keys) > 3
    head = r"\documentclass{article}\input{macros}"
    compile_tex(tmp_path, " ".join(rf"\ebsim{{{key}}}\ebsimunit{{{key}}}" for key in keys), head)
    with pytest.raises(AssertionError, match="There is no number"):
        compile_tex(tmp_path, r"\ebsim{results/nobody/accuracy}", head)


def test_long_words_may_break() -> None:
    assert breakable("a" * 40, 30.0).count(r"\hspace{0pt}") == 39
    assert breakable("short words only", 100.0) == "short words only"
