"""A data set in the size that was asked for."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from common.data.reading import Images, is_small
from common.data.source import DataOptions, DataSet, DataUnavailable, Split

AT_ONCE = 1024  # images resized at once: bounds the memory for intermediate results


def to_square(images: Tensor, size: int | None, center_crop: float = 1.0) -> Tensor:
    """The central square of every image, resized with antialiasing.

    Bilinear: unlike bicubic it never leaves the range of the data. If images grow, there is nothing to smooth, and
    it is plain bilinear interpolation between the centres of pixels.

    Args:
        images: (.., H, W) uint8 or float32.
        size: side of the result; None leaves the square as it is cut out.
        center_crop: side of the square as a fraction of the shorter side, in (0, 1].

    Returns:
        (.., size, size) of the same type.
    """
    side = square_side(images.shape[-2:], center_crop)
    functional = image_functions()
    square = functional.center_crop(images, [side, side]).contiguous()
    resized: Tensor = square if size is None else functional.resize(square, [size, size], antialias=True)
    return resized


def image_functions() -> ModuleType:
    """torchvision's functions of images; imported when they are needed, because that takes a second."""
    return importlib.import_module("torchvision.transforms.v2.functional")


def square_side(sides: Sequence[int], center_crop: float) -> int:
    """Side of the central square that is cut out of an image of these sides."""
    return max(1, round(min(sides) * center_crop))


class Squares:
    """Images that are cropped and resized as they are read.

    Args:
        images: (N, C, H, W).
        size: side of the squares; None leaves them as they are cut out.
        center_crop: side of what is cut out as a fraction of the shorter side.
    """

    def __init__(self, images: Images, size: int | None, center_crop: float = 1.0) -> None:
        self._images, self._size, self._center_crop = images, size, center_crop
        side = square_side(images.shape[-2:], center_crop) if size is None else size
        self.shape = (*images.shape[:2], side, side)
        self.dtype = images.dtype
        image_functions()  # before there are worker processes, which share what has been imported

    def __getitem__(self, indices: Tensor) -> Tensor:
        return to_square(self._images[indices], self._size, self._center_crop)


def fit(data: DataSet, options: DataOptions, name: str) -> DataSet:
    """The data set in the size that was asked for: resized once if it is in memory, else as it is read.

    Args:
        data: the data set in its own size.
        options: what was asked for.
        name: what messages call it.

    Raises:
        DataUnavailable: for other channels than it has, for a size or crop of samples that are no images, and for a
            length.
    """
    channels, *sides = data.spec.shape
    if options.channels not in (None, channels):
        raise DataUnavailable(
            f"{options.channels}: {name} has {channels} channel(s); only --data_name folder and celeba convert",
            "channels",
        )
    refuse_length(options, name)
    size, center_crop = options.image_size, options.center_crop
    if size is None and center_crop is None:
        return data
    if not data.spec.is_image:
        flag, value = ("image_size", size) if size is not None else ("center_crop", center_crop)
        raise DataUnavailable(
            f"{value}: {name} has samples of shape {data.spec.shape}, which are no images; leave --{flag} out", flag
        )
    center_crop = center_crop or 1.0
    if sides == [square_side(sides, center_crop)] * 2 and size in (None, sides[0]):
        return data

    return replace(
        data, train=resized(data.train, size, center_crop), held_out=resized(data.held_out, size, center_crop)
    )


def refuse_length(options: DataOptions, name: str) -> None:
    """Refuse a length if samples keep the one they have.

    Raises:
        DataUnavailable: if one was asked for.
    """
    if options.length is not None:
        raise DataUnavailable(
            f"{options.length}: {name} cannot be cut or padded, only --data_name spokendigits can; leave --length out",
            "length",
        )


def resized(part: Split, size: int | None, center_crop: float) -> Split:
    """The part with square images: made now if they are in memory and stay small, else as they are read."""
    squares = Squares(part.images, size, center_crop)
    if not (isinstance(part.images, Tensor) and is_small(squares)):
        return Split(squares, part.labels)
    return Split(
        torch.cat([to_square(images, size, center_crop) for images in part.images.split(AT_ONCE)]), part.labels
    )
