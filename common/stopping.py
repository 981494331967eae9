"""What the signals that ask a program to stop do to it, from its first second to its last.

SIGINT, SIGTERM, SIGHUP and SIGUSR1 (schedulers send it ahead of a limit) are all alike. A program goes through these
parts (``common/program.py``):

| part | a signal | another one |
| --- | --- | --- |
| imports, command line | ends it, with a line | |
| work | raises KeyboardInterrupt | ends it, with a line |
| steps of a training (:class:`Patience`) | is remembered, the step goes on | raises KeyboardInterrupt |
| exit | ends it | |
| the last tenths of a second, in which Python clears up | nothing | nothing |

Whatever ends it, the exit code is 130. Nothing here takes long to import.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
CODE = 130  # the exit code of a program that was stopped
LOST = 75  # that of one of several processes which lost another (sysexits.h: EX_TEMPFAIL); the same command goes on
SAME = 0.5  # seconds within which signals are one: `timeout` sends its own to a process and to its group
GRACE = 10.0  # seconds that data may keep a stop waiting

Reaction = Callable[[], None]


class Overdue(KeyboardInterrupt):
    """A stop was asked for, and what it waits for does not come."""


def exit_code() -> int:
    """The exit code of a program that was stopped and has put everything in order.

    0 in the processes that a first one has started (it is Lightning that numbers them so): its own code counts. Of
    those that torchrun or srun started every code counts.
    """
    is_started = os.environ.get("LOCAL_RANK", "0") != "0" and "RANK" not in os.environ
    return 0 if is_started else CODE


def tell(line: str) -> None:
    """Write a line to stderr from within a signal handler: straight away, and whether or not anybody reads it."""
    with contextlib.suppress(OSError):  # the terminal may be gone: SIGHUP says so
        os.write(2, f"\n{line}\n".encode())


# -- reactions ---------------------------------------------------------------------------------------------------------


def _nothing_was_done() -> NoReturn:
    """In an import an exception would meet code that does not expect it, and end in a traceback."""
    tell("stopped; nothing was done yet")
    os._exit(CODE)


def _raise() -> NoReturn:
    raise KeyboardInterrupt


def _interrupt() -> NoReturn:
    react_by(_cut_short)
    raise KeyboardInterrupt


def _cut_short() -> NoReturn:
    """Nothing is half written: files get their names when they are whole."""
    tell("stopped at once; what was not saved by then is lost")
    os._exit(CODE)


def _leave() -> NoReturn:
    os._exit(CODE)


_reaction: Reaction = _raise
_last = -SAME  # when a signal came, on the clock time.monotonic
_process = 0  # whose signals these are; a fork has them by accident


def react_by(reaction: Reaction) -> None:
    """Let the next signal do this."""
    global _reaction
    _reaction = reaction


def _handle(number: int, frame: Any) -> None:
    global _last
    if os.getpid() != _process:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif time.monotonic() - _last >= SAME:
        _last = time.monotonic()
        _reaction()


def _ignore() -> None:
    """Python puts default handlers back when it ends, and those kill, with an exit code that says so."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _set(number: int, handler: Any) -> None:
    """Python lets the main thread alone set handlers; work in another one, as of a notebook's server, goes without."""
    if handler is not None and threading.current_thread() is threading.main_thread():  # None: Python did not set it
        signal.signal(number, handler)


def _install() -> None:
    global _process, _last
    _process, _last = os.getpid(), -SAME
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored: that is what nohup does
            _set(number, _handle)


# -- parts of a program ------------------------------------------------------------------------------------------------


def take() -> None:
    """Take the signals of this program; nothing is done yet."""
    react_by(_nothing_was_done)
    _install()
    atexit.register(_ignore)  # the first to be registered is the last to be called
    report = sys.unraisablehook

    def end(unraisable: Any) -> None:
        """A KeyboardInterrupt that came where nothing can be raised (a finaliser) would be shown and forgotten."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _cut_short()
        report(unraisable)

    sys.unraisablehook = end


def begin_work() -> None:
    """From here on there is something to put in order, or to tell, before the program ends."""
    if _reaction is _nothing_was_done:
        react_by(_interrupt)


def leave() -> None:
    """All is done and told; what follows belongs to Python and its libraries."""
    react_by(_leave)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put the handlers of the signals back at the end, whoever changes them: Lightning ignores SIGINT after one."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            _set(number, handler)


class Patience:
    """While it lasts, a signal only asks to stop, at the next good place; another one raises KeyboardInterrupt.

    Args:
        answer: what is said to the first signal.
    """

    def __init__(self, answer: str) -> None:
        self._answer, self._asked = answer, -1.0  # when, on the clock time.monotonic
        self._before, self._handlers = _reaction, dict[int, Any]()

    @property
    def is_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked >= 0

    def _ask(self) -> None:
        if self.is_asked:
            self._before()
        self._asked = time.monotonic()
        if self._answer:
            tell(self._answer)

    def begin(self) -> None:
        """Take the signals over."""
        global _patience
        self._before, self._handlers = _reaction, {number: signal.getsignal(number) for number in SIGNALS}
        react_by(self._ask)
        _install()
        _patience = self

    def end(self) -> None:
        """Hand them back; nothing happens if they were."""
        global _patience
        if _patience is self:
            for number, handler in self._handlers.items():
                _set(number, handler)
            if _reaction == self._ask:  # else this raised, and another signal shall not do so again
                react_by(self._before)
            _patience = None


_patience: Patience | None = None


def check(since: float) -> None:
    """For whoever waits: raise if a stop was asked for and has waited long enough.

    Args:
        since: when this wait began, on the clock ``time.monotonic``.

    Raises:
        Overdue: if so.
    """
    if _patience is not None and _patience.is_asked and time.monotonic() - max(since, _patience._asked) > GRACE:
        raise Overdue
