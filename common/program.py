"""The frame of every script: its streams, its signals and its exit code, from the first line to the last."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common import stopping
from common.config.environment import draw_into_files, say_errors_only
from common.config.streams import end_output, open_streams


def start_program() -> None:
    """Take streams, signals and libraries over: in the first lines of a script, before what takes seconds to import.

    Raises:
        SystemExit: if the working folder was removed.
    """
    stopping.take()
    open_streams()
    draw_into_files()
    say_errors_only()
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        name = Path(sys.argv[0]).name
        print(f"{name}: error: the working folder does not exist any more; cd to one that does", file=sys.stderr)
        raise SystemExit(2) from None


def run_program(main: Callable[[], int], otherwise: str) -> NoReturn:
    """Run a script to its end: in the last line of a script.

    Args:
        main: does all of it; returns the exit code.
        otherwise: what is said if it was stopped by a signal, unless the KeyboardInterrupt says something itself.

    Raises:
        SystemExit: with the exit code.
    """
    code: int | str | None
    try:
        try:
            code = main()
        finally:
            stopping.leave()
    except KeyboardInterrupt as stop:
        stopping.leave()
        print(f"\n{str(stop) or otherwise}", file=sys.stderr)
        code = stopping.exit_code()
    finally:
        end_output()  # else Python would complain about what it cannot write at its exit
        for child in multiprocessing.active_children():
            if child.daemon:  # a process that reads data, and hangs; Python would wait for it
                child.kill()
    raise SystemExit(code)
