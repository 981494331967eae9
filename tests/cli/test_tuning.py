"""train.py --objective consistency: what it starts from, refuses in one line and notes, and that it goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from common.config.plugins import class_path
from common.config.schema import Chosen
from common.refusal import Refusal
from common.runs import load
from common.training.consistency import Consistency
from tests.cli.test_wrong_input import edit, refused
from tests.training import interrupted, tiny

TUNE = ("--objective", "consistency", "--init_from", "tiny")
QUICK = ("--train_steps", 4, "--batch_size", 8, "--log_every", 1, "--val_check_interval", 4, "--checkpoint_every", 2)
START = "tiny_digits_H0.9_K2"
TUNED = "b_digits_H0.9_K2_consistency"

WRONG = [
    ("--objective consistency", "--objective consistency tunes what was trained before; name it: --init_from RUN"),
    ("--objective consistency --init_from nothing", f"--init_from nothing: no such run under runs.*{START}"),
    ("--objective consistency --init_from a.pth", "--init_from a.pth: nothing says what these weights are; give a run"),
    ("--objective consistency --init_from old_cifar10_H0.9_K2", "nothing says what these weights are"),
    (
        f"--objective consistency --init_from runs/{START}/checkpoints/last.ckpt",
        "holds no plain state dict .names to tensors.; name the run, or a file of weights in its model folder$",
    ),
    (
        f"{' '.join(TUNE)} --model_channels 64",
        "--init_from .*final.pth does not fit this network.*leave out the flags of another one, and of other data",
    ),
    (f"{' '.join(TUNE)} --model_name uvit", "--init_from .*does not fit this network"),
    (
        f"{' '.join(TUNE)} --wb_id tiny",
        f"--wb_id tiny is the id of {START}, and a tuning is a run of its own; take ano",
    ),
    (
        f"{' '.join(TUNE)} --wb_id tiny --resume auto",
        f"--wb_id tiny is the id of {START}, and a tuning is a run of its",
    ),
    (f"{' '.join(TUNE)} --preset digits", "--preset digits and --objective consistency exclude each other: the run"),
    (f"{' '.join(TUNE)} --time_sampling uniform", "--time_sampling has no effect on --objective consistency; leave it"),
    (f"{' '.join(TUNE)} --loss_weight edm", "--loss_weight has no effect on --objective consistency; leave it out"),
    (f"{' '.join(TUNE)} --loss_reduction sum", "--loss_reduction has no effect on --objective consistency; leave it"),
    (f"{' '.join(TUNE)} --time_warmup 3", "--time_warmup has no effect on --objective consistency; leave it out"),
    ("--stages 3", "--stages has no effect on --objective denoise"),
    ("--init_from tiny --guidance_scale 2", "--guidance_scale has no effect on --objective denoise"),
    (f"{' '.join(TUNE)} --guidance_scale 2", "--guidance_scale 2.0: .*without a label.*--label_dropout"),
    (
        f"{' '.join(TUNE)} --guidance_scale 2 --label_dropout 0.1",
        f"--guidance_scale 2.0: the network of {START} does not know samples without a label; start from a run",
    ),
    (f"{' '.join(TUNE)} --guidance_scale -1", "--guidance_scale"),
    (f"{' '.join(TUNE)} --prediction eps", "--init_from tiny: its network predicts v; add --prediction v"),
    (f"{' '.join(TUNE)} --stages 0", "--stages: must be at least 1"),
    (f"{' '.join(TUNE)} --stages 60", "--stages: must be at least 1 and at most 16, got 60"),
    (f"{' '.join(TUNE)} --level_std 0", "--level_std"),
    (f"{' '.join(TUNE)} --level_mean 50", "--level_mean must be a level of a path, from log sigma = -8.43 to 4.77"),
    (f"{' '.join(TUNE)} --level_mean -50", "--level_mean must be a level of a path, from log sigma = -8.43 to 4.77"),
    (f"{' '.join(TUNE)} --distance_scale 1e25", r"--distance_scale: must lie in \[1e-06, 1000\], got 1e25"),
    (f"{' '.join(TUNE)} --marginals paper --hurst 0.1", "--objective consistency compares noise levels.*falls in time"),
    (f"{' '.join(TUNE)} --objective consistent", "--objective.*denoise.*consistency"),
]


@pytest.fixture
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


@pytest.mark.parametrize(("flags", "pattern"), WRONG, ids=[flags for flags, _ in WRONG])
def test_wrong_use(cli, run, flags, pattern):
    shutil.copy(run / "model" / "model-final.pth", "a.pth")
    released = run.with_name("old_cifar10_H0.9_K2") / "model"
    released.mkdir(parents=True)
    shutil.copy("a.pth", released / "model-final.pth")
    refused(cli("train", *flags.split()), "train", pattern)
    assert {path.name for path in Path("runs").iterdir()} == {START, released.parent.name}


def test_a_process_whose_level_falls(cli, run):
    edit(run, lambda config: config["dynamics"]["arguments"].update(hurst=0.1, marginals="paper"))
    line = refused(cli("train", *TUNE), "train", "--objective consistency compares noise levels of one path")
    assert line.endswith("--marginals exact has none that falls")


def test_a_guided_run_that_is_tuned_again(run):
    """Answers that are samples cannot guide, and what was folded in is taken away by a tuning without guidance."""
    start = load("tiny").config
    start = replace(start, recipe=replace(start.recipe, label_dropout=0.1, init_from=f"{START}/model/model-final.pth"))
    plain, guided = (
        replace(start, objective=Chosen("consistency", class_path(Consistency), {"guidance_scale": scale}))
        for scale in (1.0, 2.0)
    )
    assert Consistency.check_start(guided, start) == []
    assert Consistency.check_start(plain, plain) == []
    (note,) = Consistency.check_start(plain, guided)
    assert note == "guidance of scale 2 is folded into these weights; this tuning takes it away"
    for tuned in (plain, guided):
        with pytest.raises(Refusal, match=f"answers with samples.*start from the run that it was tuned from, {START}$"):
            Consistency.check_start(guided, tuned)


FOREIGN = [
    ({"class": "common.dynamics.classic:VP"}, "config.json names 'common.dynamics.classic:VP', which is no Objective"),
    ({"class": "os:system"}, "config.json names 'os:system', which is not ours"),
    ({"class": "common.training.objective:Objective"}, "'common.training.objective:Objective', which is not ours"),
    ({"arguments": {"nothing": 1}}, "has no argument nothing"),
    ({"arguments": {"stages": "x"}}, "--stages of common.training.consistency:Consistency cannot be 'x'"),
    ({"arguments": {"level_std": -1.0}}, "--level_std must be above 0"),
    ({"arguments": {"guidance_scale": [2]}}, "--guidance_scale"),
    ({"arguments": {"stages": 10**6}}, "--stages"),
    ({"arguments": {"distance_scale": 1e-30}}, "--distance_scale"),
    ({"arguments": []}, "a class must be named by"),
]


@pytest.mark.parametrize(("changes", "pattern"), FOREIGN, ids=[str(changes) for changes, _ in FOREIGN])
def test_an_objective_of_a_foreign_config(cli, run, changes, pattern):
    """It is refused by who would go on with the run; samples need nothing of it but whether it is consistent."""
    own = {"name": "consistency", "class": "common.training.consistency:Consistency", "arguments": {}}
    edit(run, lambda config: config.update(objective={**own, **changes}))
    refused(cli("train", "--resume", "tiny"), "train", pattern)


@pytest.mark.parametrize("scale", ["x", [2], True], ids=str)
def test_a_foreign_scale_of_guidance_is_looked_at_before_samples_are_drawn(cli, run, scale):
    own = {"name": "consistency", "class": "common.training.consistency:Consistency"}
    edit(run, lambda config: config.update(objective={**own, "arguments": {"guidance_scale": scale}}))
    refused(cli("generate", "--run_id", "tiny", "--n_samples", 1), "generate", "guidance_scale cannot be")


def test_a_config_of_an_earlier_version_denoises(cli, run):
    edit(run, lambda config: config.pop("objective"))
    assert not load("tiny").is_consistent
    assert "already finished" in cli("train", "--resume", "tiny").out


def notes(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("note ")]


def test_what_a_tuning_keeps(tiny_run, tuned_run):
    """The run says data, process, network and prediction."""
    start, tuned = (json.loads((place / "config.json").read_text()) for place in (tiny_run, tuned_run))
    for part in ("dynamics", "network", "adaptation", "data", "model", "spec"):
        assert tuned[part] == start[part]
    assert tuned["recipe"]["t_min"] == start["recipe"]["t_min"]
    assert tuned["objective"]["name"] == "consistency"
    assert (tuned["recipe"]["optimizer"], tuned["recipe"]["batch_size"]) == ("radam", 32)
    assert [int(line["step"]) for line in tiny.lines(tuned_run) if line["train/loss"]] == list(range(1, 9))
    assert tiny.lines(tuned_run)[-1]["val/loss"]
    assert {path.name for path in (tuned_run / "samples").iterdir()} == {"step-0000004.png", "step-0000008.png"}
    assert (tuned_run / "loss.png").stat().st_size > 1000
    assert load("tuned", output_dir=tuned_run.parent).is_consistent
    assert not load("tiny", output_dir=tiny_run.parent).is_consistent


@pytest.mark.slow
def test_what_a_tuning_notes(cli, run, tuned_run):
    """Another process is said by name, another goal too."""
    more = ("--label_dropout", 0.1, "--dry_run")
    again = cli("train", "--objective", "consistency", "--init_from", tuned_run, *QUICK, *more)
    assert (again.code, notes(again.out)) == (0, [])
    back = cli("train", *tiny.command(**tiny.FLAGS), "--init_from", tuned_run, *QUICK, "--dry_run")
    assert back.code == 0
    (note,) = notes(back.out)
    assert note.startswith("note      these weights were trained by --objective consistency; denoising takes that away")
    other = cli("train", *TUNE, *QUICK, "--dynamics", "vp", "--dry_run")
    assert other.code == 0
    assert notes(other.out)[0] == (
        "note      the process is not that of these weights: they are trained on under VP(beta_min=0.1, beta_max=20.0)"
        ", not FVP(hurst=0.9, num_aug=2, marginals=exact, normalize=True)"
    )
    larger = cli("train", *TUNE, *QUICK, "--image_size", 12, "--dry_run")
    assert notes(larger.out)[0] == (
        "note      samples are 1x12x12, those that these weights know 1x8x8, and a tuning is short for learning new "
        "ones: train on them first"
    )


@pytest.mark.parametrize(
    "source",
    [f"runs/{START}", pytest.param(f"runs/{START}/model/model-v0.pth", marks=pytest.mark.slow), "elsewhere"],
)
@pytest.mark.usefixtures("_quick")
def test_what_is_noted_of_the_start(cli, run, source):
    """Run and version, by a path that is right wherever the folder of runs is moved to."""
    if source == "elsewhere":
        source = str(shutil.move(run, "elsewhere"))
    assert cli("train", "--objective", "consistency", "--init_from", source, *QUICK, "--wb_id", "b").code == 0
    noted = json.loads(Path("runs", TUNED, "config.json").read_text())["recipe"]["init_from"]
    kept = {
        "elsewhere": Path("elsewhere/model/ema_model-final.pth").resolve().as_posix(),
        f"runs/{START}": f"{START}/model/ema_model-final.pth",
    }
    assert noted == kept.get(source, f"{START}/model/model-v0.pth")
    environment = Path("runs", TUNED, "environment.txt").read_text().splitlines()[0]
    assert f"--init_from {source}" in environment
    if source == "elsewhere":
        return
    Path("runs").rename("moved")  # before its first checkpoint it starts from there again
    shutil.rmtree(Path("moved", TUNED, "checkpoints"))
    shutil.rmtree(Path("moved", TUNED, "model"))
    result = cli("train", "--resume", "b", "--output_dir", "moved")
    assert result.code == 0
    assert f"start     weights of {noted}" in result.out


@pytest.mark.parametrize("again", ["same command", pytest.param("id", marks=pytest.mark.slow)])
def test_it_goes_on_without_its_start(cli, run, tuned_run, again):
    """To the weights of a tuning that was not stopped, bit for bit."""
    words = (*tiny.command(**tiny.TUNED), "--init_from", "tiny", "--resume", "auto")
    assert cli("train", *words, "--max_time", "0.001s").code == 0
    shutil.rmtree(run)
    result = cli("train", *(words if again == "same command" else ("--resume", "tuned")))
    assert (result.code, notes(result.out)) == (0, [])
    assert "goes on at step 1" in result.out
    assert tiny.difference(tuned_run, Path("runs", tiny.TUNED_FOLDER)) == 0
    for flag, value in (("--stages", 1), ("--objective", "denoise")):
        line = refused(cli("train", "--resume", "tuned", flag, value), "train", f"{flag} {value} contradicts the run")
        assert "leave it out" in line


@pytest.mark.slow
def test_trying_tells_of_the_solver_that_draws(cli, run):
    """--dry_run tries real steps, and samples as those of a tuned run are drawn."""
    tried = cli("train", *TUNE, "--batch_size", 64, "--dry_run")
    assert tried.code == 0
    assert "renoise, 2 evaluations of the network" in tried.out
    assert tried.written == []


@pytest.mark.parametrize("words", [("--help",), (*TUNE, "--help"), ("--help", "all"), ("--show_preset", "digits")])
def test_help(cli, run, words):
    result = cli("train", *words)
    assert result.code in (0, None)
    shown = "--distance_scale" in result.out
    assert shown == ("--objective" in words or "all" in words)
    assert ("--objective" in result.out) == ("--help" in words)
