"""Samples that are judged while a network is trained: figures, best weights, a training that knows nothing of it."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import generate
import train
from common.metrics import METRICS, SlicedWasserstein
from common.metrics.extraction import Extractor
from common.runs import __main__ as listing
from common.training import judging
from common.training.module import DiffusionModule
from tests.training import interrupted, tiny

FLAGS = {
    **tiny.FLAGS,
    "train_steps": 13,
    "batch_size": 16,
    "accumulate_grad_batches": 2,
    "dropout": 0.1,
    "ema_every": 2,
    "log_every": 3,
    "val_check_interval": 5,
    "log_model_every_n": 5,
    "checkpoint_every": 4,
}
JUDGED = {"eval_every": 5, "eval_samples": 16, "eval_features": "pixels"}
STEPS = [5, 10, 13]
NAME = "r_digits_H0.9_K2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


def trained(folder: Path, **flags: object) -> Path:
    assert train.main(tiny.command(**{**FLAGS, "wb_id": "r", "output_dir": folder, **flags})) == 0
    return folder / NAME


class Scripted(SlicedWasserstein):
    """A figure that is best in the middle."""

    def __call__(self, evidence):
        figures = {"real samples": 0.0, "step 5": 3.0, "step 10": 1.0, "step 13": 2.0}
        return {"sw": figures[evidence.drawn.name]}


def column(run: Path, name: str) -> dict[int, str]:
    return {int(line["step"]): line[name] for line in tiny.lines(run) if line[name]}


def same(one: Path, other: Path) -> bool:
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_knows_nothing_of_it(tmp_path, monkeypatch, capsys):
    """Weights and all other log lines bit for bit; figures are those of evaluate.py, and real data is read once."""
    plain, read, points = trained(tmp_path / "plain"), [], Extractor.points

    def counted(self, name, samples, count, title, **more):
        read.append(title)
        return points(self, name, samples, count, title, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "points", counted)
        run = trained(tmp_path / "runs", **JUDGED)
    drawn = "features of samples"
    told = capsys.readouterr().out
    assert f"sw {float(column(run, 'eval/sw')[13]):.4g} (real {float(column(run, 'eval/sw_real')[13]):.4g})" in told
    assert read == [drawn, "features of real samples", "features of other real samples", *[drawn] * len(STEPS)]
    known, judged = tiny.weights(plain), tiny.weights(run)
    assert judged.keys() - known.keys() == {"model-best.pth", "ema_model-best.pth"}
    assert all(torch.equal(judged[name][key], value) for name in known for key, value in known[name].items())
    for name in tiny.lines(plain)[0].keys() - {"step"}:
        assert column(run, name) == column(plain, name)
    assert [*column(run, "eval/sw")] == [*column(run, "eval/kid")] == STEPS

    words = tiny.command(run_id="r", output_dir=tmp_path / "runs", n_samples=16, batch_size=16)
    assert evaluate.main([*words, "--metrics", "sw,kid", "--features", "pixels"]) == 0
    (file,) = run.glob("generated_data/model-final/*/metrics.json")
    figures = json.loads(file.read_text())
    for name in ("sw", "sw_low", "sw_high", "sw_real", "kid", "kid_real_high"):
        assert float(column(run, f"eval/{name}")[13]) == pytest.approx(figures[name], rel=1e-6)  # rounding of samples


def test_the_best_weights_are_those_of_the_best_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(METRICS, "sw", Scripted)
    run = trained(tmp_path, **JUDGED)
    told = capsys.readouterr().out
    assert column(run, "eval/sw") == {5: "3", 10: "1", 13: "2"}
    for kind in ("model", "ema_model"):
        best = run / "model" / f"{kind}-best.pth"
        assert same(best, run / "model" / f"{kind}-v1.pth")  # of step 10
        assert not same(best, run / "model" / f"{kind}-final.pth")
        assert f"model/{best.name}" in json.loads((run / "manifest.json").read_text())["files"]
    assert [line.endswith("the best so far") for line in told.splitlines() if line.startswith("judged ")] == [1, 1, 0]
    assert "best      step 10, by sw 1, is --version best" in told
    assert generate.main(tiny.command(run_id="r", output_dir=tmp_path, version="best", n_samples=2, steps=2)) == 0
    assert list(run.glob("generated_data/model-best/*/data/data_000000.npy"))
    assert listing.main(["--output_dir", str(tmp_path)]) == 0
    assert "finished, best kept" in capsys.readouterr().out


def test_the_last_version_is_newer_than_the_best(tmp_path):
    """What is of any step is taken unasked only if nothing else is kept."""
    from common.runs import RunFolder

    (tmp_path / "model").mkdir()
    for version, newest in (("best", "best"), ("a", "a"), ("v9", "v9"), ("v10", "v10"), ("final", "final")):
        (tmp_path / "model" / f"model-{version}.pth").touch()
        assert RunFolder(tmp_path).newest_version() == newest
    assert RunFolder(tmp_path).versions() == ["best", "a", "v9", "v10", "final"]


def test_a_run_that_goes_on_keeps_better_weights(tmp_path, monkeypatch):
    """Stopped in step 11, after the best one; the rest is as if it had not been."""
    monkeypatch.setitem(METRICS, "sw", Scripted)
    whole, step = trained(tmp_path / "whole", **JUDGED), DiffusionModule.training_step

    def stopping(self, batch, batch_idx):
        if batch.micro_step == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_idx)

    runs = tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", stopping)
        assert train.main(tiny.command(**{**FLAGS, **JUDGED, "wb_id": "r", "output_dir": runs})) == 130
    assert train.main(tiny.command(resume="r", output_dir=runs)) == 0
    assert tiny.difference(runs / NAME, whole) == 0
    assert tiny.lines(runs / NAME) == tiny.lines(whole)


def test_other_figures_cannot_be_compared(tmp_path, monkeypatch):
    """A run that goes on with other samples has its best weights by those."""
    monkeypatch.setitem(METRICS, "sw", Scripted)
    run = trained(tmp_path, **JUDGED)
    assert train.main(tiny.command(resume=run / "checkpoints" / "step-0000012.ckpt", eval_samples=20)) == 0
    assert same(run / "model" / "model-best.pth", run / "model" / "model-final.pth")


FOREIGN = [
    {"by": "sw", "value": 1.0},
    {"by": "sw", "value": "1", "step": 5},
    {"by": "sw", "value": float("nan"), "step": 5},
    {"by": 1, "value": 1.0, "step": 5},
    {"by": "sw", "value": 1.0, "step": True},
    ["sw"],
]


def test_a_foreign_checkpoint_is_refused(tmp_path, capsys):
    few = {"train_steps": 3, "eval_every": 2, "checkpoint_every": 2, "accumulate_grad_batches": 1}
    path = trained(tmp_path, **JUDGED | few) / "checkpoints" / "step-0000002.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["callbacks"]["Judging"].keys() == {"by", "value", "step"}
    for state in FOREIGN:
        with pytest.raises((TypeError, ValueError)):
            judging.Judging.load_state_dict(object.__new__(judging.Judging), state)
    for state in (FOREIGN[0], FOREIGN[2]):  # of which there is an error of either kind
        content["callbacks"]["Judging"] = state
        torch.save(content, path)
        with pytest.raises(SystemExit, match="2"):
            train.main(["--resume", str(path)])
        assert f"{path} cannot be gone on from" in capsys.readouterr().err


@pytest.mark.parametrize(("broken", "versions"), [(slice(None), 0), (slice(3), 0), (slice(0), 1)])
def test_weights_whose_samples_are_not_finite_are_not_the_best(tmp_path, monkeypatch, broken, versions):
    drawn = judging.draw

    def draw(*arguments):
        x, labels = drawn(*arguments)
        x[broken] = np.nan
        return x, labels

    monkeypatch.setattr(judging, "draw", draw)
    run = trained(tmp_path, **JUDGED, train_steps=5)
    assert len(list((run / "model").glob("model-best.pth"))) == versions
    found = tiny.lines(run)[-1]
    assert ("eval/sw" in found) == (broken != slice(None))
    assert found.get("eval/not_finite") == ("3" if broken == slice(3) else None)


@pytest.mark.slow
def test_features_of_samples_are_not_kept(tmp_path):
    files = []
    for steps in (5, 13):
        trained(tmp_path / str(steps), **{**JUDGED, "eval_features": "classifier"}, train_steps=steps)
        files.append(sorted(path.name for path in (tmp_path / str(steps) / ".cache").rglob("*.npz")))
    assert files[0] == files[1] != []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"eval_metrics": "sw"}, "--eval_metrics has no effect without --eval_every"),
        ({"eval_samples": 9}, "--eval_samples has no effect without --eval_every"),
        ({"eval_every": 14}, "--eval_every 14 is beyond the 13 steps of the training"),
        ({"eval_every": 5, "eval_metrics": "sw,beauty"}, "--eval_metrics 'beauty' is unknown; there are agreement, "),
        ({"eval_every": 5, "eval_metrics": "agreement@pixels"}, "--eval_metrics agreement compares no features"),
        ({"eval_every": 5, "eval_features": "beauty"}, "--eval_features 'beauty' is unknown; there are auto, "),
        ({"eval_every": 5, "eval_features": "lenet"}, "--eval_features lenet "),
        ({"eval_every": 5, "eval_metrics": "kid@lenet"}, "--eval_features lenet "),
        (
            {"eval_every": 5, "eval_metrics": "is"},
            "--eval_metrics is needs the answers of a classifier of ImageNet: give --eval_",
        ),
        ({"eval_every": 5, "eval_samples": 3}, "--eval_metrics sw undefined: it needs 4 samples"),
        (
            {"eval_every": 5, "eval_metrics": "sw,agreement", "conditioning": False},
            "--eval_metrics agreement needs labels; these samples were drawn without; leave it out",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_training(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        train.main(tiny.command(**FLAGS, **flags, output_dir=tmp_path))
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*_*"))
