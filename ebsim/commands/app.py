"""The command `ebsim` itself: options that several commands share, and errors as messages and exit codes.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from ebsim import __version__, stop
from ebsim.errors import EbsimError, StorageError
from hw_models.errors import HardwareError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
EXIT_CODES = """\b
Exit codes:
  0    done, also where it was done before
  1    a bug of ebsim
  2    usage, configuration or accelerator file
  3    dataset missing or damaged
  4    damaged run, checkpoint or mask file
  5    held by another process
  6    the training diverged
  7    cells of a grid failed, or runs to be equal differ
  74   disk full or not writable
  75   stopped on request: the same command goes on
  130  interrupted at once (second Ctrl-C)
"""


_ACTING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What acts on a terminal instead of being shown: control characters, marks that reorder a line; a newline does not."""


def shown(text: object) -> str:
    """A text of others (names, values, messages) for a terminal: what would act there is shown as its escape."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def echo(text: object, err: bool = False) -> None:
    """A line on stdout or stderr, as `shown`."""
    click.echo(shown(text), err=err)


def _folder(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """A path that is a folder or could become one."""
    for place in (Path(value), *Path(value).parents):
        if os.path.lexists(place) and not place.is_dir():
            raise click.BadParameter(f"{value}: {place} is not a folder. Choose another place.", ctx, parameter)
    return value


def _forbid_plugins(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from ebsim.precision import plugins

        plugins.forbid()


runs_dir_option = click.option(
    "--runs-dir", default="runs", show_default=True, type=click.Path(), callback=_folder,
    help="Where run folders live."
)  # fmt: skip
paper_option = click.option(
    "--paper", is_flag=True, help="Also: each figure as PDF and PGF, 3.25 and 6.75 inches wide."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of a table.")


def _complete_keys(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from ebsim.config import all_keys

    return [f"{key}=" for key in all_keys() if key.startswith(incomplete)]


def complete_runs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of the runs in the folder that --runs-dir says, for the shell."""
    from ebsim.runs.inventory import run_names

    names = run_names(Path(ctx.params.get("runs_dir") or "runs"))
    return [name for name in names if name.startswith(incomplete)]


set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key, for example train.epochs=40.",
    shell_complete=_complete_keys,
)  # fmt: skip

strict_option = click.option(
    "--strict", is_flag=True, help="Refuse stages that were trained by other code, another torch or thread count."
)


class Group(click.Group):
    """A group whose help wraps the summaries of its commands instead of cutting them."""

    group_class = type  # groups inside are of this class too

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.commands[name].get_short_help_str(10_000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


no_plugins_option = click.option(
    "--no-plugins", is_flag=True, callback=_forbid_plugins, expose_value=False,
    help="Refuse precisions whose code would be run from a file or an installed plug-in.",
)  # fmt: skip


def name_plugins() -> None:
    """Say what code of others the experiment made this process run."""
    from ebsim.precision import plugins

    for what, digest in plugins.ran().items():
        echo(f"runs the code of {what} ({digest[:12]})", err=True)


class Main(Group):
    """Turns every named error, stop request and error of the system into a message on stderr and its exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if extra.get("standalone_mode", True):
            stop.install()
        return super().main(*args, **extra)

    group_class = Group  # type: ignore[assignment]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # now, while an error can still be told
            return result
        except click.ClickException as error:
            vars(error)["message"] = shown(error.message)
            raise
        except click.exceptions.Exit:
            raise
        except stop.Stop:
            _stopped(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            _drop_stdout()
            ctx.exit(0)
        except SystemExit as end:  # rich ends the process by itself when the reader of a table has gone
            ctx.exit(0 if isinstance(end.__context__, BrokenPipeError) else end.code)  # type: ignore[arg-type]
        except Exception as error:
            if stop.requested():  # whatever else failed because of it: a decoding process that was ended too
                _stopped(ctx)
            if isinstance(error, EbsimError):
                echo(str(error), err=True)
                ctx.exit(error.exit_code)
            if isinstance(error, HardwareError):
                echo(str(error), err=True)
                ctx.exit(2)
            if not isinstance(error, OSError):
                raise
            _drop_stdout()
            where = f"{error.filename}: " if error.filename else ""
            echo(
                f"{where}{error.strerror or error}. Free some space or fix the permissions, and run the same command "
                "again: what was finished is safe.",
                err=True,
            )
            ctx.exit(StorageError.exit_code)


def _stopped(ctx: click.Context) -> None:
    echo("Stopped at the last checkpoint. Run the same command again to go on.", err=True)
    stop.finish()
    ctx.exit(stop.EXIT)


def _drop_stdout() -> None:
    """The reader (`| head`) has gone, or nothing can be written: so that Python does not try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Main, context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(version=__version__, prog_name="ebsim")
def main() -> None:
    """Early-Bird tickets: find, shrink and train a winning sub-network, and see its modelled energy.

    Start with:  python cli.py run experiments/preresnet101.toml
    """


def echo_lines(text: str, under: int | None = None) -> None:
    """Text on stdout, long lines broken between words and set in below where they begin (by `under`, else 8 more)."""
    from ebsim.report.display.terminal import line_width

    wide = line_width()
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 8 if under is None else under)
        parts = textwrap.wrap(line, wide, subsequent_indent=indent, break_on_hyphens=False) if wide else [line]
        echo("\n".join(parts) if parts else "")


def print_json(value: Any) -> None:
    """One JSON object on stdout; NaN and infinity are refused."""
    echo(json.dumps(value, indent=1, allow_nan=False))


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Names and values, one a line, or one JSON object."""
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            echo_lines(f"{key:16} {value}", under=17)
