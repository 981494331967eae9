"""generate.py and evaluate.py on a trained run, from its folder alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import DataOptions
from common.data.digits import Digits
from common.files import load_state
from common.generation import blocks as generation
from common.generation import drawing, forecast
from common.generation.blocks import read_samples
from common.media.grids import GAP, LINE, TEXT_GAP, width_of
from common.runs import RunFolder
from common.samplers import SOLVERS
from tests.marks import later
from tests.training import tiny

SHORT = ("--run_id", "tiny", "--steps", 2)


def arrays(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npy"))}


MARGIN = width_of("drawn") + 2 * TEXT_GAP


def page_size(columns: int, rows: int, scale: int = 8) -> tuple[int, int]:
    """Width and height of a picture of 8 x 8 digits with names and a row of real ones."""
    step = 8 * scale + 2
    return MARGIN + columns * step + 2, LINE + step + 2 + GAP + rows * step + 2


def pixels(picture: Path) -> np.ndarray:
    with Image.open(picture) as image:
        return np.asarray(image.convert("L")).astype(float)


def tiles(picture: Path, scale: int, rows: int) -> list[np.ndarray]:
    """The drawn digits of a picture with ten columns."""
    page, step = pixels(picture), 8 * scale + 2
    assert page.shape == page_size(10, rows, scale)[::-1]
    top = page.shape[0] - rows * step
    places = [(top + i // 10 * step, MARGIN + 2 + i % 10 * step) for i in range(10 * rows)]
    return [page[y : y + 8 * scale : scale, x : x + 8 * scale : scale] for y, x in places]


def test_nothing_but_the_run(cli, run):
    result = cli("generate", "--run_id", "tiny")
    assert result.code == 0
    folder = Path("runs") / run.name / "generated_data" / "model-final" / "ab3-10-ema"
    assert result.written == [
        f"{folder}/data/data_000000.npy",
        f"{folder}/grid.png",
        f"{folder}/label/label_000000.npy",
        f"{folder}/manifest.json",
        f"{folder}/settings.json",
    ]
    assert result.out.splitlines()[-2:] == [f"arrays    {folder / 'data'}", f"grid      {folder / 'grid.png'}"]
    assert "ab3, 10 steps" in result.out
    images, labels = read_samples(folder)
    assert images.shape == (100, 8, 8, 1)
    assert images.dtype == np.float32
    assert 0 <= images.min() < 0.1
    assert 0.9 < images.max() <= 1
    assert labels.tolist() == [*range(10)] * 10
    assert images.std(0).max() > 0.1  # samples differ
    with Image.open(folder / "grid.png") as image:
        assert image.format == "PNG"
        assert image.size == page_size(10, 10)


@pytest.mark.parametrize(
    ("flags", "name", "evaluations"),
    [
        ("--mode sde --steps 3", "sde3-ema", 3),
        ("--mode ode --steps 4", "ode4-ema", 4),
        ("--solver em --steps 3", "sde3-ema", 3),
        ("--solver euler --steps 2 --grid log_time", "ode2-ema", 2),
        ("--solver exp1 --steps 5", "exp1-5-ema", 5),
        ("--solver exp2 --steps 5", "exp2-5-ema", 5),
        ("--solver exp2", "exp2-20-ema", 20),
        ("--solver exp1 --clip_x0 False --t_end 0.01 --steps 2", "exp1-2-ema", 2),
        ("--version v0 --steps 2", "ab3-2-ema", 2),
        ("--use_ema False --steps 2", "ab3-2-raw", 2),
    ],
)
def test_ways_to_sample(cli, run, flags, name, evaluations):
    result = cli("generate", "--run_id", "tiny", "--n_samples", 3, *flags.split())
    assert result.code == 0
    version = "v0" if "v0" in flags else "final"
    images, labels = read_samples(run / "generated_data" / f"model-{version}" / name)
    assert images.shape == (3, 8, 8, 1)
    assert np.isfinite(images).all()
    assert labels.tolist() == [0, 1, 2]
    assert f"{evaluations} evaluations" in result.out


def test_published_steps_are_the_default_of_published_samplers(cli, run, monkeypatch):
    seen = []

    def sampler(folder, job, *_, **__):
        seen.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr("common.generation.sharing.generate", sampler)
    for mode, solver in (("sde", "em"), ("ode", "euler")):
        with pytest.raises(KeyboardInterrupt):
            cli("generate", "--run_id", "tiny", "--mode", mode)
        assert (seen[-1].solver.func, seen[-1].steps, seen[-1].config.t_end) == (SOLVERS[solver], 1000, 1e-3)


def test_ways_to_name_the_run(cli, run):
    drawn = []
    for name in ("tiny", run.name, "latest"):
        result = cli("generate", "--run_id", name, "--n_samples", 2, "--steps", 1)
        assert result.code == 0
        drawn.append(result.out.splitlines()[-1])
    assert len(set(drawn)) == 1


def test_published_flags_are_accepted_where_they_agree(cli, run):
    words = "--run_id tiny --data_name digits --dynamics fvp --hurst 0.9 --num_aug 2 --steps 1 --n_samples 1"
    assert cli("generate", *words.split()).code == 0


def test_versions_and_averages_are_different_weights(cli, run):
    drawn = set()
    for flags in ((), ("--use_ema", False), ("--version", "v0"), ("--version", "v1")):
        words = (*SHORT, "--n_samples", 2, *flags)
        assert cli("generate", *words).code == 0
    for file in run.glob("generated_data/*/*/data/*.npy"):
        drawn.add(file.read_bytes())
    assert len(drawn) == 4


def test_a_restart_gives_identical_arrays(cli, run):
    words = (*SHORT, "--n_samples", 7, "--batch_size", 3)
    assert cli("generate", *words).code == 0
    folder = run / "generated_data" / "model-final" / "ab3-2-ema"
    whole = arrays(folder)
    assert sorted(whole) == [f"{k}/{k}_00000{i}.npy" for k in ("data", "label") for i in (0, 3, 6)]
    (folder / "data" / "data_000003.npy").unlink()
    (folder / "grid.png").unlink()
    kept = (folder / "data" / "data_000000.npy").stat().st_mtime_ns
    result = cli("generate", *words)
    assert (result.code, "kept      4 samples are there already" in result.out) == (0, True)
    assert "7/7" in result.err  # the bar counts samples of the whole set
    assert arrays(folder) == whole
    assert (folder / "data" / "data_000000.npy").stat().st_mtime_ns == kept
    assert (folder / "grid.png").exists()
    result = cli("generate", *words)
    assert "not needed" in result.out
    assert result.err == ""  # no bar of nothing
    assert [path.name for path in folder.parent.iterdir()] == ["ab3-2-ema"]


@pytest.mark.parametrize(
    "flags",
    [("--n_samples", 3), ("--labels", "3"), ("--use_ema", False), *map(later, [
        ("--t_end", 0.01), ("--seeds", "1-4"), ("--batch_size", 2), ("--clip_x0", False), ("--grid", "uniform")])],
)  # fmt: skip
def test_other_settings_go_to_another_folder(cli, run, flags):
    words = list(SHORT) if flags[0] in ("--n_samples", "--seeds") else [*SHORT, "--n_samples", 4]
    first = cli("generate", *SHORT, "--n_samples", 4)
    whole = arrays(run / "generated_data" / "model-final" / "ab3-2-ema")
    second = cli("generate", *words, *flags)
    assert (first.code, second.code) == (0, 0)
    base = run / "generated_data" / "model-final"
    other = "ab3-2-raw" if "--use_ema" in flags else "ab3-2-ema-2"
    assert sorted(path.name for path in base.iterdir()) == ["ab3-2-ema", other]
    assert arrays(base / "ab3-2-ema") == whole
    again = cli("generate", *words, *flags)  # and the same settings find their own again
    assert "not needed" in again.out
    assert second.out.splitlines()[-1] == again.out.splitlines()[-1]


def test_seeds_name_samples(cli, run):
    """Sample i of the default is that of seed i; a list of seeds picks some of them (of the same class)."""
    assert cli("generate", *SHORT, "--n_samples", 8, "--labels", "4").code == 0
    assert cli("generate", *SHORT, "--seeds", "5,0-1,7", "--labels", "4").code == 0
    base = run / "generated_data" / "model-final"
    whole, some = read_samples(base / "ab3-2-ema")[0], read_samples(base / "ab3-2-ema-2")[0]
    assert np.allclose(some, whole[[5, 0, 1, 7]], atol=1e-5)


def test_labels_in_turn(cli, run):
    assert cli("generate", *SHORT, "--n_samples", 7, "--labels", "3,3,7", "--batch_size", 2).code == 0
    images, labels = read_samples(run / "generated_data" / "model-final" / "ab3-2-ema")
    assert labels.tolist() == [3, 3, 7, 3, 3, 7, 3]
    assert len(images) == 7


def test_the_grid_shows_the_samples(cli, run):
    assert cli("generate", *SHORT, "--n_samples", 20).code == 0
    folder = run / "generated_data" / "model-final" / "ab3-2-ema"
    images = read_samples(folder)[0]
    grid = tiles(folder / "grid.png", 8, rows=2)
    for index in (0, 9, 10, 19):
        assert np.abs(grid[index] - images[index, :, :, 0] * 255).max() <= 1


@pytest.mark.parametrize("scale", [2, 12])
def test_pictures_are_magnified_as_asked_and_samples_stay_the_same(cli, run, scale):
    assert cli("generate", *SHORT, "--n_samples", 20).code == 0
    folder = run / "generated_data" / "model-final" / "ab3-2-ema"
    result = cli("generate", *SHORT, "--n_samples", 20, "--picture_scale", scale, "--trajectory")
    assert result.code == 0
    assert "not needed" not in result.out  # only the trajectory needs it
    assert [path.name for path in folder.parent.iterdir()] == ["ab3-2-ema"]
    images, grid = read_samples(folder)[0], tiles(folder / "grid.png", scale, rows=2)
    for index in (0, 9, 10, 19):
        assert np.abs(grid[index] - images[index, :, :, 0] * 255).max() <= 1
    with Image.open(folder / "trajectory.png") as picture:
        assert (picture.height - 2 * LINE) == 4 * (8 * scale + 2) + 2


def test_a_run_shows_real_images_without_its_data_set(cli, run, monkeypatch):
    monkeypatch.setattr("common.data.digits.Digits.load", lambda *_: pytest.fail("the data set was read"))
    assert cli("generate", *SHORT, "--n_samples", 20).code == 0
    folder, real = run / "generated_data" / "model-final" / "ab3-2-ema", load_state(run / "real.safetensors")
    page = pixels(folder / "grid.png")
    for i in range(10):
        tile = page[LINE + 2 : LINE + 66 : 8, MARGIN + 2 + 66 * i : MARGIN + 66 + 66 * i : 8]
        assert real["labels"][i] == i
        assert (tile == real["x"][i, 0].numpy()).all()
    (run / "real.safetensors").unlink()  # as in runs of earlier versions
    assert cli("generate", *SHORT, "--n_samples", 20).code == 0
    bare = pixels(folder / "grid.png")
    assert bare.shape == (LINE + 2 * 66 + 2, 10 * 66 + 2)
    assert (bare[LINE:] == page[-(2 * 66 + 2) :, MARGIN:]).all()


def test_real_samples_that_cannot_be_read_are_named(cli, run):
    (run / "real.safetensors").write_bytes(b"no tensors")
    result = cli("generate", *SHORT, "--n_samples", 2)
    assert result.code == 2
    assert "real.safetensors" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_generation_is_cut_off_and_goes_on(cli, run, monkeypatch):
    words = (*SHORT, "--n_samples", 6, "--batch_size", 2)
    assert cli("generate", *words).code == 0
    folder = run / "generated_data" / "model-final" / "ab3-2-ema"
    whole = arrays(folder)
    for path in folder.rglob("*.npy"):
        path.unlink()
    write, count = drawing.write_array, []

    def cut(path, array):
        count.append(path)
        if len(count) == 4:
            raise KeyboardInterrupt
        write(path, array)

    monkeypatch.setattr(drawing, "write_array", cut)
    with pytest.raises(KeyboardInterrupt):
        cli("generate", *words)
    monkeypatch.setattr(drawing, "write_array", write)
    assert 0 < len(arrays(folder)) < len(whole)
    assert cli("generate", *words).code == 0
    assert arrays(folder) == whole


def test_settings_are_kept_beside_the_samples(cli, run):
    assert cli("generate", *SHORT, "--seeds", "4-6,9,8").code == 0
    file = run / "generated_data" / "model-final" / "ab3-2-ema" / "settings.json"
    settings = json.loads(file.read_text())
    assert settings["seeds"] == "4-6,9,8"
    assert settings["solver"] == "ab3"
    assert settings["steps"] == 2
    file.write_text(json.dumps({**settings, "seeds": [4, 5, 6, 9, 8]}))  # as earlier versions wrote it,
    file.with_name("manifest.json").unlink()  # without this
    assert "not needed" in cli("generate", *SHORT, "--seeds", "4-6,9,8").out
    for other in ("4-6,8-9", "4-6,9"):
        assert "not needed" not in cli("generate", *SHORT, "--seeds", other).out


# -- evaluate.py ------------------------------------------------------------------------------------------------------


def test_figures(cli, run):
    assert cli("generate", "--run_id", "tiny", "--n_samples", 50, "--steps", 5).code == 0
    result = cli("evaluate", "--run_id", "tiny")
    assert (result.code, result.err) == (0, "")
    folder = run / "generated_data" / "model-final" / "ab3-5-ema"
    figures = json.loads((folder / "metrics.json").read_text())
    assert {"samples", "about", "agreement", "agreement_real", "nearest", "sw", "sw_real", "c2st"} <= set(figures)
    assert figures["samples"] == 50
    assert 0 <= figures["agreement"] <= 1
    assert figures["agreement_real"] > 0.97
    assert figures["nearest"] > 0.5
    assert f"{figures['agreement']:.1%} read as the class asked for" in result.out
    assert f"{figures['agreement_real']:.1%} right" in result.out
    assert f"nearest   {figures['nearest']:.3f}" in result.out
    assert result.out.splitlines()[-1] == f"grid      {Path('runs') / run.name / folder.relative_to(run) / 'grid.png'}"


@pytest.mark.parametrize("metric", ["agreement", "nearest"])
def test_one_metric(cli, run, metric):
    assert cli("generate", *SHORT, "--n_samples", 4).code == 0
    assert cli("evaluate", "--run_id", "tiny", "--metrics", metric).code == 0
    (file,) = run.rglob("metrics.json")
    assert set(json.loads(file.read_text())) - {"about", f"{metric}_real"} == {"samples", metric}


def test_real_images_as_samples(cli, run):
    """The figures of real images, put where samples are: all agree, and copies are seen as such."""
    train = Digits().load(DataOptions(Path())).train
    folder = run / "generated_data" / "model-final" / "ab3-1-ema"
    (folder / "data").mkdir(parents=True)
    (folder / "label").mkdir()
    np.save(folder / "data" / "data_000000.npy", (train.images[:100] / 255).movedim(1, -1).numpy())
    np.save(folder / "label" / "label_000000.npy", train.labels[:100].numpy())
    result = cli("evaluate", "--run_id", "tiny")
    assert result.code == 0
    assert "has no settings.json" in result.out.splitlines()[0]
    assert "2 files" in result.out.splitlines()[1]
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["agreement"] > 0.98
    assert figures["nearest"] < 0.01


def test_the_newest_samples_are_the_default(cli, run):
    """They say when they were begun; times of files are others in a copy."""
    words = ("evaluate", "--run_id", "tiny", "--metrics", "nearest")
    for steps in (2, 1):
        assert cli("generate", "--run_id", "tiny", "--n_samples", 2, "--steps", steps).code == 0
    base = run / "generated_data" / "model-final"
    os.utime(base / "ab3-2-ema" / "data", (2e9, 2e9))
    assert "ab3-1-ema: 2" in cli(*words).out
    assert "ab3-2-ema: 2" in cli(*words, "--samples", "ab3-2-ema", "--version", "final").out
    (base / "ab3-1-ema" / "manifest.json").unlink()  # as in sets of earlier versions, which do not say
    assert "ab3-2-ema: 2" in cli(*words).out


def test_sets_that_do_not_say_when_are_in_the_order_of_their_names(tmp_path):
    names = ["v9/ab3-10", "v10/ab3-10-ema", "v10/ab3-10-ema-2", "v10/ab3-10-ema-10", "final/ab3-10", "final/²"]
    for name in reversed(names):
        (tmp_path / "generated_data" / f"model-{name}" / "data").mkdir(parents=True)
    found = [path.relative_to(tmp_path / "generated_data") for path in RunFolder(tmp_path).sample_sets()]
    assert [str(path) for path in found] == [f"model-{name}" for name in names]


def test_samples_are_named_by_their_weights_too(cli, run):
    for averaged in (True, False):
        assert cli("generate", *SHORT, "--n_samples", 2, "--use_ema", averaged).code == 0
    words = ("evaluate", "--run_id", "tiny", "--metrics", "nearest")
    for more, name in (
        ((), "ab3-2-raw"),
        (("--use_ema", "True"), "ab3-2-ema"),
        (("--ema_decay", "0.866667"), "ab3-2-ema"),
        (("--use_ema", "False"), "ab3-2-raw"),
    ):
        assert f"{name}: 2" in cli(*words, *more).out, more
    refused = cli(*words, "--ema_decay", 0.9)
    assert refused.code == 2
    assert "there are: model-final/ab3-2-ema, model-final/ab3-2-raw" in refused.err


@pytest.mark.slow
def test_samples_without_labels_have_no_agreement(cli):
    flags = {**tiny.FLAGS, "train_steps": 2, "batch_size": 4, "wb_id": "u", "conditioning": False}
    assert cli("train", *tiny.command(**flags)).code == 0
    assert cli("generate", "--run_id", "u", "--steps", 2, "--n_samples", 3).code == 0
    result = cli("evaluate", "--run_id", "u")
    assert result.code == 0
    assert "agreement needs labels" in result.out
    (file,) = Path("runs").rglob("metrics.json")
    assert "agreement" not in json.loads(file.read_text())


# -- same settings, same folder ---------------------------------------------------------------------------------------


def folders(run: Path) -> set[str]:
    return {path.parent.name for path in run.glob("generated_data/*/*/settings.json")}


def test_what_is_spelt_out_is_what_the_defaults_say(cli, run):
    words = ("generate", "--run_id", "tiny", "--n_samples", 2, "--steps", 1)
    for more in ((), ("--use_ema", "True"), ("--ema_decay", "0.866667"), ("--clip_x0", "True"), ("--version", "final")):
        assert cli(*words, *more).code == 0, more
    assert folders(run) == {"ab3-1-ema"}
    for i, more in enumerate((("--labels", "3"), ("--clip_x0", "False"), ("--t_end", "0.01"))):
        assert cli(*words, *more).code == 0
        assert folders(run) == {"ab3-1-ema", *(f"ab3-1-ema-{k + 2}" for k in range(i + 1))}


def test_a_trajectory_is_drawn_also_of_samples_that_are_there(cli, run):
    words = ("generate", "--run_id", "tiny", "--n_samples", 5, "--batch_size", 2, "--steps", 12)
    assert cli(*words).code == 0
    (folder,) = run.glob("generated_data/*/*")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("*/*.npy")}
    result = cli(*words, "--trajectory")
    assert result.code == 0
    assert str(folder / "trajectory.png").endswith(result.out.split("path ")[1].split()[0])
    assert "trajectory.png" in "".join(result.written)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("*/*.npy")} == before
    with Image.open(folder / "trajectory.png") as image:
        image.verify()
    with Image.open(folder / "trajectory.gif") as film:
        assert film.n_frames == 12  # every step


def test_a_trajectory_of_samples_that_are_there_draws_its_few_alone(cli, run, monkeypatch):
    words, drawn, shown = ("generate", *SHORT, "--n_samples", 30), [], []
    draw = generation.Job.draw
    monkeypatch.setattr(
        generation.Job, "draw", lambda job, indices, on_step: drawn.append(indices) or draw(job, indices, on_step)
    )
    monkeypatch.setattr("common.generation.pictures.save_film", lambda _, moments, *__: shown.append(moments[-1].x))
    assert cli(*words, "--trajectory").code == 0
    assert cli(*words, "--trajectory").code == 0
    assert drawn == [range(30), range(10)]
    assert torch.allclose(*shown, atol=1e-5)
    (file,) = run.glob("generated_data/*/*/data/*.npy")
    file.unlink()
    assert cli(*words, "--trajectory").code == 0
    assert drawn[2:] == [range(30)]  # and not twice


def test_a_forecast_changes_no_sample(cli, run, monkeypatch):
    words = ("generate", "--run_id", "tiny", "--mode", "sde", "--steps", 60, "--n_samples", 3, "--batch_size", 2)
    monkeypatch.setattr(forecast, "MANY", 10**9)
    assert "evaluations of the network" not in cli(*words).out
    (folder,) = run.glob("generated_data/*/*")
    silent = arrays(folder)
    for file in folder.rglob("*.npy"):
        file.unlink()
    monkeypatch.setattr(forecast, "MANY", 100)
    monkeypatch.setattr(forecast, "LONG", 0.0)
    result = cli(*words)
    assert "120 evaluations of the network" in result.out
    assert "--solver ab3 --steps 10 (without --mode)" in result.out
    assert arrays(folder) == silent
    assert "evaluations of the network" not in cli(*words).out  # nothing is drawn


def test_guidance_changes_samples_and_needs_label_dropout(cli):
    flags = {**tiny.FLAGS, "train_steps": 8, "batch_size": 8, "label_dropout": 0.2, "wb_id": "g", "lr": 1e-2}
    assert cli("train", *tiny.command(**flags)).code == 0
    arrays = []
    for scale in (1, 3):
        words = ("--run_id", "g", "--n_samples", 3, "--steps", 2, "--guidance_scale", scale)
        result = cli("generate", *words)
        assert result.code == 0, result.err
        assert "2 evaluations per sample" in result.out  # one call of twice the batch
        arrays.append(np.load(sorted(Path("runs").glob("g_*/generated_data/*/*/data/*.npy"))[-1]))
    assert len(folders(next(Path("runs").glob("g_*")))) == 2
    assert not np.array_equal(*arrays)


@pytest.mark.slow
def test_pictures_of_float_images_use_their_own_range(cli):
    values = np.random.default_rng(0).uniform(-30, -28, size=(20, 8, 8, 1)).astype(np.float32)
    np.savez("a.npz", x=values)
    flags = {**tiny.FLAGS, "train_steps": 2, "batch_size": 4, "wb_id": "f", "data_name": "arrays", "data_dir": "a.npz"}
    flags["prediction"] = "v"
    assert cli("train", *tiny.command(**flags)).code == 0
    assert cli("generate", "--run_id", "f", "--n_samples", 4, "--steps", 3, "--solver", "exp2").code == 0
    (folder,) = Path("runs").glob("f_*/generated_data/*/*")
    samples = np.load(next(folder.glob("data/*.npy")))
    assert samples.min() >= values.min() - 1e-5
    assert samples.max() <= values.max() + 1e-5
    with Image.open(folder / "grid.png") as image:
        assert len(np.unique(np.asarray(image))) > 20


def test_a_run_is_found_by_the_path_a_shell_completes(cli, run):
    for name in ("runs/tiny_digits_H0.9_K2", "runs/tiny_digits_H0.9_K2/"):
        assert cli("generate", "--run_id", name, "--n_samples", 2, "--steps", 1).code == 0


def test_without_final_weights_the_newest_are_taken(cli, run):
    for file in (run / "model").glob("*-final.pth"):
        file.unlink()
    result = cli("generate", "--run_id", "tiny", "--n_samples", 2, "--steps", 1)
    assert result.code == 0
    assert "(v2)" in result.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--mode ode --steps 2", "note      euler needs about 200 steps or more; --solver ab3 does with 10"),
        ("--mode sde --steps 99", "note      em needs about 100 steps or more; --solver ab3 does with 10"),
        ("--mode sde --steps 100", None),
        ("--steps 2", None),
    ],
)
def test_too_few_steps_of_a_published_solver_are_told(cli, run, words, told):
    result = cli("generate", "--run_id", "tiny", "--n_samples", 2, *words.split())
    assert result.code == 0
    assert [line for line in result.out.splitlines() if line.startswith("note")] == ([told] if told else [])
