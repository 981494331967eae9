"""A run that was stopped before it kept weights is sampled, exported and evaluated from its newest checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common.config.parser import reporting
from common.files import sha256
from common.generation import blocks as generation
from common.refusal import Refusal
from common.runs import load
from scripts import export
from tests.test_imports import ROOT
from tests.training import tiny

DRAW = ("--n_samples", 4, "--steps", 2)


@pytest.fixture
def stopped(tiny_run, tmp_path) -> Path:
    """The trained run as it would be had it been stopped at step 150 before it kept a version."""
    folder = tmp_path / "runs" / tiny_run.name
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("samples", "model"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.startswith("model/")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def settings(folder: Path) -> dict[str, object]:
    return json.loads((folder / "settings.json").read_text())


def test_the_newest_checkpoint_is_sampled_exported_and_evaluated(cli, stopped, tiny_run, capsys):
    result = cli("generate", "--run_id", "tiny", *DRAW)
    assert result.code == 0, result.err
    taken = "average of decay 0.866667 (last.ckpt); --use_ema False takes those that were trained"
    said = f"weights   checkpoint of step 150, {taken}"
    assert result.out.splitlines()[0] == said
    (array,) = (stopped / "generated_data" / "model-step-0000150" / "ab3-2-ema").glob("data/*.npy")
    shutil.copytree(tiny_run, "whole/" + tiny_run.name)  # step 150 is that of the final weights
    assert cli("generate", "--run_id", "tiny", *DRAW, "--output_dir", "whole").code == 0
    (other,) = Path("whole").glob("*/generated_data/model-final/ab3-2-ema/data/*.npy")
    assert array.read_bytes() == other.read_bytes()
    result = cli("evaluate", "--run_id", "tiny", "--metrics", "nearest", "--version", "step-0000150")
    assert result.code == 0
    drawn_from = "weights   step-0000150, average of decay 0.866667 (ema_model-step-0000150)"
    assert drawn_from in result.out.splitlines()
    assert export.main(["--run_id", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == said
    exported = load("tiny").weights.with_name("ema_model-step-0000150.safetensors")
    assert lines[1] == f"exported  {exported}"
    assert exported.exists()
    assert load("tiny").version == "step-0000150"  # what was exported is no version that training kept


def test_which_weights_they_are(cli, stopped):
    for flags in ((), ("--use_ema", "False"), ("--version", "step-0000100"), ("--version", "step-0000150")):
        assert cli("generate", "--run_id", "tiny", *DRAW, *flags).code == 0
    data = stopped / "generated_data"
    found = {str(file.parent.relative_to(data)) for file in data.glob("*/*/settings.json")}
    assert found == {f"model-step-0000{name}" for name in ("150/ab3-2-ema", "150/ab3-2-raw", "100/ab3-2-ema")}
    assert len({str(settings(data / name)["sha256"]) for name in found}) == 3
    refused = cli("generate", "--run_id", "tiny", "--version", "v0")
    assert refused.code == 2
    assert "Versions there: none yet" in refused.err
    assert refused.err.strip().endswith("checkpoints: step-0000150, step-0000100")


def test_training_went_on_meanwhile(cli, stopped):
    """Another step is another folder; the same step in another file is the same weights."""
    last = stopped / "checkpoints" / "last.ckpt"
    newest = last.read_bytes()
    shutil.copy(last.with_name("step-0000100.ckpt"), last)
    for _ in range(2):
        assert cli("generate", "--run_id", "tiny", *DRAW).code == 0
        last.write_bytes(newest)
    assert {path.name for path in (stopped / "generated_data").iterdir()} == {
        "model-step-0000100",
        "model-step-0000150",
    }
    again = cli("generate", "--run_id", "tiny", *DRAW, "--version", "step-0000100")  # from step-0000100.ckpt
    assert "samples were there" in again.out


def test_a_checkpoint_that_cannot_be_read(cli, stopped):
    last = stopped / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    result = cli("generate", "--run_id", "tiny", *DRAW)
    assert result.code == 0
    first, second = result.out.splitlines()[:2]
    assert first.endswith(
        "last.ckpt cannot be read (cut short, damaged, or of another run); step-0000150.ckpt is taken"
    )
    assert second.startswith("weights   checkpoint of step 150, average of decay 0.866667 (step-0000150.ckpt)")
    for file in last.parent.iterdir():
        file.write_bytes(b"")
    result = cli("generate", "--run_id", "tiny", *DRAW)
    assert result.code == 2
    assert "none of its checkpoints can be read (last.ckpt, step-0000150.ckpt, step-0000100.ckpt)" in result.err


def test_nothing_is_saved_yet(cli, stopped):
    shutil.rmtree(stopped / "checkpoints")
    result = cli("generate", "--run_id", "tiny", *DRAW)
    assert (result.code, result.written) == (2, [])
    command = f"python train.py --resume {stopped.name}\n"
    assert result.err.endswith(f"nothing is saved yet, neither weights nor a checkpoint; train it: {command}")
    assert cli("train", *command.split()[2:], "--dry_run").code == 0


def test_kept_weights_come_before_checkpoints(cli, stopped, tiny_run):
    (stopped / "model").mkdir()
    shutil.copy(tiny_run / "model" / "model-v0.pth", stopped / "model")
    refused = cli("generate", "--run_id", "tiny", *DRAW)
    assert refused.code == 2
    assert "ema_model-v0.pth is missing, training was stopped before it was written; python train.py" in refused.err
    assert f"--resume {stopped.name} writes it, --use_ema False takes" in refused.err
    result = cli("generate", "--run_id", "tiny", *DRAW, "--use_ema", "False")
    assert "(v0)" in result.out
    assert "checkpoint" not in result.out
    (folder,) = (stopped / "generated_data" / "model-v0").iterdir()
    assert folder.name == "ab3-2"  # there is no average of v0 to tell it from
    assert settings(folder)["sha256"] == sha256(tiny_run / "model" / "model-v0.pth")


def test_samples_of_earlier_versions_are_found_and_left(cli, run):
    """They lie in a folder without the kind of weights in its name."""
    base = run / "generated_data" / "model-final"
    assert cli("generate", "--run_id", "tiny", *DRAW).code == 0
    (base / "ab3-2-ema").rename(base / "ab3-2")
    (base / "ab3-2-ema" / "data").mkdir(parents=True)  # what nobody wrote settings for is not taken over
    assert "samples were there" in cli("generate", "--run_id", "tiny", *DRAW).out
    before = {path: path.read_bytes() for path in (base / "ab3-2").rglob("*.npy")}
    assert cli("generate", "--run_id", "tiny", *DRAW, "--t_end", 0.01).code == 0
    assert {path.name for path in base.iterdir()} == {"ab3-2", "ab3-2-ema", "ab3-2-ema-2"}
    assert {path: path.read_bytes() for path in before} == before


def test_stopped_within_a_block(cli, run, monkeypatch):
    """What is said is true: whole blocks are kept, and the one in work is drawn again."""
    words = ("generate", "--run_id", "tiny", "--steps", 2, "--n_samples", 7, "--batch_size", 3)
    draw, drawn = generation.Job.draw, []

    def cut(self, indices, on_step):
        drawn.append(indices.start)
        if indices.start == 3 and len(drawn) < 3:
            raise KeyboardInterrupt
        return draw(self, indices, on_step)

    monkeypatch.setattr(generation.Job, "draw", cut)
    with pytest.raises(KeyboardInterrupt) as stop:
        cli(*words)
    assert str(stop.value) == (
        "stopped; the same command goes on: 3 of 7 samples are kept, the block of samples in work is drawn again"
    )
    assert cli(*words).code == 0
    assert drawn == [0, 3, 3, 6]


def test_a_new_run_starts_from_what_was_exported(cli, stopped):
    words = ("train", *tiny.command("--dry_run", **tiny.FLAGS), "--init_from")
    refused = cli(*words, "tiny")
    assert refused.code == 2
    assert refused.err.endswith(f"by python scripts/export.py --run_id {stopped.name}\n")
    assert export.main(["--run_id", stopped.name]) == 0
    (file,) = (stopped / "checkpoints").glob("*.safetensors")
    assert cli(*words, file).code == 0


# -- train.py ---------------------------------------------------------------------------------------------------------


def test_resume_says_what_it_found(cli):
    flags = {**tiny.FLAGS, "wb_id": "b", "train_steps": 4, "batch_size": 8, "val_check_interval": 100}
    assert cli("train", *tiny.command(**flags, checkpoint_every=2)).code == 0
    folder = Path("runs/b_digits_H0.9_K2")
    (folder / "checkpoints" / "last.ckpt").unlink()
    result = cli("train", "--resume", "b")
    assert "already finished at step 4\n" in result.out  # the numbered one of that step is as good
    shutil.rmtree(folder / "checkpoints")
    result = cli("train", "--resume", "b")
    assert result.code == 2
    assert "was finished, and has no checkpoint any more" in result.err
    shutil.rmtree(folder / "model")
    before = (folder / "metrics.csv").read_bytes()
    result = cli("train", "--resume", "b")
    assert f"run       {folder}, no checkpoint is there: starts at step 0\n" in result.out
    assert "note      the log goes back to step 0, since later ones are gone; all of it is kept in " in result.out
    assert (folder / "metrics-until-4.csv").read_bytes() == before
    assert "training  4 steps of 8 samples on 1 device\n" in result.out
    result = cli("train", "--resume", folder / "checkpoints" / "step-0000002.ckpt")
    assert f"run       {folder.resolve()}, goes on at step 2 (" in result.out
    assert (
        result.out.splitlines()[-1] == f"next      python generate.py --run_id {folder.name}"
    )  # ./runs is the default


class Wide(nn.Module):
    """A network with an output of its own choice."""

    answer = staticmethod(lambda x: x[:, :, :1])

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, t, labels=None):
        return self.answer(x * self.weight)


@pytest.mark.parametrize("flags", [(), ("--dry_run",)], ids=["training", "dry run"])
@pytest.mark.parametrize(
    ("answer", "shown"),
    [(lambda x: x[:, :, :1], "(2, 1, 1, 8)"), (lambda x: x.mean((1, 2, 3)), "(2,)"), (lambda x: (x,), "tuple")],
    ids=["grid", "one number", "no tensor"],
)
def test_an_output_of_another_shape_is_refused_by_name(cli, monkeypatch, flags, answer, shown):
    """The first two would be broadcast to the shape of the data, and be learned from."""
    monkeypatch.setitem(sys.modules["args"].BACKBONES, "wide", Wide)
    monkeypatch.setattr(Wide, "answer", staticmethod(answer))
    result = cli("train", "--model_name", "wide", "--preset", "digits", *flags)
    assert (result.code, result.written) == (2, [])
    assert result.err == (
        f"train.py: error: --model_name wide: answers samples (2, 1, 8, 8) with {shown}; the output must have their "
        "shape\n"
    )


# -- output that nobody reads -----------------------------------------------------------------------------------------


def print_and_end(end: BaseException | None) -> None:
    with reporting("train.py", dict):
        print("a line")
        if end:
            raise end


@pytest.mark.parametrize(
    ("buffering", "end", "code"),
    [(1, None, 141), (-1, None, 141), (-1, SystemExit(0), 141), (-1, SystemExit(1), 1), (-1, Refusal("no"), 2)],
    ids=repr,
)
def test_an_output_that_nobody_reads(monkeypatch, capsys, buffering, end, code):
    """The program ends quietly, whether a line or the end meets the broken pipe; an error keeps its code."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=buffering) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as stop:
            print_and_end(end)
        assert stop.value.code == code
        print("the rest", flush=True)  # as at exit
    assert capsys.readouterr().err == ("train.py: error: no\n" if isinstance(end, Refusal) else "")


@pytest.mark.slow
def test_a_program_whose_output_nobody_reads(tmp_path):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, str(ROOT / "train.py"), "--list_presets"]
    done = subprocess.run(words, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_a_bug(cli, run, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("common.generation.sharing.generate", broken)
    with pytest.raises(BrokenPipeError):
        cli("generate", "--run_id", "tiny")
