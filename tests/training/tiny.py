"""The smallest runs that show everything: flags, a trained run shared by a whole session, ways to compare runs."""

import csv
import functools
from pathlib import Path

import torch

import train

FLAGS: dict[str, object] = {
    "model_channels": 16,
    "channel_mult": "1,1",
    "num_res_blocks": 1,
    "attn_resolutions": "2",
    "val_samples": 16,
}
TRAINED = {
    **FLAGS,
    "wb_id": "tiny",
    "train_steps": 150,
    "batch_size": 32,
    "lr": 4e-3,
    "log_every": 5,
    "val_check_interval": 75,
    "log_model_every_n": 50,
    "checkpoint_every": 50,
}
FOLDER = "tiny_digits_H0.9_K2"
TUNED = {
    "objective": "consistency",
    "wb_id": "tuned",
    "train_steps": 8,
    "batch_size": 32,
    "log_every": 1,
    "val_check_interval": 4,
    "checkpoint_every": 4,
}
TUNED_FOLDER = "tuned_digits_H0.9_K2_consistency"


def command(*words: str, **flags: object) -> list[str]:
    """Words of a command line."""
    return [*words, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


@functools.cache
def trained(root: Path) -> Path:
    """The folder of a tiny run on digits, trained once per session; to be read, never written."""
    assert train.main(command(**TRAINED, output_dir=root / "tiny_runs")) == 0
    return root / "tiny_runs" / FOLDER


@functools.cache
def tuned(root: Path) -> Path:
    """The folder of the tiny run, tuned in a few steps, once per session; to be read, never written."""
    assert train.main(command(**TUNED, init_from=trained(root), output_dir=root / "tuned_runs")) == 0
    return root / "tuned_runs" / TUNED_FOLDER


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every file of weights in a run folder."""
    files = sorted((folder / "model").glob("*.pth"))
    return {file.name: torch.load(file, weights_only=True) for file in files}


def difference(one: Path, other: Path) -> float:
    """Largest difference of any weight in any version; the two folders must hold the same versions."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys(), (list(a), list(b))
    assert a
    assert all(a[name].keys() == b[name].keys() for name in a)
    return max(float((a[name][key] - b[name][key]).abs().max()) for name in a for key in a[name])


def lines(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without what depends on the clock."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in line.items() if k != "train/images_per_s"} for line in csv.DictReader(file)]


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint."""
    return int(torch.load(checkpoint, weights_only=True)["global_step"])
