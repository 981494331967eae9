"""Samples on another grid: the last evaluation alone is on it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import generate
import train
from common import runs
from common.backbones import INR, UNet
from common.data.spec import DataSpec
from common.denoiser import Denoiser
from common.dynamics import CLD, VP
from common.generation.finer import Finer
from common.guidance import Matched
from common.refusal import Refusal
from common.samplers import sample
from gfdm.dynamics import FVP

SPEC = DataSpec("image", (1, 9, 9))


def wave(place: torch.Tensor) -> torch.Tensor:
    """A band-limited image on coordinates (2, ..)."""
    return 0.5 * torch.sin(2 * place[0] + place[1]) + 0.2 * torch.cos(3 * place[1])


class Waves(torch.nn.Module):
    """A coordinate network whose answer is one band-limited image, whatever it is shown."""

    def forward(self, x, t, labels=None, *, out_shape=None):
        axes = [torch.linspace(-1, 1, n, dtype=x.dtype) for n in out_shape or x.shape[2:]]
        found = wave(torch.stack(torch.meshgrid(*axes, indexing="ij")))
        return found.expand(len(x), 1, *found.shape) + (0 if labels is None else labels.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("dynamics", [VP(), CLD()], ids=["vp", "cld"])
@pytest.mark.parametrize("target", [(17, 33), (9, 9)])
def test_a_known_image_is_evaluated_at_its_coordinates(dynamics, target):
    finer = Finer.of(Denoiser(Waves(), dynamics, "x0"), SPEC, target)
    z = sample(dynamics, finer.denoiser, (3, 1, 9, 9), solver="exp1", steps=4, seeds=range(3)).z
    labels = torch.tensor([0, 1, 2])
    found = finer(dynamics, z, 1e-3, labels)
    axes = [torch.linspace(-1, 1, n) for n in target]
    expected = wave(torch.stack(torch.meshgrid(*axes, indexing="ij")))
    torch.testing.assert_close(found, expected + labels.reshape(3, 1, 1, 1), rtol=0, atol=1e-6)
    assert finer.spec(SPEC).shape == (1, *target)


def test_it_is_the_network_at_the_state_some_samples_at_a_time(monkeypatch):
    torch.manual_seed(0)
    dynamics, network = FVP(), INR((9, 9), 1, 1, width=6, depth=2)
    denoiser = Denoiser(network, dynamics, "x0")
    finer, z = Finer.of(denoiser, SPEC, (20, 10)), torch.randn(5, dynamics.num_components, 1, 9, 9)
    t = torch.tensor([1e-3], dtype=torch.float64)
    expected = denoiser(dynamics.statistic(z, t), t.expand(5), None, out_shape=(20, 10))
    torch.testing.assert_close(finer(dynamics, z, 1e-3, None), expected.detach(), rtol=0, atol=1e-6)
    monkeypatch.setattr("common.generation.finer.AT_ONCE", 450)
    torch.testing.assert_close(finer(dynamics, z, 1e-3, None), expected.detach(), rtol=0, atol=1e-5)


def test_another_process_answers_there_too():
    matched = Matched(Denoiser(Waves(), CLD().scalar_path(), "x0"), VP(), t_min=1e-5)
    v = torch.zeros(1, 1, 9, 9)
    found = Finer.of(matched, SPEC, (5, 5)).denoiser(v, torch.tensor([0.5]), None, out_shape=(5, 5))
    assert found.shape == (1, 1, 5, 5)


@pytest.mark.parametrize(
    ("network", "prediction", "target", "message"),
    [
        (UNet(8, 1, 16), "x0", (16, 16), "(16, 16): UNet works on one grid"),
        (INR((9, 9), 1, 1, width=4, depth=1), "eps", (16, 16), "only x0 is known on other grids than that of v"),
        (INR((9, 9), 1, 1, width=4, depth=1), "x0", (16,), "must be height and width, e.g. 128,128, got (16,)"),
        (INR((9, 9), 1, 1, width=4, depth=1), "x0", (0, 8), "must be height and width, e.g. 128,128, got (0, 8)"),
        (INR((9, 9), 1, 1, width=4, depth=1), "x0", (2**13, 2**13), "has 67,108,864 points; at most 16,777,216"),
    ],
)
def test_what_cannot_be_is_refused(network, prediction, target, message):
    with pytest.raises(Refusal) as refused:
        Finer.of(Denoiser(network, VP(), prediction), SPEC, target)
    assert message in str(refused.value)
    assert refused.value.argument == "target_shape"


def test_a_sound_has_more_points_per_second():
    finer = Finer.of(Denoiser(INR((800,), 1, 1, width=4, depth=1), VP(), "x0"),
                     DataSpec("sound", (1, 800), (-1.0, 1.0), sample_rate=8000), (1600,))  # fmt: skip
    spec = finer.spec(DataSpec("sound", (1, 800), (-1.0, 1.0), sample_rate=8000))
    assert (spec.shape, spec.sample_rate) == ((1, 1600), 16000)


SMALL = {
    "inr": "--model_name inr --width 8 --depth 2 --inner_steps 1",
    "uvit": "--model_name uvit --embed_dim 16 --depth 3 --num_heads 2 --patch_size 2",
}


@pytest.mark.parametrize("name", [pytest.param("inr", marks=pytest.mark.slow), "uvit"])
def test_a_command_line_gives_arrays_and_pictures_on_it(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    short = "--data_name digits --dynamics vp --prediction x0 --train_steps 2 --batch_size 4 --device cpu --wb_id a"
    assert train.main([*SMALL[name].split(), *short.split()]) == 0
    capsys.readouterr()
    drawing = "--run_id a --n_samples 3 --steps 2 --device cpu --target_shape"
    assert generate.main([*drawing.split(), "16,24"]) == 0
    out = capsys.readouterr().out
    assert "network   3 evaluations per sample" in out
    assert ("traces of patches" in out) == (name == "uvit")
    (place,) = tmp_path.glob("runs/a_*/generated_data/*/*-to16x24*")
    drawn = np.load(place / "data" / "data_000000.npy")
    assert (drawn.shape, drawn.dtype) == ((3, 16, 24, 1), np.float32)
    assert np.isfinite(drawn).all()
    assert json.loads((place / "settings.json").read_text())["target_shape"] == [16, 24]
    with Image.open(place / "grid.png") as image:
        assert image.height > 16
    assert generate.main([*drawing.split(), "16,24"]) == 0
    assert "not needed" in capsys.readouterr().out
    assert generate.main(["--run_id", "a", "--n_samples", "3", "--steps", "2", "--device", "cpu"]) == 0
    own = next(path for path in tmp_path.glob("runs/a_*/generated_data/*/*") if "-to" not in path.name)
    assert np.load(own / "data" / "data_000000.npy").shape == (3, 8, 8, 1)
    if name == "uvit":
        with pytest.raises(SystemExit) as ended:
            generate.main([*drawing.split(), "16,25"])
        assert ended.value.code == 2
        assert "--target_shape must be 2 multiples of 2, the side of a patch" in capsys.readouterr().err
    assert runs.load("a").data.grid == (8, 8)
