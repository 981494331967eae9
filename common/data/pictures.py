"""Image files of any size and format as samples of one size: upright, as they are or their central part resized."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.reading import gather, is_small, spread
from common.data.resize import cut_sides, image_functions, refuse_for_others, to_size, treatment
from common.data.source import DataOptions, DataSet, DataUnavailable, Split, as_they_are
from common.data.trees import Files
from common.sides import Sides

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODES = {1: "L", 3: "RGB"}
LOOKED_AT = 2000  # images whose size is looked up for a message; all, if their size decides
SIZES_NAMED = 3
BROKEN_NAMED = 5  # files that a message names
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values that swap height and width


class Unreadable(DataUnavailable):
    """A file is no whole image, or not as it should be."""


@dataclass(frozen=True)
class Form:
    """How images are wanted.

    Attributes:
        source: name of the source, for messages.
        channels: 1 (grey) or 3 (colour).
        size: their sides; None takes those of the images, of which all must have the same then.
        center_crop: sides of the central part that is cut out, as a fraction of the largest one that has the shape of
            ``size`` (a square without it); None takes all of that part, and whole images if there is no size.
    """

    source: str
    channels: int
    size: Sides | None
    center_crop: float | None

    @classmethod
    def of(
        cls, source: str, options: DataOptions, *, size: Sides | None = None, center_crop: float | None = None
    ) -> "Form":
        """What was asked for; ``size`` and ``center_crop`` are what the source takes if nothing was.

        Raises:
            DataUnavailable: for other channels, or a length.
        """
        name, channels = f"--data_name {source}", options.channels or 3
        refuse_for_others(options, name)
        if channels not in MODES:
            raise DataUnavailable(f"{channels}: {name} reads 1 (grey) or 3 (colour)", "channels")
        return cls(source, channels, options.sides or size, options.center_crop or center_crop)

    @property
    def is_own(self) -> bool:
        """Whether images are taken as they are."""
        return self.size is None and self.center_crop is None

    def apply(self, pixels: Tensor) -> Tensor:
        """An image (C, H, W) in this form."""
        return pixels if self.is_own else to_size(pixels, self.size, self.center_crop or 1.0)

    def result(self, found: dict[Sides, int], *, in_all: int) -> tuple[Sides, str]:
        """Sides of the samples, and how images came to them, in words.

        Args:
            found: sides of images, and how many have them, the most frequent ones first.
            in_all: how many images there are.

        Raises:
            DataUnavailable: if images differ in size and none was asked for.
        """
        first, *others = found
        if not others and self.is_own:
            return first, as_they_are(first)
        seen = sum(found.values())
        among = f" ({seen:,} of {in_all:,} were looked at)" if seen < in_all else ""
        if not others:
            crop = self.center_crop or 1.0
            return self.size or cut_sides(first, None, crop), treatment(first, self.size, crop) + among
        named = [f"{count:,} of {sides}" for sides, count in list(found.items())[:SIZES_NAMED]]
        named += [f"{len(found) - SIZES_NAMED:,} more sizes"] if len(found) > SIZES_NAMED else []
        if self.size is None:
            raise DataUnavailable(
                f"is needed: --data_name {self.source} has images of {len(found):,} sizes ({', '.join(named)}); "
                f"--image_size {first} would crop and resize all of them",
                "image_size",
            )
        return self.size, f"{', '.join(named)}; all cropped to the shape of {self.size} and resized to it{among}"


class Pictures:
    """Images in files, decoded when they are asked for.

    Args:
        files: where they are.
        form: how they are wanted.
        sides: what that leads to.
    """

    dtype = torch.uint8

    def __init__(self, files: Files, form: Form, sides: Sides) -> None:
        self._files, self._form = files, form
        self.shape = (len(files), form.channels, *sides)
        image_functions()  # before there are worker processes, which share what has been imported

    def __getitem__(self, indices: Tensor) -> Tensor:
        samples = torch.empty(len(indices), *self.shape[1:], dtype=self.dtype)
        for sample, index in zip(samples, indices.tolist(), strict=True):
            with opened(self._files, index, self._form.source) as image:
                pixels = self._form.apply(decode(image, self._form.channels))
                if pixels.shape != sample.shape:
                    sides, expected = Sides(*pixels.shape[1:]), Sides(*sample.shape[1:])
                    raise ValueError(f"it is {sides}, the others are {expected}")
                sample.copy_(pixels)
        return samples


class Headers:
    """Height and width of images in files, as they stand in their first bytes.

    Args:
        files: where they are.
        source: name of the source, for messages.
    """

    dtype = torch.int64

    def __init__(self, files: Files, source: str) -> None:
        self._files, self._source = files, source
        self.shape = (len(files), 2)

    def __getitem__(self, indices: Tensor) -> Tensor:
        found = []
        for index in indices.tolist():
            with opened(self._files, index, self._source) as image:
                found.append(upright_sides(image))
        return torch.tensor(found)


def sizes_of(parts: Sequence[Files], source: str, limit: int | None) -> dict[Sides, int]:
    """Sides of images, and how many have them, the most frequent ones first.

    Args:
        parts: files, one or more in all.
        source: name of the source, for messages.
        limit: look at no more than about so many; None looks at all.

    Raises:
        DataUnavailable: for a file that is no image.
    """
    shares = [limit and max(1, limit * len(files) // sum(map(len, parts))) for files in parts]
    found = [
        gather(Headers(files, source), spread(len(files), share), "sizes of images")
        for files, share in zip(parts, shares, strict=True)
    ]
    sizes, counts = torch.cat(found).unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return {Sides(*sizes[i].tolist()): int(counts[i]) for i in order}


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
        Unreadable: for files that are no whole images.
        DataUnavailable: if images differ in size and none was asked for.
    """
    try:
        return _read(train, held_out, classes, form)
    except Unreadable as error:
        names = [name for files in (train[0], held_out[0]) for name in unreadable(files, form)]
        if len(names) < 2:
            raise
        more = f" and {len(names) - BROKEN_NAMED:,} more" if len(names) > BROKEN_NAMED else ""
        raise Unreadable(
            f"{error}; {len(names):,} such files in all: {', '.join(names[:BROKEN_NAMED])}{more}"
        ) from error


def unreadable(files: Files, form: Form) -> list[str]:
    """Names of files that are no whole images, of about 2,000 that are looked at."""
    names = []
    for index in spread(len(files), LOOKED_AT).tolist():
        try:
            with opened(files, index, form.source) as image:
                decode(image, form.channels)
        except Unreadable:
            names.append(files.name(index))
    return names


def _read(
    train: tuple[Files, Tensor], held_out: tuple[Files, Tensor], classes: Sequence[str] | None, form: Form
) -> DataSet:
    files = train[0], held_out[0]
    found = sizes_of(files, form.source, None if form.size is None else LOOKED_AT)
    sides, treated = form.result(found, in_all=sum(map(len, files)))
    part, held_part = (Split(Pictures(files, form, sides), labels, files.name) for files, labels in (train, held_out))
    if is_small(part.images, held_part.images):
        part = Split(*part.read(title="reading images"), part.names)
        held_part = Split(*held_part.read(title="reading held-out images"), held_part.names)
    return DataSet(part, held_part, classes=None if classes is None else tuple(classes), treatment=treated)


@contextmanager
def opened(files: Files, index: int, source: str) -> Iterator["Picture"]:
    """An image file, to be read inside.

    Raises:
        Unreadable: with its name, for a file that is no whole image, or that is not as it should be.
    """
    from PIL import Image  # here and below: Pillow takes a while to import

    try:
        with files.open(index) as content, Image.open(content) as image:
            yield image
    except Exception as error:  # decoders raise whatever they like; all of it concerns this one file
        raise Unreadable(
            f"--data_name {source}: {files.name(index)} cannot be read as an image "
            f"({type(error).__name__}: {error}); repair or remove it"
        ) from error


def decode(image: "Picture", channels: int) -> Tensor:
    """An image, upright, as (channels, H, W) uint8."""
    from PIL import ImageOps

    pixels: Tensor = image_functions().pil_to_tensor(convert(ImageOps.exif_transpose(image), MODES[channels]))
    return pixels


def upright_sides(image: "Picture") -> Sides:
    """Height and width of an image once it is upright, without decoding it."""
    from PIL import Image

    width, height = image.size
    # not the image's own method: that of PNG decodes everything to look for a tag at the end
    sideways = Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS
    return Sides(width, height) if sideways else Sides(height, width)


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
