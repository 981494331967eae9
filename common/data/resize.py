"""A data set in the size that was asked for."""

from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from common.data.reading import Images, is_small
from common.data.source import DataOptions, DataSet, DataUnavailable, Split

AT_ONCE = 1024  # images resized at once: bounds the memory for intermediate results


def to_square(images: Tensor, size: int) -> Tensor:
    """The central square of every image, resized with antialiasing.

    Bilinear: unlike bicubic it never leaves the range of the data.

    Args:
        images: (.., H, W) uint8 or float32.
        size: side of the result.

    Returns:
        (.., size, size) of the same type.
    """
    side = min(images.shape[-2:])
    square = functional.center_crop(images, [side, side])
    return functional.resize(square.contiguous(), [size, size], antialias=True)


class Squares:
    """Images that are cropped and resized as they are read.

    Args:
        images: (N, C, H, W).
        size: side of the squares.
    """

    def __init__(self, images: Images, size: int) -> None:
        self._images, self._size = images, size
        self.shape = (*images.shape[:2], size, size)
        self.dtype = images.dtype

    def __getitem__(self, indices: Tensor) -> Tensor:
        return to_square(self._images[indices], self._size)


def fit(data: DataSet, options: DataOptions, name: str) -> DataSet:
    """The data set in the size that was asked for: resized once if it is in memory, else as it is read.

    Args:
        data: the data set in its own size.
        options: what was asked for.
        name: what messages call it.

    Raises:
        DataUnavailable: for other channels than it has, or a size of samples that are no images.
    """
    channels, *sides = data.shape
    if options.channels not in (None, channels):
        raise DataUnavailable(
            f"--channels {options.channels}: {name} has {channels} channel(s); only --data_name folder converts"
        )
    if options.image_size is None:
        return data
    if not data.is_image:
        raise DataUnavailable(
            f"--image_size {options.image_size}: {name} has samples of shape {data.shape}, which are no images; "
            "leave --image_size out"
        )
    if sides == [options.image_size] * 2:
        return data

    return replace(
        data, train=resized(data.train, options.image_size), held_out=resized(data.held_out, options.image_size)
    )


def resized(part: Split, size: int) -> Split:
    """The part with square images: made now if they are in memory and stay small, else as they are read."""
    squares = Squares(part.images, size)
    if not (isinstance(part.images, Tensor) and is_small(squares)):
        return Split(squares, part.labels)
    return Split(torch.cat([to_square(images, size) for images in part.images.split(AT_ONCE)]), part.labels)
