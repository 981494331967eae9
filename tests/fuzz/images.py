"""Image files of all formats, changed: what is decoded has the pixels that Pillow alone gives."""

import contextlib
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common.data.pictures import decode, header, read
from common.data.pillow import formats, pillow
from common.data.pixels import UPPER, is_deep
from common.data.trees import Paths
from tests.data.odd_images import ALPHA, COLOUR, COLOURS, GREY, LEVELS, png, saved
from tests.fuzz.edits import mutated
from tests.fuzz.frame import Target, require

STRIPPED = ("PNG", "TIFF")  # formats that are read once more without their metadata if Pillow does not stand those


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a picture"
    return exif


@cache
def files() -> list[bytes]:
    """Small images in every format that can be written here."""
    pillow()
    found = [
        png(LEVELS.astype(">u2"), 16, 6),
        png(LEVELS[..., :1].astype(">u2"), 16, 0),
        png(COLOURS, 8, 2, interlaced=True),
        png(np.concatenate([COLOURS, ALPHA], -1), 8, 6),
    ]
    found += [saved(image, kind, **more) for image, kind, more in kinds()]
    return found


def kinds() -> Iterator[tuple[Image.Image, str, dict]]:
    deep = Image.fromarray(LEVELS[..., 0])
    with_alpha = Image.fromarray(np.concatenate([COLOURS, ALPHA], -1))
    film = {"save_all": True, "append_images": [COLOUR.rotate(180)]}
    yield from ((image, "PNG", {}) for image in (GREY, COLOUR.convert("P"), GREY.convert("1"), deep))
    yield COLOUR.convert("P"), "PNG", {"transparency": 3}
    yield COLOUR, "PNG", {"exif": turned(6), **film}
    yield from ((image, "JPEG", {"exif": turned(8)}) for image in (GREY, COLOUR, COLOUR.convert("CMYK")))
    yield COLOUR.resize((40, 30)), "JPEG", {"progressive": True, "quality": 30}
    yield COLOUR, "GIF", film
    yield from ((image, "GIF", {}) for image in (GREY, COLOUR.convert("P")))
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        yield COLOUR, "TIFF", {"compression": compression, "exif": turned(5)}
    yield from ((image, "TIFF", {}) for image in (deep, GREY.convert("F"), GREY.convert("1"), with_alpha))
    yield from ((image, "BMP", {}) for image in (COLOUR, GREY, GREY.convert("1"), with_alpha))
    yield from ((with_alpha, "WEBP", {"lossless": lossless}) for lossless in (True, False))
    yield COLOUR, "WEBP", {"exif": turned(3), **film}
    yield COLOUR, "TGA", {"compression": "tga_rle"}
    yield from ((COLOUR, kind, {}) for kind in ("TGA", "PPM", "PCX", "SGI", "ICO", "DIB", "DDS", "QOI", "ICNS"))
    yield GREY.convert("1"), "XBM", {}
    if "JPEG2000" in formats():
        yield COLOUR.resize((32, 32)), "JPEG2000", {}
    for kind in ("HEIF", "AVIF"):
        if kind in formats() and kind in Image.SAVE:
            yield COLOUR.resize((32, 32)), kind, {"exif": turned(6)}


def use(case: tuple[bytes, int]) -> None:
    """Decode an image as grey or colour."""
    content, channels = case
    Path("image").write_bytes(content)
    place = Paths.of(Path(), ["image"])
    height, width, *_ = read(place, 0, "fuzz", header)
    found = read(place, 0, "fuzz", lambda image: decode(image, channels)).numpy()
    require(found.shape == (channels, height, width), f"{found.shape} of an image of {height} x {width}")
    expected = plain(content, channels)
    if expected is not None:
        require(found.shape == expected.shape, f"{found.shape} instead of {expected.shape}")
        require(bool((found == expected).all()), f"{(found != expected).mean():.0%} of the pixels differ")


def plain(content: bytes, channels: int) -> np.ndarray | None:
    """The pixels (C, H, W) that Pillow's own functions give; None where they give up."""
    with contextlib.suppress(Exception):
        kind = None
        try:
            image = Image.open(io.BytesIO(content), formats=formats())
            kind = image.format
            image.load()
            if "exif" in image.info and 0x0112 not in image.getexif():
                return None  # the block may be broken, and the orientation in it readable
            image = ImageOps.exif_transpose(image)
        except Exception as error:
            require(kind is None or kind in STRIPPED, f"Pillow reads no such image: {error}")
            return None
        if is_deep(image):
            if "transparency" in image.info:
                return None
            grey = np.round(np.asarray(image) / UPPER).astype(np.uint8)
            return np.repeat(grey[None], channels, 0)
        if image.mode != "LAB" and (image.has_transparency_data or image.mode == "La"):
            image = image.convert("LA") if image.mode == "La" else image
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB") if image.mode == "LAB" else image
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


TARGETS = [Target("images", st.tuples(st.deferred(lambda: mutated(files())), st.sampled_from([1, 3])), use, share=3)]
