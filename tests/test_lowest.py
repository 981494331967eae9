"""What must work with the oldest packages: imports, a step and samples of every part, a run, a published line."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import args
import evaluate
import generate
import train
from common.config.build import build_denoiser
from common.samplers import SOLVERS, path_of, sample
from tests.cli.test_flags import fitted
from tests.data.idx import write_mnist
from tests.test_imports import module_name, sources
from tests.training import tiny

pytestmark = pytest.mark.lowest
SMALL = {
    "unet": "--model_channels 16 --channel_mult 1,1 --num_res_blocks 1 --attn_resolutions 2",
    "uvit": "--embed_dim 16 --depth 3 --num_heads 2",
    "inr": "--width 16 --depth 2 --inner_steps 1",
}


def test_everything_imports():
    for file in sources():
        importlib.import_module(module_name(file))


PAIRS = list(itertools.product(args.DYNAMICS, SMALL))
TURN = itertools.cycle(SOLVERS)  # three for each pair, so that every solver has a turn with several


@pytest.mark.parametrize(("dynamics", "network", "solvers"), [(*pair, [*itertools.islice(TURN, 3)]) for pair in PAIRS])
def test_a_step_and_four_samples(dynamics, network, solvers):
    config = fitted(*f"--dynamics {dynamics} --model_name {network} {SMALL[network]}".split())
    denoiser = build_denoiser(config)
    x0 = torch.rand(4, 1, 8, 8) * 2 - 1
    denoiser.error(x0, torch.linspace(0.1, 0.9, 4), torch.randn_like(x0), torch.arange(4)).mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in denoiser.parameters())
    for name in solvers:
        path = path_of(SOLVERS[name], denoiser.dynamics)
        drawn = sample(path, denoiser.eval(), x0.shape, solver=name, steps=2, seeds=range(4), labels=torch.arange(4))
        assert drawn.x.shape == x0.shape


def test_a_run_from_start_to_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {**tiny.FLAGS, "train_steps": 6, "batch_size": 8, "val_check_interval": 3, "wb_id": "a", "log_every": 2}
    assert train.main(tiny.command(**flags, checkpoint_every=3)) == 0
    folder = tmp_path / "runs" / "a_digits_H0.9_K2"
    whole = tiny.weights(folder)
    for file in (folder / "model").iterdir():
        file.unlink()
    assert train.main(["--resume", str(folder / "checkpoints" / "step-0000003.ckpt")]) == 0
    resumed = tiny.weights(folder)
    assert all(torch.equal(whole[name][key], resumed[name][key]) for name in whole for key in whole[name])
    assert generate.main(["--run_id", "a", "--n_samples", "20", "--steps", "3"]) == 0
    assert evaluate.main(["--run_id", "a"]) == 0
    (array,) = folder.glob("generated_data/*/*/data/*.npy")
    assert np.isfinite(np.load(array)).all()


def test_a_published_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(Path("data"), train=8, test=4)
    line = (
        "--data_name mnist --channels 1 --image_size 28 --hurst 0.9 --num_aug 3 --dynamics fvp --model_channels 16 "
        "--num_res_blocks 1 --attn_resolutions 4,2 --channel_mult 1,2,4 --dropout 0.0 --use_ema False "
        "--log_model_every_n 50000 --val_check_interval 500 --lr 1e-4 --batch_size 2 --train_steps 2 --wb_id 4711"
    )
    assert train.main(line.split()) == 0
    words = "--run_id 4711 --version final --n_samples 2 --steps 2 --data_name mnist --hurst 0.9 --num_aug 3 --mode sde"
    assert generate.main(words.split()) == 0
