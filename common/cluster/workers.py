"""Local processes that do tasks one at a time: set up once, started again if they die, ended with the first process."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

import torch

from common.cores import cores
from common.refusal import Refusal
from common.stopping import SIGNALS

MOST_DEATHS = 3  # in a row, without a task that was finished: it is not bad luck then
PATIENCE = 5.0  # seconds that a process has to end by itself when all is done
EVERY, LIMIT = 3.0, 45.0  # seconds between two signs of life, and without one until a process is ended
EVERY, MISSED = 3.0, 15  # seconds between two signs of life of a process, and how many may be missing
CARRIED = (Refusal, OSError, MemoryError, RuntimeError)  # errors that a user may be able to mend, as they are

Task = TypeVar("Task")
Result = TypeVar("Result")
Report = Callable[[Any], None]
Work = Callable[[Task, Report], Result]


class Workers(Generic[Task, Result]):
    """Processes of this machine that share work, as a context: they are there inside, and none is left behind.

    What a process needs goes to it once, a task at a time follows, and a result comes back; nothing goes through files.
    If the first process dies, however it does, the others end at once. One that dies is started again, and its task is
    done by another; so is that of one that is stopped, which gives no sign of life. Signals that stop a program are the
    first process's affair: the others do not hear them.

    Args:
        count: how many.
        setup: called in every process with its device, then ``arguments``; gives what does a task: a function of the
            task and of a function that tells of progress. It is found by its name, so it must stand in a module.
        arguments: of ``setup``.
        device: ``cpu`` or ``cuda``; processes take turns among the CUDA devices.
        threads: of torch, in every process; None shares the cores among them, at least one each.
        prepare: called before anything else of it is read, e.g. to import modules that ``arguments`` have classes of.
        name: what messages call such a process.
    """

    def __init__(
        self,
        count: int,
        setup: Callable[..., Work[Task, Result]],
        arguments: Sequence[Any] = (),
        *,
        device: str = "cpu",
        threads: int | None = None,
        prepare: Callable[[], None] | None = None,
        name: str = "process",
    ) -> None:
        self._order, self._prepare, self._name = (setup, tuple(arguments)), prepare, name
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if device == "cuda" else [device]
        shared = threads or max(1, cores() // count)
        self._seats = [_Seat(number, devices[number % len(devices)], shared) for number in range(count)]
        self._deaths, self._looked = 0, time.monotonic()

    def __enter__(self) -> "Workers[Task, Result]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for seat in self._seats:
            seat.leave(at_once=kind is not None)

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes that run."""
        return [int(seat.process.pid or 0) for seat in self._seats if seat.process is not None]

    def results(
        self,
        tasks: Iterable[Task],
        on_progress: Callable[[Task, Any], None] | None = None,
        on_death: Callable[[Task | None, str], None] | None = None,
    ) -> Iterator[tuple[Task, Result]]:
        """Do tasks; yields each with its result, in the order in which they are done.

        Args:
            tasks: one is taken whenever a process is free, so that they may be made as they are needed.
            on_progress: called with a task and what its process tells of it. A task that is done again tells again.
            on_death: called with the task of a process that died, if it had one, and what became of it in words.

        Raises:
            Refusal: if one of them cannot be done, or processes die time and again.
            RuntimeError: for a bug in a process, with its traceback.
        """
        waiting, again, busy = iter(tasks), deque[Task](), 0
        is_over = False
        while True:
            for seat in self._seats:
                if not seat.is_free:
                    continue
                if again:
                    task = again.popleft()
                else:
                    try:
                        task = next(waiting)
                    except StopIteration:
                        is_over = True
                        break
                self._give(seat, task)
                busy += 1
            if is_over and not busy:
                return
            for seat in self._ready():
                try:
                    kind, content = seat.pipe.recv()
                except (EOFError, OSError):
                    lost, how = seat.task, seat.end()
                    if not seat.is_free:
                        again.appendleft(lost)
                        busy -= 1
                    seat.is_free = True
                    if on_death:
                        on_death(lost, how)
                    self._count_death(how)
                    continue
                if kind == ALIVE:
                    seat.is_ready = True
                elif kind == PROGRESS:
                    if on_progress:
                        on_progress(seat.task, content)
                elif kind == RAISED:
                    raise content
                else:
                    task, seat.task, seat.is_free, self._deaths = seat.task, None, True, 0
                    busy -= 1
                    yield task, content

    def _give(self, seat: "_Seat", task: Task) -> None:
        if seat.process is None:
            seat.start(self._prepare, self._order)
        seat.task, seat.is_free = task, False
        with contextlib.suppress(OSError):  # it has just died, which is seen when it is listened to
            seat.pipe.send(task)

    def _ready(self) -> "list[_Seat]":
        by_pipe = {seat.pipe: seat for seat in self._seats if seat.process is not None}
        heard = [by_pipe[pipe] for pipe in connection.wait(list(by_pipe), EVERY) if isinstance(pipe, Connection)]
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * EVERY), now  # this one may have been stopped, with all
        for seat in by_pipe.values():
            seat.listen(passed, heard=seat in heard)
        return heard

    def _count_death(self, how: str) -> None:
        self._deaths += 1
        if self._deaths >= MOST_DEATHS:
            raise Refusal(
                f"a {self._name} died {self._deaths} times in a row, the last one {how}; take fewer processes "
                "(--devices), or one, which says more"
            )


def cause(code: int | None) -> str:
    """How a process has ended, in words.

    Args:
        code: its exit code, as :mod:`multiprocessing` has it: below zero if a signal ended it.
    """
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}{' (for want of memory?)' * (-code == signal.SIGKILL)}"
    return f"with exit code {code}"


@dataclass
class _Seat:
    """The place of one process, whoever takes it.

    Attributes:
        number: from 0.
        device: where it computes.
        threads: of torch.
        process: it; None before it is needed.
        task: what it does.
        is_free: whether it does nothing.
        is_ready: whether it has begun to give signs of life, after it was set up.
        silence: seconds without one.
        was_silent: whether it was ended for that.
    """

    number: int
    device: str
    threads: int
    process: SpawnProcess | None = None
    task: Any = None
    is_free: bool = True
    is_ready: bool = False
    silence: float = 0.0
    was_silent: bool = False

    def start(self, *order: Any) -> None:
        """Start its process, which signals do not reach from its first instant on."""
        context = multiprocessing.get_context("spawn")  # one that was forked may use neither CUDA nor threads
        resource_tracker.ensure_running()  # else it is started below, and lets signals in again
        self.pipe, other = context.Pipe()
        self.is_ready, self.silence, self.was_silent = False, 0.0, False
        self.process = context.Process(target=_live, args=(other, self.device, self.threads), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other.close()
        with contextlib.suppress(OSError):
            for part in order:
                self.pipe.send(part)

    def listen(self, passed: float, *, heard: bool) -> None:
        """Note whether anything was heard of its process in so many seconds; one that is silent too long is ended."""
        assert self.process is not None  # somebody was listened to
        self.silence = 0.0 if heard else self.silence + passed
        if self.is_ready and self.silence > LIMIT:
            self.was_silent = True
            self.process.kill()  # which is heard

    def end(self) -> str:
        """See it off; how it has ended, in words."""
        assert self.process is not None  # somebody was listened to
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()
        how, self.process = cause(self.process.exitcode), None
        if self.was_silent:
            how = f"ended, since it gave no sign of life for {LIMIT:.0f} s"
        self.pipe.close()
        return how

    def leave(self, *, at_once: bool) -> None:
        """End it, if there is one: at once, or as it does by itself when nobody has work for it."""
        if self.process is None:
            return
        if at_once:
            self.process.kill()
        self.pipe.close()
        self.end()


# -- in another process ------------------------------------------------------------------------------------------------

ALIVE, PROGRESS, DONE, RAISED = "alive", "progress", "done", "raised"


def _live(pipe: Connection, device: str, threads: int) -> None:
    for number in SIGNALS:  # they are blocked until here
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_first, daemon=True).start()
    torch.set_num_threads(threads)
    turn = threading.Lock()

    def send(kind: str, content: Any = None) -> None:
        with turn:
            pipe.send((kind, content))

    try:
        prepare = _received(pipe)
        if prepare is not None:
            prepare()
        setup, arguments = _received(pipe)
        work = setup(torch.device(device), *arguments)
        send(ALIVE)
        threading.Thread(target=_say_alive, args=(send,), daemon=True).start()
        while True:
            task = _received(pipe)
            send(DONE, work(task, lambda content: send(PROGRESS, content)))
    except EOFError:
        return  # the first process has no more work, or has died
    except Exception as error:  # handed to the first process, which tells it
        text = "".join(traceback.format_exception(error))
        known = type(error).__module__ in ("builtins", Refusal.__module__)
        send(RAISED, error if known and isinstance(error, CARRIED) else RuntimeError(f"in a process:\n{text}"))


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except ConnectionResetError as error:  # the first process has not heard the last signs of life
        raise EOFError from error


def _say_alive(send: Callable[[str], None]) -> None:
    """A process that is stopped would be waited for without end."""
    with contextlib.suppress(OSError):  # the first process listens no more
        while True:
            time.sleep(EVERY)
            send(ALIVE)


def _end_with_first() -> None:
    """If the first process is killed, it tells nobody: this one would go on, with all its memory, for nobody."""
    first = multiprocessing.parent_process()
    assert first is not None  # this is another one
    first.join()
    os._exit(1)
