"""Own data with the values of a preset that was made for other data: what is told of it, used of it and refused."""

import numpy as np
import pytest
from PIL import Image

import args
from tests.cli.test_wrong_input import refused
from tests.training import tiny

SHORT = {"train_steps": 2, "batch_size": 2, "val_samples": 1, "val_check_interval": 9, "wb_id": "r"}
SMALL_UVIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, **SHORT}
HOLES = (
    "note      no sample to learn from of classes 1, 2, 3, 4, 6, 7, 8, 9: they are drawn only if --labels names them\n"
)


@pytest.fixture
def levels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)


def test_labels_and_mirroring_of_a_preset_are_of_its_own_data(cli, levels, tmp_path):
    for i, pixels in enumerate(levels):
        folder = tmp_path / "shapes" / ("ellipse", "stripe")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    words = tiny.command(preset="fdp-celeba-small", data_name="folder", data_dir="shapes", **SMALL_UVIT)
    told = cli("train", *words, "--dry_run").out
    assert "data      folder, 27 samples of 3x8x8, 2 classes: ellipse 13, stripe 14\n" in told
    assert "images    8x8 as they are\n" in told
    told = cli("train", *words, "--dry_run", "--conditioning", "False", "--flip", "True").out
    assert ", 2 classes: ellipse 13, stripe 14, not used (--conditioning False)\n" in told
    assert "images    8x8 as they are, mirrored at random (--flip False leaves that out)\n" in told
    own = args.parse_train(["--preset", "fdp-celeba-small"]).config.data
    assert (own.conditioning, own.flip) == (False, True)


def test_classes_without_a_sample_are_told(cli, levels):
    np.savez("holes.npz", x=levels, y=np.arange(30) % 3 * 5)
    words = tiny.command(data_name="arrays", data_dir="holes.npz", **{**tiny.FLAGS, **SHORT})
    assert HOLES in cli("train", *words, "--dry_run").out
    assert "note      no sample" not in cli("train", *words, "--dry_run", "--conditioning", "False").out


def test_a_place_is_not_for_the_built_in_digits(cli, monkeypatch):
    line = "--data_dir has no effect on --data_name digits; give --data_name folder or arrays"
    refused(cli("train", "--dry_run", "--data_dir", "faces"), "train", f"{line}$")
    monkeypatch.setenv("DATA_ROOT", "faces")
    assert args.parse_train(["--dry_run"]).config.data.data_dir is None
