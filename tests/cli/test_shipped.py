"""The model that comes with the program."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.runs import RunNotFound, find, load

ROOT = Path(__file__).parents[2]
NAME = "mnist-demo_mnist_H0.9_K3"


@pytest.fixture
def shipped(cli, tmp_path) -> Path:
    """A copy under ./runs, without what was drawn from it."""
    folder = tmp_path / "runs" / NAME
    shutil.copytree(ROOT / "runs" / NAME, folder, ignore=shutil.ignore_patterns("generated_data"))
    return folder


def test_it_draws_digits_without_a_data_set(cli, shipped):
    assert sum(file.stat().st_size for file in shipped.rglob("*") if file.is_file()) < 3e6
    result = cli("generate", "--run_id", "mnist-demo", "--n_samples", 10, "--steps", 8)
    assert result.code == 0, result.err
    (file,) = shipped.glob("generated_data/*/*/data/*.npy")
    samples = np.load(file)
    assert samples.shape == (10, 28, 28, 1)
    assert 0.08 < samples.mean() < 0.2  # of real digits .13
    real = load("mnist-demo").folder.real
    assert real.is_file()


def test_it_is_neither_the_latest_run_nor_trained(cli, shipped):
    with pytest.raises(
        RunNotFound, match="latest: nothing was trained under runs yet; these come with the program: mnist-demo"
    ):
        find("latest", Path("runs"))
    flags = ("train", "--data_name", "digits", "--train_steps", 2, "--batch_size", 4)
    for words in (("--wb_id", "mnist-demo"), ("--wb_id", "mnist-demo", "--resume", "auto")):
        result = cli(*flags, *words)
        assert result.code == 2
        assert "comes with the program; take another id" in result.err
    result = cli("train", "--resume", "mnist-demo")
    assert result.code == 2
    assert f"--init_from {NAME}" in result.err
    assert "comes with the program" in result.err
