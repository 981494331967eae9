"""What train.py says of a training: what it starts from, how much noise it ends in, how it ended."""

import runpy
import signal
from pathlib import Path

import pytest

from common.training.module import DiffusionModule
from tests.training import tiny

ROOT = Path(__file__).parents[2]
FLAGS = {**tiny.FLAGS, "train_steps": 4, "batch_size": 8, "log_every": 2, "val_check_interval": 100}


def lines(out: str, *names: str) -> list[str]:
    """Lines that begin with one of the names."""
    return [line for line in out.splitlines() if line.split(" ")[0] in names]


def test_what_a_training_starts_from_and_ends_with(cli):
    little = {**FLAGS, "dynamics": "fve", "hurst": 0.25, "num_aug": 3, "val_check_interval": 3, "ema_decay": "0.6"}
    first = cli("train", *tiny.command(**little, wb_id="first"))
    assert first.code == 0
    (dynamics,) = lines(first.out, "dynamics")
    assert dynamics.endswith("v-prediction, sigma(T) = 0.0942")
    assert "the noise level at T is only 0.0942: data is still seen there" in first.out
    assert "choose other --hurst or --num_aug" in first.out
    assert "val (avg)=" in first.err.splitlines()[-1]  # the bar after a later log line
    folder = Path("runs/first_digits_H0.25_K3")
    log = tiny.lines(folder)
    training, validation = float(log[-1]["train/loss"]), float(log[-2]["val/loss"])
    assert lines(first.out, "loss", "pictures") == [
        f"loss      {training:.4g} training, {validation:.4g} validation at step 3 (average of the weights)",
        f"pictures  {folder}/loss.png, {folder}/samples (drawn from the average of the weights)",
    ]

    second = cli("train", *tiny.command(**FLAGS, dynamics="vp", init_from="first", use_ema=False, wb_id="second"))
    assert second.code == 0
    start, note = lines(second.out, "start", "note")
    assert start == (
        f"start     {folder.name} (final, average of decay 0.6), trained under FVE(hurst=0.25, num_aug=3, "
        "marginals=exact, normalize=True), v-prediction"
    )
    assert note.startswith("note      the process is not that of these weights")
    assert lines(second.out, "dynamics")[0].endswith("sigma(T) = 152")
    folder = Path("runs/second_digits_vp_unet")
    assert not (folder / "samples").exists()
    training = float(tiny.lines(folder)[-1]["train/loss"])
    assert lines(second.out, "loss", "pictures") == [
        f"loss      {training:.4g} training",
        f"pictures  {folder}/loss.png",
    ]

    third = cli("train", *tiny.command(**FLAGS, dynamics="vp", init_from="second", wb_id="third"), "--dry_run")
    assert lines(third.out, "start") == [
        f"start     {folder.name} (final, not averaged), trained under VP(beta_min=0.1, beta_max=20.0), v-prediction"
    ]
    assert "process is not" not in third.out


def test_a_stopped_training_has_its_picture(cli):
    """Before its first validation too; modes have noise levels of their own, and none is told."""
    result = cli("train", *tiny.command(**FLAGS, dynamics="heat", wb_id="a", max_time="0.001s"))
    assert result.code == 0
    assert "stopped at step 1" in result.out
    assert "sigma(T)" not in result.out
    assert Path("runs/a_digits_heat_unet/loss.png").is_file()


@pytest.mark.parametrize(("at", "lost"), [(0, False), (2, True)], ids=["before the first step", "later"])
def test_stopped_at_once(cli, monkeypatch, at, lost):
    training_step, before = DiffusionModule.training_step, signal.getsignal(signal.SIGINT)

    def interrupted(self, batch, batch_idx):
        if batch.micro_step == at:
            raise KeyboardInterrupt
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        cli("train", *tiny.command(**FLAGS, wb_id="a", checkpoint_every=100))
    assert (
        str(stop.value)
        == (
            "stopped at step 2 before a checkpoint could be written; steps 1 to 2 are lost"
            if lost
            else "stopped at step 0; nothing was lost"
        )
        + "; go on with: python train.py --resume a_digits_H0.9_K2"
    )
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("why", ["", "some of it is lost"])
@pytest.mark.parametrize(
    ("program", "work", "otherwise"),
    [
        ("train.py", "common.training.fitting.train", "stopped; nothing was lost"),
        ("generate.py", "common.generation.opening.open_job", "stopped; the same command goes on"),
    ],
)
def test_the_last_word_of_a_program_that_was_stopped_at_once(monkeypatch, capsys, program, work, otherwise, why):
    def stopped(*_, **__):
        raise KeyboardInterrupt(why)

    monkeypatch.setattr("common.program.start_program", lambda: None)
    monkeypatch.setattr("common.stopping._reaction", None)  # put back at the end
    monkeypatch.setattr(work, stopped)
    monkeypatch.setattr("sys.argv", [program, "--run_id", "a"][: 3 if program == "generate.py" else 1])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    assert end.value.code == 130
    assert capsys.readouterr().err == f"\n{why or otherwise}\n"
