"""Image files of any size and format as samples of one size: upright, the central square, resized."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.reading import is_small
from common.data.resize import image_functions, refuse_length, to_square
from common.data.source import DataOptions, DataSet, DataUnavailable, Split
from common.data.trees import Files

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Form:
    """How images are wanted.

    Attributes:
        source: name of the source, for messages.
        size: side of the squares.
        channels: 1 (grey) or 3 (colour).
        center_crop: side of the central square that is cut out, as a fraction of the shorter side.
    """

    source: str
    size: int
    channels: int
    center_crop: float

    @classmethod
    def of(cls, source: str, options: DataOptions, *, size: int | None = None, center_crop: float = 1.0) -> "Form":
        """What was asked for; ``size`` and ``center_crop`` are what the source takes if nothing was.

        Raises:
            DataUnavailable: for no size, other channels, or a length.
        """
        name, channels, size = f"--data_name {source}", options.channels or 3, options.image_size or size
        refuse_length(options, name)
        if size is None:
            raise DataUnavailable(f"{name}: --image_size is needed; images are cropped and resized to it")
        if channels not in MODES:
            raise DataUnavailable(f"{channels}: {name} reads 1 (grey) or 3 (colour)", "channels")
        return cls(source, size, channels, options.center_crop or center_crop)


class Pictures:
    """Images in files, decoded when they are asked for.

    Args:
        files: where they are.
        form: how they are wanted.
    """

    dtype = torch.uint8

    def __init__(self, files: Files, form: Form) -> None:
        self._files, self._form = files, form
        self.shape = (len(files), form.channels, form.size, form.size)
        image_functions()  # before there are worker processes, which share what has been imported

    def __getitem__(self, indices: Tensor) -> Tensor:
        samples = torch.empty(len(indices), *self.shape[1:], dtype=self.dtype)
        for sample, index in zip(samples, indices.tolist(), strict=True):
            sample.copy_(decode(self._files, index, self._form))
        return samples


def picture_set(
    train: tuple[Files, Tensor], held_out: tuple[Files, Tensor], classes: Sequence[str] | None, form: Form
) -> DataSet:
    """A data set of images in files: decoded now if all of it is small, else as they are read.

    Args:
        train: files and labels (N,) int64 to learn from.
        held_out: the others.
        classes: names of the classes; None without labels.
        form: how the images are wanted.

    Raises:
        DataUnavailable: for a file that is no whole image.
    """
    part, held_part = (Split(Pictures(files, form), labels) for files, labels in (train, held_out))
    if is_small(part.images, held_part.images):
        part = Split(*part.read(title="reading images"))
        held_part = Split(*held_part.read(title="reading held-out images"))
    return DataSet(part, held_part, classes=None if classes is None else tuple(classes))


def decode(files: Files, index: int, form: Form) -> Tensor:
    """An image file as (C, size, size) uint8.

    Raises:
        DataUnavailable: with its name, for a file that is no whole image.
    """
    from PIL import Image, ImageOps  # here and below: Pillow takes a while to import

    try:
        with files.open(index) as content, Image.open(content) as image:
            pixels = image_functions().pil_to_tensor(convert(ImageOps.exif_transpose(image), MODES[form.channels]))
            return to_square(pixels, form.size, form.center_crop)
    except Exception as error:  # decoders raise whatever they like; all of it concerns this one file
        raise DataUnavailable(
            f"--data_name {form.source}: {files.name(index)} cannot be read as an image "
            f"({type(error).__name__}: {error}); repair or remove it"
        ) from error


def convert(image: "Picture", mode: str) -> "Picture":
    """An image of any kind as 8-bit grey or colour: 16-bit levels scaled, transparent parts on white.

    Args:
        image: any image.
        mode: ``L`` or ``RGB``.

    Raises:
        ValueError: for levels that are no 8-bit or 16-bit numbers.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, in 16 or 32 bits; Pillow's own conversion would clip it
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("levels beyond 16 bits")
        image = Image.fromarray(np.round(levels / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("levels are floats of unknown range; use --data_name arrays")
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
