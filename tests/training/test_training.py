"""train.py from the command line to the run folder, on real digits."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import train
from common.backbones import UNet
from common.denoiser import PREDICTIONS
from common.files import load_state
from common.media.grids import GAP, LINE
from common.runs import load
from tests.training import interrupted, tiny


@pytest.fixture
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


# -- one run, looked at from all sides --------------------------------------------------------------------------------


def test_the_loss_goes_down(tiny_run):
    losses = [float(line["train/loss"]) for line in tiny.lines(tiny_run) if line["train/loss"]]
    assert len(losses) == 30
    assert all(map(math.isfinite, losses))
    assert sum(losses[-6:]) / 6 < 0.7 * losses[0]


def test_log_lines(tiny_run):
    lines = tiny.lines(tiny_run)
    assert [int(line["step"]) for line in lines] == list(range(5, 151, 5))
    assert [int(line["step"]) for line in lines if line["val/loss"]] == [75, 150]
    rates = [float(line["train/lr"]) for line in lines]
    assert max(rates) == pytest.approx(4e-3, rel=1e-2)
    assert 30 <= 5 * (1 + rates.index(max(rates))) <= 60  # peak at 30 %
    assert float(lines[-1]["val/loss"]) < 0.9 * float(lines[14]["val/loss"])


def test_versions_are_those_of_their_steps(tiny_run):
    kept = tiny.weights(tiny_run)
    assert set(kept) == {f"{p}model-{v}.pth" for p in ("", "ema_") for v in ("v0", "v1", "v2", "final")}

    def equal(a: dict, b: dict) -> bool:
        assert list(a) == list(b)
        return all(torch.equal(a[name], b[name]) for name in a)

    for prefix in ("", "ema_"):
        assert equal(kept[f"{prefix}model-v2.pth"], kept[f"{prefix}model-final.pth"])  # step 150 is the last
        assert not equal(kept[f"{prefix}model-v0.pth"], kept[f"{prefix}model-v1.pth"])
    assert not equal(kept["model-final.pth"], kept["ema_model-final.pth"])
    for step, version in ((100, "v1"), (150, "final")):
        checkpoint = torch.load(tiny_run / "checkpoints" / f"step-{step:07d}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == step
        for prefix, stem in (("network.", "model"), ("averages.0.module.", "ema_model")):
            state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
            assert equal(state, kept[f"{stem}-{version}.pth"])


def test_checkpoints(tiny_run):
    names = sorted(path.name for path in (tiny_run / "checkpoints").iterdir())
    assert names == ["last.ckpt", "step-0000100.ckpt", "step-0000150.ckpt"]  # --keep 2
    assert tiny.step_of(tiny_run / "checkpoints" / "last.ckpt") == 150


def test_pictures(tiny_run):
    grids = sorted((tiny_run / "samples").iterdir())
    assert [path.name for path in grids] == ["step-0000075.png", "step-0000150.png"]
    for path in (*grids, tiny_run / "loss.png"):
        with Image.open(path) as image:
            assert image.format == "PNG"
            image.load()
            assert len(set(image.convert("L").tobytes())) > 10  # something is drawn
    with Image.open(grids[0]) as image:
        left, top = image.width - (10 * 66 + 2), image.height - (5 * 66 + 2) - GAP - (66 + 2)
        page = np.asarray(image.convert("L")).astype(float)
    assert top == LINE  # the names of the classes
    real = load_state(tiny_run / "real.safetensors")
    assert real["labels"].tolist()[:10] == list(range(10))
    for i, x in enumerate(real["x"][:10]):
        tile = page[top + 2 : top + 66 : 8, left + 2 + 66 * i : left + 66 + 66 * i : 8]
        assert (tile == x[0].numpy()).all()


def test_config_and_environment(tiny_run):
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["recipe"]["train_steps"] == 150
    assert config["spec"] == {
        "kind": "image",
        "shape": [1, 8, 8],
        "value_range": [0.0, 1.0],
        "sample_rate": None,
        "classes": list("0123456789"),
        "samples": 1500,
        "per_class": [149, 152, 148, 153, 151, 152, 151, 149, 145, 150],
    }
    told = (tiny_run / "data.txt").read_text().splitlines()
    assert told[0].startswith("data      digits, 1,500 samples of 1x8x8, 10 classes: 0 149, 1 152")
    assert told[-1].split() == ["9", "9", "150", str(np.bincount(load_digits().target)[9] - 150)]
    assert config["model"]["prediction"] in PREDICTIONS  # auto is resolved
    text = (tiny_run / "environment.txt").read_text()
    assert "--train_steps 150" in text.splitlines()[0]
    assert f"torch=={torch.__version__.split('+')[0]}" in text
    assert all(path.stat().st_size for path in tiny_run.rglob("*") if path.is_file())
    assert not list(tiny_run.rglob("*.tmp"))


# -- what goes wrong --------------------------------------------------------------------------------------------------

SHORT = {
    **tiny.FLAGS,
    "wb_id": "n",
    "train_steps": 10,
    "batch_size": 8,
    "log_every": 4,
    "val_check_interval": 100,
    "log_model_every_n": 3,
    "checkpoint_every": 3,
}


def break_network(monkeypatch, at: int, value: float) -> None:
    """Make the network's output ``value`` from its ``at``-th training call on."""
    forward, calls = UNet.forward, []

    def broken(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if self.training:
            calls.append(1)
            if len(calls) > at:
                return output * value
        return output

    monkeypatch.setattr(UNet, "forward", broken)


def finite(path: Path) -> bool:
    state = torch.load(path, weights_only=True)
    state = state.get("state_dict", state)
    return all(bool(value.isfinite().all()) for name, value in state.items() if name.split(".")[0] != "level_loss")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.usefixtures("_quick")
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch, capsys, value, accumulate):
    break_network(monkeypatch, 5 * accumulate, value)
    flags = {**SHORT, "accumulate_grad_batches": accumulate}
    assert train.main(tiny.command(**flags, output_dir=tmp_path)) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("train.py: error: ")
    assert "at step 5, noise levels sigma from " in message  # five steps were taken, the next one is bad
    assert "--lr" in message
    run = tmp_path / "n_digits_H0.9_K2"
    assert [int(line["step"]) for line in tiny.lines(run)][-1] <= 8
    assert not (run / "model" / "model-final.pth").exists()


@pytest.mark.usefixtures("_quick")
def test_what_is_left_after_a_bad_loss_can_be_used(tmp_path, monkeypatch, capsys):
    """Checkpoints and weights from before the bad step are kept, and those with NaN in them are not."""
    break_network(monkeypatch, 4, math.nan)  # bad from step 5 on; checkpoints at 3, 6, ..; lines at 4, 8
    assert train.main(tiny.command(**SHORT, output_dir=tmp_path)) == 1
    run = tmp_path / "n_digits_H0.9_K2"
    files = sorted([*run.glob("checkpoints/*"), *run.glob("model/*")])
    assert {path.name for path in files} >= {"last.ckpt", "step-0000003.ckpt", "model-v0.pth"}
    assert [path.name for path in files if not finite(path)] == []
    assert str(run / "checkpoints" / "last.ckpt") in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("_quick")
def test_a_bad_loss_in_the_last_steps_is_noticed(tmp_path, monkeypatch, capsys):
    break_network(monkeypatch, 9, math.nan)  # the last of 10 steps, lines at 4 and 8
    assert train.main(tiny.command(**SHORT, output_dir=tmp_path)) == 1
    assert "at step 9, noise levels sigma from " in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "n_digits_H0.9_K2" / "model" / "model-final.pth").exists()


# -- variants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        {"use_ema": False, "conditioning": False},
        {"dynamics": "fve", "prediction": "v", "clip_grad": 0},
        {"dynamics": "cld", "prior": "data"},
        {"dynamics": "fvp", "hurst": 0.1, "marginals": "paper"},  # sigma is not monotone: the grid is drawn with em
        {"precision": "bf16-mixed", "batch_size": 1},
        {"batch_size": 2000, "train_steps": 2, "val_check_interval": 2, "dynamics": "vp"},  # more than there are images
    ],
    ids=lambda flags: ",".join(f"{k}={v}" for k, v in flags.items()),
)
@pytest.mark.usefixtures("_quick")
def test_variants_train_and_load(tmp_path, flags):
    short = {**SHORT, "train_steps": 4, "val_check_interval": 4, "checkpoint_every": 4}
    assert train.main(tiny.command(**{**short, **flags}, output_dir=tmp_path)) == 0
    run = load("latest", output_dir=tmp_path)
    assert run.folder.name.startswith("n_digits_")
    assert run.config.recipe.use_ema == (run.folder.path / "model" / "ema_model-final.pth").exists()
    assert (run.data.num_classes is None) == (flags.get("conditioning") is False)
    assert list((run.folder.path / "samples").glob("*.png"))
    with torch.no_grad():
        x = run.denoiser(torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.9]), None)
    assert x.isfinite().all()


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_gradients_are_clipped_to_a_norm(tmp_path, monkeypatch, clip):
    norms, step = [], torch.optim.Adam.step

    def recorded(self, closure=None):
        closure()
        gradients = [p.grad for p in self.param_groups[0]["params"]]
        norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm().item())
        return step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    flags = {**SHORT, "train_steps": 4, "clip_grad": clip, "accumulate_grad_batches": 2}
    assert train.main(tiny.command(**flags, output_dir=tmp_path)) == 0
    assert len(norms) == 4
    assert max(norms) > 0.05 if clip == 0 else norms == [pytest.approx(0.05, rel=1e-3)] * 4


@pytest.mark.usefixtures("_quick")
def test_the_same_command_gives_the_same_weights(tmp_path):
    for name in "ab":
        assert train.main(tiny.command(**{**SHORT, "dropout": 0.1}, output_dir=tmp_path / name)) == 0
    a, b = (tmp_path / name / "n_digits_H0.9_K2" for name in "ab")
    assert tiny.difference(a, b) == 0
    assert train.main(tiny.command(**{**SHORT, "dropout": 0.1}, seed=1, output_dir=tmp_path / "c")) == 0
    assert tiny.difference(a, tmp_path / "c" / "n_digits_H0.9_K2") > 1e-4


@pytest.mark.usefixtures("_quick")
def test_runs_without_an_id_do_not_share_a_folder(tmp_path):
    flags = {k: v for k, v in SHORT.items() if k != "wb_id"} | {"train_steps": 2}
    for _ in range(2):
        assert train.main(tiny.command(**flags, output_dir=tmp_path)) == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("objective", ["denoise", "consistency"])
def test_two_processes_learn_what_one_learns(tmp_path, tiny_run, objective):
    flags = {**SHORT, "train_steps": 20, "dropout": 0.0, "flip": True, "val_check_interval": 10, "device": "cpu"}
    name = "n_digits_H0.9_K2"
    if objective == "consistency":
        start = {"objective": objective, "init_from": tiny_run}
        flags, name = {**start, **{k: v for k, v in flags.items() if k not in tiny.FLAGS}}, f"{name}_{objective}"
    assert train.main(tiny.command(**{**flags, "batch_size": 16}, output_dir=tmp_path / "one")) == 0
    words = tiny.command(**{**flags, "batch_size": 8}, devices=2, strategy="ddp", output_dir=tmp_path / "two")
    done = subprocess.run(
        [sys.executable, interrupted.__file__, "NONE", "-1", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("network ") == 1  # one process speaks
    assert "training  20 steps of 16 samples on 2 devices, 8 on each\n" in done.stdout
    assert all(line.startswith("training:") for line in done.stderr.split("\n") if line)  # the bar, and nothing else
    one, two = (tmp_path / folder / name for folder in ("one", "two"))
    assert [path.name for path in (tmp_path / "two").iterdir()] == [two.name]
    assert tiny.difference(one, two) < (1e-5 if objective == "denoise" else 5e-5)
    steps, losses = ([line[key] for line in tiny.lines(one)] for key in ("step", "train/loss"))
    assert [line["step"] for line in tiny.lines(two)] == steps
    for expected, line in zip(losses, tiny.lines(two), strict=True):
        if expected:
            assert float(line["train/loss"]) == pytest.approx(float(expected), rel=1e-4)
    assert len(list((two / "samples").iterdir())) == len(list((one / "samples").iterdir())) == 2
