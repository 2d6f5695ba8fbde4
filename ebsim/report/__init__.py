"""The report of a finished run: tables, figures, an HTML page and Markdown, from its files alone.

    run = ebsim.report.load_run("runs/preresnet101-0123abcd")     # checked; DamagedError names what is wrong
    ebsim.report.write_report("runs/preresnet101-0123abcd")       # report.html, report.md, figures/, tables/
    ebsim.report.print_summary(run)                               # the results table in the terminal

Reads run files and `hw_models`, never torch; matplotlib and jinja2 are imported when a figure or page is made.
"""

from __future__ import annotations

from ebsim.report.display.latex_table import to_latex
from ebsim.report.display.markdown_table import to_markdown
from ebsim.report.display.table import Table
from ebsim.report.display.terminal import print_table, terminal
from ebsim.report.tables.energy import energy_split
from ebsim.report.tables.results import detail, print_summary, summary
from ebsim.report.write import write_report
from ebsim.runs.load import Run, load_run

__all__ = [
    "Run",
    "Table",
    "detail",
    "energy_split",
    "load_run",
    "print_summary",
    "print_table",
    "summary",
    "terminal",
    "to_latex",
    "to_markdown",
    "write_report",
]
