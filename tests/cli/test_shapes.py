"""Samples have the shape of the data: images that are 48 high and 32 wide, from every source, through every program."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import args
from common.config.stored import read_config
from common.runs import load
from tests.cli.test_flags import fitted, resolve
from tests.cli.test_wrong_input import refused
from tests.training import tiny

COUNT = 8
NETWORKS = {
    "unet": {"model_channels": 8, "channel_mult": "1,1", "num_res_blocks": 1, "attn_resolutions": "2"},
    "uvit": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "dynamics": "heat"},
    "inr": {"width": 8, "depth": 2, "inner_steps": 1},
}
SHORT = {"train_steps": 2, "batch_size": 2, "val_samples": 1, "val_check_interval": 9}


@pytest.fixture
def images(tmp_path):
    """The same images in every form; ``images(form)`` gives the flags that name it."""
    levels = np.random.default_rng(0).integers(0, 256, (COUNT, 48, 32, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(levels):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    shutil.make_archive(str(tmp_path / "pictures"), "zip", tmp_path / "pictures")
    np.save(tmp_path / "pictures.npy", levels)
    np.savez(tmp_path / "pictures.npz", x=levels)
    names = {"folder": ("folder", "pictures"), **{kind: ("arrays", f"pictures.{kind}") for kind in ("npy", "npz")}}
    names["zip"] = ("folder", "pictures.zip")
    return lambda form: dict(zip(("data_name", "data_dir"), names[form], strict=True))


PAIRS = [("folder", "unet"), ("zip", "uvit"), ("npz", "inr"), ("npy", "unet"), ("folder", "inr"), ("npz", "uvit")]


@pytest.mark.parametrize(("source", "network"), PAIRS)
def test_samples_are_of_the_shape_of_the_data(cli, images, tmp_path, source, network):
    flags = {**images(source), "model_name": network, **NETWORKS[network], **SHORT, "wb_id": "r", "flip": True}
    trained = cli("train", *tiny.command(**flags))
    assert trained.code == 0, trained.err
    assert "images    48x32 as they are, mirrored at random (--flip False leaves that out)\n" in trained.out
    run = load("r")
    assert run.data.shape == (3, 48, 32)
    generated = cli("generate", "--run_id", "r", "--n_samples", 2, "--steps", 2)
    assert generated.code == 0, generated.err
    (file,) = tmp_path.glob("runs/r_*/generated_data/*/*/data/*.npy")
    samples = np.load(file)
    assert samples.shape == (2, 48, 32, 3)
    assert np.isfinite(samples).all()
    with Image.open(file.parents[1] / "grid.png") as grid:  # (width, height): two in a row, below real ones
        assert grid.size[0] >= 2 * 32
        assert grid.size[1] >= 2 * 48


def test_another_shape_is_made_kept_and_known_again(cli, images, tmp_path):
    flags = {**images("folder"), **NETWORKS["unet"], **SHORT, "wb_id": "r", "image_size": "24x32"}
    result = cli("train", *tiny.command(**(flags | {"val_check_interval": 2})))
    assert "images    from 48x32, cropped to 24x32\n" in result.out
    (folder,) = tmp_path.glob("runs/r_*")
    (drawn,) = (folder / "samples").glob("*.png")
    assert drawn.stat().st_size > 0
    generated = cli("generate", "--run_id", "r", "--n_samples", 2, "--steps", 2, "--trajectory", "True")
    assert "trajectory.png" in generated.out
    evaluated = cli("evaluate", "--run_id", "r", "--metrics", "nearest")
    assert evaluated.code == 0, evaluated.err
    assert "images    from 48x32, cropped to 24x32\n" in evaluated.out
    content = json.loads((folder / "config.json").read_text())
    assert content["data"]["image_size"] == content["network"]["arguments"]["image_size"] == [24, 32]
    assert load("r").data.shape == (3, 24, 32)
    assert read_config(folder).data.image_size == (24, 32)
    assert cli("train", "--resume", "r", "--image_size", "24x32").code == 0
    again = cli("train", "--resume", "r", "--image_size", "32x24")
    refused(
        again,
        "train",
        "--image_size 32x24 contradicts the run r_folder_H0.9_K2, which has 24x32; leave it out, or begin another run",
    )


@pytest.mark.parametrize(
    ("size", "network", "pattern"),
    [
        (
            "50x31",
            "unet",
            "--image_size must be a positive multiple of 2 .*got 50x31; .* is 50x32; .*--model_name uvit",
        ),
        ("50x31", "uvit", r"--patch_size must be a divisor of every side of \(50, 31\), got 8; .* work is 56x32"),
        ("48x", "unet", "--image_size: '48x' is no size: write height x width, as in 48x32"),
        ("48x0", "unet", "--image_size: must be at least 1 .*got 48x0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_next_that_does(cli, images, size, network, pattern):
    flags = {**images("folder"), "model_name": network, **NETWORKS[network], **SHORT, "image_size": size}
    refused(cli("train", *tiny.command(**flags)), "train", pattern)


# -- whose size it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, preset in args.PRESETS.items() if "image_size" in preset])
def test_the_size_of_a_preset_is_that_of_its_own_data(name):
    preset = args.PRESETS[name]
    assert resolve("--preset", name)["image_size"] == preset["image_size"]
    assert resolve("--preset", name, "--data_name", preset["data_name"])["image_size"] == preset["image_size"]
    own = resolve("--preset", name, "--data_name", "folder")
    assert own["image_size"] is None
    assert own["lr"] == preset["lr"]
    assert resolve("--preset", name, "--data_name", "folder", "--image_size", "48x32")["image_size"] == (48, 32)


def test_a_square_is_one_number():
    assert resolve("--image_size", "32x32")["image_size"] == resolve("--image_size", "32")["image_size"] == 32
    assert fitted("--data_name", "mnist", shape=(1, 28, 28)).network.arguments["image_size"] == 28
