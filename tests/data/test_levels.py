"""Images whose levels are no 8-bit numbers: what is said of them, and ``--levels``."""

import numpy as np
import pytest
from PIL import Image

import train
from common.config.schema import DataConfig
from common.data import DataOptions, DataSet, DataUnavailable
from common.data.digits import Digits
from common.data.folder import Folder
from common.refusal import Refusal
from tests.data.odd_images import png

SIDE = 6


def files(folder, pixels: np.ndarray, ending="png", count=4) -> None:
    for i in range(count):
        Image.fromarray(pixels).save(folder / f"{i}.{ending}")


def load(folder, **options) -> DataSet:
    return Folder().load(DataOptions(folder, channels=1, **options))


def found(data: DataSet) -> np.ndarray:
    return data.train.images[0, 0].numpy()


def warnings_of(data: DataSet) -> list[str]:
    return [line for line in data.found if line.startswith("warning")]


def ramp(low: float, high: float, kind: type) -> np.ndarray:
    return np.linspace(low, high, SIDE * SIDE).reshape(SIDE, SIDE).astype(kind)


@pytest.mark.parametrize(
    ("high", "kind", "ending", "white"),
    [
        (4000, np.uint16, "png", 4095),  # Pillow#274: 12 bits in 16, as microscopes and cameras write them
        (4095, np.uint16, "tif", 4095),  # VmbPy#45
        (419, np.uint16, "png", 511),  # imageio#1049
        (1023, np.uint16, "tif", 1023),
        (16_000, np.uint16, "png", 16_383),
        (255, np.int32, "tif", 255),  # pytorch-CycleGAN-and-pix2pix#321: all black
        (0, np.uint16, "png", 255),
    ],
)
def test_dark_levels_are_named_and_can_be_said(tmp_path, high, kind, ending, white):
    levels = ramp(0, high, kind)
    files(tmp_path, levels, ending)
    assert warnings_of(load(tmp_path)) == [
        f"warning   levels of images beyond 8 bits end at {high:,} of 65,535: they come out dark; "
        f"--levels 0,{white} says what black and white are"
    ]
    said = load(tmp_path, levels=(0, white))
    assert not warnings_of(said)
    assert np.array_equal(found(said), np.round(levels / (white / 255)))


def test_dark_colours_of_16_bits_are_named(tmp_path):
    """Pillow keeps the upper 8 bits of them, so that a sixteenth of the levels is 16 levels."""
    levels = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, 3), dtype=np.uint16)
    levels[0, 0] = 0, 0, 4095
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(levels.astype(">u2"), 16, 2))
    data = Folder().load(DataOptions(tmp_path))
    assert [line[:90] for line in warnings_of(data)] == [
        "warning   levels of images beyond 8 bits end at 3,855 of 65,535: they come out dark; --lev"
    ]
    said = Folder().load(DataOptions(tmp_path, levels=(0, 4095)))
    assert not warnings_of(said)
    difference = said.train.images[0].permute(1, 2, 0).numpy() - levels / (4095 / 255)
    assert np.abs(difference).max() <= 16


def test_levels_over_the_whole_range_are_taken_without_a_word(tmp_path):
    files(tmp_path, ramp(0, 65_535, np.uint16))
    data = load(tmp_path)
    assert not warnings_of(data)
    assert found(data).max() == 255


@pytest.mark.parametrize(
    ("levels", "problem"),
    [
        (ramp(-1000, 3000, np.int32), "has levels beyond 16 bits, such as -1,000 and 3,000; --levels LOW,HIGH says"),
        (ramp(0, 100_000, np.int32), "has levels beyond 16 bits, such as 0 and 100,000; --levels LOW,HIGH says"),
        (ramp(-1, 1, np.float32), "has fractions as levels, such as -1 and 1; --levels LOW,HIGH says"),
    ],
)
def test_levels_of_unknown_range_need_to_be_said(tmp_path, levels, problem):
    files(tmp_path, levels, "tif")
    for size in (None, 3):
        with pytest.raises(DataUnavailable, match=".tif " + problem):
            load(tmp_path, image_size=size)
    low, high = float(levels.min()), float(levels.max())
    assert np.array_equal(found(load(tmp_path, levels=(low, high))), np.round((levels - low) / ((high - low) / 255)))
    middle = (low + high) / 2
    cut = found(load(tmp_path, levels=(low, middle)))
    assert (cut[levels >= middle] == 255).all()  # what is beyond is white


def test_levels_that_are_no_numbers_are_refused(tmp_path):
    levels = ramp(0, 1, np.float32)
    levels[2, 3] = np.nan
    files(tmp_path, levels, "tif")
    for options in ({}, {"levels": (0, 1)}):
        with pytest.raises(DataUnavailable, match=r"\.tif has levels that are no numbers"):
            load(tmp_path, **options)


def test_levels_of_eight_bits_can_be_said(tmp_path):
    levels = ramp(50, 200, np.uint8)
    files(tmp_path, levels)
    assert found(load(tmp_path, levels=(50, 200))).tolist() == np.round((levels - 50.0) / (150 / 255)).tolist()
    colours = np.stack([levels, levels.T, levels[::-1]], -1)
    files(tmp_path, colours)
    images = Folder().load(DataOptions(tmp_path, levels=(50, 200))).train.images
    assert np.array_equal(images[0].permute(1, 2, 0), np.round((colours - 50.0) / (150 / 255)))


def test_only_image_files_have_levels(tmp_path):
    with pytest.raises(Refusal, match=r"levels 0,4095: --data_name digits .* leave --levels out"):
        Digits().load(DataOptions(tmp_path, levels=(0, 4095)))
    for wrong in ((1, 1), (2, 1), (0,), (0, float("inf"))):
        with pytest.raises(Refusal, match="levels must be two rising numbers"):
            DataConfig(levels=wrong)
        with pytest.raises(Refusal, match="levels must be two rising numbers"):
            DataOptions(tmp_path, levels=wrong)


def test_a_run_keeps_its_levels(tmp_path, capsys):
    levels = ramp(-100, 900, np.int32).repeat(2, 0).repeat(2, 1)[:8, :8]
    (tmp_path / "images").mkdir()
    files(tmp_path / "images", levels, "tif", count=6)
    words = f"--data_name folder --data_dir {tmp_path}/images --channels 1 --levels=-100,900 --wb_id a --device cpu"
    words += (
        f" --output_dir {tmp_path}/runs --preset digits --train_steps 2 --batch_size 2 --val_samples 1 --num_workers 0"
    )
    assert train.main(words.split()) == 0
    (config,) = tmp_path.glob("runs/*/config.json")
    assert '"levels": [' in config.read_text()
    assert train.main(["--resume", "a", "--output_dir", f"{tmp_path}/runs"]) == 0
    with pytest.raises(SystemExit):
        train.main([*words.split(), "--levels", "5,2"])
    assert "--levels: '5,2' is no two rising numbers" in capsys.readouterr().err
