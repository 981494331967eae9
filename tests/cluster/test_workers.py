"""Local processes that share work: results, progress, deaths, errors, signals, and none that is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.cluster import workers as workers_module
from common.cluster.workers import Workers, cause, cores
from common.refusal import Refusal
from tests.test_imports import ROOT

pytestmark = pytest.mark.slow  # processes that import torch

ASK_SLOWLY = """
import sys
from tests.cluster.test_workers import endless
if __name__ == "__main__":
    endless()
"""


def doubled(device, factor):
    """Set a process up: it multiplies, and does what some numbers mean."""

    def work(task, report):
        report((os.getpid(), torch.get_num_threads(), str(device)))
        if task == "die" or (task == 3 and not Path("died").exists()):
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "refuse":
            raise Refusal("is none", "number")
        if task == "bug":
            raise KeyError("nothing")
        if task == "stop" and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if task == "sleep":
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGTERM)  # not for this process
        return factor * task

    return work


def endless():
    with Workers(2, doubled, (2,)) as workers:
        for _ in workers.results(["sleep", "sleep"], lambda _, content: print(content[0], flush=True)):
            pass


def test_work_is_shared_and_a_process_that_dies_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told, deaths = {}, []
    with Workers(2, doubled, (2,)) as workers:
        found = workers.results(iter(range(6)), told.__setitem__, lambda task, how: deaths.append((task, how)))
        results = dict(found)
        assert len(set(workers.processes)) == 2
        assert dict(workers.results([7])) == {7: 14}  # they are there for more
        processes = workers.processes
    assert results == {task: 2 * task for task in range(6)}
    assert deaths == [(3, "killed by SIGKILL (for want of memory?)")]
    assert {threads for _, threads, _ in told.values()} == {max(1, cores() // 2)}
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_what_ends_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task, error, said in (("refuse", Refusal, "number is none"), ("bug", RuntimeError, "KeyError: 'nothing'")):
        with pytest.raises(error, match=said), Workers(1, doubled, (2,), threads=1) as workers:
            list(workers.results([task]))
    monkeypatch.setattr(workers_module, "MOST_DEATHS", 2)
    with Workers(1, doubled, (2,)) as workers, pytest.raises(Refusal, match="2 times in a row, the last one killed"):
        list(workers.results(["die", 1]))


def test_one_that_is_stopped_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers_module, "LIMIT", 1.5)
    monkeypatch.setattr(workers_module, "EVERY", 0.2)  # of the first process
    deaths = []
    with Workers(1, doubled, (2,)) as workers:
        found = workers.results(["stop"], on_death=lambda task, how: deaths.append((task, how)))
        assert dict(found) == {"stop": "stopstop"}
    assert deaths == [("stop", "ended, since it gave no sign of life for 2 s")]


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_they_end_with_the_first_process(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = tmp_path / "first.py"
    script.write_text(ASK_SLOWLY)
    first = subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path, start_new_session=True
    )  # fmt: skip
    others = [int(first.stdout.readline()) for _ in range(2)]
    assert all(map(alive, others))
    if number == signal.SIGINT:
        os.killpg(first.pid, number)  # as from a keyboard
    else:
        first.kill()
    error = first.communicate(timeout=30)[1]
    assert error.count("Traceback") == (number == signal.SIGINT)  # of the first process alone
    until = time.monotonic() + 10
    while any(map(alive, others)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, others))


def test_how_a_process_has_ended():
    assert cause(-signal.SIGTERM) == "killed by SIGTERM"
    assert cause(1) == "with exit code 1"
