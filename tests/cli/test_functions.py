"""Functions of one variable from the command line: what suits them by default, and their own range."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import args
from common.data import SOURCES, DataSet, Source, Split
from tests.cli.test_flags import fitted, resolve

LENGTH = 22
SMALL = args.PRESETS["functions-small"]


class OwnNetwork(nn.Module):
    """A plugin's network."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(in_channels, out_channels, 3, padding=1)

    def forward(self, x, t, labels=None):
        return self.layer(x)


class Curves(Source):
    """A plugin's data set."""

    name = "curves"

    def load(self, options):
        x = torch.rand(8, 1, LENGTH)
        return DataSet(Split(x[:6], torch.zeros(6).long()), Split(x[6:], torch.zeros(2).long()), value_range=(0.0, 1.0))


@pytest.fixture(autouse=True)
def _plugins(monkeypatch):
    monkeypatch.setitem(args.BACKBONES, "own", OwnNetwork)
    monkeypatch.setitem(SOURCES, "curves", Curves)


def series(count: int = 40, dtype: type = np.float64) -> np.ndarray:
    """Values about 20, from 15 to 25."""
    u, phase = np.linspace(0, 1, LENGTH), np.random.uniform(0, 6, (count, 1))
    return (20 + 5 * np.sin(6 * u + phase)).astype(dtype)


WRITERS = {
    "f.npy": lambda: np.save("f.npy", series()),
    "f32.npy": lambda: np.save("f32.npy", series(dtype=np.float32)[..., None]),
    "f.npz": lambda: np.savez("f.npz", y=np.arange(40) % 2, x=series()),
    "packed.npz": lambda: np.savez_compressed("packed.npz", x=series()),
}


@pytest.mark.parametrize("file", WRITERS)
def test_an_array_of_functions_gets_what_suits_functions(file):
    WRITERS[file]()
    found = resolve("--data_name", "arrays", "--data_dir", file)
    assert {name: found[name] for name in SMALL} == SMALL
    assert resolve("--data_name", "arrays", f"--data_dir={file}", "--lr", "0.5")["lr"] == 0.5
    assert found["train_steps"] < 10_000


@pytest.mark.parametrize("network", ["own", "inr", "uvit"])
@pytest.mark.parametrize("dynamics", ["vp", "heat"])
def test_another_network_or_process_keeps_the_steps(network, dynamics):
    """And its own sizes: a preset's are those of the network that it names."""
    WRITERS["f.npy"]()
    words = ["--data_name", "arrays", "--data_dir", "f.npy", "--model_name", network, "--dynamics", dynamics]
    found = resolve(*words)
    assert found["train_steps"] == SMALL["train_steps"]
    assert "model_channels" not in found
    assert resolve(*words, "--train_steps", "7")["train_steps"] == 7


def test_images_and_what_cannot_be_told_get_the_published_values(cli):
    np.save("images.npy", np.zeros((9, 8, 8), np.float32))
    np.save("no_samples.npy", np.zeros(3))
    Path("broken.npz").write_bytes(b"PK\x03\x04 no zip")
    for place in ("images.npy", "no_samples.npy", "broken.npz", "missing.npz"):
        found = resolve("--data_name", "arrays", "--data_dir", place)
        assert (found["model_name"], found["train_steps"]) == ("unet", 1_000_000)
    result = cli("train", "--data_name", "arrays", "--data_dir", "broken.npz")
    assert result.code == 2
    assert "broken.npz: cannot be read" in result.err


def test_a_source_says_what_it_holds(cli, monkeypatch):
    """One that does not gets the published steps, and is told so."""
    words = ("--data_name", "curves", "--model_name", "own", "--dry_run", "--num_workers", "0")
    silent = cli("train", *words)
    assert silent.code == 0, silent.err
    assert "1,000,000 steps were made for images; give --train_steps or --preset" in silent.out
    assert "were made for images" not in cli("train", *words, "--train_steps", "1000000").out
    monkeypatch.setattr(Curves, "kind", "function")
    assert f"training  {SMALL['train_steps']:,} steps" in cli("train", *words).out


@pytest.mark.parametrize("preset", ["fdp-audio-small", "fdp-audio-uvit"])
def test_a_frequency_of_1_is_one_cycle_of_the_data_whatever_its_length(preset):
    """The presets are for a second of 8,000 points; on 200 points x_norm 8,000 made a loss of 533."""
    for length in (8000, 200):
        assert fitted("--preset", preset, shape=(1, length)).dynamics.arguments["x_norm"] == length


@pytest.mark.slow
def test_samples_come_back_in_the_range_of_the_data(cli, tmp_path):
    np.savez("f.npz", x=series(), y=np.arange(40) % 2)
    words = "--model_channels 8 --channel_mult 2,2 --train_steps 120 --batch_size 16 --val_check_interval 120 --wb_id f"
    result = cli("train", "--data_name", "arrays", "--data_dir", "f.npz", *words.split(), "--lr", "0.01")
    assert result.code == 0, result.err
    assert cli("generate", "--run_id", "f", "--n_samples", "20", "--labels", "0,1", "--steps", "5").code == 0
    (file,) = tmp_path.glob("runs/f_*/generated_data/*/*/data/*.npy")
    drawn = np.load(file)[..., 0]
    assert drawn.shape == (20, LENGTH)
    assert abs(drawn.mean() - 20) < 1
    assert 0.6 < drawn.std() / series(1000).std() < 1.6  # after so few steps the extremes are still rough
