"""The functional family from the command line: heat dynamics, its networks, its samplers, its prior."""

import json
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import args
from common.data import DataOptions
from common.data.digits import Digits
from common.dynamics import Fourier
from common.runs import load
from tests.cli.test_flags import fitted, resolve
from tests.marks import later
from tests.training import tiny

HEAT = {
    "dynamics": "heat",
    "energy_norm": 8,
    "model_name": "uvit",
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "train_steps": 4,
    "batch_size": 8,
    "val_samples": 8,
    "val_check_interval": 4,
    "checkpoint_every": 2,
    "log_every": 2,
    "wb_id": "h",
}
UVIT = HEAT
INR = {
    **{key: value for key, value in HEAT.items() if key not in ("embed_dim", "num_heads")},
    "model_name": "inr", "width": 16, "depth": 2, "learned_rates": True, "optimizer": "adabelief",
    "lr_schedule": "warmup_cosine", "warmup_steps": 2, "clip_by": "value", "loss_reduction": "sum", "time_warmup": 10,
    "t_min": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("flags", [UVIT, later(INR)], ids=["uvit", "inr"])
def test_train_resume_generate(cli, tmp_path, flags):
    result = cli("train", *tiny.command(**flags))
    assert result.code == 0, result.err
    folder = tmp_path / "runs" / f"h_digits_heat_{flags['model_name']}"
    assert {"config.json", "prior.safetensors", "loss.png"} <= {path.name for path in folder.iterdir()}
    run = load("h")
    v, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 1.0])
    with torch.inference_mode():
        first = run.denoiser(v, t, torch.tensor([1, 2]))
    assert first.isfinite().all()
    # the run is resumed from its middle and ends with the same weights
    before = tiny.weights(folder)["model-final.pth"]
    (folder / "model" / "model-final.pth").unlink()
    assert cli("train", "--resume", folder / "checkpoints" / "step-0000002.ckpt").code == 0
    after = tiny.weights(folder)["model-final.pth"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    if flags is INR:
        rates = [value for name, value in after.items() if "rates" in name]
        assert rates
        assert all(float(rate.min()) >= 0 and float(rate.max()) <= 1 for rate in rates)
    for words, name, nfe in (
        (("--steps", 3), "ab2-3-ema", 3),
        (("--mode", "sde", "--steps", 3), "sde3-ema", 3),
        (
            ("--solver", "pc", "--steps", 2, "--factor", 0, "--snr", 0.1),
            "pc-2-ema",
            4,
        ),  # 1 + 1, 1, and x0_hat at the end
        (("--solver", "pc", "--mode", "ode", "--corrector", "none", "--steps", 2), "pc-2-ema-2", 4),
    ):
        result = cli("generate", "--run_id", "h", "--n_samples", 3, *words)
        assert result.code == 0, result.err
        assert f"network   {nfe} evaluations per sample" in result.out
        samples = np.load(folder / "generated_data" / "model-final" / name / "data" / "data_000000.npy")
        assert samples.shape == (3, 8, 8, 1)
        assert np.isfinite(samples).all()


def test_the_prior_is_the_datas_and_comes_back(cli, tmp_path):
    assert cli("train", *tiny.command(**UVIT)).code == 0
    data = Digits().load(DataOptions(tmp_path))
    images = data.to_unit_range(data.train.images).double()
    prior = load("h").dynamics.prior
    assert torch.allclose(prior.mean, images.mean(0), atol=1e-6)  # images come in float32
    spectrum = Fourier((8, 8)).analysis(images - images.mean(0)).abs().square().mean((0, 1))
    assert torch.allclose(prior.variance, spectrum, rtol=1e-5)
    arrays = {}
    for which in ("data", "zero"):
        assert cli("generate", "--run_id", "h", "--n_samples", 2, "--steps", 2, "--prior", which).code == 0
        folder = max((tmp_path / "runs").glob("*/generated_data/*/*"), key=lambda path: path.stat().st_mtime_ns)
        arrays[which] = np.load(folder / "data" / "data_000000.npy")
    assert np.abs(arrays["data"] - arrays["zero"]).max() > 1e-3


def test_a_missing_or_foreign_prior_is_named(cli, tmp_path):
    assert cli("train", *tiny.command(**UVIT)).code == 0
    path = tmp_path / "runs" / "h_digits_heat_uvit" / "prior.safetensors"
    content = path.read_bytes()
    for damage in (lambda: path.write_bytes(content[:50]), path.unlink):
        damage()
        result = cli("generate", "--run_id", "h", "--n_samples", 2)
        assert (result.code, result.written) == (2, [])
        assert "prior.safetensors" in result.err
        assert len(result.err.splitlines()) == 1


def test_prior_data_needs_statistics(cli):
    assert cli("train", *tiny.command(**UVIT, prior="zero")).code == 0
    result = cli("generate", "--run_id", "h", "--prior", "data")
    assert result.code == 2
    assert "h_digits_heat_uvit was trained with --prior zero" in result.err


def write_recordings(folder) -> None:
    """Two sounds of each of ten classes: tones, padded to a second when they are read."""
    folder.mkdir()
    for digit in range(10):
        for index in (0, 7):
            wav = np.sin(np.arange(1000) * (0.05 + 0.02 * digit)) * 20000
            with wave.open(str(folder / f"{digit}_me_{index}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(wav.astype("<i2").tobytes())


def test_sounds_come_out_as_sounds(cli, tmp_path):
    write_recordings(tmp_path / "data")
    flags = {**UVIT, "data_name": "spokendigits", "data_dir": "data", "length": 256, "patch_size": 16, "val_samples": 2}
    assert cli("train", *tiny.command(**flags)).code == 0
    assert load("h").data.sample_rate == 8000
    result = cli("generate", "--run_id", "h", "--n_samples", 3, "--steps", 2)
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "runs" / "h_spokendigits_heat_uvit" / "generated_data" / "model-final").iterdir()
    with wave.open(str(folder / "audio" / "audio_000002.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 256)
    assert (folder / "grid.png").exists()
    result = cli("generate", "--run_id", "h", "--n_samples", 3, "--steps", 2, "--trajectory")
    assert result.code == 0, result.err
    with Image.open(folder / "trajectory.gif") as film:
        assert film.n_frames == 2
    for words in (
        ("generate", "--run_id", "h", "--picture_scale", 2),
        ("train", *tiny.command(**{**flags, "wb_id": "other", "picture_scale": 2})),
    ):
        result = cli(*words)
        assert (result.code, result.written) == (2, [])
        assert "--picture_scale 2 magnifies images; samples of this run are sounds" in result.err


PUBLISHED = {  # parameters of the networks, and what distinguishes the processes
    "fdp-mnist-inr": ((1, 32, 32), 118_916, {"x_norm": 32, "energy_norm": 1, "beta_max": 5}),
    "fdp-celeba-inr": ((3, 64, 64), 945_173, {"x_norm": 64, "energy_norm": 1, "beta_max": 5}),
    "fdp-celeba-uvit": ((3, 64, 64), 25_734_743, {"x_norm": 64, "energy_norm": 64, "beta_max": 10}),
    # the published one has 6 more: its last convolution runs over the batch too
    "fdp-audio-uvit": ((1, 8000), 48_261_638, {"x_norm": 8000, "energy_norm": 1, "beta_max": 10}),
    "fdp-audio-inr": ((1, 8000), 118_916, {"x_norm": 64, "energy_norm": 256, "beta_max": 10}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets(name):
    shape, parameters, process = PUBLISHED[name]
    settings = resolve("--preset", name)
    config = fitted("--preset", name, shape=shape, num_classes=None)
    arguments = config.dynamics.arguments
    assert {key: arguments[key] for key in process} == process
    assert arguments["shape"] == list(shape[1:])
    with torch.device("meta"):
        network = args.BACKBONES[config.network.name](**config.network.arguments)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert settings["t_min"] == 1e-3
    assert (settings["ema_decay"], settings["ema_every"]) == ((0.9999,), 1)
    assert (config.adaptation is not None) == name.endswith("inr")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dynamics heat --hurst 0.5", "--hurst has no effect on --dynamics heat"),
        ("--dynamics vp --energy_norm 2", "--energy_norm has no effect on --dynamics vp"),
        ("--model_name uvit --width 3", "--width has no effect on --model_name uvit"),
        ("--model_name uvit --inner_lr 0.1", "--inner_lr has no effect on --model_name uvit without --inner_steps"),
        ("--model_name unet --paper True", "--paper has no effect on --model_name unet without --inner_steps"),
        ("--model_name uvit --depth 4", "--depth must be odd"),
        ("--model_name uvit --patch_size 3", "--patch_size must"),
        ("--model_name uvit --embed_dim 30", "--embed_dim must be"),
        ("--model_name inr --inner_steps 0 --y_input False", "--inner_steps 0 and --y_input False exclude each other"),
        ("--model_name inr --learned_rates True --inner_clip 2", "--inner_clip has no effect with --learned_rates"),
        ("--model_name inr --image_size 8 --dropout 0.1", "--dropout has no effect on --model_name inr"),
        ("--dynamics heat --prediction eps", "--prediction eps cannot be turned into data"),
        ("--lr_schedule onecycle --warmup_steps 3", "--warmup_steps has no effect on --lr_schedule onecycle"),
        ("--lr_schedule warmup_cosine --warmup_steps 9 --decay_steps 9", "--warmup_steps 9 must be below"),
        ("--lr_end 0.1 --lr 0.01", "--lr_end 0.1 must not be above --lr 0.01"),
        ("--model_name inr --learned_rates True --inner_lr 2", "--inner_lr must be at most 1 if rates are learned"),
        ("--model_name inr --paper True", "--paper has no effect on --model_name inr without --learned_rates True"),
        ("--optimizer lion", "--optimizer"),
        ("--center_crop 0", "--center_crop"),
        ("--center_crop 1.5", "--center_crop"),
        ("--length 0", "--length"),
        ("--dynamics heat --energy_norm 0", "--energy_norm"),
        ("--data_name spokendigits --data_dir nowhere", "nowhere"),
        ("--data_name celeba --data_dir nowhere", "nowhere"),
    ],
)  # fmt: skip
def test_wrong_flags_of_training(cli, words, message):
    result = cli("train", *words.split())
    assert (result.code, result.written) == (2, [])
    assert message in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--solver exp2 --snr 0.1", "--snr has no effect on --solver exp2"),
        ("--solver em --mode ode", "--mode and --solver exclude each other"),
        ("--solver pc --predictor rk4", "--predictor"),
        ("--solver pc --snr 0", "--snr"),
        ("--solver pc --factor -1", "--factor"),
        ("--solver pc --predictor reverse_diffusion --factor 2", "--factor has no effect on --predictor"),
        ("--solver pc --corrector none --snr 0.3", "--snr has no effect on --corrector none"),
        ("--prior data", "--prior"),
    ],
)
@pytest.mark.usefixtures("run")
def test_wrong_flags_of_generation(cli, words, message):
    result = cli("generate", "--run_id", "tiny", *words.split())
    assert (result.code, result.written) == (2, [])
    assert message in result.err
    assert len(result.err.splitlines()) == 1


OWN_NETWORK = """
from torch import nn

from args import BACKBONES


class Own(nn.Module):
    def __init__(self, in_channels, out_channels, width=6, depth=2, position="here"):
        super().__init__()
        assert position == "here"
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 1), *[nn.Conv2d(width, width, 1)] * depth,
                                    nn.Conv2d(width, out_channels, 1))

    def forward(self, x, t, labels=None):
        return self.layers(x)


BACKBONES["own"] = Own
"""


def test_flags_of_our_networks_leave_the_defaults_of_others(cli, tmp_path):
    (tmp_path / "own_network.py").write_text(OWN_NETWORK)
    short = {key: HEAT[key] for key in ("train_steps", "batch_size", "val_samples", "val_check_interval", "wb_id")}
    words = tiny.command(**short, plugin="own_network.py", model_name="own", checkpoint_every=2)
    assert cli("train", *words).code == 0
    folder = tmp_path / "runs" / "h_digits_H0.9_K2"
    config = json.loads((folder / "config.json").read_text())
    own = {"in_channels": 1, "out_channels": 1, "width": 6, "depth": 2, "position": "here"}
    assert config["network"]["arguments"] == own
    # a default that has changed since does not change the network that is resumed
    (tmp_path / "own_network.py").write_text(OWN_NETWORK.replace("depth=2", "depth=3"))
    step = folder / "checkpoints" / "step-0000002.ckpt"
    result = cli("train", "--resume", step, "--plugin", "own_network.py", "--depth", 2)
    assert result.code == 0, result.err
    result = cli("train", "--resume", step, "--plugin", "own_network.py", "--depth", 3)
    assert (result.code, result.written) == (2, [])
    assert "--depth 3 contradicts the run h_digits_H0.9_K2, which has 2" in result.err


def test_a_prior_of_other_data_is_named_and_a_missing_one_written_again(cli, tmp_path):
    assert cli("train", *tiny.command(**UVIT)).code == 0
    path = tmp_path / "runs" / "h_digits_heat_uvit" / "prior.safetensors"
    content = {name: value.clone() for name, value in load_file(path).items()}  # the file is mapped into memory
    save_file({**content, "mean": content["mean"][:, :4].contiguous()}, path)
    result = cli("generate", "--run_id", "h", "--n_samples", 2)
    assert (result.code, result.written) == (2, [])
    assert "prior.safetensors is damaged, or another file" in result.err
    manifest = path.with_name("manifest.json").read_text()
    path.with_name("manifest.json").unlink()
    result = cli("generate", "--run_id", "h", "--n_samples", 2)
    path.with_name("manifest.json").write_text(manifest)
    assert (result.code, result.written) == (2, [])
    assert "must hold mean and variance of samples of shape [1, 8, 8]" in result.err
    path.unlink()
    assert cli("train", "--resume", path.parent / "checkpoints" / "step-0000002.ckpt").code == 0
    again = load_file(path)
    assert all(torch.equal(content[name], again[name]) for name in content)


@pytest.mark.parametrize("flags", [later(UVIT), INR], ids=["uvit", "inr"])
def test_half_precision_and_adaptation(cli, flags):
    more = {"precision": "bf16-mixed", "inner_steps": 2, "train_steps": 3, "checkpointing": True}
    result = cli("train", *tiny.command(**{**flags, **more}))
    assert result.code == 0, result.err


@pytest.mark.usefixtures("run")
def test_samples_that_are_not_finite_are_reported(cli, monkeypatch):
    monkeypatch.setattr("common.generation.pictures.not_finite", lambda folder: [1])
    result = cli("generate", "--run_id", "tiny", "--seeds", "7,9", "--steps", 2)
    assert result.code == 0
    assert "warning: 1 of 2 samples have NaN or infinite values (seeds 9)" in result.err


def test_a_warm_up_longer_than_the_training_is_noted(cli):
    result = cli("train", *tiny.command(**UVIT, time_warmup=100), "--dry_run")
    assert "--time_warmup 100 is not over when training ends" in result.out
