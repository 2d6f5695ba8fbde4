"""The commands data list, fetch, verify and prepare."""

from __future__ import annotations

import click

from ebsim.commands.app import echo_lines, json_option, main, print_json, show_facts


@main.group()
def data() -> None:
    """Datasets: which there are, fetching and checking them."""


root_option = click.option("--root", default="data", show_default=True, help="Folder that holds the data.")


@data.command("list")
@root_option
@json_option
def data_list(root: str, as_json: bool) -> None:
    """Every dataset, whether it is there, its augmentation and where it comes from."""
    from ebsim.data import list_datasets

    found = list_datasets(root)
    if as_json:
        print_json(found)
        return
    for item in found:
        size = f"{item['train_images']:,} + {item['test_images']:,} images" if item["train_images"] else "any size"
        echo_lines(f"{item['name']:12} {'found' if item['found'] else 'not found':10} {size:24} {item['source']}")


@data.command("fetch")
@click.argument("name")
@root_option
@click.option("--from", "from_file", type=click.Path(), help="An archive that you already have.")
@json_option
def data_fetch(name: str, root: str, from_file: str | None, as_json: bool) -> None:
    """Download (or unpack) dataset NAME, then check every file of it."""
    from ebsim.data import fetch

    show_facts(fetch(name, root, from_file), as_json)


@data.command("verify")
@click.argument("name")
@root_option
@json_option
def data_verify(name: str, root: str, as_json: bool) -> None:
    """Check every file of dataset NAME: digests, labels, counts."""
    from ebsim.data import verify

    show_facts(verify(name, root), as_json)


@data.command("prepare")
@click.argument("folder", type=click.Path())
@click.argument("file", type=click.Path(), required=False)
@click.option("--side", default=400, show_default=True, help="Reduce longer shorter sides to this; 0: leave all sizes.")
@click.option("--encoding", default="jpeg", show_default=True, help="jpeg, or raw (decoded: 3 bytes a pixel).")
@click.option("--quality", default=90, show_default=True, help="Of JPEG, 1 to 100.")
@json_option
def data_prepare(folder: str, file: str | None, side: int, encoding: str, quality: int, as_json: bool) -> None:
    """Write image FOLDER of large images as one FILE that loads faster; data.root then names the file."""
    from ebsim.data import prepare

    show_facts(prepare(folder, file, side=side, encoding=encoding, quality=quality), as_json)
