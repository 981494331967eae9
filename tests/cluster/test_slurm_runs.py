"""The job scripts for SLURM with the real programs, under the stand-in: the same bits as of one job without a stop."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import Job, groups, sbatch, send
from tests.test_imports import ROOT
from tests.training import tiny

pytestmark = pytest.mark.slow
LABEL = "digits_H0.9_K2"
TRAINING = {**tiny.FLAGS, "data_name": "digits", "train_steps": 60, "batch_size": 4, "log_every": 5, "device": "cpu"}
TRAINING |= {"val_check_interval": 20, "log_model_every_n": 30, "checkpoint_every": 1000}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def edited(name: str, run: str, flags: list[str]) -> str:
    """A job script, two of its three lines edited."""
    lines = (ROOT / "scripts" / "slurm" / name).read_text().splitlines()
    values = {"ID=": run, "FLAGS=": f"({' '.join(flags)})"}
    for start, value in values.items():
        (i,) = (i for i, line in enumerate(lines) if line.startswith(start))
        assert lines[i].endswith("  # edit")
        lines[i] = start + value
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder as the clone is, in which nothing is done yet."""
    folder = tmp_path_factory.mktemp("slurm") / "the clone"
    folder.mkdir()
    for name in ("train.py", "generate.py", "evaluate.py", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def job(clone: Path, script: str, **more: object) -> Job:
    plain = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": free_port(), "HOME": str(clone)}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return Job(script, clone, {**plain, "PATH": path}, **more)


def reached(folder: Path, step: int) -> bool:
    """Whether the log of a run has come to a step."""
    return (folder / "metrics.csv").is_file() and int(tiny.lines(folder)[-1]["step"]) >= step


def test_a_training_in_four_jobs_is_that_of_one(clone):
    """A signal ahead of the limit, a lost task, the limit as the program reads it; then it is finished."""
    flags = tiny.command(**TRAINING)
    many, one = (
        job(clone, edited("train.sbatch", name, flags), number=4711 + i, tasks=2)
        for i, name in enumerate(("many", "one"))
    )
    folder, whole = (clone / "runs" / f"{name}_{LABEL}" for name in ("many", "one"))
    killed: list[int] = []

    def kill(job: Job) -> None:
        if job.restarts == 1 and not killed and reached(folder, 25):
            (last,) = (group for group in groups(job.own) if (job.own / "tasks" / str(group)).read_text() == "1")
            killed.append(last)
            send(last, signal.SIGKILL)

    many.events = kill
    many.warn = lambda restarts: restarts == 0 and reached(folder, 5)
    many.limit = lambda restarts: 91.0 if restarts == 2 else 3600.0  # --max_time job stops 90 s before
    sbatch(many, within=200)
    print(many.log)
    assert many.codes == [130, 137, 0, 0]
    sbatch(one, within=100)
    assert one.codes == [0]
    assert tiny.difference(folder, whole) == 0
    assert tiny.lines(folder) == tiny.lines(whole)
