"""The command lines in the README of GFDM's published code (commit e600d43): what each means, and that it runs."""

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import args
from common.runs import load
from tests.cli.test_flags import resolve
from tests.data.idx import write_mnist

MNIST = (
    "--data_name mnist --channels 1 --image_size 28 --hurst 0.9 --num_aug 3 --dynamics fvp --model_channels 64 "
    "--num_res_blocks 3 --attn_resolutions 4,2 --channel_mult 1,2,4 --dropout 0.0 --use_ema False "
    "--log_model_every_n 50000 --val_check_interval 500 --lr 1e-4 --batch_size 1024 --train_steps 50000"
)
CIFAR10 = (
    "--data_name cifar10 --channels 3 --image_size 32 --hurst 0.9 --num_aug 2 --dynamics fvp --model_channels 128 "
    "--num_res_blocks 4 --attn_resolutions 8 --channel_mult 1,2,2,2 --use_ema True --log_model_every_n 100000 "
    "--val_check_interval 10000 --lr 2e-4 --batch_size 128 --train_steps 1000000"
)
OWN = (
    "--data_name yourdataset --channels 3 --image_size 16 --num_classes 5 --log_model_every_n 100000 "
    "--val_check_interval 10000 --hurst 0.7 --num_aug 1 --dynamics fvp --train_steps 1000000"
)
# what the published code trains with beside the flags printed (its defaults, and constants in its source)
CONSTANT = {
    "norm": True, "gamma_max": 20.0, "beta_min": 0.1, "beta_max": 20.0, "prediction": "auto", "clip_grad": 1.0,
    "conditioning": True, "ema_decay": (0.9999,), "ema_every": 10, "accumulate_grad_batches": 1, "flip": False,
    "time_sampling": "uniform", "loss_weight": "own", "label_dropout": 0.0, "precision": "32-true", "prior": "zero",
}  # fmt: skip
TRAIN = {
    MNIST: {
        "data_name": "mnist", "channels": 1, "image_size": 28, "hurst": 0.9, "num_aug": 3, "dynamics": "fvp",
        "model_channels": 64, "num_res_blocks": 3, "attn_resolutions": (4, 2), "channel_mult": (1, 2, 4),
        "dropout": 0.0, "use_ema": False, "log_model_every_n": 50000, "val_check_interval": 500, "lr": 1e-4,
        "batch_size": 1024, "train_steps": 50000, **CONSTANT,
    },
    CIFAR10: {
        "data_name": "cifar10", "channels": 3, "image_size": 32, "hurst": 0.9, "num_aug": 2, "dynamics": "fvp",
        "model_channels": 128, "num_res_blocks": 4, "attn_resolutions": (8,), "channel_mult": (1, 2, 2, 2),
        "dropout": 0.1, "use_ema": True, "log_model_every_n": 100000, "val_check_interval": 10000, "lr": 2e-4,
        "batch_size": 128, "train_steps": 1000000, **CONSTANT,
    },
}  # fmt: skip
OWN_VALUES = {
    "data_name": "yourdataset", "channels": 3, "image_size": 16, "num_classes": 5, "log_model_every_n": 100000,
    "val_check_interval": 10000, "hurst": 0.7, "num_aug": 1, "dynamics": "fvp", "train_steps": 1000000,
    # the defaults its README names for the network
    "model_channels": 128, "num_res_blocks": 4, "attn_resolutions": (8,), "channel_mult": (1, 2, 2, 2),
    "use_ema": True, **CONSTANT,
}  # fmt: skip
RELEASED = (("1299582", 0.9, 2, "v5"), ("1299581", 0.7, 2, "v5"), ("1299543", 0.5, 0, "v4"))
GENERATE = {
    f"--run_id {run_id} --hurst {hurst} --num_aug {num_aug} --dynamics fvp --mode sde --version {version} "
    "--n_samples 50000 --batch_size 1000 --steps 1000 --data_name cifar10": {
        "run_id": run_id, "hurst": hurst, "num_aug": num_aug, "dynamics": "fvp", "mode": "sde", "version": version,
        "n_samples": 50000, "batch_size": 1000, "steps": 1000, "data_name": "cifar10",
    }
    for run_id, hurst, num_aug, version in RELEASED
}  # fmt: skip
# the general form, with --mode ode as its text says, on a run of one's own
GENERAL = {
    f"--run_id 4711 --version final --n_samples 4 --batch_size 2 --steps 3 --data_name mnist --hurst 0.9 --num_aug 3 "
    f"{mode}": {
        "run_id": "4711", "version": "final", "n_samples": 4, "batch_size": 2, "steps": 3, "data_name": "mnist",
        "hurst": 0.9, "num_aug": 3, "mode": mode[-3:],
    }
    for mode in ("--mode=sde", "--mode ode")
}  # fmt: skip
# two steps and no sample grid; argparse takes the last value of a flag
TINY = "--train_steps 2 --batch_size 2 --val_check_interval 9 --device cpu"

PLUGIN = """
import torch
from common.data import SOURCES, DataSet, Source, Split

class CustomDataset(Source):
    name = "yourdataset"

    def load(self, options):
        images = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        labels = torch.arange(20) % 5
        return DataSet(Split(images[:15], labels[:15]), Split(images[15:], labels[15:]), 5)

SOURCES["yourdataset"] = CustomDataset
"""


@pytest.fixture
def own_data(monkeypatch):
    """The published way: a class of one's own under a name of one's own, here in a file instead of an edit."""
    Path("yourdataset.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "--plugin yourdataset.py"
    args.SOURCES.pop("yourdataset", None)
    sys.modules.pop("yourdataset", None)


# -- what they mean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", TRAIN, ids=lambda command: command.split()[1])
def test_training_commands_parse_to_the_published_values(command):
    settings = resolve(*shlex.split(command))
    assert {key: settings[key] for key in TRAIN[command]} == TRAIN[command]


def test_the_command_for_own_data_parses_to_the_published_values(own_data):
    settings = resolve(*own_data.split(), *shlex.split(OWN))
    assert {key: settings[key] for key in OWN_VALUES} == OWN_VALUES


@pytest.mark.parametrize("command", [*GENERATE, *GENERAL])
def test_generation_commands_parse_to_the_published_values(command):
    order = args.parse_generate(shlex.split(command))
    found = {**vars(order.opening), **vars(order.sample), **order.claims}
    expected = {**GENERATE, **GENERAL}[command]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("dynamics", "decay"), [("fvp", 0.9999), ("fve", 0.999)])
def test_the_average_follows_the_dynamics_as_published(dynamics, decay):
    assert resolve(*shlex.split(CIFAR10), "--dynamics", dynamics)["ema_decay"] == (decay,)


# -- that they run ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_for_mnist_run(cli, tmp_path):
    """The network of the paper, two steps, then both published samplers on it."""
    write_mnist(tmp_path / "data", train=8, test=4)
    result = cli("train", *shlex.split(f"{MNIST} --wb_id 4711 {TINY}"))
    assert result.code == 0, result.err
    assert "20,996,417 parameters" in result.out
    for command in GENERAL:
        assert cli("generate", *shlex.split(command)).code == 0
    for mode in ("sde3", "ode3"):
        folder = Path("runs/4711_mnist_H0.9_K3/generated_data/model-final") / mode
        assert [np.load(file).shape for file in sorted(folder.glob("data/*.npy"))] == [(2, 28, 28, 1)] * 2
        assert [np.load(file).shape for file in sorted(folder.glob("label/*.npy"))] == [(2,)] * 2


@pytest.mark.slow
def test_the_command_for_cifar10_runs(cli, tmp_path):
    Path("data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    np.savez("data/cifar10.npz", x=pixels, y=np.arange(12) % 10)
    result = cli("train", *shlex.split(f"{CIFAR10} --wb_id 4712 {TINY} --keep 1 --checkpoint_every 9"))
    assert result.code == 0, result.err
    assert "58,692,867 parameters" in result.out
    state = torch.load("runs/4712_cifar10_H0.9_K2/model/ema_model-final.pth", weights_only=True, mmap=True)
    assert len(state) == 505
    shutil.rmtree("runs")  # some gigabytes


@pytest.mark.slow
def test_the_command_for_own_data_runs(cli, own_data):
    small = "--model_channels 16 --num_res_blocks 1"
    result = cli("train", *shlex.split(f"{own_data} {OWN} --wb_id 4713 {TINY} {small}"))
    assert result.code == 0, result.err
    run = load("4713")
    assert run.data.shape == (3, 16, 16)
    assert run.data.num_classes == 5
    words = "--run_id 4713 --version final --n_samples 3 --batch_size 2 --steps 2 --hurst 0.7 --num_aug 1 --mode sde"
    assert cli("generate", *shlex.split(f"{words} --data_name yourdataset"))
