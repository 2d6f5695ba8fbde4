"""The report of a finished run: tables, figures, an HTML page and Markdown, from its files alone.

    run = ebsim.report.load_run("runs/preresnet101-0123abcd")     # checked; DamagedError names what is wrong
    ebsim.report.write_report("runs/preresnet101-0123abcd")       # report.html, report.md, figures/, tables/
    ebsim.report.print_summary(run)                               # the results table in the terminal

Reads run files and `hw_models`, never torch. Names are imported on first use; matplotlib and jinja2 when a
figure or page is made.
"""

from __future__ import annotations

from ebsim.lazy import attach

_HOME = {
    "Run": "ebsim.runs.load",
    "load_run": "ebsim.runs.load",
    "Table": ".display.table",
    "detail": ".tables.results",
    "energy_split": ".tables.energy",
    "print_summary": ".tables.results",
    "print_table": ".display.terminal",
    "summary": ".tables.results",
    "terminal": ".display.terminal",
    "to_latex": ".display.latex_table",
    "to_markdown": ".display.markdown_table",
    "write_report": ".write",
}

__getattr__, __dir__, __all__ = attach(__name__, _HOME)
