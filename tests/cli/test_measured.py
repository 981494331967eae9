"""generate.py --grid measured: measured once, kept with the run, taken from then on; and what goes wrong."""

import errno
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.dynamics import Prior
from common.files import locked
from common.generation import measuring
from common.generation.arrays import generate
from common.generation.sets import command_for
from common.refusal import Refusal
from common.runs import RunFolder, SampleFolder, load
from gfdm.dynamics import FVP
from tests.test_files import flip

DRAW = ("--run_id", "tiny", "--n_samples", 4, "--steps", 2)


@pytest.fixture
def folder(cli, run) -> RunFolder:
    return RunFolder(Path("runs") / run.name)


def settings(folder: RunFolder) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.path.glob("generated_data/*/*/settings.json"))]


def test_it_is_measured_once_and_taken_from_then_on(cli, folder):
    before = cli("generate", *DRAW)
    assert before.code == 0
    first = cli("generate", *DRAW, "--grid", "measured")
    assert first.code == 0
    assert "grid      measured, and kept in" in first.out
    kept = folder.time_grid.read_bytes()
    assert folder.manifest.lists(folder.time_grid)
    again = cli("generate", *DRAW)
    assert "measured, and kept" not in again.out
    assert "not needed: all samples were there" in again.out  # the set that was drawn on that grid
    assert folder.time_grid.read_bytes() == kept
    plain, measured = sorted(settings(folder), key=lambda found: "density" in found)
    assert (plain["grid"], measured["grid"]) == ("decisive", "measured")
    assert "density" not in plain
    # the first set is still to be had, though another grid is the default now
    place = next(path for path in folder.path.glob("generated_data/*/*") if SampleFolder(path).kept() == plain)
    named = shlex.split(command_for(SampleFolder(place), plain))[2:]
    assert "not needed: all samples were there" in cli("generate", *named).out
    folder.time_grid.unlink()  # it may be removed; another one would make another set
    assert cli("generate", *DRAW).out.count("not needed") == 1
    assert [found.get("grid") for found in settings(folder)].count("measured") == 1
    assert cli("evaluate", "--run_id", "tiny", "--metrics", "nearest").code == 0


def test_damage_is_told_with_the_mend(cli, folder):
    assert cli("generate", *DRAW, "--grid", "measured").code == 0
    flip(folder.time_grid, folder.time_grid.stat().st_size // 2)
    result = cli("generate", *DRAW)
    assert result.code == 2
    assert "grid.json" in result.err
    assert "remove it and do without" in result.err
    folder.time_grid.unlink()
    assert cli("generate", *DRAW).code == 0


def test_a_training_that_writes_the_folder_keeps_it_to_itself(cli, folder):
    with locked(folder.path, "train.py"):
        result = cli("generate", *DRAW, "--grid", "measured")
    assert result.code == 0
    assert "note      the measured grid is not kept" in result.out
    assert not folder.time_grid.exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_does_without(run, monkeypatch):
    def locked(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(measuring, "locked", locked)
    opened = load(run.name, output_dir=run.parent)
    drawn = generate(opened, 2, steps=2, grid="measured", device="cpu")
    assert drawn.evaluations == 2
    assert opened.dynamics.node_density is not None
    assert not RunFolder(run).time_grid.exists()


@pytest.mark.slow
def test_it_is_measured_from_the_prior_of_the_run(run):
    # whatever the command that measures it starts from: under heat dynamics the prior gives the angle of every mode
    found = []
    for prior in ("zero", None):
        opened = load(run.name, output_dir=run.parent)
        opened.dynamics.prior = Prior(opened.dynamics, 0.3, 4.0)
        generate(opened, 1, steps=2, grid="measured", prior=prior, device="cpu")
        found.append(opened.dynamics.node_density)
        RunFolder(run).time_grid.unlink()
    assert found[0] == found[1]


def test_another_deviation_of_the_data_makes_another_set(cli, folder):
    assert cli("generate", *DRAW).code == 0
    assert cli("generate", *DRAW, "--solver", "exp2").code == 0
    content = json.loads(folder.config.read_text())
    with folder.manifest.renewing(folder.config):
        folder.config.write_text(json.dumps({**content, "data_std": 2 * content["data_std"]}))
    assert "not needed" not in cli("generate", *DRAW).out  # its steps, and its angle, are others
    assert "not needed" in cli("generate", *DRAW, "--solver", "exp2").out


@pytest.mark.parametrize("deviation", [1e308, 1e-320, 10**400], ids=["large", "small", "endless"])
def test_a_deviation_that_none_can_be_is_refused(deviation, cli, folder):
    content = json.loads(folder.config.read_text())
    with folder.manifest.renewing(folder.config):
        folder.config.write_text(json.dumps({**content, "data_std": deviation}))
    result = cli("generate", *DRAW)
    assert result.code == 2
    assert "data_std must be a number from 1e-06 to 1e+06" in result.err


def test_a_noise_level_that_falls_has_no_such_grid(run):
    opened = load(run.name, output_dir=run.parent)
    falling = replace(opened, dynamics=FVP(0.3, 3, marginals="paper"))
    with pytest.raises(Refusal, match=r"grid measured: the noise level of FVP.* falls in time; leave it out"):
        measuring.measure_on(falling, torch.device("cpu"))


def test_a_solver_that_chooses_its_steps_takes_none(cli, folder):
    result = cli("generate", *DRAW, "--grid", "measured", "--solver", "dopri5")
    assert result.code == 2
    assert not folder.time_grid.exists()
