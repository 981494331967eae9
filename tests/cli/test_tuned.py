"""Runs tuned by --objective consistency: what they are sampled with by default, and what is said and refused."""

import json
import shlex
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from common.config.schema import Chosen
from common.generation.arrays import generate
from common.generation.config import SampleConfig
from common.generation.sets import command_for
from common.generation.tuned import notes_on
from common.runs import RunFolder, SampleFolder, load
from common.runs.listing import ListConfig, list_runs
from common.samplers import renoise_times
from common.training import callbacks, judging
from tests.training import tiny

NAME = tiny.TUNED_FOLDER
DRAW = ("--run_id", "tuned", "--n_samples", 4)


@pytest.fixture
def folder(tuned_run, tmp_path) -> RunFolder:
    """A copy of the tuned run under ./runs."""
    shutil.copytree(tuned_run, tmp_path / "runs" / NAME, ignore=shutil.ignore_patterns("samples", "step-*"))
    return RunFolder(Path("runs") / NAME)


# -- defaults ----------------------------------------------------------------------------------------------------------


def test_two_evaluations_and_no_note_unless_told_otherwise(cli, folder):
    result = cli("generate", *DRAW)
    assert result.code == 0
    assert "renoise, 2 steps" in result.out
    assert "network   2 evaluations per sample" in result.out
    assert f"; tuned from {tiny.FOLDER}\n" in result.out
    assert "note" not in result.out
    assert any(f"finished, tuned from {tiny.FOLDER}" in line for line in list_runs(ListConfig(folder.path.parent))[0])
    judged = cli("evaluate", *DRAW, "--n_samples", 8, "--metrics", "nearest")
    assert judged.code == 0
    assert (folder.path / "generated_data/model-final/renoise-2-ema-2").is_dir()  # of 8 samples, by the same solver


def test_python_takes_the_same(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = generate(load("tuned"), 3, device="cpu", progress=False)
        assert drawn.evaluations == 2
        again = generate(load("tuned"), 3, device="cpu", progress=False, batch_size=2)
    assert np.abs(drawn.x - again.x).max() < 1e-5  # a sample is that of its seed, in any block


def test_grids_and_judged_samples_of_a_tuning_are_renoised(tiny_run, tmp_path, monkeypatch, capsys):
    asked = []

    def watched(*args: object, solver: str, steps: int, **options: object):
        asked.append((solver, steps))
        return callbacks_sample(*args, solver=solver, steps=steps, **options)

    callbacks_sample = callbacks.sample
    monkeypatch.setattr(callbacks, "sample", watched)
    words = {
        "train_steps": 2,
        "val_check_interval": 1,
        "eval_every": 2,
        "eval_metrics": "sw_values",
        "eval_samples": 16,
    }
    tuning = tiny.command(**{**tiny.TUNED, **words}, init_from=tiny_run, output_dir=tmp_path / "runs")
    assert train.main(tuning) == 0
    assert {*asked} == {("renoise", 2)}
    assert "judged" in capsys.readouterr().out
    assert judging.draw is callbacks.draw
    assert callbacks.grid_steps("ab3") == callbacks.GRID_STEPS


# -- given times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nfe", [1, 3, 4, 6])
def test_as_many_evaluations_as_asked_for(nfe, cli, folder):
    result = cli("generate", *DRAW, "--nfe", nfe, "--trajectory")
    assert result.code == 0
    assert f"network   {nfe} evaluation{'s' if nfe > 1 else ''} per sample" in result.out


def test_times_tell_sets_apart(cli, folder):
    times = (("0.6",), ("0.5",), ("0.6,0.3",), ("0.6,0.3", "--clip_x0", "False"))
    for given in times:
        assert cli("generate", *DRAW, "--solver", "renoise", "--times", *given).code == 0
    places = [SampleFolder(path) for path in folder.sample_sets()]
    names = ["renoise-2-0.5-ema", "renoise-2-0.6-ema", "renoise-3-0.6-0.3-ema", "renoise-3-0.6-0.3-ema-2"]
    assert sorted(place.path.name for place in places) == names
    for place in places:
        kept = json.loads(place.settings.read_text())
        assert kept["steps"] == len(kept["solver_arguments"]["times"]) + 1
        assert "grid" not in kept
        again = cli("generate", *shlex.split(command_for(place, kept))[2:])
        assert "not needed: all samples were there" in again.out
    arrays = [np.load(place.block(0)) for place in places]
    assert all(not np.array_equal(one, other) for i, one in enumerate(arrays) for other in arrays[:i])
    assert cli("generate", *DRAW, "--solver", "renoise", "--times", "0.6,0.3", "--nfe", 3).out.count("not needed") == 1
    many = ",".join(f"{0.9 - i / 100:g}" for i in range(70))  # more than a name of a folder can hold
    assert "renoise-71-ema/data" in cli("generate", *DRAW, "--solver", "renoise", "--times", many).out


WRONG = {
    "--times 0.3,0.6": "--times must be finite and fall, each below the one before, got 0.3,0.6",
    "--times 0.6,0.6": "--times: '0.6,0.6' names a value twice",
    "--times 0.6,nan": "--times: must lie in (-inf, inf), got nan",
    "--times x": "--times: 'x' is no number",
    "--times 1.0": "--times 1: must lie between t_end = 0.001 and T = 1",
    "--times 0.6,0.001": "--times 0.001: must lie between t_end = 0.001 and T = 1",
    "--times 0.6 --t_end 0.7": "--times 0.6: must lie between t_end = 0.7 and T = 1",
    "--times 0.6 --steps 3": "--steps 3 contradicts --times 0.6, which takes 2 evaluations; leave it out",
    "--times 0.6,0.3 --nfe 2": "--nfe 2 contradicts --times 0.6,0.3, which takes 3 evaluations; leave it out",
    "--times 0.6 --denoise_last True": "--denoise_last True asks renoise once more, whose last answer is a sample",
    "--times 0.6 --grid uniform": "--grid and --times exclude each other; leave one of them out",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_times_are_refused_by_name(words, cli, folder):
    result = cli("generate", *DRAW, "--solver", "renoise", *words.split())
    assert result.code == 2
    assert WRONG[words] in result.err
    assert len(result.err.splitlines()) == 1
    assert not result.written


# -- what is said ------------------------------------------------------------------------------------------------------


def test_renoising_a_run_that_was_not_tuned_is_noted(cli, run):
    result = cli("generate", "--run_id", "tiny", "--n_samples", 2, "--solver", "renoise")
    assert result.code == 0
    note = (
        "note      renoise takes answers of the network for samples, and those of tiny_digits_H0.9_K2 are means of many"
    )
    assert note in result.out
    assert "train.py --objective consistency --init_from tiny_digits_H0.9_K2" in result.out
    with pytest.warns(UserWarning, match=r"samples are blurred\..*train.py --objective consistency --init_from tiny_"):
        generate(load("tiny"), 1, solver="renoise", device="cpu", progress=False)


def test_another_solver_on_a_tuned_run_is_noted(cli, folder):
    result = cli("generate", *DRAW, "--solver", "exp2", "--steps", 2)
    assert result.code == 0
    assert f"note      {NAME} was tuned to answer with samples, and exp2 takes answers for means of many" in result.out
    assert "--solver renoise does with 2 evaluations" in result.out


def test_guidance_of_samples_and_over_folded_guidance_is_noted(folder):
    opened = load("tuned")
    objective = opened.config.objective
    folded = Chosen(objective.name, objective.path, {**objective.arguments, "guidance_scale": 2.0})
    guided = replace(opened, config=replace(opened.config, objective=folded))
    plain = SampleConfig(solver="renoise")
    wanted = replace(plain, guidance="classifier_free", guidance_arguments={"scale": 1.5})
    assert not notes_on(guided, plain)
    (note,) = notes_on(guided, wanted)
    assert note.startswith("guidance of scale 2 is folded into this network already")
    assert note.endswith("leave it out for that scale alone")
    (note,) = notes_on(opened, wanted)
    assert note.startswith(f"--guidance classifier_free steers means of many, and {NAME} answers with samples")


# -- measured ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _few_followed(monkeypatch):
    monkeypatch.setattr(renoise_times, "FOLLOWED", 32)


@pytest.mark.usefixtures("_few_followed")
def test_times_are_chosen_once_and_taken_from_then_on(cli, folder):
    first = cli("generate", *DRAW, "--grid", "measured")
    assert first.code == 0
    assert "grid      measured, and kept in" in first.out
    assert folder.manifest.lists(folder.time_grid)
    again = cli("generate", *DRAW)
    assert "measured, and kept" not in again.out
    assert "not needed: all samples were there" in again.out
    assert json.loads(folder.time_grid.read_text())["weights"] == "ema_model-final.pth"


@pytest.mark.usefixtures("_few_followed")
def test_without_its_data_no_times_can_be_chosen(cli, folder):
    content = json.loads(folder.config.read_text())
    content["data"] |= {"data_name": "arrays", "data_dir": "gone.npz"}
    with folder.manifest.renewing(folder.config):
        folder.config.write_text(json.dumps(content))
    result = cli("generate", *DRAW, "--grid", "measured")
    assert result.code == 2
    assert "gone.npz" in result.err
    assert "--data_dir" in result.err
    assert len(result.err.splitlines()) == 1
    for name, side in (("here.npz", 8), ("larger.npz", 12)):
        np.savez(name, x=(255 * torch.rand(64, side, side, 1)).byte().numpy(), y=np.arange(64) % 10)
    larger = cli("generate", *DRAW, "--grid", "measured", "--data_dir", "larger.npz")
    assert larger.code == 2
    assert "--data_dir leads to samples of shape (1, 12, 12), but those of" in larger.err
    assert not folder.time_grid.exists()
    idle = cli("generate", *DRAW, "--data_dir", "here.npz")
    assert (idle.code, idle.err.partition("error: ")[2]) == (
        2,
        "--data_dir has no effect without --grid measured, or a --task on held-out samples; leave it out\n",
    )
    assert "measured, and kept" in cli("generate", *DRAW, "--grid", "measured", "--data_dir", "here.npz").out
