"""The command line's --dry_run, and what happens where memory is short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import args
from common.training import dry_run, trial
from tests.training import tiny

ROOT = Path(args.__file__).parent


def test_what_does_not_fit_is_refused_before_it_is_tried(cli, monkeypatch):
    monkeypatch.setattr(dry_run, "available", lambda device: 3e6)
    monkeypatch.setattr(trial, "available", lambda device: 3e6)
    result = cli("train", *tiny.command(**tiny.FLAGS | {"batch_size": 4096}), "--dry_run")
    assert result.code == 2
    assert re.search(r"--batch_size 4096: a step needs about .* can be had; --batch_size \d+ --acc", result.err)
    assert "tried     1 sample: " in result.out
    assert result.written == []


def test_a_training_that_cannot_fit_is_refused_and_one_that_may_not_says_so(cli, monkeypatch):
    words = tiny.command(**tiny.FLAGS | {"train_steps": 4, "batch_size": 8}, wb_id="a")
    assert cli("train", *words).code == 0
    monkeypatch.setattr(dry_run, "available", lambda device: 1e6)
    monkeypatch.setattr(trial, "available", lambda device: 1e6)
    result = cli("train", *words[:-1], "b")
    assert result.code == 2
    assert "--batch_size 8: a step needs about" in result.err
    assert not list(Path("runs").glob("b_*"))
    monkeypatch.setattr(dry_run, "CERTAIN", 1e6)  # now the estimate may be wrong by that much
    result = cli("train", *words[:-1], "b")
    assert result.code == 0
    assert "note      a step needs about" in result.out
    a, b = (torch.load(next(Path("runs").glob(f"{name}_*/model/model-final.pth")), weights_only=True) for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_device_without_memory_is_told_in_one_line(cli, monkeypatch):
    def full(self, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. And much more")

    monkeypatch.setattr("common.training.module.DiffusionModule.training_step", full)
    result = cli("train", *tiny.command(**tiny.FLAGS, wb_id="full"))
    assert result.code == 2
    (line,) = [line for line in result.err.splitlines() if "error" in line]
    assert "--batch_size 128 is too large for the device (CUDA out of memory)" in line
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_two_processes_are_tried(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *tiny.command(**tiny.FLAGS), *["--dry_run", "--devices", "2"]],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "devices   2 processes have taken a step together" in done.stdout
    assert done.stdout.count("tried     1 sample: ") == 1  # one process estimates
    assert list(tmp_path.iterdir()) == []
