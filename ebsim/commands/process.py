"""`main` as the command of a process, which ends with it: to tear torch down takes half a second of CPU."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

from ebsim.commands.app import main


def command() -> NoReturn:
    """Run the command line and end the process with its exit code.

    What is registered to run at the end is run, threads that are waited for are waited for, and both streams are
    written out; only the interpreter's own tidying of modules is left to the system. A bug ends as in any program.
    """
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
