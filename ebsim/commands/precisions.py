"""The commands precision list, show and plan: number formats and precision backends."""

from __future__ import annotations

import click

from ebsim.commands.app import echo, echo_lines, json_option, main, print_json, set_option


@main.group()
def precision() -> None:
    """Number formats and precision backends: what is rounded where."""


@precision.command("list")
@json_option
def precision_list(as_json: bool) -> None:
    """Every number format and backend, plug-ins included."""
    from ebsim.precision import listing

    if as_json:
        print_json({"formats": listing.list_formats(), "backends": listing.list_backends()})
    else:
        echo_lines(listing.listing())


@precision.command("show")
@click.argument("name")
def precision_show(name: str) -> None:
    """What number format or backend NAME does, and the record that the hardware model prices."""
    from ebsim.precision import listing

    echo_lines(listing.show(name))


@precision.command("plan")
@click.argument("experiment", type=click.Path())
@click.option("--backend", help="Another backend than the experiment's.")
@set_option
def precision_plan(experiment: str, backend: str | None, settings: tuple[str, ...]) -> None:
    """The layer x role x pass table of an EXPERIMENT's network, with bit widths; nothing is trained."""
    from ebsim import config, pipeline

    for text in pipeline.precision_plans(pipeline.load(experiment, config.parse_settings(settings)), backend):
        echo(text)
