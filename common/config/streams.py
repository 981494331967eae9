"""The output of a program: what it may contain, and what happens if nobody reads it any more."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from common.refusal import printable

BROKEN_PIPE = 128 + 13  # the exit code that a shell gives a program that SIGPIPE ended
LAYOUT = "\n\r\t"


class PlainOutput:
    """A text stream whose control characters are written out: names in a foreign folder cannot steer a terminal.

    Args:
        stream: where the text goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        if not text.isprintable():
            text = "".join(char if char in LAYOUT else printable(char) for char in text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Write out control characters of whatever is printed."""
    with contextlib.redirect_stdout(PlainOutput(sys.stdout)):
        yield


@contextlib.contextmanager
def piped() -> Iterator[None]:
    """End quietly, with the code of a program that SIGPIPE ended, if nobody reads the output any more."""
    code: Any = None
    try:
        yield
    except BrokenPipeError:
        if not is_unread("\n"):  # another pipe: a bug
            raise
    except SystemExit as stop:
        if not is_unread():
            raise
        code = stop.code
    else:
        if not is_unread():
            return
    raise SystemExit(code or BROKEN_PIPE)


def is_unread(more: str = "") -> bool:
    """Write what is left of the output, and more; whether nobody reads it. What follows is then thrown away."""
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
