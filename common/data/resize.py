"""A data set in the size that was asked for."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from common.data.reading import Images, is_small
from common.data.source import DataOptions, DataSet, DataUnavailable, Split, as_they_are
from common.data.spec import LARGEST
from common.sides import Sides

AT_ONCE = 1024  # images resized at once: bounds the memory for intermediate results
SQUARE = Sides(1, 1)


def to_size(images: Tensor, size: Sides | None, center_crop: float = 1.0) -> Tensor:
    """The central part of every image that has the shape of the result, resized with antialiasing.

    Bilinear: unlike bicubic it never leaves the range of the data. If images grow, there is nothing to smooth, and
    it is plain bilinear interpolation between the centres of pixels.

    Args:
        images: (.., H, W) uint8 or float32.
        size: sides of the result; None leaves the part as it is cut out, a square.
        center_crop: sides of the part as a fraction of the largest one of that shape, in (0, 1].

    Returns:
        (.., *size) of the same type.
    """
    functional = image_functions()
    part = functional.center_crop(images, list(cut_sides(images.shape[-2:], size, center_crop))).contiguous()
    resized: Tensor = part if size is None else functional.resize(part, list(size), antialias=True)
    return resized


def image_functions() -> ModuleType:
    """torchvision's functions of images; imported when they are needed, because that takes a second."""
    return importlib.import_module("torchvision.transforms.v2.functional")


def cut_sides(sides: Sequence[int], size: Sides | None, center_crop: float) -> Sides:
    """Sides of the central part that is cut out of an image: as large as fits, times ``center_crop``.

    Args:
        sides: those of the image.
        size: what the part shall be resized to, whose shape it has; None for a square.
        center_crop: fraction of the largest part of that shape.
    """
    (height, width), (rows, columns) = sides, size or SQUARE
    wide = height * columns <= width * rows  # all rows are taken, and columns are left over
    largest = (height, height * columns / rows) if wide else (width * rows / columns, width)
    return Sides(*(max(1, round(side * center_crop)) for side in largest))


def treatment(own: Sides, size: Sides | None, center_crop: float) -> str:
    """What :func:`to_size` makes of images of some sides, in words."""
    cut = cut_sides(own, size, center_crop)
    cropped = f", cropped to {cut}" if cut != own else ""
    resized = f", resized to {size}" if size not in (None, cut) else ""
    return f"from {own}{cropped}{resized}" if cropped or resized else as_they_are(own)


class Resized:
    """Images that are cropped and resized as they are read.

    Args:
        images: (N, C, H, W).
        size: sides of the results; None leaves the squares as they are cut out.
        center_crop: sides of what is cut out as a fraction of the largest part of that shape.
    """

    def __init__(self, images: Images, size: Sides | None, center_crop: float = 1.0) -> None:
        self._images, self._size, self._center_crop = images, size, center_crop
        sides = cut_sides(images.shape[-2:], size, center_crop) if size is None else size
        self.shape = (*images.shape[:2], *sides)
        self.dtype = images.dtype
        image_functions()  # before there are worker processes, which share what has been imported

    def __getitem__(self, indices: Tensor) -> Tensor:
        return to_size(self._images[indices], self._size, self._center_crop)


def fit(data: DataSet, options: DataOptions, name: str) -> DataSet:
    """The data set in the size that was asked for: resized once if it is in memory, else as it is read.

    Args:
        data: the data set in its own size.
        options: what was asked for.
        name: what messages call it.

    Raises:
        DataUnavailable: for other channels than it has, for a size that is too large, for one or a crop of
            samples that are no images, and for a length.
    """
    channels, *sides = data.spec.shape
    if options.channels not in (None, channels):
        raise DataUnavailable(
            f"{options.channels}: {name} has {channels} channel(s); only --data_name folder and celeba convert",
            "channels",
        )
    refuse_for_others(options, name)
    if options.class_order != "natural":
        raise DataUnavailable(f"{options.class_order}: {name} has an order of its own; leave it out", "class_order")
    if options.levels is not None:
        raise DataUnavailable(
            f"{options.levels[0]:g},{options.levels[1]:g}: {name} has no image files, only --data_name folder and "
            "celeba; leave --levels out",
            "levels",
        )
    if options.image_size is None and options.center_crop is None:
        return data
    if not data.spec.is_image:
        asked = options.image_size is not None
        flag, value = ("image_size", options.image_size) if asked else ("center_crop", options.center_crop)
        raise DataUnavailable(
            f"{value}: {name} has samples of shape {data.spec.shape}, which are no images; leave --{flag} out", flag
        )
    refuse_too_large(options.sides, channels)
    own, size, center_crop = Sides(*sides), options.sides, options.center_crop or 1.0
    if own == cut_sides(own, size, center_crop) and size in (None, own):
        return data
    return replace(
        data,
        train=resized(data.train, size, center_crop),
        held_out=resized(data.held_out, size, center_crop),
        treatment=treatment(own, size, center_crop),
    )


def refuse_for_others(options: DataOptions, name: str) -> None:
    """Refuse what only other sources are told: a length and a rate if samples keep those they have, an order of axes.

    Raises:
        DataUnavailable: if one was asked for.
    """
    if options.axes is not None:
        raise DataUnavailable(
            f"{options.axes}: {name} has a known order of axes, only --data_name arrays is told it; leave --axes out",
            "axes",
        )
    if options.sample_rate is not None:
        raise DataUnavailable(
            f"{options.sample_rate}: {name} keeps its own, only --data_name sounds takes another; leave "
            "--sample_rate out",
            "sample_rate",
        )
    if options.length is not None:
        raise DataUnavailable(
            f"{options.length}: {name} cannot be cut or padded, only --data_name sounds and spokendigits can; leave "
            "--length out",
            "length",
        )


def refuse_too_large(size: Sides | None, channels: int) -> None:
    """Refuse images that would have more numbers than a sample may have, before any is read.

    Raises:
        DataUnavailable: if they would.
    """
    if size is not None and channels * size.height * size.width > LARGEST:
        raise DataUnavailable(f"{size}: a sample has at most {LARGEST:,} numbers", "image_size")


def resized(part: Split, size: Sides | None, center_crop: float) -> Split:
    """The part with its images in a size: made now if they are in memory and stay small, else as they are read."""
    images = Resized(part.images, size, center_crop)
    if not (isinstance(part.images, Tensor) and is_small(images)):
        return Split(images, part.labels)
    return Split(torch.cat([to_size(some, size, center_crop) for some in part.images.split(AT_ONCE)]), part.labels)
