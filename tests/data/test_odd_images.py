"""Odd but whole image files have the pixels that Pillow reads without what is odd; others are refused by name."""

import os
import struct
import subprocess
import sys
import warnings
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image

from common.data import DataOptions, DataSet, DataUnavailable
from common.data.folder import Folder
from common.data.pictures import read
from common.data.pillow import pillow
from common.data.pixels import BAND, MOST_PIXELS
from common.data.trees import Paths
from tests.data import odd_images
from tests.data.odd_images import COLOUR, COLOURS, HEIGHT, LAID, WIDTH, Odd, chunk, exif, jpeg, png, saved, segment
from tests.test_imports import ROOT

ODD = odd_images.odd_images()


def load(folder, content: bytes, ending: str = "png", **options) -> DataSet:
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"a.{ending}").write_bytes(content)
    return Folder().load(DataOptions(folder, **options))


def refusal(folder, content: bytes, ending: str = "png", **options) -> str:
    """The message without where the file lies."""
    with pytest.raises(DataUnavailable) as caught:
        load(folder, content, ending, **options)
    message = str(caught.value)
    assert message.startswith(f"--data_name folder: {folder}/")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_images_have_their_pixels(tmp_path, odd: Odd, channels):
    expected = odd.expected({1: "L", 3: "RGB"}[channels]).reshape(*odd.expected("L").shape, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pillow.cache_clear()  # says again what is not said
        data = load(tmp_path, odd.content, odd.ending, channels=channels)  # without a size, headers must tell it
    for part in (data.train, data.held_out):
        found = part.read()[0][0].permute(1, 2, 0).numpy()
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= odd.within


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_of_phones_are_turned_once(tmp_path, orientation):
    """pillow_heif#86: the library turns them itself, and leaves a tag that must not turn them again."""
    pytest.importorskip("pillow_heif")
    pillow()
    laid = Image.fromarray(np.ascontiguousarray(LAID[orientation](COLOURS))).resize((64, 48))
    content = saved(laid, "HEIF", quality=-1, exif=exif(orientation))
    upright = odd_images.turned(laid, {6: 8, 8: 6}.get(orientation, orientation))
    for ending in ("heic", "jpg"):  # also if they are called otherwise
        data = load(tmp_path / ending, content, ending)
        found = data.train.images[0].permute(1, 2, 0).numpy()
        assert found.shape == np.asarray(upright).shape
        assert np.abs(found.astype(int) - np.asarray(upright)).mean() <= 6  # there is no other encoding than with loss


def test_colours_of_lab(tmp_path):
    """Pillow converts them with its colour management only."""
    grey = np.stack([COLOURS[..., 0], *[np.zeros((HEIGHT, WIDTH), np.uint8)] * 2], -1)
    lab = Image.frombytes("LAB", (WIDTH, HEIGHT), grey.tobytes())
    found = load(tmp_path, saved(lab, "TIFF"), "tif").train.images[0].permute(1, 2, 0).numpy().astype(int)
    assert np.ptp(found, axis=-1).max() <= 1
    assert (np.diff(found[..., 0].ravel()[COLOURS[..., 0].ravel().argsort()]) >= -1).all()


def test_animated_images_are_counted(tmp_path):
    frames = {"save_all": True, "append_images": [Image.new("RGB", COLOUR.size, "red")]}
    for i, kind in enumerate(["GIF", "PNG", "WEBP", "JPEG", "TIFF"]):
        (tmp_path / f"{i}.{kind.lower()}").write_bytes(saved(COLOUR, kind, **({} if kind == "JPEG" else frames)))
    found = Folder().load(DataOptions(tmp_path)).found
    assert [line for line in found if "animated" in line] == ["found     3 animated images: their first frame is taken"]


def test_large_images_are_converted_in_bands(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.pixels.BAND", 3 * WIDTH)  # three rows at a time
    several = {
        name: odd for name, odd in ODD.items() if any(word in name for word in ("turned", "alpha", "16", "trans"))
    }
    for i, odd in enumerate(several.values()):
        found = load(tmp_path / str(i), odd.content, odd.ending).train.images[0].permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - odd.expected("RGB")).max() <= odd.within
    assert BAND > 3 * WIDTH


# -- what is refused, by name -----------------------------------------------------------------------------------------


def announced(width: int, height: int) -> bytes:
    """A PNG file that says to be of a size, with the pixels of another."""
    content = bytearray(png(COLOURS, 8, 2))
    struct.pack_into(">II", content, 16, width, height)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    return bytes(content)


def tiff_of(width: int, height: int) -> bytes:
    content = bytearray(saved(COLOUR, "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    for tag, side in enumerate((width, height)):
        at = content.index(struct.pack("<H", 256 + tag), start)
        struct.pack_into("<HHII", content, at, 256 + tag, 4, 1, side)
    return bytes(content)


TOO_LARGE = f"more than the {MOST_PIXELS:,} that are read at most; make it smaller, or remove it"


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (announced(13_000, 13_000), f"13,000 x 13,000 pixels, {TOO_LARGE}"),  # 3 GB
        (announced(10**9, 10**9), TOO_LARGE),
        (announced(2**31 - 1, 1), TOO_LARGE),
        (announced(0, 5), "cannot be read as an image"),
        (tiff_of(30_000, 30_000), TOO_LARGE),
        (b"P4 30000 30000\n", TOO_LARGE),  # one bit for a pixel
        (saved(COLOUR, "GIF")[:6] + b"\xff\xff\xff\xff" + saved(COLOUR, "GIF")[10:], TOO_LARGE),
    ],
    ids=["13000 x 13000", "10^9 x 10^9", "2^31 x 1", "0 x 5", "tiff", "bits", "gif"],
)
def test_sizes_are_checked_by_the_header(tmp_path, content, problem, size):
    """detectron2#1221 and others: training stops in the middle, or its machine does."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pillow.cache_clear()
        message = refusal(tmp_path, content, image_size=size)
    assert "a.png has " + problem in message or (problem.startswith("cannot") and problem in message)


def test_an_icon_with_a_large_image_is_refused(tmp_path):
    icon = saved(COLOUR, "ICO", sizes=[COLOUR.size])
    png_at = icon.index(b"\x89PNG")
    large = announced(20_000, 20_000)
    content = icon[:14] + struct.pack("<II", len(large), png_at) + large
    assert TOO_LARGE in refusal(tmp_path, content, "ico", image_size=4)


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (png(COLOURS, 8, 2)[:300], "png"),
        (png(COLOURS, 8, 2, chunk(b"zTXt", b"key\0\0" + zlib.compress(b"a" * 3_000_000)))[:-100], "png"),
        (png(COLOURS, 8, 2, chunk(b"tRNS", bytes(6), crc=7)), "png"),
        (png(COLOURS, 8, 2).replace(b"IDAT", b"IDAT\7\7"), "png"),
        (jpeg()[:-200], "jpg"),
        (jpeg()[:20], "jpg"),
        (jpeg(segment(1, b"Exif\0\0"))[:-2], "jpg"),
        (saved(COLOUR, "TIFF")[:-200], "tif"),
        (saved(COLOUR, "TIFF", compression="tiff_lzw")[:-200], "tif"),
        (saved(COLOUR, "GIF")[:40], "gif"),
        (saved(COLOUR, "WEBP")[:-20], "webp"),
        (b"", "png"),
        (b"<html>404 not found</html>", "jpg"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "png"),
        (b"%PDF-1.7\n", "jpg"),
        (bytes(1000), "tga"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "png"),
        (b"II*\0\x08\0\0\0\xff\xff", "tif"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_not_whole_is_refused(tmp_path, content, ending):
    assert f"a.{ending} cannot be read as an image" in refusal(tmp_path, content, ending, image_size=4)


def test_no_other_program_is_started(tmp_path, monkeypatch):
    """Pillow#7391: PostScript is drawn by Ghostscript, whatever the file is called."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    assert "a.png cannot be read" in refusal(tmp_path, eps, image_size=4)


READS = """
import sys
from pathlib import Path
import torch
from common.data import pixels
from common.data.pictures import Form, Pictures
from common.data.trees import open_tree
from common.sides import Sides

pixels.BAND = 2**16
tree = open_tree("folder", Path(sys.argv[1]))
images = Pictures(tree.files(tree.names), Form("folder", 3, Sides(8, 8), None), Sides(8, 8))


def largest():  # getrusage would tell that of the parent, too
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


before = largest()
images[torch.tensor([0])]
print(largest() - before)
"""


@pytest.mark.slow
def test_memory_is_that_of_the_picture(tmp_path):
    """A large image takes a few bytes for each pixel: itself, the result, and little between them.

    A fork would not do: it has memory to spare that its parent has taken and given back.
    """
    side = 4000
    Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(tmp_path / "a.png", compress_level=1)
    words = [sys.executable, "-c", READS, str(tmp_path)]
    told = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    used = int(told.stdout) * 1024
    assert 6 < used / side**2 < 11  # 4 of Pillow, 3 of the result, and what each process needs once


def test_the_memory_of_an_image_is_given_back_before_it_is_read_again(tmp_path):
    """Found by fuzzing: a broken file of 2^27 pixels took them twice."""
    (tmp_path / "a.png").write_bytes(saved(COLOUR, "PNG"))
    seen = []

    def fails(image):
        seen.append(weakref.ref(image))
        assert seen[0]() in (None, image)
        raise OSError("broken")

    with pytest.raises(DataUnavailable, match=r"a\.png cannot be read as an image \(OSError: broken\)"):
        read(Paths.of(tmp_path, ["a.png"]), 0, "folder", fails)
    assert [image() for image in seen] == [None, None]
