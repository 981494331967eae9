"""The job scripts for SLURM with the real programs, under the stand-in: the same bits as of one job without a stop."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import generate
from common.files import load_checkpoint
from tests.cluster.slurm import Job, groups, sbatch, send
from tests.test_imports import ROOT
from tests.training import tiny

pytestmark = pytest.mark.slow
LABEL = "digits_H0.9_K2"
TRAINING = {**tiny.FLAGS, "data_name": "digits", "train_steps": 60, "batch_size": 4, "log_every": 5, "device": "cpu"}
TRAINING |= {"val_check_interval": 20, "log_model_every_n": 30, "checkpoint_every": 10, "keep": 9}


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


def workers(run: str, rank: str) -> list[int]:
    """Process ids of a rank of a run that torchrun has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            variables = (path / "environ").read_bytes().split(b"\0")
            if b"train.py" in words and run.encode() in words and f"RANK={rank}".encode() in variables:
                found.append(int(path.name))
    return found


def reached(folder: Path, step: int) -> bool:
    """Whether the log of a run has come to a step."""
    return (folder / "metrics.csv").is_file() and int(tiny.lines(folder)[-1]["step"]) >= step


@pytest.fixture(scope="module")
def whole(clone) -> Path:
    """The folder of the training in one job."""
    one = job(clone, edited("train.sbatch", "one", tiny.command(**TRAINING)), tasks=2)
    sbatch(one, within=100)
    assert one.codes == [0], one.log
    return clone / "runs" / f"one_{LABEL}"


def test_a_training_in_three_jobs_is_that_of_one(clone, whole):
    """The limit comes near, a task is lost; then it is finished."""
    many = job(clone, edited("train.sbatch", "many", tiny.command(**TRAINING)), number=4712, tasks=2)
    folder, killed = clone / "runs" / f"many_{LABEL}", list[int]()

    def kill(job: Job) -> None:
        if job.restarts == 1 and not killed and reached(folder, 25):
            killed.extend(group for group in groups(job.own) if (job.own / "tasks" / str(group)).read_text() == "1")
            send(killed[0], signal.SIGKILL)

    many.events = kill
    many.warn = lambda restarts: restarts == 0 and reached(folder, 5)
    sbatch(many, within=200)
    assert many.codes == [130, 137, 0], many.log
    assert tiny.difference(folder, whole) == 0
    assert tiny.lines(folder) == tiny.lines(whole)


def test_ssh_on_two_hosts_one_of_which_loses_a_process(clone, whole):
    """Both hosts are this machine. torchrun starts both processes again; then Ctrl-C stops them, resumably."""
    (clone / "bin").mkdir()
    (clone / "bin" / "ssh").symlink_to(Path(__file__).with_name("ssh"))
    path = f"{clone / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    plain = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": free_port(), "PATH": path}
    flags, folder = tiny.command(**TRAINING, wb_id="hosts", devices=1), clone / "runs" / f"hosts_{LABEL}"
    process = subprocess.Popen(
        ["scripts/ssh/train.sh", "127.0.0.1", "localhost", "--", *flags],
        cwd=clone,
        env=plain,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    numbered = folder / "checkpoints"

    def wait_for(name: str) -> None:
        until = time.monotonic() + 100
        while not (numbered / name).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)

    try:
        wait_for("step-0000010.ckpt")
        (child,) = workers("hosts", "1")
        os.kill(child, signal.SIGKILL)
        wait_for("step-0000030.ckpt")
        os.killpg(process.pid, signal.SIGINT)
        out = process.communicate(timeout=100)[0].decode()
    finally:
        for child in (*workers("hosts", "0"), *workers("hosts", "1")):
            os.kill(child, signal.SIGKILL)
        process.kill()
    assert process.returncode == 130, out
    assert "goes on at step" in out  # after the loss
    assert "stopped at step" in out
    lines = out.strip().split("\n")  # a bar is one line with carriage returns
    assert [line for line in lines if not line.startswith(("127.0.0.1: ", "localhost: ", "train.sh: "))] == []
    step = tiny.step_of(numbered / "last.ckpt")
    ours, theirs = (
        load_checkpoint(path) for path in (numbered / "last.ckpt", whole / f"checkpoints/step-{step:07d}.ckpt")
    )
    names = [name for name in ours["state_dict"] if not name.startswith("level_")]  # mean losses, which are only shown
    assert len(names) > 100
    assert [name for name in names if not torch.equal(ours["state_dict"][name], theirs["state_dict"][name])] == []


def test_samples_of_an_array_and_their_figures_are_those_of_one_process(clone, whole, capsys):
    """One of three tasks is killed while it draws, and comes back; two tasks compute the features."""
    alone = clone / "alone"
    shutil.copytree(whole, alone / whole.name)
    drawing = ["--n_samples", "48", "--batch_size", "4", "--steps", "20", "--device", "cpu"]
    script, killed = edited("generate.sbatch", "one", drawing), list[int]()
    jobs = [job(clone, script, number=4711 + i, element=(i, 0, 3)) for i in range(3)]

    def kill(job: Job) -> None:
        if not killed and list(whole.glob("generated_data/*/*/data/*.npy")):
            killed.extend(groups(job.own))
            send(killed[0], signal.SIGKILL)

    jobs[1].events = kill
    sbatch(*jobs, within=100)
    assert [one.codes for one in jobs] == [[0], [137, 0], [0]], [one.log for one in jobs]
    assert generate.main(["--run_id", "one", "--output_dir", str(alone), *drawing]) == 0
    (drawn,), (plain,) = (sorted(folder.glob("generated_data/*/*/")) for folder in (whole, alone / whole.name))
    names = [path.name for path in sorted((plain / "data").iterdir())]
    assert names == [path.name for path in sorted((drawn / "data").iterdir())]
    assert len(names) == 12
    for name in names:
        assert np.array_equal(np.load(drawn / "data" / name), np.load(plain / "data" / name))

    judging = ["--metrics", "sw,fid", "--features", "pixels", "--device", "cpu"]
    both = job(clone, edited("evaluate.sbatch", "one", judging), tasks=2)
    sbatch(both, within=100)
    assert both.codes == [0], both.log
    assert evaluate.main(["--run_id", "one", "--output_dir", str(alone), *judging]) == 0
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (drawn, plain))
    assert len(one) > 2
    assert {**one, "about": 0} == {**other, "about": 0}
