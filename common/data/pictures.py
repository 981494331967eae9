"""Image files of any size and format as samples of one size: upright, as they are or their central part resized."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import torch
from torch import Tensor

from common.data.damage import Unreadable, with_others
from common.data.levels import Levels, darkness
from common.data.metadata import without_metadata
from common.data.pillow import formats, pillow
from common.data.pixels import (
    MODES,
    Unfit,
    check_size,
    extremes,
    is_deep,
    is_deep_colour,
    pixels_of,
    too_many,
    upright_sides,
)
from common.data.reading import gather, is_small, spread
from common.data.resize import cut_sides, image_functions, refuse_for_others, refuse_too_large, to_size, treatment
from common.data.source import DataOptions, DataSet, DataUnavailable, Split, as_they_are
from common.data.trees import Files
from common.sides import Sides

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

LOOKED_AT = 2000  # images whose size is looked up for a message; all, if their size decides
SIZES_NAMED = 3
DEEP_LOOKED_AT = 100  # images of each part whose levels are looked up
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "FLI")

T = TypeVar("T")


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
    levels: Levels | None = None

    @classmethod
    def of(
        cls, source: str, options: DataOptions, *, size: Sides | None = None, center_crop: float | None = None
    ) -> "Form":
        """What was asked for; ``size`` and ``center_crop`` are what the source takes if nothing was.

        Raises:
            DataUnavailable: for other channels, a size that is too large, or a length.
        """
        name, channels = f"--data_name {source}", options.channels or 3
        refuse_for_others(options, name)
        if channels not in MODES:
            raise DataUnavailable(f"{channels}: {name} reads 1 (grey) or 3 (colour)", "channels")
        refuse_too_large(options.sides, channels)
        levels = None if options.levels is None else Levels.of(options.levels)
        return cls(source, channels, options.sides or size, options.center_crop or center_crop, levels)

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
            pixels = self._form.apply(decoded(self._files, index, self._form))  # the file and its image are gone now
            if pixels.shape != sample.shape:
                sides, expected = Sides(*pixels.shape[1:]), Sides(*sample.shape[1:])
                raise Unreadable(
                    f"--data_name {self._form.source}: {self._files.name(index)} differs in size: "
                    f"it is {sides}, the others are {expected}"
                )
            sample.copy_(pixels)
        return samples


class Headers:
    """What the first bytes of image files say: height, width, whether levels are beyond 8 bits, whether it moves.

    Args:
        files: where they are.
        source: name of the source, for messages.
    """

    dtype = torch.int64

    def __init__(self, files: Files, source: str) -> None:
        self._files, self._source = files, source
        self.shape = (len(files), 4)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.tensor([read(self._files, index, self._source, header) for index in indices.tolist()])


class Extremes:
    """Smallest and largest level of images in files.

    Args:
        files: where they are.
        source: name of the source, for messages.
    """

    dtype = torch.float64

    def __init__(self, files: Files, source: str) -> None:
        self._files, self._source = files, source
        self.shape = (len(files), 2)

    def __getitem__(self, indices: Tensor) -> Tensor:
        found = [read(self._files, index, self._source, extremes) for index in indices.tolist()]
        return torch.tensor(found, dtype=self.dtype)


def header(image: "Picture") -> tuple[int, int, bool, bool]:
    """Height, width, whether levels are beyond 8 bits, and whether an image is animated."""
    return *upright_sides(image), is_deep(image) or is_deep_colour(image), is_animated(image)


def is_animated(image: "Picture") -> bool:
    """Whether a file is an animation, also if only its first image is whole."""
    if image.format not in ANIMATED:  # other formats with several images have pages, or smaller copies of the first one
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # Pillow looks for the second image, and raises whatever it likes if that is broken
        return True


@dataclass(frozen=True)
class Seen:
    """What a look at image files found.

    Attributes:
        sizes: sides of images, and how many have them, the most frequent ones first.
        notes: what else is to be said of them, a line each.
    """

    sizes: dict[Sides, int]
    notes: tuple[str, ...]


def look_at(parts: Sequence[Files], form: Form, limit: int | None) -> Seen:
    """What images in files are.

    Args:
        parts: files, one or more in all.
        form: how they are wanted.
        limit: look at no more than about so many; None looks at all.

    Raises:
        DataUnavailable: for a file that is no image, or whose levels need ``--levels``.
    """
    shares = [limit and max(1, limit * len(files) // sum(map(len, parts))) for files in parts]
    rows = [spread(len(files), share) for files, share in zip(parts, shares, strict=True)]
    found = [
        gather(Headers(files, form.source), some, "sizes of images") for files, some in zip(parts, rows, strict=True)
    ]
    headers = torch.cat(found)
    sizes, counts = headers[:, :2].unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    notes = []
    if animated := int(headers[:, 3].sum()):
        among = f" (of {len(headers):,} that were looked at)" if len(headers) < sum(map(len, parts)) else ""
        notes.append(f"found     {animated:,} animated images{among}: their first frame is taken")
    deep = [some[header[:, 2] > 0] for some, header in zip(rows, found, strict=True)]
    if form.levels is None and any(map(len, deep)):
        levels = [
            gather(Extremes(files, form.source), some[spread(len(some), DEEP_LOOKED_AT)], "levels of images")
            for files, some in zip(parts, deep, strict=True)
            if len(some)
        ]
        notes += filter(None, [darkness(float(torch.cat(levels).max()))])
    return Seen({Sides(*sizes[i].tolist()): int(counts[i]) for i in order}, tuple(notes))


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
        raise with_others(error, (train[0], held_out[0]), partial(decoded, form=form)) from error


def decoded(files: Files, index: int, form: Form) -> Tensor:
    """An image file, upright, as (C, H, W) uint8 in its own size.

    Raises:
        Unreadable: as :func:`read`.
    """
    return read(files, index, form.source, lambda image: decode(image, form.channels, form.levels))


def _read(
    train: tuple[Files, Tensor], held_out: tuple[Files, Tensor], classes: Sequence[str] | None, form: Form
) -> DataSet:
    files = train[0], held_out[0]
    seen = look_at(files, form, None if form.size is None else LOOKED_AT)
    sides, treated = form.result(seen.sizes, in_all=sum(map(len, files)))
    part, held_part = (Split(Pictures(files, form, sides), labels, files.name) for files, labels in (train, held_out))
    if is_small(part.images, held_part.images):
        part = Split(*part.read(title="reading images"), part.names)
        held_part = Split(*held_part.read(title="reading held-out images"), held_part.names)
    named = None if classes is None else tuple(classes)
    return DataSet(part, held_part, classes=named, treatment=treated, found=seen.notes)


def read(files: Files, index: int, source: str, use: Callable[["Picture"], T]) -> T:
    """What is made of an image file.

    Args:
        files: where it is.
        index: which one it is.
        source: name of the source, for messages.
        use: makes it of the opened image, which is not decoded yet.

    Raises:
        Unreadable: with its name, for a file that is no whole image, or that is not as it should be.
    """
    name = f"--data_name {source}: {files.name(index)}"
    try:
        try:
            with files.open(index) as content:
                return _use(content, use)
        except Unfit:
            raise
        except Exception as first:  # Pillow reads metadata too, and gives up at once if it does not understand them
            traceback.clear_frames(first.__traceback__)  # which hold the memory of an image
            with files.open(index) as content:
                bare = without_metadata(content)
            if bare is None:
                raise
            return _use(bare, use)
    except Unfit as error:
        raise Unreadable(f"{name} {error}") from error
    except Exception as error:  # decoders raise whatever they like; all of it concerns this one file
        traceback.clear_frames(error.__traceback__)
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, pillow().UnidentifiedImageError):  # whose message has an address in memory
            told = "of no known format, or damaged"
        raise Unreadable(f"{name} cannot be read as an image ({told}); repair or remove it") from error


def _use(content: BinaryIO, use: Callable[["Picture"], T]) -> T:
    image = pillow()
    try:
        with image.open(content, formats=formats()) as picture:
            check_size(picture)
            return use(picture)
    except image.DecompressionBombError as error:  # Pillow's own limit, which is above this one
        raise Unfit(f"has {too_many()}") from error


def decode(image: "Picture", channels: int, levels: Levels | None = None) -> Tensor:
    """An image, upright, as (channels, H, W) uint8.

    Args:
        image: any image.
        channels: 1 (grey) or 3 (colour).
        levels: those that are black and white; None takes all levels of 8 or 16 bits.
    """
    return torch.from_numpy(pixels_of(image, channels, levels))
