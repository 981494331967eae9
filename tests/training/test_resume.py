"""A run that was cut off goes on as if it had not been: weights, average and log lines bit for bit."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from common import stopping
from common.data import module, reading
from common.training import checkpoints
from common.training.module import DiffusionModule
from tests.training import interrupted, tiny

ACCUMULATE = 2
STEPS = 24
# 1,500 scans are 62.5 micro-steps of 24: the whole run lies in its first pass, every checkpoint in mid-epoch
FLAGS = {
    **tiny.FLAGS,
    "train_steps": STEPS,
    "batch_size": 24,
    "accumulate_grad_batches": ACCUMULATE,
    "dropout": 0.1,
    "flip": True,
    "ema_every": 2,
    "log_every": 3,
    "val_check_interval": 10,
    "log_model_every_n": 12,
    "checkpoint_every": 8,
}
NAME = "r_digits_H0.9_K2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupted.make_quick(patch.setattr)
        torch.set_num_threads(1)
        assert train.main(tiny.command(**FLAGS, wb_id="r", output_dir=folder)) == 0
    return folder / NAME


def signal_in(monkeypatch, micro_step: int, number: int = signal.SIGINT, times: int = 1) -> None:
    """Send this process a signal within a micro-step of training."""
    training_step = DiffusionModule.training_step

    def interrupted(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        if batch.micro_step == micro_step:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return loss

    monkeypatch.setattr(DiffusionModule, "training_step", interrupted)


def stopped(monkeypatch, folder: Path, micro_step: int, *words: str, number: int = signal.SIGINT, **flags) -> int:
    """Train until a signal within a micro-step; the exit code."""
    with monkeypatch.context() as patch:
        signal_in(patch, micro_step, number)
        return train.main(tiny.command(*words, output_dir=folder, **flags))


def resume(folder: Path, *words: str) -> int:
    return train.main(tiny.command(*words, resume="r", output_dir=folder))


def assert_same(run: Path, whole: Path) -> None:
    assert tiny.difference(run, whole) == 0
    assert tiny.lines(run) == tiny.lines(whole)
    assert sorted(p.name for p in (run / "samples").iterdir()) == sorted(p.name for p in (whole / "samples").iterdir())
    for picture in (whole / "samples").iterdir():
        assert (run / "samples" / picture.name).read_bytes() == picture.read_bytes()


def test_a_checkpoint_by_the_clock_loses_nothing(tmp_path, uninterrupted, monkeypatch):
    """Cut off in step 12 without a signal: the last checkpoint by steps is that of 8, by the clock that of 11."""
    training_step = DiffusionModule.training_step

    def cut(self, batch, batch_idx):
        if batch.micro_step == 11 * ACCUMULATE + 1:
            raise ZeroDivisionError("cut off")
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "SAVE_EVERY", 0.0)
        patch.setattr(DiffusionModule, "training_step", cut)
        with pytest.raises(ZeroDivisionError, match="cut off"):
            train.main(tiny.command(**FLAGS, wb_id="r", output_dir=tmp_path))
    assert tiny.step_of(tmp_path / NAME / "checkpoints" / "last.ckpt") == 11
    assert resume(tmp_path) == 0
    assert_same(tmp_path / NAME, uninterrupted)


@pytest.mark.parametrize(
    "steps", [pytest.param(13, marks=pytest.mark.slow, id="within"), pytest.param(10, id="after a validation")]
)
def test_a_stop_while_data_does_not_come_loses_nothing(tmp_path, uninterrupted, monkeypatch, steps):
    """The process that reads hangs; one batch more than those of the steps is there."""
    read = module._Batches.__getitem__

    def hanging(self, index):
        if index > steps * ACCUMULATE and isinstance(self.order, module.BatchOrder):
            time.sleep(1000)
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "RESIDENT_LIMIT", 0)
        patch.setattr(module._Batches, "__getitem__", hanging)
        patch.setattr(stopping, "GRACE", 0.0)
        signal_in(patch, steps * ACCUMULATE - 1, signal.SIGTERM)
        patch.setattr(checkpoints, "anywhere", lambda trainer, wish: False)  # too late for the end of the step
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {steps}; nothing was lost; go on with: python"):
            train.main(tiny.command(**FLAGS, wb_id="r", output_dir=tmp_path, num_workers=1))
    assert tiny.step_of(tmp_path / NAME / "checkpoints" / "last.ckpt") == steps
    assert resume(tmp_path) == 0
    assert_same(tmp_path / NAME, uninterrupted)


# the first micro-step of step 13 and the second one of step 14: both within an optimiser step
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "micro_step", "code", "checkpoint"),
    [("SIGINT", 12 * ACCUMULATE, 130, 13), ("SIGKILL", 13 * ACCUMULATE + 1, -signal.SIGKILL, 8)],
)
def test_a_signal_to_the_process(tmp_path, uninterrupted, number, micro_step, code, checkpoint):
    flags = tiny.command(**FLAGS, wb_id="r", output_dir=tmp_path)
    done = subprocess.run(
        [sys.executable, interrupted.__file__, number, str(micro_step), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    run = tmp_path / NAME
    assert tiny.step_of(run / "checkpoints" / "last.ckpt") == checkpoint
    assert not list(run.rglob("*.tmp"))
    assert not (run / "model" / "model-final.pth").exists()
    if number == "SIGINT":
        assert done.stdout.splitlines()[-1] == f"go on with: python train.py --resume {NAME} --output_dir {tmp_path}"
    assert resume(tmp_path) == 0
    assert_same(run, uninterrupted)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (3, signal.SIGINT),  # before the first checkpoint, on a log line
        (10, signal.SIGINT),  # a step that is validated: its line and its grid belong to the run
        (13, signal.SIGTERM),  # between log lines: the loss of line 15 is still the mean over all its steps
    ],
)
def test_a_stop_and_a_second_start(tmp_path, monkeypatch, capsys, uninterrupted, step, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert stopped(monkeypatch, tmp_path, (step - 1) * ACCUMULATE, number=number, wb_id="r", **FLAGS) == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    out = capsys.readouterr().out.splitlines()
    # a step that is validated may end before the stop, or the stop may wait for the next step
    taken = tiny.step_of(tmp_path / NAME / "checkpoints" / "last.ckpt")
    assert taken == step or (step == 10 and taken == 11)
    assert f"stopped at step {taken}" in out[-2]
    assert out[-1] == f"go on with: python train.py --resume {NAME} --output_dir {tmp_path}"
    # the printed command, as it stands
    assert train.main(out[-1].split("train.py ")[1].split()) == 0
    assert_same(tmp_path / NAME, uninterrupted)
    # later checkpoints replace last.ckpt, also that of a stop before the first regular one (none is called last-v1)
    folder = tmp_path / NAME / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step-0000016.ckpt", "step-0000024.ckpt"]
    assert tiny.step_of(folder / "last.ckpt") == STEPS


def test_stopped_twice(tmp_path, monkeypatch, uninterrupted):
    assert stopped(monkeypatch, tmp_path, 5 * ACCUMULATE, wb_id="r", **FLAGS) == 130
    assert stopped(monkeypatch, tmp_path, 20 * ACCUMULATE + 1, "--resume", "auto", wb_id="r", **FLAGS) == 130
    assert tiny.step_of(tmp_path / NAME / "checkpoints" / "last.ckpt") == 21
    assert resume(tmp_path) == 0
    assert tiny.difference(tmp_path / NAME, uninterrupted) == 0
    assert len(tiny.lines(tmp_path / NAME)) == len({line["step"] for line in tiny.lines(tmp_path / NAME)})


def test_a_step_asked_to_stop_at_the_end_just_ends(tmp_path, monkeypatch, uninterrupted):
    assert stopped(monkeypatch, tmp_path, STEPS * ACCUMULATE - 1, wb_id="r", **FLAGS) == 0
    assert_same(tmp_path / NAME, uninterrupted)


def test_a_finished_run_stays_as_it_is(tmp_path, monkeypatch, capsys):
    flags = {**FLAGS, "train_steps": 2, "val_check_interval": 2, "checkpoint_every": 2}
    assert train.main(tiny.command(**flags, wb_id="r", output_dir=tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert resume(tmp_path) == 0
    assert "already finished at step 2" in capsys.readouterr().out
    changed = [p.name for p in tmp_path.rglob("*") if p.is_file() and before.get(p) != p.read_bytes()]
    assert changed in ([], ["environment.txt"])


def test_a_checkpoint_by_its_path(tmp_path, monkeypatch, uninterrupted):
    """An older checkpoint is a valid place to start from; what came after it is trained again."""
    assert stopped(monkeypatch, tmp_path, 18 * ACCUMULATE, wb_id="r", **FLAGS) == 130
    checkpoint = tmp_path / NAME / "checkpoints" / "step-0000016.ckpt"
    assert train.main(["--resume", str(checkpoint)]) == 0
    assert tiny.difference(tmp_path / NAME, uninterrupted) == 0


@pytest.mark.parametrize("how", ["renamed", "relative"])
def test_a_moved_run_goes_on_in_its_own_folder(tmp_path, monkeypatch, how):
    flags = {**FLAGS, "train_steps": 4, "checkpoint_every": 2, "val_check_interval": 100}
    assert stopped(monkeypatch, tmp_path, 2, wb_id="r", **flags) == 130
    if how == "renamed":
        run = (tmp_path / NAME).rename(tmp_path / "other_name")
        words = ["--resume", "other_name", "--output_dir", str(tmp_path)]
    else:
        run = tmp_path / NAME
        monkeypatch.chdir(run)
        words = ["--resume", str(Path("checkpoints") / "last.ckpt")]
    assert train.main(words) == 0
    assert (run / "model" / "model-final.pth").exists()
    assert tiny.step_of(run / "checkpoints" / "last.ckpt") == 4
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    assert not list(run.glob(f"{NAME}*"))


def test_the_schedule_follows_the_whole_run(tmp_path, monkeypatch):
    """Learning rate and beta_1 of every step, over a stop: one cycle of OneCycleLR (peak at 30 %, ends 25 and 1e4)."""
    used = []
    step = torch.optim.Adam.step

    def recorded(self, closure=None):
        group = self.param_groups[0]
        if len(group["params"]) > 1:  # not the one step that tells what an optimiser keeps
            used.append((group["lr"], group["betas"][0]))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    flags = {**FLAGS, "train_steps": 20, "accumulate_grad_batches": 1, "val_check_interval": 100, "lr": 0.01}
    assert stopped(monkeypatch, tmp_path, 8, wb_id="r", **flags) == 130
    assert len(used) == 9
    assert resume(tmp_path) == 0

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    peak, last = 0.3 * 20 - 1, 19
    expected = []
    for i in range(20):
        rise, fall = i / peak, (i - peak) / (last - peak)
        lr = between(0.01 / 25, 0.01, rise) if i <= peak else between(0.01, 0.01 / 25 / 1e4, fall)
        beta = between(0.95, 0.85, rise) if i <= peak else between(0.85, 0.95, fall)
        expected.append((lr, beta))
    assert used == [pytest.approx(pair) for pair in expected]
