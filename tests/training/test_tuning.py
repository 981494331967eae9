"""A tuning from the command line to the run folder: whatever network, data and precision a run has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from common.files import load_checkpoint, load_state
from common.runs import load
from tests.training import interrupted, tiny

SHORT = {"batch_size": 4, "log_every": 1, "val_check_interval": 3, "checkpoint_every": 3}
UVIT = {"model_name": "uvit", "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_dim": 16}
INR = {"model_name": "inr", "width": 8, "depth": 2}


def functions(folder: Path) -> dict[str, object]:
    x = np.sin(np.linspace(0, 6, 16) + np.random.default_rng(0).normal(size=(40, 1)))
    np.savez(folder / "waves.npz", x=x.astype(np.float32))
    return {"data_name": "arrays", "data_dir": folder / "waves.npz", "model_name": "unet1d"}


def pictures(folder: Path) -> dict[str, object]:
    for i in range(24):
        path = folder / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 40).save(path)
    return {**tiny.FLAGS, "data_name": "folder", "data_dir": folder / "pictures", "image_size": 8, "val_samples": 4}


STARTS = {
    "adapting": {**INR, "dynamics": "heat", "inner_steps": 1},
    "learned rates": {**INR, "dynamics": "heat", "inner_steps": 2, "learned_rates": True},
    "uvit": {**UVIT, "dynamics": "heat", "prior": "data"},
    "unlabelled": {**tiny.FLAGS, "conditioning": False, "dynamics": "cld", "use_ema": False},
    "functions": functions,
    "pictures": pictures,
}
SLOW = ("learned rates", "uvit", "pictures")  # the others go most of their way


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


def tuned(folder: Path, start: Path | str, **flags: object) -> Path:
    """The folder of a tuning of three steps."""
    words = {**SHORT, "wb_id": "b", "train_steps": 3, "output_dir": folder, **flags}
    assert train.main(tiny.command(objective="consistency", init_from=start, **words)) == 0
    (found,) = folder.glob("b_*_consistency")
    return found


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in STARTS])
def test_whatever_can_be_trained_can_be_tuned(tmp_path, name):
    flags = STARTS[name]
    flags = flags(tmp_path) if callable(flags) else flags
    words = {**flags, **SHORT, "wb_id": "a", "train_steps": 3, "output_dir": tmp_path}
    assert train.main(tiny.command(**words)) == 0
    folder = tuned(tmp_path, "a")
    (start,) = tmp_path.glob("a_*")
    before, after = (load_state(place / "model" / "model-final.pth") for place in (start, folder))
    assert list(before) == list(after)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert all(value.isfinite().all() for value in after.values())
    run, lines = load("b", output_dir=tmp_path), tiny.lines(folder)
    assert run.is_consistent
    assert run.config.adaptation == load("a", output_dir=tmp_path).config.adaptation
    assert len([line for line in lines if float(line["train/loss"] or "nan") > 0]) == 3
    assert float(lines[-1]["val/loss"]) > 0
    assert len(list((folder / "samples").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{"precision": "bf16-mixed"}, {"dynamics": "heat", "prediction": "v"}], ids=str)
def test_variants(tmp_path, tiny_run, flags):
    folder = tuned(tmp_path, tiny_run, **flags)
    before, after = (load_state(place / "model" / "model-final.pth") for place in (tiny_run, folder))
    still = [name for name in after if "bias" not in name and torch.equal(before[name], after[name])]
    assert len(still) < 3  # of label embeddings the rows of a few steps only; every layer has learned
    assert all(value.isfinite().all() for value in after.values())


def test_the_guide_is_in_the_checkpoint(tmp_path):
    """A resumed tuning is guided by the network that it began with, not by what that has become."""
    flags = {**tiny.FLAGS, **SHORT, "wb_id": "a", "train_steps": 3, "label_dropout": 0.3, "output_dir": tmp_path}
    assert train.main(tiny.command(**flags)) == 0
    folder = tuned(tmp_path, "a", guidance_scale=2)
    (start,) = tmp_path.glob("a_*")
    weights = load_state(start / "model" / "ema_model-final.pth")
    state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(state[f"objective.guide.{name}"], value) for name, value in weights.items())
    assert not all(torch.equal(state[f"network.{name}"], value) for name, value in weights.items())
    assert not any("guide" in name for name in load_state(folder / "model" / "model-final.pth"))
