"""Checkpoints: when they are written, that they come last, what is removed, and the clean stop."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.runs import RunFolder
from common.training.checkpoints import Checkpoints, Stopped
from tests.training import tiny
from tests.training.test_callbacks import attached, end_of
from tests.training.test_module import make


def stopping(folder: Path, deadline: float | None = None) -> Checkpoints:
    return Checkpoints(RunFolder(folder), 10**9, 2, deadline)


def keep_in(saved: list):
    """``save_checkpoint`` of a trainer that only notes where the whole state would go."""
    return lambda path, weights_only: saved.append((path, weights_only))


def test_a_stop_waits_for_the_optimiser_step(tmp_path, monkeypatch):
    monkeypatch.setattr("common.stopping.SAME", 0.0)
    saved = []
    module = attached(make(), accumulate_grad_batches=2, save_checkpoint=keep_in(saved), global_step=5)
    stop = stopping(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    stop.on_train_start(module.trainer, module)
    try:
        stop.on_train_batch_end(module.trainer, module, None, end_of(9), 0)  # nobody asked
        os.kill(os.getpid(), signal.SIGINT)
        stop.on_train_batch_end(module.trainer, module, None, end_of(10), 0)  # half a step
        assert not saved
        with pytest.raises(Stopped, match=r"step 5.*last\.ckpt") as caught:
            stop.on_train_batch_end(module.trainer, module, None, end_of(11), 0)
        assert caught.value.step == 5
        assert saved == [(tmp_path / "checkpoints" / "last.ckpt", False)]
        with pytest.raises(KeyboardInterrupt):  # a second one does not wait
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.on_exception(module.trainer, module, KeyboardInterrupt())
    assert signal.getsignal(signal.SIGINT) is before


def test_every_process_stops_at_the_same_step(tmp_path):
    """The signal reached another process: what counts is whether any was asked."""
    saved = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda asked, all: True, reduce=lambda value, reduce_op: value)
    module = attached(make(), global_step=10, world_size=2, strategy=strategy, save_checkpoint=keep_in(saved))
    with pytest.raises(Stopped):
        stopping(tmp_path).on_train_batch_end(module.trainer, module, None, end_of(0), 0)
    assert saved


@pytest.mark.parametrize("world_size", [1, 2])
def test_time_that_is_up_stops_between_steps_and_is_no_interruption(tmp_path, world_size, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("common.training.checkpoints.time.monotonic", lambda: clock.now)
    saved: list = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda wish, all: wish, reduce=lambda value, reduce_op: value)
    module = attached(
        make(),
        global_step=10,
        accumulate_grad_batches=2,
        world_size=world_size,
        strategy=strategy,
        save_checkpoint=keep_in(saved),
    )
    stop = stopping(tmp_path, 160)
    clock.now = 159.0
    stop.on_train_batch_end(module.trainer, module, None, end_of(1), 0)
    clock.now = 161.0
    stop.on_train_batch_end(module.trainer, module, None, end_of(2), 0)  # within an optimiser step
    assert saved == []
    with pytest.raises(Stopped, match="time is up") as stopped:
        stop.on_train_batch_end(module.trainer, module, None, end_of(3), 0)
    assert stopped.value.planned
    assert len(saved) == 1


def test_a_deadline_is_held_against_the_speed(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("common.training.checkpoints.time.monotonic", lambda: clock.now)
    module, stop = attached(make(), max_steps=1000), stopping(tmp_path, 100)
    stop.on_train_start(module.trainer, module)
    try:
        for step in range(1, 31):
            clock.now, module.trainer.global_step = 0.5 * step, step
            stop.on_train_batch_end(module.trainer, module, None, end_of(step - 1), 0)
    finally:
        stop.on_train_end(module.trainer, module)
    (line,) = capsys.readouterr().err.split("\n")[1:-1]
    assert line.startswith("about 200 of 1,000 steps fit into --max_time; ")
    assert line.endswith("--train_steps 200")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_stop_too(tmp_path, number):
    module, stop = attached(make(), global_step=5), stopping(tmp_path)
    before = signal.getsignal(number)
    stop.on_train_start(module.trainer, module)
    try:
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            stop.on_validation_end(module.trainer, module)
    finally:
        stop.on_train_end(module.trainer, module)
    assert signal.getsignal(number) is before


def written(folder: Path):
    """``save_checkpoint`` of a trainer that writes empty files."""

    def save(path: Path, weights_only: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    return save


def test_a_checkpoint_waits_for_the_validation_of_its_step(tmp_path):
    keeper = Checkpoints(RunFolder(tmp_path), 5, 2)
    module = attached(make(), global_step=10, val_check_batch=10, save_checkpoint=written(tmp_path))
    keeper.on_train_batch_end(module.trainer, module, None, end_of(9), 0)
    assert not (tmp_path / "checkpoints").exists()
    keeper.on_validation_end(module.trainer, module)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "step-0000010.ckpt"}


def test_old_checkpoints_are_told_by_their_number(tmp_path):
    """Not by time, not by what a checkpoint says; nothing else is removed, nor anything outside the folder."""
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    outside = tmp_path / "outside.ckpt"
    outside.write_text("foreign")
    for name in ("step-0000002.ckpt", "step-0000010.ckpt", "step-0000009.ckpt", "step-0000030.ckpt", "mine.ckpt"):
        (folder.checkpoints / name).touch()
    (folder.checkpoints / "step-0000001.ckpt").symlink_to(outside)
    (folder.checkpoints / "step-0000003.ckpt").mkdir()
    module = attached(make(), global_step=20, save_checkpoint=written(tmp_path))
    Checkpoints(folder, 5, 2).on_train_batch_end(module.trainer, module, None, end_of(19), 0)
    assert outside.read_text() == "foreign"
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "last.ckpt", "mine.ckpt", "step-0000001.ckpt", "step-0000003.ckpt", "step-0000010.ckpt", "step-0000020.ckpt",
        "step-0000030.ckpt",
    ]  # fmt: skip


def test_a_hostile_checkpoint_deletes_nothing(tmp_path):
    """Lightning's own callback removes the paths that stand in the file that is resumed."""
    import train

    flags = tiny.command(**tiny.FLAGS | {"train_steps": 6, "checkpoint_every": 2, "batch_size": 4}, wb_id="h")
    assert train.main([*flags, "--max_time", "0.001s", "--output_dir", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("h_*")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    key = "ModelCheckpoint{'monitor': 'step', 'mode': 'max', 'every_n_train_steps': 2}"
    state["callbacks"][key] = {
        "monitor": "step", "best_model_score": torch.tensor(1.0), "best_model_path": str(victim), "current_score": None,
        "dirpath": str(run / "checkpoints"), "best_k_models": {str(victim): torch.tensor(1.0)},
        "kth_best_model_path": str(victim), "kth_value": torch.tensor(1.0), "last_model_path": str(victim),
    }  # fmt: skip
    torch.save(state, last)
    assert train.main(["--resume", "h", "--output_dir", str(tmp_path)]) == 0
    assert (victim / "file").exists()
