"""Worker processes that read samples: how what they read comes here, how long they are waited for, how they end."""

import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common import stopping
from common.cores import cores
from common.refusal import Refusal
from common.units import in_bytes

POLL = 1  # seconds of waiting between looks at whether to wait on
LIMIT = 300.0  # seconds of waiting after which what is awaited will not come
TIMED_OUT = "DataLoader timed out"  # how torch's message begins
SHARED_MEMORY = Path("/dev/shm")
LEAST = 1_000_000  # bytes of it that processes take before they read
SPARED = 8_000_000  # bytes of it that batches leave to others, such as the processes that read for validation

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this is the first of the processes of a run, by the variables that launchers set, as Lightning does."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    return int(next(filter(None, ranks), 0)) == 0


def num_readers() -> int:
    """Processes worth having to read with: the usable cores, at most 8."""
    return min(8, cores())


class Readers(DataLoader[T]):
    """A loader of whole batches, in order, read by worker processes; this process reads if there are none.

    Batches come through shared memory, or, where that is full, through a pipe. Processes that die, or of which none
    brings a batch for ``LIMIT`` seconds, end the iteration, and so does a stop that was asked for while nothing comes.

    Args:
        dataset: batches by index: a tensor, a number or a tuple of those.
        sampler: their indices.
        num_workers: number of processes.
        stay: they stay for another pass.
        pin_memory: bring batches to memory from which a GPU copies faster.

    Raises:
        Refusal: from the iterator, if no more batches will come.
        stopping.Overdue: from the iterator, if a stop cannot wait for them.
    """

    def __init__(
        self, dataset: Dataset[T], sampler: Iterable[int], num_workers: int, *, stay: bool, pin_memory: bool = False
    ) -> None:
        super().__init__(
            _Sent(dataset) if num_workers else dataset,
            batch_size=None,
            sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            timeout=POLL if num_workers else 0,
            worker_init_fn=_leave_signals_to_the_main_process,
            persistent_workers=stay and num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # a loader draws a seed for its workers; the global generator stays as it is
        )
        self._processes: set[Any] = set()

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # all that callers use of it
        if not self.num_workers:
            return super().__iter__()
        if not self._processes and room() < LEAST:  # torch could only fail half way
            raise Refusal(f"no processes that read can be started; {advice()}")
        before, known = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
        try:
            batches = self._started()
        except OSError as error:
            raise Refusal(f"no processes that read can be started ({error}); {advice()}") from error
        finally:
            # torch would raise in the midst of whatever is done when a process dies; it is noticed when data is missing
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, before)
        self._processes |= set(multiprocessing.active_children()) - known
        return _Awaited(batches, self._processes)

    def _started(self) -> Iterator[T]:
        try:
            return super().__iter__()
        except RuntimeError:  # processes that stayed do not answer: others take their place
            end(self._processes)
            self._iterator = None
            return super().__iter__()


class _Awaited(Iterator[T]):
    """Batches as they come, as long as there is hope.

    Args:
        batches: the iterator of a loader with a time-out.
        processes: that read.
    """

    def __init__(self, batches: Iterator[T], processes: set[Any]) -> None:
        self._batches, self._processes = batches, processes
        self._told = False

    def __next__(self) -> T:
        began = time.monotonic()
        try:
            while True:
                try:
                    batch: T = self._received(next(self._batches))
                    return batch
                except (RuntimeError, OSError, EOFError) as error:  # the latter from connections that break
                    timed_out = str(error).startswith(TIMED_OUT)
                    if dead := wait([process.sentinel for process in self._processes], 0 if timed_out else POLL):
                        raise Refusal(f"a process that reads data ended ({self._ending(dead)}); {advice()}") from error
                    if not timed_out:
                        raise
                stopping.check(began)
                if time.monotonic() - began > LIMIT:
                    raise Refusal(
                        f"no data came from {len(self._processes)} processes that read it for {LIMIT:.0f} s; see "
                        f"whether disk and network answer; {advice()}"
                    )
        except StopIteration:
            raise
        except BaseException:
            end(self._processes)  # one that hangs would not end by itself, and the program with it
            raise

    def _ending(self, sentinels: Collection[Any]) -> str:
        """How the first of some processes ended, in words."""
        process = next(process for process in self._processes if process.sentinel in sentinels)
        process.join()
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-process.exitcode).name}"
        return f"exit code {process.exitcode}"

    def _received(self, batch: Any) -> Any:
        parts = batch if isinstance(batch, tuple) else (batch,)
        if any(isinstance(part, np.ndarray) for part in parts) and not self._told:
            self._told = True
            if is_first_process():
                print(f"note: batches take a slower way; {advice()}", file=sys.stderr)
        received = tuple(torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in parts)
        return received if isinstance(batch, tuple) else received[0]


class _Sent(Dataset[Any]):
    """Batches on their way from a process that reads.

    Shared memory that is full would be noticed where torch can do no more than drop the batch.

    Args:
        dataset: the batches.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        batch = self.dataset[index]
        return tuple(map(_passable, batch)) if isinstance(batch, tuple) else _passable(batch)


def _passable(part: Any) -> Any:
    """A tensor in shared memory, or as an array, which goes through a pipe; anything else as it is."""
    if not isinstance(part, Tensor):
        return part
    if room() >= part.nbytes + SPARED:
        with contextlib.suppress(RuntimeError):  # others were faster
            return part.share_memory_()
    return part.numpy()


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group; the step that is finished first needs data."""
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end(processes: set[Any]) -> None:
    """Kill processes that read; they have nothing to put in order, and ignore what asks them to stop."""
    while processes:
        process = processes.pop()
        process.kill()
        process.join()


def room() -> float:
    """Bytes of shared memory that are free, if that can be told."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else math.inf


def advice() -> str:
    """What to do about processes that cannot deliver."""
    size = ""
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        size = f" ({SHARED_MEMORY}: {in_bytes(usage.free)} of {in_bytes(usage.total)} are free)"
    return f"give more shared memory{size}, in a container by --shm-size 2g, or lower --num_workers; 0 needs none"
