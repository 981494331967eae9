"""Processes that read: batches however they come, and an end where they do not."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from common import stopping
from common.data import readers
from common.data.readers import Readers
from common.refusal import Refusal


class Numbers(Dataset):
    """Batch i as (i, i, i, ..); where one is bad, what happens there instead."""

    def __init__(self, bad: int = -1, happens=None) -> None:
        self.bad, self.happens = bad, happens

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        if index == self.bad:
            self.happens()
        return index, torch.full((5,), index)


def values(loader: Readers) -> list[list[int]]:
    return [batch.tolist() for index, batch in loader]


WHOLE = [[i] * 5 for i in range(12)]


@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize("noticed", ["before", "late"])
def test_shared_memory_that_is_full(monkeypatch, capfd, stay, noticed):
    """As in containers, which have 64 MB: torch would drop the batch, and wait for it for ever."""

    def full(part):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")

    if noticed == "late":
        monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    else:
        monkeypatch.setattr(readers, "SPARED", 10**18)
    loader = Readers(Numbers(), range(12), 2, stay=stay)
    assert values(loader) == values(loader) == WHOLE
    line = capfd.readouterr().err.splitlines()[0]
    assert line.startswith("note: batches take a slower way; give more shared memory (/dev/shm: ")
    assert line.endswith(", in a container by --shm-size 2g, or lower --num_workers; 0 needs none")


def test_shared_memory_without_any_room(monkeypatch):
    monkeypatch.setattr(readers, "LEAST", 10**18)
    with pytest.raises(Refusal, match=r"no processes that read can be started; .*shared memory.*--num_workers"):
        iter(Readers(Numbers(), range(12), 2, stay=False))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs() -> None:
    time.sleep(1000)


def breaks() -> None:
    raise RuntimeError("a bug of a plugin")


@pytest.mark.parametrize(
    ("happens", "error", "message"),
    [
        (killed, Refusal, r"a process that reads data ended \(killed by SIGKILL\); .*--num_workers"),
        (hangs, Refusal, r"no data came from 2 processes that read it for 0 s; .*shared memory.*--num_workers"),
        (breaks, RuntimeError, "a bug of a plugin"),
    ],
)
def test_data_that_does_not_come(monkeypatch, happens, error, message):
    monkeypatch.setattr(readers, "LIMIT", 0.0)
    handler = signal.getsignal(signal.SIGCHLD)
    loader = Readers(Numbers(7, happens), range(12), 2, stay=True)
    batches, found = iter(loader), []
    processes = set(batches._processes)
    assert signal.getsignal(signal.SIGCHLD) == handler  # a death is noticed here, not in the midst of a step
    with pytest.raises(error, match=message):
        found += [batch.tolist() for index, batch in iter(batches)]
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)


def test_a_stop_does_not_wait_for_it(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0.0)
    patience, batches = stopping.Patience(""), iter(Readers(Numbers(7, hangs), range(12), 2, stay=False))
    patience.begin()
    try:
        assert next(batches)[0] == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert [next(batches)[0] for _ in range(6)] == list(range(1, 7))  # what comes is taken
        with pytest.raises(stopping.Overdue):
            next(batches)
    finally:
        patience.end()


def test_processes_that_died_between_two_passes_are_replaced():
    loader = Readers(Numbers(), range(12), 2, stay=True)
    first = iter(loader)
    assert [index for index, _ in first] == list(range(12))
    for process in first._processes:
        process.kill()
        process.join()
    assert values(loader) == WHOLE


def test_processes_leave_signals_to_the_main_one():
    """They reach the whole group, and the step that is finished first needs data."""
    loader = Readers(Numbers(), range(12), 1, stay=True)
    batches = iter(loader)
    next(batches)
    for number in stopping.SIGNALS:
        os.kill(next(iter(batches._processes)).pid, number)
    assert [index for index, _ in batches] == list(range(1, 12))
