"""A picture of any kind as 8-bit pixels, upright, grey or in colour, in memory that its header tells beforehand."""

from typing import TYPE_CHECKING

import numpy as np

from common.data.levels import SIXTEEN_BITS, Levels
from common.data.metadata import SIDEWAYS, orientation
from common.sides import Sides

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODES = {1: "L", 3: "RGB"}
MOST_PIXELS = 2**27  # of an image, e.g. 11,585 x 11,585: photographs of 100 million and more are read
BAND = 2**20  # pixels that are converted at once: what a conversion needs beside the image and the result
ROWS_TURNED, COLUMNS_TURNED = (3, 4, 6, 7), (2, 3, 7, 8)  # orientations in which they run the other way in the file
UPPER = 257  # levels of 16 bits in a step of their upper 8 bits
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
SIDES_OF_TIFF = (257, 256)  # tags of height and width


class Unfit(ValueError):
    """A whole image that is not taken as it is; the message goes on from its name and says what to do."""


def check_size(image: "Picture") -> None:
    """Refuse an image, by its header, that would take too much memory.

    Raises:
        Unfit: with its size and the largest one.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Unfit(f"has {width:,} x {height:,} pixels, {too_many()}")
    if min(width, height) < 1:
        raise Unfit(f"has {width:,} x {height:,} pixels, which is no image; remove it")


def too_many() -> str:
    """What is said of images beyond the limit."""
    return f"more than the {MOST_PIXELS:,} that are read at most; make it smaller, or remove it"


def upright_sides(image: "Picture") -> Sides:
    """Height and width of an image once it is upright, without decoding it."""
    # of a TIFF file some versions of Pillow give the size as stored, some as it will be
    stored = getattr(image, "tag_v2", {})
    height, width = (int(stored[tag]) for tag in SIDES_OF_TIFF) if 256 in stored else image.size[::-1]
    return Sides(width, height) if orientation(image) in SIDEWAYS else Sides(height, width)


def is_deep(image: "Picture") -> bool:
    """Whether the levels of an image are numbers beyond 8 bits, or fractions."""
    return image.mode.startswith(("I", "F"))


def is_deep_colour(image: "Picture") -> bool:
    """Whether an image that is not decoded yet has colours of 16 bits, of which Pillow keeps the upper 8."""
    return not is_deep(image) and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def extremes(image: "Picture") -> tuple[float, float]:
    """Smallest and largest level of an image beyond 8 bits.

    Raises:
        Unfit: if they are of unknown range.
    """
    if is_deep_colour(image):
        numbers = np.asarray(image.convert("RGB")).astype(np.uint16) * UPPER
    else:
        numbers = _numbers(image)
        _known(numbers)
    return float(numbers.min()), float(numbers.max())


def pixels_of(image: "Picture", channels: int, levels: Levels | None) -> np.ndarray:
    """The pixels of an image, upright, as (channels, H, W) uint8.

    Args:
        image: any image.
        channels: 1 (grey) or 3 (colour).
        levels: those that are black and white; None takes all levels of 8 or 16 bits.

    Raises:
        Unfit: for levels of unknown range.
    """
    unit = UPPER if is_deep_colour(image) else 1
    image.load()
    check_size(image)  # once more: the first one of several images in a file may be another than was announced
    width, height = image.size
    turn = orientation(image)
    pixels = np.empty((channels, *((width, height) if turn in SIDEWAYS else (height, width))), np.uint8)
    stored = (
        pixels.swapaxes(1, 2) if turn in SIDEWAYS else pixels
    )  # a view: the result is written as it lies in the file
    stored = stored[:, :: -1 if turn in ROWS_TURNED else 1, :: -1 if turn in COLUMNS_TURNED else 1]
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        band = image if rows >= height else image.crop((0, top, width, end))
        part = np.asarray(convert(band, MODES[channels], levels, unit))
        stored[:, top:end] = part.reshape(end - top, width, channels).transpose(2, 0, 1)
    return pixels


def convert(image: "Picture", mode: str, levels: Levels | None = None, unit: int = 1) -> "Picture":
    """An image of any kind as 8-bit grey or colour: deeper levels scaled, transparent parts on white.

    Colours are those that the file says in the plainest reading: profiles are not applied.

    Args:
        image: any image.
        mode: ``L`` or ``RGB``.
        levels: those that are black and white; None takes all levels of 8 or 16 bits.
        unit: what a step of 8-bit levels stands for in the file.

    Raises:
        Unfit: for levels of unknown range.
    """
    from PIL import Image

    if is_deep(image):
        numbers = _numbers(image)
        scaled = (levels or _known(numbers)).to_bytes(numbers)
        if "transparency" in image.info:  # one of the levels
            scaled[numbers == image.info["transparency"]] = 255
        return Image.fromarray(scaled).convert(mode)
    if image.mode == "LAB":
        image = image.convert("RGB")  # which is all that Pillow makes of it
    elif "transparency" in image.info or image.mode in TRANSPARENT:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == mode else image.convert(mode)
    if levels is None:
        return image
    table = levels.to_bytes(unit * np.arange(256)).tolist()
    return image.point(table * len(image.getbands()))


def _numbers(image: "Picture") -> np.ndarray:
    """Levels (H, W) of an image beyond 8 bits."""
    numbers = np.asarray(image)
    if np.isnan(numbers).any():
        raise Unfit("has levels that are no numbers (NaN); repair or remove it")
    return numbers


def _known(numbers: np.ndarray) -> Levels:
    """The range of levels that go without saying: those of 16 bits."""
    lowest, highest = numbers.min(), numbers.max()
    if np.issubdtype(numbers.dtype, np.floating):
        raise Unfit(
            f"has fractions as levels, such as {lowest:g} and {highest:g}; --levels LOW,HIGH says what black and white "
            "are"
        )
    if lowest < SIXTEEN_BITS.low or highest > SIXTEEN_BITS.high:
        raise Unfit(
            f"has levels beyond 16 bits, such as {lowest:,} and {highest:,}; --levels LOW,HIGH says what black and "
            "white are"
        )
    return SIXTEEN_BITS
