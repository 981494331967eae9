"""train.py --check_data: what stands in its lines and in its picture, and that nothing else is written."""

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_wrong_input import refused


@pytest.fixture
def photographs(tmp_path):
    """Two classes, in which one image is held out and learned from, one stands in both classes, one is black."""
    levels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    levels[4] = 0
    for i, name in enumerate(("train/cat/0", "train/cat/1", "train/dog/2", "train/dog/3", "train/dog/4", "test/cat/5")):
        path = tmp_path / "mine" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels[i]).save(path)
    Image.fromarray(levels[0]).save(tmp_path / "mine/test/cat/copy.png")
    Image.fromarray(levels[2]).save(tmp_path / "mine/train/cat/other.png")
    (tmp_path / "mine/train/notes.txt").write_text("passed over")
    return tmp_path / "mine"


def test_data_is_looked_at(cli, photographs, tmp_path):
    result = cli("train", "--check_data", "--data_name", "folder", "--data_dir", "mine", "--output_dir", "here")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "data      folder, 6 samples of 3x8x8, 2 classes: cat 3, dog 3"
    assert lines[1] == "found     6 images to learn from, 2 held out: test/"
    assert lines[2] == "passed    over: 1 .txt (train/notes.txt)"
    assert [line.split() for line in lines[4:7]][1:] == [["0", "cat", "3", "2"], ["1", "dog", "3", "0"]]
    warnings = [line for line in lines if line.startswith("warning")]
    assert warnings == [
        "warning   1 samples have one value everywhere, first mine/train/dog/4.png",
        "warning   1 of the held-out samples are learned from too: mine/train/cat/0.png and mine/test/cat/copy.png",
        "warning   1 samples to learn from stand in two classes: mine/train/cat/other.png and mine/train/dog/2.png",
        "warning   1 samples are to be learned from twice: mine/train/cat/other.png and mine/train/dog/2.png",
    ]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["check-folder.png"]
    with Image.open(tmp_path / "here" / "check-folder.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 250
    colours = {tuple(pixel) for pixel in pixels.reshape(-1, 3)}
    with Image.open(photographs / "train/cat/1.png") as image:
        assert {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3)} <= colours  # samples are seen as they are


def test_levels_and_functions(cli, tmp_path):
    values = np.sin(np.linspace(0, 6, 32)) * np.linspace(0.5, 1, 40)[:, None]
    np.save("waves.npy", values.astype(np.float32))
    out = cli("train", "--check_data", "--data_name", "arrays", "--data_dir", "waves.npy").out
    assert "twins     no sample is there twice\n" in out
    assert "levels    -1.00 to 1.00, mean 0." in out
    assert (tmp_path / "runs" / "check-arrays.png").is_file()
    dark = np.random.default_rng(0).integers(0, 16, (40, 8, 8), dtype=np.uint8)
    np.save("dark.npy", dark)
    out = cli("train", "--check_data", "--data_name", "arrays", "--data_dir", "dark.npy").out
    assert "warning   the values fill less than an eighth of the scale: their range may be another one\n" in out


def test_a_class_may_be_called_in_any_way(cli, photographs):
    """Own: what stands between dollars is no formula here."""
    (photographs / "train/cat").rename(photographs / "train/$_$")
    (photographs / "test/cat").rename(photographs / "test/$_$")
    result = cli("train", "--check_data", "--data_name", "folder", "--data_dir", "mine")
    assert result.code == 0, result.err


def test_what_cannot_be_read_is_refused(cli, tmp_path):
    result = cli("train", "--check_data", "--data_name", "folder", "--data_dir", "nowhere")
    refused(result, "train", "nowhere is not there; point --data_dir at a folder or .zip with images")
    assert not result.written
