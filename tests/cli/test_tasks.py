"""generate.py --task: sets of completions, found again, made whole again, drawn in blocks of any size; wrong inputs."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.digits import Digits
from common.data.source import DataOptions
from common.generation.arrays import generate
from common.generation.config import SampleConfig
from common.generation.opening import job_of
from common.generation.sections import InputConfig
from common.media.audio import write_wav
from common.refusal import Refusal
from common.runs import load
from tests.cli.test_generate import arrays
from tests.cli.test_wrong_input import refused
from tests.test_conditional import SOUND, untrained

DRAW = ("generate", "--run_id", "tiny", "--steps", 2, "--task", "inpaint", "--n_inputs", 3, "--n_samples", 4)
FOLDER = "inpaint-exact-ab2-2-ema"
DAMAGES = ("missing", "changed")


def base(run: Path) -> Path:
    return run / "generated_data" / "model-final"


def listed(folder: Path) -> set[str]:
    return set(json.loads((folder / "manifest.json").read_text())["files"])


def test_evaluate_leaves_the_figures_against_truths_as_they_are(cli, run):
    assert cli(*DRAW).code == 0
    place = base(run) / FOLDER
    before = (place / "metrics.json").read_bytes()
    result = cli("evaluate", "--run_id", "tiny", "--metrics", "moments")
    assert result.code == 0, result.err
    assert "note      samples are 4 completions of each of 3 inputs: figures below" in result.out
    assert (place / "metrics.json").read_bytes() == before
    assert "moments" in "".join(json.loads((place / "evaluation.json").read_text()))


@pytest.fixture
def digits() -> np.ndarray:
    """Held-out digits (297, 8, 8, 1) in [0, 1]."""
    return Digits().load(DataOptions(Path())).held_out.images.movedim(1, -1).numpy() / np.float32(255)


def test_a_set_of_completions(cli, run, digits):
    result = cli(*DRAW)
    assert result.code == 0, result.err
    assert "3 inputs, 4 completions of each, from tiny_digits" in result.out
    assert "task      inpaint, mask half, mask_seed 0; method exact\n" in result.out
    place = base(run) / FOLDER
    found, truth, seen, mask = (
        np.load(place / f"{n}.npy") for n in ("data/data_000000", "truth", "observation", "mask")
    )
    assert (found.shape, truth.shape, mask.shape) == ((12, 8, 8, 1), (3, 8, 8, 1), (3, 8, 8, 1))
    assert (mask[..., :4, :] == 1).all()
    assert not mask[..., 4:, :].any()
    np.testing.assert_allclose(seen, truth * mask, atol=1e-6)
    inputs = json.loads((place / "inputs.json").read_text())
    rows = [int(one["from"].split()[1]) for one in inputs["inputs"]]
    np.testing.assert_allclose(truth, digits[rows], atol=1e-6)
    assert [one["label"] for one in inputs["inputs"]] == [0, 1, 2]  # the first of every class in turn
    assert np.load(place / "label" / "label_000000.npy").tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert {"truth.npy", "observation.npy", "mask.npy", "inputs.json", "data/data_000000.npy"} < listed(place)
    # the same again, by other words, or with the same inputs from a file: nothing is drawn
    np.save("own.npy", truth)
    where = ",".join(map(str, rows))
    for other in ((), ("--mask", "half:right"), ("--inputs", where), ("--labels", "0,1,2")):
        again = cli(*DRAW, *other)
        assert again.code == 0, again.err
        assert ("all samples were there" in again.out) == (other in ((), ("--inputs", where)))
    assert len(list(base(run).glob("inpaint*"))) == 3


def test_blocks_of_any_size_hold_the_same(cli, run):
    found = []
    for size in (1, 3, 7):
        assert cli(*DRAW, "--batch_size", size, "--method", "isotropic").code == 0
    for folder in sorted(base(run).glob("inpaint-isotropic*")):
        blocks = sorted((folder / "data").iterdir())
        found.append(np.concatenate([np.load(block) for block in blocks]))
    assert len(found) == 3
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("truth.npy", "missing"),
        ("observation.npy", "changed"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(("truth.npy", "observation.npy", "mask.npy", "inputs.json"), DAMAGES)
            if case not in (("truth.npy", "missing"), ("observation.npy", "changed"))
        ),
    ],
)
def test_what_a_task_is_done_on_is_mended_by_the_same_command_and_not_used_damaged(cli, run, name, damage):
    assert cli(*DRAW).code == 0
    place = base(run) / FOLDER
    before, path = arrays(place), place / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + b"?")
    seen = cli("evaluate", "--run_id", "tiny", "--samples", FOLDER, "--metrics", "nearest")
    assert seen.code == 2
    assert name in seen.err
    again = cli(*DRAW)
    assert again.code == 0
    assert f"{name} was damaged; it is written anew" in again.out
    assert path.read_bytes() == whole
    assert arrays(place) == before
    assert "note" not in cli(*DRAW).out


def test_a_set_that_is_cut_short_goes_on_and_names_the_command(cli, run):
    words = (*DRAW, "--batch_size", 5, "--noise_std", 0.1)
    assert cli(*words).code == 0
    place = base(run) / FOLDER
    before = arrays(place)
    (place / "data" / "data_000005.npy").unlink()
    (place / "manifest.json").unlink()
    seen = cli("evaluate", "--run_id", "tiny", "--samples", FOLDER)
    command = seen.err.partition("go on with: ")[2]
    assert "5 of 12 samples" in seen.err.replace("7 of 12", "5 of 12")
    assert "--task=inpaint" in command
    assert "--mask=half" in command
    assert "--inputs=" in command
    assert cli("generate", *command.split()[2:]).code == 0
    assert arrays(place) == before


def test_what_is_known_comes_back(cli, run):
    words = ("generate", "--run_id", "tiny", "--task", "inpaint", "--mask", "strokes", "--n_samples", 2)
    for method in ("exact", "replacement"):
        assert cli(*words, "--n_inputs", 4, "--nfe", 10, "--method", method).code == 0
        place = base(run) / f"inpaint-{method}-ab2-10-ema"
        found, truth, mask = (np.load(place / f"{n}.npy") for n in ("data/data_000000", "truth", "mask"))
        own, other = (
            np.abs(found.reshape(4, 2, 8, 8, 1) - one[:, None]) * mask[:, None] for one in (truth, truth[::-1])
        )
        assert own.mean() < 0.7 * other.mean()
        assert method == "exact" or own.max() < 1e-5
    assert len({one.tobytes() for one in mask}) == 4  # strokes of their own
    assert 0.05 < 1 - mask.mean() < 0.5


def test_noise_is_of_an_input_and_of_a_seed(cli, run):
    for more in (("--noise_std", 0.1), ("--noise_std", 0.1, "--noise_seed", 1)):
        assert cli(*DRAW, *more).code == 0
    first, second = (np.load(base(run) / f"{FOLDER}{end}" / "observation.npy") for end in ("", "-2"))
    truth, mask = (np.load(base(run) / FOLDER / f"{name}.npy") for name in ("truth", "mask"))
    assert 0.07 < (first - truth)[mask > 0].std() < 0.13
    assert np.abs(first - second)[mask > 0].min() > 0
    assert not first[mask == 0].any()


def test_observations_of_ones_own_complete_as_the_inputs_they_are_of(cli, run):
    """Measurements in .npy, NaN where a mask hides, or as .png: the completions are those of the inputs."""
    assert cli(*DRAW, "--labels", "0,1,2").code == 0
    place = base(run) / FOLDER
    seen, mask = np.load(place / "observation.npy"), np.load(place / "mask.npy")
    np.save("seen.npy", np.where(mask > 0, seen, np.nan))
    more = ("--n_samples", 4, "--labels", "0,1,2", "--steps", 2, "--task", "inpaint")
    result = cli("generate", "--run_id", "tiny", *more, "--observation", "seen.npy")
    assert result.code == 0, result.err
    other = base(run) / f"{FOLDER}-2"
    assert not (other / "truth.npy").exists()
    drawn = [np.load(folder / "data" / "data_000000.npy") for folder in (place, other)]
    np.testing.assert_allclose(drawn[1], drawn[0], atol=1e-4)
    Image.fromarray((seen[1, ..., 0] * 255).round().astype(np.uint8)).save("one.png")
    result = cli("generate", "--run_id", "tiny", *more, "--observation", "one.png")
    assert result.code == 0, result.err
    assert "1 inputs, 4 completions" in result.out


def test_clean_inputs_of_ones_own_are_degraded(cli, run):
    folder = Path("own")
    folder.mkdir()
    for name in ("10", "2"):
        Image.fromarray(np.full((20, 16, 3), 25 * int(name), np.uint8)).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no image")
    words = ("generate", "--run_id", "tiny", "--steps", 1, "--n_samples", 2, "--labels", 3)
    result = cli(*words, "--task", "super_resolution", "--input", folder)
    assert result.code == 0, result.err
    place = base(run) / "super_resolution-exact-ab2-1-ema"
    truth, seen = (np.load(place / f"{name}.npy") for name in ("truth", "observation"))
    assert (truth.shape, seen.shape) == ((2, 8, 8, 1), (2, 4, 4, 1))
    np.testing.assert_allclose(truth[:, 0, 0, 0], [50 / 255, 250 / 255], atol=0.01)
    assert [one["from"] for one in json.loads((place / "inputs.json").read_text())["inputs"]] == ["2.png", "10.png"]


def test_from_python_it_is_what_the_program_writes(cli, run, digits):
    assert cli(*DRAW[:5], "--task", "sense", "--sensors", 5, "--inputs", "4-5", "--n_samples", 2).code == 0
    place = base(run) / "sense-exact-ab2-2-ema"
    opened = load("tiny")
    samples = generate(opened, 2, task="sense", task_arguments={"sensors": 5}, inputs=[4, 5], steps=2, progress=False)
    assert np.array_equal(samples.x, np.load(place / "data" / "data_000000.npy"))
    assert np.array_equal(samples.observation, np.load(place / "observation.npy"))
    mask = np.load(place / "mask.npy")
    assert mask.sum((1, 2, 3)).tolist() == [5, 5]
    assert (mask[0] != mask[1]).any()
    noise = (samples.observation - samples.truth)[mask > 0]
    assert 0.005 < noise.std() < 0.06  # 0.05 of the network's scale is 0.025 of [0, 1]
    kept = generate(
        opened, 2, task="sense", task_arguments={"sensors": 5}, inputs=[4, 5], steps=2, progress=False, save=True
    )
    assert kept.evaluations == 0
    assert kept.folder == Path("runs") / run.name / "generated_data" / "model-final" / place.name
    own = generate(
        opened, 2, task="sense", task_arguments={"sensors": 5}, input=digits[4:6], steps=2, labels=[0, 1],
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(own.observation, samples.observation, atol=1e-6)


# -- wrong inputs ------------------------------------------------------------------------------------------------------

WRONG = [
    ("--mask half", "--mask has no effect without --task inpaint; add that, or leave it out"),
    ("--method exact", "--method has no effect without --task"),
    ("--noise_std 0.1", "--noise_std has no effect without --task"),
    ("--n_inputs 4", "--n_inputs has no effect without --task"),
    ("--inputs 0-3", "--inputs has no effect without --task"),
    ("--input x.png", "--input has no effect without --task"),
    ("--iterations 4", "--iterations has no effect without --method exact"),
    ("--task paint", "--task: invalid choice: 'paint'.*did you mean inpaint"),
    ("--task inpaint --method magic", "--method: invalid choice"),
    ("--task deblur --mask half", "--mask has no effect on --task deblur; leave it out"),
    ("--task inpaint --method isotropic --iterations 3", "--iterations has no effect on --method isotropic"),
    ("--task inpaint --mask nowhere.png", "--mask nowhere.png: there is no such file, and masks are half, box"),
    ("--task inpaint --mask half:north", "--mask half:north: the sides of images are right, left, bottom, top"),
    ("--task inpaint --mask box:1,2,3", "--mask box:1,2,3 is not of the form box:TOP,LEFT,HEIGHT,WIDTH"),
    ("--task inpaint --mask box:4,4,8,8", "--mask box:4,4,8,8 is no box of pixels in images of 8x8"),
    ("--task inpaint --mask random:1.5", "--mask random:1.5: the share"),
    ("--task inpaint --mask box:0,0,8,8", "--mask box:0,0,8,8: nothing is known"),
    ("--task inpaint --mask gap:0.1,0.2", "--mask gap is for sounds and functions"),
    ("--task inpaint --mask small.png", "--mask small.png has 4x4, samples have 8x8"),
    ("--task inpaint --mask black.png", "--mask black.png: nothing is known"),
    ("--task inpaint --mask white.png", "--mask white.png: everything is known, so there is nothing to find"),
    ("--task inpaint --mask odd.npy", "--mask odd.npy must hold 0 and 1 alone"),
    ("--task inpaint --mask text.png", "--mask text.png cannot be read as an image"),
    ("--task colorize", "--task colorize needs images in 3 colours, and samples of this run are grey"),
    ("--task bandwidth", "--task bandwidth is for sounds, and samples of this run are images"),
    ("--task deblur --lowpass_radius 0", "--lowpass_radius must be above 0, got 0"),
    ("--task deblur --lowpass_radius 6", "--lowpass_radius 6 keeps all frequencies"),
    ("--task deblur --blur_std 1 --lowpass_radius 2", "--blur_std and --lowpass_radius exclude each other"),
    ("--task deblur --blur_std nan", "--blur_std: must lie in"),
    ("--task super_resolution --downsample 3", "--downsample 3 does not divide the sides of samples"),
    ("--task super_resolution --downsample 1", "--downsample must be at least 2, got 1"),
    ("--task sense --sensors 65", "--sensors 65 leaves nothing to find: samples of this run have 64 points"),
    ("--task sense --sensors 65 --anywhere", "--sensors must be at most 64"),
    ("--task sense --sensors 5 --share 0.1", "--sensors and --share exclude each other"),
    ("--task sense --share 1", "--share must be above 0 and below 1"),
    ("--task sense --coordinates odd.npy", r"--coordinates odd.npy has shape .*sensors have 2 numbers each"),
    ("--task inpaint --noise_std -1", r"--noise_std: must lie in \[0"),
    ("--task inpaint --n_inputs 298", "--n_inputs 298: 297 samples of tiny_digits_H0.9_K2 are held out"),
    ("--task inpaint --inputs 290-297", "--inputs 297: held-out samples of tiny_digits_H0.9_K2 are 0 to 296"),
    ("--task inpaint --inputs 0-3 --n_inputs 5", "--n_inputs 5 contradicts --inputs, which names 4"),
    ("--task inpaint --inputs 0-3 --input white.png", "--inputs and --input exclude each other"),
    ("--task inpaint --input x.png --observation x.png", "--observation and --input exclude each other"),
    ("--task inpaint --input x.png", "--input x.png: there is no such file or folder"),
    ("--task inpaint --input text.png --labels 1", "--input text.png cannot be read as an image"),
    ("--task inpaint --input nothing --labels 1", "--input nothing: there are no images in it"),
    ("--task inpaint --input white.png --labels 1 --n_inputs 2", "--n_inputs 2: there are 1 in white.png"),
    ("--task inpaint --input white.png", "--labels is needed: the class of white.png is not known"),
    ("--task inpaint --input levels.npy --labels 1", "--input levels.npy reaches from 0 to 255; samples of this run"),
    ("--task inpaint --input odd.npy --labels 1", r"--input odd.npy has shape \(3, 5\); it should be \(8, 8, 1\)"),
    ("--task inpaint --observation levels.npy --labels 1", "--observation levels.npy reaches from 0 to 238"),
    ("--task inpaint --observation nan.npy --labels 1", "--observation nan.npy has NaN or infinite values where it"),
    ("--task super_resolution --observation nan.npy", r"--observation nan.npy has shape .*\(4, 4, 1\), or \(N, 4, 4"),
    ("--task super_resolution --observation white.png", "--observation white.png has 8x8, what the task observes 4x4"),
    ("--task inpaint --observation x.wav", "--observation x.wav: there is no such file"),
    ("--task inpaint --observation sound.wav", "--observation sound.wav is a sound, and samples of this run are"),
    ("--task inpaint --observation pickle.npy", "--observation pickle.npy .*never unpickled"),
    ("--task inpaint --input white.png --labels 1 --data_dir .", "--data_dir has no effect without --grid measured"),
    ("--task inpaint --method replacement --solver dopri5", "--method replacement acts after every step, and dopri5"),
    ("--task inpaint --iterations 0", "--iterations must be at least 1"),
    ("--task inpaint --labels 11", "--labels '11' is no class"),
]  # fmt: skip


@pytest.fixture
def _files():
    """Files of every wrong kind."""
    for name, level, side in (("white", 255, 8), ("black", 0, 8), ("small", 255, 4)):
        Image.fromarray(np.full((side, side), level, np.uint8)).save(f"{name}.png")
    Path("text.png").write_text("no image")
    Path("nothing").mkdir()
    np.save("odd.npy", np.full((3, 5), 0.5, np.float32))
    np.save("levels.npy", np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8))
    np.save("nan.npy", np.where(np.arange(64) == 3, np.nan, 0.5).astype(np.float32).reshape(8, 8))
    np.save("pickle.npy", np.array([{}], dtype=object))
    write_wav(Path("sound.wav"), torch.zeros(1, 50), 8000)


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(("flags", "told"), WRONG, ids=[flags for flags, _ in WRONG])
def test_wrong_inputs(cli, run, flags, told):
    refused(cli("generate", "--run_id", "tiny", *flags.split()), "generate", told)
    assert not (run / "generated_data").exists()


def test_evaluate_draws_tasks_by_the_same_rules(cli, run):
    words = ("evaluate", "--run_id", "tiny", "--steps", 1, "--metrics", "nearest")
    refused(cli(*words, "--task", "colorize"), "evaluate", "--task colorize needs images in 3 colours")
    result = cli(*words, "--task", "inpaint", "--n_inputs", 2, "--n_samples", 2)
    assert result.code == 0, result.err
    assert (base(run) / "inpaint-exact-ab2-1-ema" / "metrics.json").exists()


def test_a_run_that_was_tuned_answers_with_samples_and_takes_no_task(cli, tuned_run, tmp_path):
    shutil.copytree(tuned_run, tmp_path / "runs" / tuned_run.name)
    result = cli("generate", "--run_id", "tuned", "--task", "inpaint")
    refused(result, "generate", "--task inpaint: tuned.* was tuned to answer with samples.* tuned from, .*tiny")


@pytest.mark.parametrize("program", ["generate", "evaluate"])
def test_help_shows_the_flags_of_a_task(cli, program):
    shown = " ".join(cli(program, "--task", "inpaint", "--help").out.split())
    for flag in ("--mask MASK", "--mask_seed", "--iterations", "--n_inputs", "--observation", "--noise_std"):
        assert flag in shown
    assert "--lowpass_radius" not in shown
    assert "--lowpass_radius" in cli(program, "--help", "all").out


# -- other data --------------------------------------------------------------------------------------------------------


def test_wrong_inputs_of_sounds(tmp_path):
    """Gaps in seconds, measurements of another rate or length, cutoffs beyond the band."""
    run = untrained("fvp", "unet1d", SOUND)
    write_wav(Path("slow.wav"), torch.zeros(1, 16), 8)
    write_wav(Path("long.wav"), torch.zeros(1, 17), 16)
    for task, given, inputs, told in (
        ("inpaint", {"mask": "gap:0.3,2"}, {}, "mask gap:0.3,2 is no part of samples from 0 to 1 s"),
        ("inpaint", {"mask": "strokes"}, {}, "mask strokes takes nothing and is for images"),
        ("bandwidth", {"cutoff": 8.0}, {}, "cutoff must be below 8 Hz, half of the sampling rate, got 8"),
        ("bandwidth", {"cutoff": 0.5}, {}, "cutoff must be above 1 Hz"),
        (
            "inpaint",
            {},
            {"observation": Path("slow.wav")},
            "observation slow.wav has 8 points per second, the run 16; resample it",
        ),
        ("inpaint", {}, {"observation": Path("long.wav")}, r"observation long.wav has shape \(17, 1\); it should"),
        ("super_resolution", {"downsample": 3}, {}, "downsample 3 does not divide"),
    ):
        config = SampleConfig(n_samples=1, steps=1, task=task, task_arguments=given)
        own = InputConfig(**(inputs or {"input": np.zeros((1, 16, 1), np.float32)}))
        with pytest.raises(Refusal, match=told):
            job_of(run, config, torch.device("cpu"), inputs=own)
