"""evaluate.py: samples of other programs, samples that are drawn on the way, statistics, and thirty wrong inputs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import SOURCES, DataOptions
from tests.marks import later

SHORT = ("--run_id", "tiny", "--steps", 2)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Real images in a folder, and samples of another program: real ones with noise, as images and as an array."""
    folder = tmp_path_factory.mktemp("files")
    digits = SOURCES["digits"]().load(DataOptions(Path("data"))).train.images[:120, 0].numpy()
    noisy = np.clip(digits[60:] + np.random.default_rng(0).normal(0, 30, digits[60:].shape), 0, 255).astype(np.uint8)
    for name, images in (("real", digits[:60]), ("fake", noisy)):
        (folder / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{index:03}.png")
    np.save(folder / "fake.npy", noisy[..., None])
    return folder


def figures_in(path: str | Path) -> dict:
    return json.loads(Path(path).read_text())


# -- samples of another program ---------------------------------------------------------------------------------------


def test_images_and_arrays_of_another_program_give_the_same_figures(cli, files, run):
    words = ("evaluate", "--reference", files / "real", "--metrics", "nearest,sw,fid@pixels")
    first = cli(*words, "--samples", files / "fake")
    assert (first.code, first.err) == (0, "")
    of_images = figures_in("runs/metrics-fake.json")
    assert {"nearest", "sw", "sw_low", "sw_high", "sw_real", "fid@pixels"} <= set(of_images)
    assert "verdict   " in first.out
    again = cli(*words, "--samples", files / "fake")
    assert again.out == first.out  # the same command, the same figures
    assert figures_in("runs/metrics-fake.json") | {"about": 0} == of_images | {"about": 0}
    other = cli(*words, "--samples", files / "fake.npy", "--save_figures", "a/b.json")  # real images become grey, too
    assert other.code == 0, other.err
    of_arrays = figures_in("a/b.json")
    assert of_arrays["about"]["real"]["shape"] == [1, 8, 8]
    assert of_arrays["nearest"] == pytest.approx(of_images["nearest"])
    assert 3 * of_arrays["fid@pixels"] == pytest.approx(of_images["fid@pixels"])  # of three equal channels
    about = of_images["about"]
    assert about["samples"]["count"] == 60
    assert len(about["real"].pop("sha256")) == 64
    assert about["real"] == {
        "shape": [3, 8, 8], "treatment": "8x8 as they are", "part": "train", "count": 54, "of": 54, "others": 6
    }  # fmt: skip
    assert about["features"]["pixels"]["identity"] == "pixels 3x8x8"
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_figures_of_the_same_samples_are_kept_together(cli, files, run):
    words = ("evaluate", "--reference", files / "real", "--samples", files / "fake")
    assert cli(*words, "--metrics", "sw@pixels").code == 0
    first = figures_in("runs/metrics-fake.json")
    assert cli(*words, "--metrics", "prdc@pixels,nearest").code == 0
    both = figures_in("runs/metrics-fake.json")
    assert {*first, "nearest", "precision@pixels"} <= set(both)
    assert both["sw@pixels"] == first["sw@pixels"]
    bounded = [both[f"{name}_{end}@pixels"] for name in ("precision", "recall", "coverage") for end in ("low", "high")]
    assert 0 <= min(bounded) <= max(bounded) <= 1
    assert cli(*words, "--metrics", "nearest", "--n_samples", 30).code == 0  # other samples
    assert "sw@pixels" not in figures_in("runs/metrics-fake.json")
    Path("runs/metrics-fake.json").write_text("[]")
    assert cli(*words, "--metrics", "nearest").code == 0
    assert set(figures_in("runs/metrics-fake.json")) == {"samples", "nearest", "about"}


def test_sizes_are_brought_to_one_if_asked_for(cli, files, run):
    words = ("evaluate", "--reference", files / "real", "--samples", files / "fake", "--metrics", "sw@pixels")
    assert cli(*words, "--image_size", 4).code == 0
    assert figures_in("runs/metrics-fake.json")["about"]["real"]["shape"] == [3, 4, 4]


def test_statistics_are_written_once_and_stand_for_the_images(cli, files, run):
    words = ("evaluate", "--reference", files / "real", "--features", "pixels")
    result = cli(*words, "--save_statistics", "real.npz")
    assert result.code == 0, result.err
    assert "real.npz" in result.written
    result = cli("evaluate", "--samples", files / "fake", "--reference", "real.npz", "--features", "pixels")
    assert result.code == 0, result.err
    found = figures_in("runs/metrics-fake.json")
    assert cli(*words, "--samples", files / "fake", "--metrics", "fid", "--reference_part", "all").code == 0
    whole = figures_in("runs/metrics-fake.json")
    assert found["fid"] == pytest.approx(whole["fid"], rel=1e-6)


def test_other_features_than_those_of_statistics_are_refused(cli, files, run):
    """Both have 128 numbers, of two networks."""
    for name in ("a", "b"):
        for index in range(40):
            Path(name, str(index % 2)).mkdir(parents=True, exist_ok=True)
            shutil.copy(files / ("real" if name == "a" else "fake") / f"{index:03}.png", Path(name, str(index % 2)))
    words = ("evaluate", "--features", "classifier")
    assert cli(*words, "--reference", "a", "--save_statistics", "a.npz").code == 0
    result = cli(*words, "--samples", "b", "--reference", "a.npz")
    assert result.code == 2
    assert re.search(r"--reference a.npz was made with classifier \w+-\w+, samples have classifier", result.err)


def test_statistics_of_one_sample_are_not_written(cli, run):
    grey(2, 4, Path("two"))
    result = cli("evaluate", "--reference", "two", "--reference_part", "train", "--save_statistics", "a.npz")
    assert (result.code, result.written) == (2, [])
    assert "--save_statistics needs two real samples" in result.err


@pytest.mark.slow
def test_units_that_are_others_are_told(cli, files, run):
    levels = np.load(files / "fake.npy").astype(np.float32)
    words = ("evaluate", "--metrics", "sw@pixels", "--samples")
    found = {}
    for name, array in (("u", levels / 255), ("pm", levels / 127.5 - 1), ("b", levels)):
        np.save(f"{name}.npy", array)
        result = cli(*words, f"{name}.npy", "--reference", files / "real")
        assert result.code == 0, result.err
        assert ("if these are not the same units" in result.out) == (name != "u"), result.out
        found[name] = figures_in(f"runs/metrics-{name}.json")["sw@pixels"]
    # numbers in [0, 1] are levels, whatever the brightest of them is
    np.save("dim.npy", levels / 255 * 0.9)
    assert cli(*words, files / "fake.npy", "--reference", "dim.npy").code == 0
    assert cli(*words, files / "fake.npy", "--reference", "u.npy").code == 0
    result = cli(*words, files / "fake.npy", "--reference", "b.npy")
    assert result.code == 2
    assert re.search(r"--reference b.npy holds numbers from 0 to \d+, .* levels from 0 to 255", result.err)


def test_numbers_in_the_unit_range_are_levels(cli, files, run):
    """As statistics of the same images say, which know nothing of the brightest pixel of samples."""
    words = ("evaluate", "--features", "pixels", "--reference")
    np.save("dim.npy", np.load(files / "fake.npy").astype(np.float32) / 255 * 0.9)
    assert cli(*words, files / "fake.npy", "--save_statistics", "a.npz").code == 0
    assert cli(*words, "a.npz", "--samples", "dim.npy").code == 0
    assert figures_in("runs/metrics-dim.json")["fid"] > 0.01  # not the 0 of images that were made brighter
    result = cli(*words, "a.npz", "--samples", "dim.npy")
    assert "real      a.npz: mean and covariance alone" in result.out


def test_folders_with_dots_in_their_names_have_figures_of_their_own(cli, files, run):
    for name in ("v0.5", "v0.9"):
        shutil.copytree(files / "fake", name)
        assert cli("evaluate", "--samples", name, "--reference", files / "real", "--metrics", "rke@pixels").code == 0
        assert Path(f"runs/metrics-{name}.json").is_file()


def test_a_protocol_says_that_its_numbers_are_not_kept(cli, files, run):
    here = ("--samples", files / "fake", "--reference", files / "real")
    result = cli("evaluate", *here, "--protocol", "gfdm", "--metrics", "fid@pixels")
    assert result.code == 0, result.err
    assert "60 samples against 54 real ones (train); the paper's are 50,000 samples against 50,000" in result.out


# -- samples of a run -------------------------------------------------------------------------------------------------


def test_samples_are_drawn_on_the_way_and_not_again(cli, run):
    words = ("evaluate", *SHORT, "--metrics", "sw@pixels,vendi@pixels", "--per_class", True)
    first = cli(*words, "--n_samples", 30, "--batch_size", 10)
    assert first.code == 0, first.err
    assert "sampling" in first.err  # the bar of generate.py, and nothing else
    assert first.err.count("\n") == 1
    folder = run / "generated_data" / "model-final" / "ab3-2-ema"
    found = figures_in(folder / "metrics.json")
    assert found["samples"] == 30
    assert {"sw@pixels[0]", "vendi@pixels[9]"} <= set(found)
    settings = found["about"]["samples"]["settings"]
    assert (settings["solver"], settings["steps"], settings["weights"]) == ("ab3", 2, "ema_model-final.pth")
    again = cli(*words, "--n_samples", 30, "--batch_size", 10)
    assert {name for name in again.written if "generated_data" in name and name.endswith(".npy")} == set()
    assert figures_in(folder / "metrics.json") | {"about": 0} == found | {"about": 0}
    fewer = cli("evaluate", "--run_id", "tiny", "--samples", "ab3-2-ema", "--n_samples", 20, "--metrics", "sw@pixels")
    assert fewer.code == 0, fewer.err
    assert figures_in(folder / "metrics.json")["samples"] == 20


@pytest.mark.parametrize(("labels", "note"), [("3,3,7", "samples are of 2 of 10 classes"), later(None, "")])
def test_samples_of_some_classes_are_not_silently_worse(cli, run, labels, note):
    flags = ("--labels", labels) if labels else ()
    result = cli("evaluate", *SHORT, "--n_samples", 12, "--metrics", "sw@pixels", *flags)
    assert result.code == 0, result.err
    told = [line for line in result.out.splitlines() if "classes, real ones of all" in line]
    assert len(told) == bool(note)
    assert all(line.startswith(f"note      {note}") and "--per_class" in line for line in told)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--metrics nearest,fid@lenet", "lenet reads 28x28"),
        ("--metrics is@pixels", "is needs the answers of a classifier"),
        ("--protocol fdp-mnist", "lenet reads 28x28"),
        ("--reference bad.npz", "bad.npz"),
        ("--metrics sw --save_figures .", "--save_figures . is a folder"),
    ],
)
def test_nothing_is_drawn_before_all_else_is_there(cli, run, flags, told):
    np.savez("bad.npz", mu=np.zeros(3), sigma=np.zeros((3, 2)))
    result = cli("evaluate", *SHORT, "--n_samples", 20, *flags.split())
    assert result.code == 2
    assert told in result.err
    assert not [name for name in result.written if "generated_data" in name]


@pytest.mark.slow
def test_classes_with_few_real_samples_have_a_line_too(cli, run):
    """Ten other real samples, as many as drawn ones, are not one of each class."""
    words = ("evaluate", *SHORT, "--n_samples", 50, "--per_class", True, "--metrics", "agreement,sw@pixels,kid@pixels")
    result = cli(*words)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class "))
    names = lines[start].split()
    assert names == ["class", "samples", "agreement", "sw@pixels", "sw_real@pixels", "kid@pixels", "kid_real@pixels"]
    figures = figures_in(run / "generated_data/model-final/ab3-2-ema/metrics.json")
    lacking = 0
    for line in lines[start + 1 : start + 11]:
        row = dict(zip(names, line.split(), strict=True))
        for name in names[2:]:
            value = figures.get(f"{name}[{row['class']}]")
            assert row[name] == ("-" if value is None else f"{value:.4g}")
            lacking += value is None
    assert lacking


# -- wrong input ------------------------------------------------------------------------------------------------------


def grey(count: int, side: int, folder: Path) -> None:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(np.full((side, side), index, np.uint8)).save(folder / f"{index}.png")


WRONG = {
    "nothing": ("", "--run_id is required.*--samples and --reference"),
    "samples alone": ("--samples {files}/fake", "--run_id is required.*--reference"),
    "no such samples": ("--samples {files}/none --reference {files}/real", "--samples.*no such file"),
    "no such reference": ("--samples {files}/fake --reference {files}/none", "--reference.*no such file"),
    "an empty folder": ("--samples empty --reference {files}/real", "--samples empty: no images in it"),
    "an empty reference": ("--samples {files}/fake --reference empty", "--reference empty"),
    "one real image": ("--samples {files}/fake --reference one", "--reference one.*at least two"),
    "other sizes": ("--samples big --reference {files}/real", r"--samples big.*\(3, 9, 9\).*\(3, 8, 8\).*--image_size"),
    "images against series": (
        "--samples {files}/fake --reference series.npy",
        r"--samples.*\(1, 8, 8\).*--reference series.npy.*\(1, 9\); name real",
    ),
    "a damaged array": ("--samples cut.npy --reference {files}/real", "--samples cut.npy"),
    "a text": ("--samples notes.txt --reference {files}/real", "--samples notes.txt"),
    "a run and other samples": ("--run_id tiny --reference {files}/real", "--reference.*no .npz file"),
    "a version without a run": (
        "--samples {files}/fake --reference {files}/real --version v0",
        "--version needs --run_id",
    ),
    "a size for a run": ("--run_id tiny --image_size 4", "--image_size is for --samples"),
    "drawing without a run": ("--samples {files}/fake --reference {files}/real --steps 3", "--steps.*no effect"),
    "drawing a set": ("--run_id tiny --samples ab3-10-ema --steps 3", "--steps.*no effect"),
    "no such set": ("--run_id tiny --samples sde7", "no such samples.*none.*--n_samples"),
    "an unknown metric": ("--run_id tiny --metrics fidd", "--metrics 'fidd' is unknown; there are agreement"),
    "unknown features": ("--run_id tiny --metrics fid@vgg", "--metrics 'vgg' is unknown"),
    "features of none": ("--run_id tiny --metrics nearest@pixels", "--metrics nearest compares no features"),
    "a metric twice": ("--run_id tiny --metrics sw,sw", "--metrics.*twice"),
    "features that are none": ("{here} --features vgg --metrics sw", "--features 'vgg' is unknown"),
    "features without weights": ("{here} --metrics sw@lenet", "lenet reads 28x28"),
    "one class": ("{here} --metrics sw@classifier", "classifier needs data with at least two classes"),
    "classes of none": ("{here} --metrics sw --per_class True", "--per_class needs samples that were drawn by class"),
    "more than there are": ("--run_id tiny --steps 2 --n_samples 0", "--n_samples"),
    "a part that is none": ("{here} --reference_part test", "--reference_part"),
    "no real ones": ("{here} --n_reference 0", "--n_reference"),
    "more than there are of another program": ("{here} --n_samples 61", "--n_samples 61: there are 60"),
    "no processes": ("{here} --devices 0", "--devices"),
    "another ending": ("--reference {files}/real --save_statistics a.npy", "--save_statistics a.npy.*[.]npz"),
    "statistics of text": ("--samples {files}/fake --reference bad.npz", "bad.npz"),
    "moments alone": ("--samples {files}/fake --reference moments.npz --metrics sw", "--metrics.*mu and sigma alone"),
    "other features": (
        "--samples {files}/fake --reference moments.npz --features pixels",
        "--reference.*3 numbers.*192",
    ),
    "a protocol that is none": ("--run_id tiny --protocol fdp", "--protocol"),
    "a protocol without weights": ("--run_id tiny --protocol fdp-mnist --samples ab3-2-ema", "lenet|no such samples"),
}


@pytest.mark.parametrize(("flags", "pattern"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_told_in_a_line(cli, files, run, flags, pattern):
    Path("empty").mkdir()
    grey(1, 8, Path("one"))
    grey(4, 9, Path("big"))
    Path("cut.npy").write_bytes((files / "fake.npy").read_bytes()[:500])
    Path("notes.txt").write_text("no image")
    Path("bad.npz").write_bytes(b"no zip")
    np.savez("moments.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.save("series.npy", np.random.default_rng(0).normal(size=(20, 9)))
    here = f"--samples {files}/fake --reference {files}/real"
    result = cli("evaluate", *flags.format(files=files, here=here).split())
    assert result.code == 2, result.out
    assert "Traceback" not in result.err
    line = result.err.strip().splitlines()[-1]
    assert line.startswith("evaluate.py: error: ")
    assert re.search(pattern, line), line
    assert not [name for name in result.written if name.endswith(("json", "npz"))]


def test_few_samples_have_undefined_figures(cli, files, run):
    samples = np.load(files / "fake.npy")[:7].astype(np.float32) / 255
    words = ("evaluate", "--samples", "few.npy", "--reference", files / "real")
    metrics = ("--metrics", "nearest,sw,kid,prdc,fid,vendi,rke")
    np.save("few.npy", samples[:2])
    result = cli(*words, *metrics)
    assert result.code == 0, result.err
    found = figures_in("runs/metrics-few.json")
    assert all(found[name] is None for name in ("sw", "kid", "precision", "fid", "vendi", "rke"))
    assert "undefined" in result.out
    samples[3] = np.nan
    np.save("few.npy", samples)
    result = cli(*words)
    assert result.code == 2
    assert "--samples few.npy" in result.err
    assert "has NaN or infinite values" in result.err
