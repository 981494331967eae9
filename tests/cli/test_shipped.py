"""Models that come with the program, and copies of runs that are made like them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.runs import RunNotFound, find, load
from scripts import export

ROOT = Path(__file__).parents[2]
SHIPPED = {
    "digits-demo": ("digits-demo_digits_H0.9_K2", 8),
    "digits-heat-demo": ("digits-heat-demo_digits_heat_uvit", 8),
    "mnist-demo": ("mnist-demo_mnist_H0.9_K3", 28),
}
SAMPLING = {
    "SHIPPED.md", "config.json", "loss.png", "manifest.json", "metrics.csv", "model", "real.safetensors", "samples",
}  # fmt: skip


@pytest.fixture
def shipped(cli, tmp_path) -> Path:
    """Copies under ./runs, without what was drawn from them."""
    for name, _ in SHIPPED.values():
        folder = tmp_path / "runs" / name
        shutil.copytree(ROOT / "runs" / name, folder, ignore=shutil.ignore_patterns("generated_data"))
    return tmp_path / "runs"


def test_they_draw_digits_without_a_data_set(cli, shipped):
    assert sum(file.stat().st_size for file in shipped.rglob("*") if file.is_file()) < 6e6
    for run_id, (name, side) in SHIPPED.items():
        result = cli("generate", "--run_id", run_id, "--n_samples", 10, "--steps", 8)
        assert result.code == 0, result.err
        (file,) = (shipped / name).glob("generated_data/*/*/data/*.npy")
        samples, real = np.load(file), load(run_id).folder.real
        assert samples.shape == (10, side, side, 1)
        assert 0.08 < samples.mean() < (0.2 if side == 28 else 0.4)  # of real digits .13 and .31
        assert real.is_file()


def test_they_are_neither_the_latest_run_nor_trained(cli, shipped):
    with pytest.raises(RunNotFound, match="nothing was trained under runs yet; there are copies to sample from: "):
        find("latest", Path("runs"))
    flags = ("train", "--data_name", "digits", "--train_steps", 2, "--batch_size", 4)
    for words in (("--wb_id", "mnist-demo"), ("--wb_id", "mnist-demo", "--resume", "auto")):
        result = cli(*flags, *words)
        assert result.code == 2
        assert "is a copy to sample from; take another id" in result.err
    result = cli("train", "--resume", "mnist-demo")
    assert result.code == 2
    assert f"--init_from {SHIPPED['mnist-demo'][0]}" in result.err
    assert "is a copy to sample from, without a checkpoint" in result.err


def test_a_run_becomes_a_copy_to_sample_from(run, tmp_path, capsys):
    words = f"--run_id {run.name} --half True --copy_to {tmp_path / 'boxed'}".split()
    assert export.main(words) == 0
    copy = tmp_path / "boxed" / run.name
    assert capsys.readouterr().out.splitlines()[-1] == f"run       {copy}"
    assert {file.name for file in copy.iterdir()} <= SAMPLING | {"prior.safetensors"}
    whole, half = load(run.name), load(run.name, output_dir=tmp_path / "boxed")
    assert half.folder.is_shipped
    assert half.averaged == whole.averaged
    assert half.weights.stat().st_size < 0.7 * whole.weights.stat().st_size
    for x, y in zip(whole.denoiser.parameters(), half.denoiser.parameters(), strict=True):
        assert (x - y).abs().max() < 1e-3
    with pytest.raises(SystemExit) as stop:
        export.main(words)
    assert stop.value.code == 2
    assert f"--copy_to {copy} is there already" in capsys.readouterr().err


def test_a_copy_of_one_average_is_used_without_a_flag(cli, run, tmp_path):
    """A version with one kind of weights has them taken, whichever they are."""
    for file in (run / "model").iterdir():
        if not file.name.startswith("ema_model-final"):
            file.unlink()
    file = next((run / "model").iterdir())
    file.rename(file.with_name("ema0.5_model-final.pth"))
    (run / "manifest.json").unlink()  # it would tell that weights are missing
    result = cli("generate", "--run_id", "tiny", "--n_samples", 2, "--steps", 2)
    assert result.code == 0, result.err
    assert "(ema0.5_model-final.pth)" in result.out
    assert export.main(["--run_id", "tiny", "--copy_to", str(tmp_path / "boxed")]) == 0
    copy = tmp_path / "boxed" / run.name
    assert (copy / "model" / "ema0.5_model-final.safetensors").is_file()
    assert "--output_dir" in (copy / "SHIPPED.md").read_text()
    words = ("--output_dir", tmp_path / "boxed")
    assert cli("generate", "--run_id", "tiny", *words, "--n_samples", 2, "--steps", 2).code == 0
    refused = cli("train", "--resume", "tiny", *words)
    assert refused.code == 2
    assert f"--init_from {run.name} --output_dir {tmp_path / 'boxed'}" in refused.err
