"""The command lines in the README of FDP's published code (commit c1aa1f6): what each means here, and that it runs.

Its scripts, scripts/maml/NAME.sh, are here under the same names; flags stand in the place of Hydra's words.
"""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import args
from tests.cli.conftest import Result
from tests.data.idx import write_mnist
from tests.data.test_celeba import faces
from tests.documents import ROOT

# the README's lines in its order; those of Hydra with what they are written as here
COMMANDS = {
    "sh scripts/maml/train_mnist.sh": "",
    "trainers.training_config.learning_rate=1e-5,2e-5": "sh scripts/maml/train_mnist.sh --sweep lr=1e-5,2e-5",
    "sh scripts/maml/sample_mnist.sh": "",
    "sh scripts/maml/super_resolution_mnist.sh": "",
    "samplers.sampler_config.target_shape=[512,512]": (
        "sh scripts/maml/super_resolution_mnist.sh --target_shape 512,512"
    ),
    "sh scripts/maml/eval_mnist.sh": "",
    "gdown --folder": "sh scripts/maml/train_celeba.sh --download",
    "sh scripts/maml/train_celeba.sh": "",
    "sh scripts/vit/train_celeba.sh": "",
    "sh scripts/maml/sample_celeba.sh": "",
    "sh scripts/vit/sample_celeba.sh": "",
    "sh scripts/maml/colorize_celeba.sh": "",
    "sh scripts/maml/deblur_celeba.sh": "",
    "sh scripts/maml/inpaint_celeba.sh": "",
    "sh scripts/maml/eval_celeba.sh": "",
    "sh scripts/vit/eval_celeba.sh": "",
}
# steps, snr, mode and factor of their scripts
SETTINGS = {
    "maml/sample_mnist": (50, 0.19, "sde", 2),
    "maml/super_resolution_mnist": (50, 0.19, "sde", 2),
    "maml/eval_mnist": (50, 0.19, "sde", 2),
    "maml/sample_celeba": (400, 0.17, "ode", 1),
    "maml/eval_celeba": (400, 0.17, "ode", 1),
    "maml/colorize_celeba": (100, 0.06, "ode", 2),
    "maml/inpaint_celeba": (100, 0.06, "ode", 2),
    "maml/deblur_celeba": (1000, 0.19, "sde", 1),
    "vit/sample_celeba": (100, 0.16, "ode", 2),
    "vit/eval_celeba": (100, 0.16, "ode", 2),
}
PRESET = {
    "maml/train_mnist": "fdp-mnist-inr",
    "maml/train_celeba": "fdp-celeba-inr",
    "maml/train_spoken_digit": "fdp-audio-inr",
    "vit/train_celeba": "fdp-celeba-uvit",
    "vit/train_spoken_digit": "fdp-audio-uvit",
}
TRAIN = "--train_steps 2 --batch_size 2 --warmup_steps 0 --decay_steps 0 --val_check_interval 9 --device cpu --keep 1"
TINY_INR = "--width 8 --depth 1 --image_size 8"
TINY_UVIT = "--embed_dim 8 --num_heads 2 --depth 1 --patch_size 4 --image_size 8"
FEW = "--steps 2 --n_samples 2 --device cpu"
JUDGED = "--steps 1 --n_samples 12 --metrics sw --device cpu"
COMPLETED = "--steps 2 --n_samples 2 --n_inputs 1 --device cpu"

Script = Callable[[str], Result]


def line_of(name: str) -> tuple[str, list[str]]:
    """The program that a script runs, and its words."""
    *_, last = (ROOT / "scripts" / f"{name}.sh").read_text().splitlines()
    words = shlex.split(last)
    assert words[:2] == ["exec", "python"]
    assert words[-1] == "$@"
    return Path(words[2]).stem, words[3:-1]


# -- what they mean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SETTINGS, *PRESET, "vit/sample_spoken_digit"])
def test_a_script_is_one_line_that_takes_further_flags(name, tmp_path):
    """With a program in the place of Python that says what it was called with."""
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    script = ROOT / "scripts" / f"{name}.sh"
    done = subprocess.run(
        ["sh", script, "--run_id", "a b", "--steps=3"],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    program, words = line_of(name)
    said = done.stdout.splitlines()
    assert Path(said[0]).resolve() == ROOT / f"{program}.py"
    assert said[1:] == [*words, "--run_id", "a b", "--steps=3"]
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n# ")
    assert len(script.read_text().splitlines()) == 3


@pytest.mark.parametrize("name", SETTINGS)
def test_scripts_that_draw_have_the_published_settings(name):
    program, words = line_of(name)
    if program == "evaluate":
        order = args.parse_evaluate(words)
        assert order.config.protocol == f"fdp-{name.rpartition('_')[2]}"
        sample = order.drawing.sample
    else:
        sample = args.parse_generate(words).sample
    given = sample.solver_arguments
    assert sample.solver == "pc"
    assert (sample.steps, given.get("snr", 0.16), sample.mode, given["factor"]) == SETTINGS[name]


@pytest.mark.parametrize("name", PRESET)
def test_scripts_that_train_take_the_published_presets(name):
    assert line_of(name) == ("train", ["--preset", PRESET[name]])


def test_every_script_of_the_readme_is_there():
    """And the table in docs/published.md has a row for each of its lines."""
    table = (ROOT / "docs" / "published.md").read_text()
    for theirs, ours in COMMANDS.items():
        line = ours or theirs
        assert (ROOT / line.split()[1]).is_file(), line
        assert theirs.removeprefix("sh ") in table
        assert ours in table


# -- that they run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def script(cli) -> Script:
    """Run a script's line in this process, with further words: ``script("maml/train_mnist --wb_id a")``."""

    def run(line: str) -> Result:
        name, *further = line.split()
        program, words = line_of(name)
        result = cli(program, *words, *further)
        assert result.code == 0, result.err
        return result

    return run


@pytest.fixture
def digits(script: Script, tmp_path: Path) -> str:
    """A run of the INR on digits."""
    write_mnist(tmp_path / "data", train=12, test=12)
    script(f"maml/train_mnist --wb_id digits {TRAIN} {TINY_INR}")
    return "digits"


@pytest.fixture
def photographs(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for name, content in faces(14).items():
        (folder / name).write_bytes(content)


def arrays(folder: str) -> list[tuple[int, ...]]:
    return [np.load(file).shape for file in sorted(Path("runs").glob(f"{folder}/**/data/*.npy"))]


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_the_commands_for_mnist_run(script):
    script(f"maml/sample_mnist {FEW}")
    assert arrays("digits_*") == [(2, 8, 8, 1)]
    assert "sw" in script(f"maml/eval_mnist {JUDGED}").out


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(("further", "side"), [("", 128), ("--target_shape 512,512", 512)])
def test_super_resolution_runs(script, further, side):
    script(f"maml/super_resolution_mnist {FEW} {further}")
    assert arrays("digits_*") == [(2, side, side, 1)]


@pytest.mark.slow
def test_the_sweep_runs(script, tmp_path):
    write_mnist(tmp_path / "data", train=8, test=4)
    script(f"maml/train_mnist --sweep lr=1e-5,2e-5 --wb_id many {TRAIN} {TINY_INR}")
    assert len(list(Path("runs").glob("*/model/ema_model-final.pth"))) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize(("family", "tiny"), [("maml", TINY_INR), ("vit", TINY_UVIT)])
def test_the_commands_for_celeba_run(script, family, tiny):
    script(f"{family}/train_celeba --download --wb_id faces {TRAIN} {tiny}")
    script(f"{family}/sample_celeba {FEW}")
    assert arrays("faces_*") == [(2, 8, 8, 3)]
    assert "sw" in script(f"{family}/eval_celeba {JUDGED}").out


@pytest.mark.slow
@pytest.mark.usefixtures("photographs")
def test_conditional_commands_for_celeba_run(script):
    script(f"maml/train_celeba --wb_id faces {TRAIN} {TINY_INR}")
    for name, further in (("colorize", ""), ("inpaint", ""), ("deblur", "--lowpass_radius 2")):
        script(f"maml/{name}_celeba {COMPLETED} {further}")
        assert arrays("faces_*")
