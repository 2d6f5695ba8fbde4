"""The command `ebsim` itself: options that several commands share, and errors as messages and exit codes.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from ebsim import __version__
from ebsim.errors import EbsimError
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
  7    cells of a grid failed, or runs that had to be equal differ
  74   disk full or not writable
  75   stopped on request: the same command goes on
  130  interrupted at once (second Ctrl-C)
"""
runs_dir_option = click.option(
    "--runs-dir", default="runs", show_default=True, type=click.Path(), help="Where run folders live."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of a table.")
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key, for example train.epochs=40."
)


class Main(click.Group):
    """Turns every named error into its message on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except EbsimError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except HardwareError as error:
            click.echo(str(error), err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            _drop_stdout()
            ctx.exit(0)
        except SystemExit as stop:  # rich ends the process by itself when the reader of a table has gone
            ctx.exit(0 if isinstance(stop.__context__, BrokenPipeError) else stop.code)  # type: ignore[arg-type]


def _drop_stdout() -> None:
    """The reader (`| head`) has gone: nothing more can be written, and that is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Main, context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(version=__version__, prog_name="ebsim")
def main() -> None:
    """Early-Bird tickets: find, shrink and train a winning sub-network, and see its modelled energy.

    Start with:  python cli.py run experiments/preresnet101.toml
    """


def print_json(value: Any) -> None:
    """One JSON object on stdout; NaN and infinity are refused."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Names and values, one a line, or one JSON object."""
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            click.echo(f"{key:16} {value}")
