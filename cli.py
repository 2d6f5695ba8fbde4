"""`python cli.py COMMAND`: the command line of ebsim from a checkout (installed, it is the command `ebsim`)."""

from __future__ import annotations

from ebsim import stop

if __name__ == "__main__":
    stop.install()  # before what takes time to import

from ebsim.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    from ebsim.commands.process import command

    command()
