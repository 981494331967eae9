"""The output of a program: what it may contain, and what happens if it is closed, or nobody reads it any more."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from common.refusal import printable

BROKEN_PIPE = 128 + 13  # the exit code that a shell gives a program that SIGPIPE ended
LAYOUT = "\n\r\t"
LOST = {errno.EPIPE, errno.EIO, errno.ENOSPC}  # nobody reads the pipe, the terminal is gone, the disk is full


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


class Dispensable:
    """A text stream that may be lost: a progress bar that nobody reads any more must not end a training.

    Args:
        stream: where the text goes, as long as that can be written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        try:
            return self._stream.write(text)
        except OSError:
            throw_away(self._stream)
        return len(text)

    def flush(self) -> None:
        """Write what is left."""
        try:
            self._stream.flush()
        except OSError:
            throw_away(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def throw_away(stream: TextIO) -> None:
    """Let what is written to a stream from now on, and what waits to be written, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_streams() -> None:
    """Open input and outputs that are closed (``>&-``), onto nothing; and let errors go there if nobody reads them.

    Else the next files that are opened would take the place of the output, and be written into. Letters that an
    output's encoding does not have are written out.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = Dispensable(sys.stderr or os.fdopen(2, "w", closefd=False))


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Write out control characters of whatever is printed."""
    with contextlib.redirect_stdout(PlainOutput(sys.stdout)):
        yield


@contextlib.contextmanager
def piped() -> Iterator[None]:
    """End with the exit code of :func:`end_output` if the output cannot be written: quietly, if nobody reads it."""
    code: Any = None
    try:
        yield
    except OSError as error:
        if error.errno not in LOST or not (lost := end_output("\n")):  # another pipe: a bug
            raise
    except SystemExit as stop:
        if not (lost := end_output()):
            raise
        code = stop.code
    else:
        if not (lost := end_output()):
            return
    raise SystemExit(code or lost)


def end_output(more: str = "") -> int:
    """Write what is left of the output, and more. If that cannot be done, what follows is thrown away.

    Returns:
        An exit code: 0 if all was written, 141 if nobody reads it any more, 2 if its disk is full, which is said.
    """
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        throw_away(sys.stdout)
        if error.errno != errno.ENOSPC:
            return BROKEN_PIPE
        print(f"the output cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return 0
