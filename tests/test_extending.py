"""docs/extending.md: every file in it is written as it stands, and every command run, training cut short."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import args
from common import runs
from common.config.plugins import import_plugins
from common.data import SOURCES, DataOptions
from common.data.digits import Digits
from common.dynamics import VP
from common.guidance import GUIDANCE
from common.guidance.tasks import TASKS
from common.metrics import METRICS
from common.samplers import SOLVERS, sample
from common.training.objectives import OBJECTIVES
from common.training.weights import LOSS_WEIGHTS
from tests.documents import ROOT, blocks, commands, run
from tests.oracles import GaussianDenoiser, slope

TEXT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"Save as\s+`(\w+\.py)`:\n\n```python\n(.*?)```", TEXT, flags=re.DOTALL))
SMALL = ("--model_channels", "16", "--channel_mult", "1,1")
REGISTERS = (
    args.DYNAMICS,
    args.BACKBONES,
    args.PRESETS,
    SOURCES,
    SOLVERS,
    GUIDANCE,
    METRICS,
    LOSS_WEIGHTS,
    OBJECTIVES,
    TASKS,
)
# an extension is at most as long as what was there before it was easy; what was impossible, at most 30 lines, and an
# operator with its task 40
LENGTHS = {
    "ou.py": 32, "ralston.py": 38, "sharpness.py": 30, "waves.py": 25, "conv1d.py": 37, "inpaint.py": 30,
    "truncated.py": 16, "robust.py": 30, "tomography.py": 40,
}  # fmt: skip


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """The document's files in the working folder; what they register is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    before = [dict(register) for register in REGISTERS]
    yield tmp_path
    for register, content in zip(REGISTERS, before, strict=True):
        register.clear()
        register.update(content)
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def test_the_document_has_an_example_of_each():
    assert FILES.keys() == LENGTHS.keys()
    assert len(blocks(TEXT, "python")) == len(FILES)
    assert {
        name: len(code.splitlines()) for name, code in FILES.items() if len(code.splitlines()) > LENGTHS[name]
    } == {}


@pytest.mark.slow
def test_commands_run_in_order(plugins):
    shutil.copytree(
        ROOT / "runs" / "digits-demo_digits_H0.9_K2",
        plugins / "runs" / "digits-demo_digits_H0.9_K2",
        ignore=shutil.ignore_patterns("generated_data"),
    )
    for command in commands(TEXT):
        if command[0] == "train.py":
            small = SMALL if "digits" in command else ()
            run(command, "--train_steps", "4", "--val_check_interval", "2", *small)
        elif command[0] == "generate.py":
            run(command, "--steps", "3")
        else:
            run(command)
    (waves,) = plugins.glob("runs/waves_waves_H0.7_K2/generated_data/model-final/*/data/*.npy")
    assert np.load(waves).shape == (100, 64, 1)
    assert list(plugins.glob("runs/waves_*/samples/step-*.png"))
    generated = plugins / "runs" / "ou_digits_ou_unet" / "generated_data" / "model-final"
    assert {path.name for path in generated.iterdir()} == {"sde3-ema", "ralston-3-ema", "ab3-3-ema"}
    assert "sharpness" in json.loads(next(generated.glob("*/metrics.json")).read_text())
    known = Digits().load(DataOptions(Path())).train.images[3, 0, :, :4] / 255
    drawn = np.load(generated / "ab3-3-ema" / "data" / "data_000000.npy")
    assert np.abs(drawn[:, :, :4, 0] - known.numpy()).mean() < 0.05  # the known half is that of image 3
    (tomography,) = plugins.glob("runs/digits-demo_*/generated_data/model-final/tomography-exact-*")
    seen, found = (np.load(tomography / f"{name}.npy")[..., 0] for name in ("observation", "mean"))
    away = np.abs(np.concatenate([found.mean(2), found.mean(1)], 1)[:, None] - seen).mean(2)  # of each from each
    assert (away.argmin(1) == np.arange(4)).all()
    config = json.loads((plugins / "runs" / "robust_digits_H0.9_K2_robust" / "config.json").read_text())
    assert config["objective"] == {"name": "robust", "class": "robust:Robust", "arguments": {"softness": 0.5}}
    assert drawn[:, :, 4:].std(0).mean() > 2 * drawn[:, :, :4].std(0).mean()


def test_the_dynamics_is_one_process(plugins):
    """Its law is the solution of its own SDE: dm/dt = f m and d(sc^2)/dt = 2 f sc^2 + g^2, by autograd."""
    import_plugins(["ou.py"])
    dynamics = args.DYNAMICS["ou"](rate=7.0)
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    scale = dynamics.log_scale(t).exp()
    variance = (2 * (dynamics.log_scale(t) + dynamics.noise_level(t))).exp()
    (fall,) = torch.autograd.grad(scale.sum(), t, retain_graph=True)
    (growth,) = torch.autograd.grad(variance.sum(), t)
    f, g = dynamics.drift(t), dynamics.diffusion(t)
    assert torch.allclose(fall, f * scale, rtol=1e-12)
    assert torch.allclose(growth, 2 * f * variance + g**2, rtol=1e-12)


@pytest.mark.parametrize("part", [0.5, 0.667, 1.0])
def test_the_solver_has_its_order(plugins, part):
    import_plugins(["ralston.py"])
    dynamics, init = VP(), torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)

    def run(steps: int) -> torch.Tensor:
        solver = SOLVERS["ralston"](part=part)
        return sample(dynamics, GaussianDenoiser(dynamics), (9, 1, 1), solver=solver, steps=steps, init=init).x

    limit = run(640)
    errors = [(run(steps) - limit).square().mean().sqrt().item() for steps in (40, 160)]
    assert slope([40, 160], errors) == pytest.approx(SOLVERS["ralston"].order, abs=0.2)


def test_a_run_is_not_loaded_without_its_plugin(plugins, monkeypatch):
    words = "--plugin ou.py --dynamics ou --preset digits --wb_id a --train_steps 2"
    run(["train.py", *words.split()], *SMALL)
    del sys.modules["ou"]  # as in another process
    del args.DYNAMICS["ou"]
    monkeypatch.setattr("common.config.plugins._plugins", set())
    with pytest.raises(ValueError, match="names 'ou:OrnsteinUhlenbeck', which is not ours"):
        runs.load("a")
    import_plugins(["ou.py"])
    assert type(runs.load("a").dynamics).__name__ == "OrnsteinUhlenbeck"
