"""Traps that gave wrong results without a word, and bugs that were reported as wrong input."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import args
import generate
import train
from common.config.flags import flags_of
from common.config.schema import Chosen
from common.generation import config as generation_config
from common.generation.config import SampleConfig
from common.samplers import SOLVERS
from tests.cli.test_flags import fitted
from tests.training import tiny

ROOT = Path(args.__file__).parent


def program(name: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, as a user starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / f"{name}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


# -- refusals are not bugs ---------------------------------------------------------------------------------------------

BROKEN = """
import torch
from torch import nn
from args import BACKBONES

class Broken(nn.Module):
    def __init__(self, in_channels: int, width: int = 4) -> None:
        super().__init__()
        if width == 4:
            a, b = torch.ones(3)
        raise ValueError("a bug, not a wrong flag")

BACKBONES["broken"] = Broken
"""


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """Words of train.py for a network that cannot be made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text(BROKEN)
    yield ["--plugin", "broken.py", "--model_name", "broken", "--dry_run"]
    args.BACKBONES.pop("broken", None)
    sys.modules.pop("broken", None)


def test_a_bug_in_a_plugin_shows_its_traceback(broken, tmp_path):
    result = program("train", *broken, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "a, b = torch.ones(3)" in result.stderr
    assert 'broken.py", line' in result.stderr


def test_a_bug_is_no_refusal_whatever_its_kind(broken, capsys):
    with pytest.raises(ValueError, match="a bug, not a wrong flag"):
        train.main([*broken, "--width", "5"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        train.main([*broken, "--width", "many"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    """An error of the operating system about a file that the user named, met while the program runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    with pytest.raises(SystemExit, match="2"):
        train.main(tiny.command(**tiny.FLAGS, output_dir="runs/below", train_steps=2))
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("train.py: error: ")
    assert "Traceback" not in error


# -- samples are those that were asked for -----------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> Path:
    """The folder of generated data of a small run, its samples drawn once."""
    monkeypatch.chdir(tmp_path)
    flags = {**tiny.FLAGS, "train_steps": 4, "batch_size": 8, "val_check_interval": 9, "wb_id": "a"}
    assert train.main(tiny.command(**flags)) == 0
    assert generate.main(["--run_id", "a", "--n_samples", "2", "--steps", "2"]) == 0
    return tmp_path / "runs" / "a_digits_H0.9_K2" / "generated_data" / "model-final"


def test_every_field_is_part_of_the_identity():
    """Whatever changes samples tells them apart; a field that a later version adds cannot be forgotten."""

    @dataclass(frozen=True)
    class Later(SampleConfig):
        temperature: float = 1.0

    plain, warm = Later(), Later(temperature=2.0)
    assert plain.identity({}) == SampleConfig().identity({})  # samples drawn before are found again
    assert warm.identity({}) != plain.identity({})
    other = {
        "seeds": (1,), "labels": (3,), "solver": "em", "steps": 3, "nfe": 3, "grid": "uniform", "t_end": 0.01,
        "prior": "zero", "denoise_last": True, "clip_x0": True, "guidance": "classifier_free", "batch_size": 7,
        "device": "cpu", "solver_arguments": {"snr": 0.1}, "guidance_arguments": {"scale": 2.0},
        "process": Chosen("ve", "common.dynamics.classic:VE", {}), "target_shape": (16, 16), "task": "sense",
    }  # fmt: skip
    of_task = {"method": "isotropic", "noise_std": 0.1, "noise_seed": 1,
               "task_arguments": {"mask": "half"}, "method_arguments": {"iterations": 3}}  # fmt: skip
    runtime = {"n_samples", "mode", "match_noise", "trajectory", "picture_scale"}
    assert {f.name for f in dataclasses.fields(SampleConfig)} == other.keys() | of_task.keys() | runtime
    given = [{}, *({name: value} for name, value in other.items()), {"task": "inpaint"}]
    given += [{"task": "inpaint", name: value} for name, value in of_task.items()]
    identities = {json.dumps(SampleConfig(**one).identity({})) for one in given}
    assert len(identities) == len(given) == len(other) + len(of_task) + 2


def test_a_new_field_is_another_folder(drawn, monkeypatch):
    @dataclass(frozen=True)
    class Later(SampleConfig):
        """How samples are drawn.

        Attributes:
            temperature: factor on the noise
        """

        temperature: float = 1.0

    for module in (args, generation_config):
        monkeypatch.setattr(module, "SampleConfig", Later)
        monkeypatch.setattr(module, "DRAWN_BY", (Later, *generation_config.DRAWN_BY[1:]))
    assert "temperature" in {flag.name for flag in flags_of(Later)}
    words = ["--run_id", "a", "--n_samples", "2", "--steps", "2"]
    assert generate.main(words) == 0
    assert [path.name for path in drawn.iterdir()] == ["ab3-2-ema"]
    assert generate.main([*words, "--temperature", "2"]) == 0
    assert {path.name for path in drawn.iterdir()} == {"ab3-2-ema", "ab3-2-ema-2"}


def test_replaced_weights_are_drawn_again(drawn, capsys):
    words = ["--run_id", "a", "--n_samples", "2", "--steps", "2"]
    capsys.readouterr()
    assert generate.main(words) == 0
    assert "not needed" in capsys.readouterr().out
    before = np.load(drawn / "ab3-2-ema" / "data" / "data_000000.npy")
    file = drawn.parents[1] / "model" / "ema_model-final.pth"
    state = {name: value + 0.05 for name, value in torch.load(file, weights_only=True).items()}
    torch.save(state, file)
    with pytest.raises(SystemExit):
        generate.main(words)
    assert "ema_model-final.pth is damaged, or another file than was written" in capsys.readouterr().err
    (drawn.parents[1] / "manifest.json").unlink()
    assert generate.main(words) == 0
    assert "not needed" not in capsys.readouterr().out
    after = np.load(drawn / "ab3-2-ema-2" / "data" / "data_000000.npy")
    assert np.abs(before - after).max() > 1e-3


# -- a class keeps its own defaults ------------------------------------------------------------------------------------

OWN_VE = """
import torch
from args import BACKBONES, DYNAMICS
from common.backbones import UNet
from common.dynamics import VE

class OwnVE(VE):
    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 80.0) -> None:
        super().__init__(sigma_min, sigma_max)

class OwnUNet(torch.nn.Module):
    def __init__(self, in_channels: int, dropout: float = 0.5, lr: float = 3.0) -> None:
        super().__init__()

DYNAMICS["own"] = OwnVE
BACKBONES["own_net"] = OwnUNet
"""


@pytest.fixture
def own_ve(tmp_path, monkeypatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_ve.py").write_text(OWN_VE)
    yield "own_ve.py"
    args.DYNAMICS.pop("own", None)
    args.BACKBONES.pop("own_net", None)
    sys.modules.pop("own_ve", None)


def test_a_plugins_default_stays(own_ve):
    """Neither a flag of our own classes nor the preset of the data set overrides it; a given flag does."""
    words = ("--plugin", own_ve, "--dynamics", "own", "--model_name", "own_net")
    config = fitted(*words)
    assert config.dynamics.arguments == {"sigma_min": 0.02, "sigma_max": 80.0}
    assert config.network.arguments == {"in_channels": 1, "dropout": 0.5, "lr": 3.0}
    config = fitted(*words, "--sigma_max", "60", "--dropout", "0.2", "--lr", "0.1", "--model_args", "lr=4.0")
    assert config.dynamics.arguments == {"sigma_min": 0.02, "sigma_max": 60.0}
    assert config.network.arguments == {"in_channels": 1, "dropout": 0.2, "lr": 4.0}
    assert config.recipe.lr == 0.1


# -- dynamics are admitted ---------------------------------------------------------------------------------------------

FLOW = """
from args import DYNAMICS
from common.dynamics import ClosedForm

class Straight(ClosedForm):
    {horizon}

    def scale(self, t):
        return 1 - t

    def std(self, t):
        return t

DYNAMICS["straight"] = Straight
"""


@pytest.fixture
def _straight() -> Iterator[None]:
    yield
    args.DYNAMICS.pop("straight", None)
    sys.modules.pop("straight", None)


@pytest.mark.usefixtures("_straight")
@pytest.mark.parametrize("horizon", ["", "horizon = 0.99"])
def test_a_flow_path_is_refused_or_draws_finite_samples(tmp_path, monkeypatch, capsys, horizon):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("straight.py").write_text(FLOW.format(horizon=horizon or "pass"))
    flags = {**tiny.FLAGS, "train_steps": 4, "batch_size": 8, "val_check_interval": 9, "wb_id": "s"}
    words = tiny.command("--plugin", "straight.py", "--dynamics", "straight", **flags)
    if not horizon:
        with pytest.raises(SystemExit) as stop:
            train.main(words)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "Straight: the scale is 0 at t = 1" in error
        assert "horizon" in error
        assert not Path("runs").exists()
        return
    assert train.main(words) == 0
    for solver in SOLVERS:
        drawing = ["--run_id", "s", "--plugin", "straight.py", "--solver", solver, "--n_samples", "3"]
        steps = [] if SOLVERS[solver].adaptive else ["--steps", "20"]
        assert generate.main([*drawing, *steps, "--clip_x0", "True"]) == 0
    files = list(Path("runs").glob("s_*/generated_data/*/*/data/*.npy"))
    assert len(files) == len(SOLVERS)
    assert all(np.isfinite(np.load(file)).all() for file in files)
