"""The pages: every number can be followed to a file, a rebuild gives the same bytes, and text stays text."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from ebsim.report import detail, load_run, summary, terminal, write_report
from ebsim.report.display import latex
from ebsim.report.display.latex import escape
from ebsim.report.display.latex_table import MACROS
from ebsim.report.page import again
from tests.report import many, sample
from tests.report.hostile import STRINGS
from tests.report.test_units_and_text import PREFIX

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, text outside figures and code, and the <data> pairs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.text: list[str] = []
        self.data: list[tuple[str, str]] = []
        self.folded: list[bool] = []
        """Whether a pair stands among the layers, which Markdown leaves to the CSV."""
        self.classes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        self.classes = [*self.classes[: len(self.stack) - 1], str(dict(attrs).get("class"))]
        if tag == "data":
            self.data.append((dict(attrs)["value"] or "", ""))
            self.folded.append("layers" in self.classes)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, text: str) -> None:
        if "data" in self.stack:
            self.data[-1] = (self.data[-1][0], self.data[-1][1] + text)
        elif not {"svg", "style", "script", "code"} & set(self.stack):
            self.text.append(text)


def numbers_of(folder: Path) -> set[float]:
    """Every number in the CSV files."""
    found: set[float] = set()
    for path in folder.rglob("*.csv"):
        for line in csv.reader(io.StringIO(path.read_text())):
            for cell in line:
                if re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", cell):
                    found.add(float(cell))
    return found


def check_promise(folder: Path, least: int) -> None:
    """Every number that a page marks as data stands in a CSV beside it, unrounded."""
    page, known = Page((folder / "report.html").read_text()), numbers_of(folder)
    assert len(page.data) > least
    assert [pair for pair in page.data if float(pair[0]) not in known] == []


def test_every_number_of_the_page_is_in_a_csv(folder: Path) -> None:
    check_promise(folder, 150)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 15, 40])
def test_every_number_is_in_a_csv_whatever_the_run(tmp_path: Path, rows: int) -> None:
    """Low precision sampled by its quantisers, the paper's cells beside, sums that do not hold, a sensor's reading."""
    files = many.content(rows)
    results = files["results.json"]
    results["dataset"]["name"] = "cifar10"
    results["network"]["depth"] = 101
    results["rows"][1]["energy"]["components"]["mac"] *= 1.5
    for row in results["rows"]:
        row["ledger"][-1].update(measured_joules=12.5, measured_source="sensor")
    seen = {"count": 1000, "overflow": 0.01, "underflow": 0.02, "sqnr_db": 31.5, "absmax": 3.0}
    for curve in files["curves.json"].values():
        curve[-1]["precision"] = {"layer1.0.conv1": {"weight": seen, "error": seen | {"sqnr_db": 12.25}}}
    folder = sample.write(tmp_path / "run", files)
    write_report(folder)
    check_promise(folder, 100)


def test_every_shown_number_is_its_raw_number(folder: Path) -> None:
    """Digits agree with the raw number up to a power of ten (the unit may stand in a heading); units where shown."""
    for raw, shown in Page((folder / "report.html").read_text()).data:
        match = re.fullmatch(r"([-+]?[\d,.]+)(?: ?(%|×|min|h|d|[pnµmkMGTPE]?(?:J|s)?))?", shown)
        assert match is not None, shown
        number, unit = float(match[1].replace(",", "")), match[2] or ""
        places = len(match[1].partition(".")[2])
        scale = {"%": 0.01, "×": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}.get(
            unit, PREFIX.get(unit.rstrip("Js"), 1.0)
        )
        scales = [scale] if unit else [*PREFIX.values(), 0.01]
        slack = 0.51 * 10.0**-places
        assert any(abs(float(raw) / one - number) <= slack for one in scales), (raw, shown)


def test_no_number_hides_outside_the_marked_ones(folder: Path) -> None:
    """Names, and constants of the sentences, are the only digits that are not marked as data."""
    text = " ".join(Page((folder / "report.html").read_text()).text)
    results = json.loads((folder / "results.json").read_text())
    assumptions = list(csv.DictReader(io.StringIO((folder / "tables/assumptions.csv").read_text())))
    constants = [line["key"] for line in assumptions]
    sources = [line["source"] for line in assumptions]
    names = [
        results["network"]["label"],
        results["dataset"]["label"],
        results["hardware"],
        "p = 0.3",
        "p = 0.5",
        "p = 0.7",
        "3×8×8",
        "layer3.10.bn2",
        "fp32",
        "n = 1",
        "2 x MAC",
        "0.01 G",
        "by 3;",
        "Epoch 0",
        "90 %",
        *constants,
        *sources,
        *re.findall(r"Profile .*?(?=Constant)", text, re.DOTALL),
    ]
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, " ")
    text = re.sub(r"(provenance|versions|sha).*", " ", text, flags=re.DOTALL)
    assert re.findall(r"\S*\d\S*", text) == []


def test_the_page_loads_nothing_and_runs_one_known_script(folder: Path) -> None:
    source = (folder / "report.html").read_text()
    page = Page(source)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "content-security-policy" in str(a).lower())
    script = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    import base64

    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy is not None and policy.startswith("default-src 'none'") and f"'sha256-{digest}'" in policy
    assert len(script) == 1 and sum(tag == "script" for tag, _ in page.tags) == 1 and len(script[0]) < 10_000
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "form", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"href", "src", "xlink:href"}:
                assert value is not None and value.startswith(("figures/", "#", "data:image/png;base64,")), value
    identities = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identities) == len(set(identities))


def test_markdown_has_what_the_page_has(folder: Path) -> None:
    page, text = Page((folder / "report.html").read_text()), (folder / "report.md").read_text()
    pairs = zip(page.data, page.folded, strict=True)
    assert [shown for (_, shown), folded in pairs if not folded and shown not in text] == []
    for tag, attributes in page.tags:
        target = str(attributes.get("href"))
        if tag == "a" and target.startswith("#"):
            assert any(found.get("id") == target[1:] for _, found in page.tags)
        elif tag == "a":
            assert str(attributes["href"]).removesuffix(".svg").removesuffix(".png").removesuffix(".csv") in text
            assert (folder / str(attributes["href"])).is_file()


def test_a_rebuild_gives_the_same_bytes_without_torch(folder: Path, tmp_path: Path) -> None:
    """In another process, with another hash seed, another name for the folder's parent and a user's matplotlibrc."""
    copy = sample.write(tmp_path / "elsewhere" / sample.NAME, sample.content(blocks=4))
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: none\nlines.linewidth: 9\n")
    code = (
        f"import sys; from ebsim import report; report.write_report({str(copy)!r}); "
        "assert not {'torch', 'matplotlib.pyplot', 'fvcore'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "MATPLOTLIBRC": str(tmp_path), "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


def test_the_manifest_covers_the_report_after_a_rebuild(folder: Path) -> None:
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "MANIFEST.json"
    }
    assert files == found


def test_the_command_names_the_resolved_experiment(folder: Path) -> None:
    assert f"python cli.py run runs/{sample.NAME}/experiment.toml<" in (folder / "report.html").read_text()


def test_the_command_works_from_where_the_run_was_started(tmp_path: Path) -> None:
    files = sample.content(blocks=1)
    files["results.json"]["hardware"] = "chips/mine.toml"
    files["provenance.json"].update(folder="my out/r-1", argv=["../ebsim/cli.py", "run", "x.toml"])
    assert again(load_run(sample.write(tmp_path / "moved", files))) == (
        "python ../ebsim/cli.py run 'my out/r-1/experiment.toml' --set 'hardware.profile=my out/r-1/hardware.toml' "
        "--runs-dir 'my out'"
    )


def poisoned(text: str) -> dict[str, Any]:
    """The payload in every free-text field of every file."""
    files = sample.content(blocks=1)
    results = files["results.json"]
    results.update(name=text, hardware=text, hypothetical=[text])
    results["dataset"].update(name=text, label=text, digest=text)
    results["network"].update(name=text, label=text)
    results["prune"]["rule"] = text
    for number, row in enumerate(results["rows"]):
        row.update(
            method="dense" if number == 0 else text,
            label=text,
            precision=text,
            search_precision=text,
            retrain_precision=text,
            kept_floor=[text],
            notes=[text],
        )
        row["energy"]["components"][text] = 0.0
        row["energy"]["stages"].append({"stage": text, "joules": 0.0})
        row["ledger"][-1]["precision"] = own_format(text)
    files["networks.json"] = json.loads(json.dumps(files["networks.json"]).replace('"fc"', json.dumps(text)))
    files["provenance.json"].update(commit=text, argv=[text, text], host_os=text, extra={text: text}, folder=text)
    files["experiment.toml"] = f"# {text}\n"
    files["masks.json"][text] = files["masks.json"][sample.DENSE]
    files["curves.json"][text] = files["curves.json"][sample.DENSE]
    results["rows"][0].update(curve=text, trajectory=text)
    return files


def own_format(text: str) -> dict[str, Any]:
    """The record of a precision with a name of one's own, and a format with another."""
    passes = {
        "forward": {"weight": text, "activation": text},
        "input_gradient": {"weight": text, "error": "bf16"},
        "weight_gradient": {"activation": text, "error": "bf16"},
    }
    return {
        "schema": 1, "name": text, "formats": {text: {"bits": 5, "mac": "int:5", "scale_bits": 8, "block": 32}},
        "default": {**passes, "accumulator": "fp32", "output": "bf16"}, "layers": {text: passes},
        "update": {"gradient": "bf16", "momentum": "fp32", "stored": "fp32"}, "quantise": {"weight": "nearest"},
    }  # fmt: skip


TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "main",
    "section",
    "div",
    "p",
    "h1",
    "h2",
    "h3",
    "span",
    "code",
    "pre",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
    "data",
    "figure",
    "figcaption",
    "a",
    "svg",
    "g",
    "path",
    "defs",
    "use",
    "clippath",
    "rect",
    "image",
    "details",
    "summary",
    "script",
    "nav",
    "input",
    "label",
    "i",
    "pattern",
    "lineargradient",
    "stop",
}
LATEX_COMMANDS = {
    "usepackage", "begingroup", "endgroup", "footnotesize", "setlength", "tabcolsep", "noindent", "begin", "end",
    "toprule", "midrule", "bottomrule", "tabularnewline", "raggedright", "raggedleft", "parbox", "hspace", "par",
    "medskip", "ebsim@def", "makeatother", "mathrm",
    *re.findall(r"\\([a-zA-Z]+)", " ".join([*latex._ASCII.values(), *latex._SIGNS.values(), *map(escape, "ΑΩαωΔ")])),
    *(accent for accent in latex._ACCENTS.values() if accent.isalpha()),
    *(name.lower() for name in latex._GREEK), *(name.capitalize() for name in latex._GREEK),
    "i", "j", "lambda", "Lambda",
}  # fmt: skip


def check_harmless(folder: Path, text: str) -> None:
    write_report(folder)
    page = Page((folder / "report.html").read_text())
    assert page.stack == [] and sum(tag == "script" for tag, _ in page.tags) == 1
    assert {tag for tag, _ in page.tags} <= TAGS
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for path in folder.rglob("*.csv"):
        for line in csv.reader(io.StringIO(path.read_text())):
            for cell in line:
                assert not cell.startswith(("=", "+", "@")) and not re.match(r"-(?![\d.])", cell), (path.name, cell)
    for path in folder.rglob("*.tex"):
        found = path.read_text().replace(MACROS, "")
        assert found.isascii() and set(re.findall(r"\\([a-zA-Z@]+)", found)) <= LATEX_COMMANDS
    for path in folder.rglob("*.svg"):
        assert {e.tag.rpartition("}")[2] for e in ElementTree.parse(path).iter()} <= {
            "svg",
            "metadata",
            "RDF",
            "Work",
            "type",
            "format",
            "creator",
            "Agent",
            "title",
            "defs",
            "style",
            "g",
            "path",
            "use",
            "clipPath",
            "pattern",
            "rect",
            "image",
        }
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", (folder / "report.md").read_text())
    assert "<" not in outside_code and "\n# heading" not in outside_code
    for path in [folder / "report.html", folder / "report.md", *folder.glob("tables/*")]:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f‮]", path.read_text()), path.name
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    run = load_run(folder)
    console.print(terminal(summary(run), 100), terminal(detail(run), 100))
    assert isinstance(console.file, io.StringIO)
    out = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # rich's own styles
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f‮]", out)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """All fifty at once in each field."""
    check_harmless(sample.write(tmp_path / "run", poisoned(" ".join(STRINGS))), "")


@pytest.mark.slow
@pytest.mark.parametrize("text", STRINGS)
def test_each_hostile_name_stays_text(tmp_path: Path, text: str) -> None:
    """Alone, each also stands at the beginning of a cell, where it would act; and every table of it compiles."""
    folder = sample.write(tmp_path / "run", poisoned(text))
    check_harmless(folder, text)
    if shutil.which("pdflatex") is not None:
        for limit, options in (("", "a4paper"), ("-column", "a4paper,twocolumn")):
            names = [path for path in folder.glob("tables/*.tex") if path.stem != "macros"]
            body = "\n\n".join(p.read_text() for p in sorted(names) if p.stem.endswith("-column") == bool(limit))
            head = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs}}\input{{tables/macros}}"
            (folder / "a.tex").write_text(f"{head}\\begin{{document}}{body}\\end{{document}}\n")
            done = subprocess.run(
                ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
                cwd=folder, capture_output=True,
            )  # fmt: skip
            log = done.stdout.decode(errors="replace")
            assert done.returncode == 0 and r"Overfull \hbox" not in log, log[-2000:]
