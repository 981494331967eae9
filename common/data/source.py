"""What a data set is to this program: samples with labels, split into training and held-out parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from common.data.axes import checked
from common.data.levels import Levels
from common.data.reading import Images, chunks, gather, spread
from common.data.spec import UNIT, DataSpec, Kind, kind_of
from common.refusal import Refusal, require
from common.sides import Sides, written

HELD_OUT_SHARE = 10  # one sample in ten is held out of a set without a held-out part,
HELD_OUT_LIMIT = 1000  # but no more than these
LEAST_DEVIATION = 1e-3  # of data that is all alike


class DataUnavailable(Refusal):
    """The data is not where it was looked for, or not as asked; the message says what is wrong and what to do.

    Args:
        problem: what is wrong; with an argument it goes on from that argument's name.
        argument: name of the argument, as a constructor or a flag has it; None if the message stands alone.
    """

    def __init__(self, problem: str, argument: str | None = None) -> None:
        # a loader rebuilds the error of a worker process from its traceback, at the end of which stands the message
        super().__init__(problem.rpartition(f"{type(self).__name__}: ")[2].strip(), argument)


def hold_out(count: int) -> tuple[Tensor, Tensor]:
    """Indices, ascending int64, of the training and held-out parts of a set that has no split: the same ones always.

    Raises:
        DataUnavailable: if there are fewer than two samples.
    """
    if count < 2:
        raise DataUnavailable(f"{count} sample(s): at least two are needed, one to learn from and one to hold out")
    size = min(max(1, count // HELD_OUT_SHARE), HELD_OUT_LIMIT)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[size:].sort().values, order[:size].sort().values


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: (N, C, *S) uint8 or float32, a tensor or whatever reads samples by index.
        labels: (N,) int64, zeros if the set has no labels.
        names: what messages call the samples, by index: their files; None if they have no names.
    """

    images: Tensor | Images
    labels: Tensor
    names: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images are uint8 or float32, not {self.images.dtype}")
        if self.images.shape[0] != len(self.labels):
            raise ValueError(f"{self.images.shape[0]} images, but {len(self.labels)} labels")

    def name(self, index: int) -> str:
        """What messages call a sample."""
        return f"number {index}" if self.names is None else self.names(index)

    def read(self, limit: int | None = None, title: str = "reading") -> tuple[Tensor, Tensor]:
        """Samples (N, C, *S) in memory, and their labels (N,).

        Args:
            limit: at most so many, evenly spaced; None reads all.
            title: what the progress bar says.
        """
        rows = spread(len(self.labels), limit)
        images = self.images[rows] if isinstance(self.images, Tensor) else gather(self.images, rows, title)
        return images, self.labels[rows]


@dataclass(frozen=True)
class DataOptions:
    """How a data set is asked for.

    Attributes:
        data_dir: folder or file that holds the data.
        image_size: height and width of the images that are wanted, one number for squares; others are cropped and
            resized. None takes them as they are, or as they were published.
        channels: number of channels that is wanted. None takes what there is, or what the source prefers.
        download: fetch what is missing, if the source can.
        center_crop: sides of the central part that is cut out before resizing, as a share of the largest one that has
            the shape of ``image_size`` (a square without it), in (0, 1]. None leaves it to the source, which takes all
            of that part (1) or what was published.
        sample_rate: points per second of the sounds that are wanted; others are resampled, if the source can. None
            takes the rate that most have, or the published one.
        length: number of points of the functions or sounds that are wanted; they are cut or padded with zeros, if the
            source can. None takes them as they are, or as they were published.
        class_order: how classes are numbered by their names, if the source does that: ``natural``, 2 before 10, or
            ``text``, as torchvision's ImageFolder does.
        axes: the order of axes of arrays, as ``NCHW``, if the source asks for one. None takes that which is certain.
        levels: levels of images in files that are black and white. None takes all levels of 8 or 16 bits.
    """

    data_dir: Path
    image_size: int | tuple[int, int] | None = None
    channels: int | None = None
    download: bool = False
    center_crop: float | None = None
    sample_rate: int | None = None
    length: int | None = None
    class_order: str = "natural"
    axes: str | None = None
    levels: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        require(self.sides is None or min(self.sides) >= 1, "image_size", "at least 1", self.image_size)
        for name, value in (("channels", self.channels), ("length", self.length), ("sample_rate", self.sample_rate)):
            require(value is None or value >= 1, name, "at least 1", value)
        crop = self.center_crop
        require(crop is None or 0 < crop <= 1, "center_crop", "above 0 and at most 1", crop)
        if self.axes is not None:
            object.__setattr__(self, "axes", checked(self.axes))
        if self.levels is not None:
            Levels.of(self.levels)

    @property
    def sides(self) -> Sides | None:
        """Height and width of the images that are wanted; None takes them as they are."""
        return None if self.image_size is None else Sides.of(self.image_size)


class Spectrum(Protocol):
    """A linear, norm-preserving transform of samples, as ``common.dynamics.Fourier``."""

    def analysis(self, x: Tensor, /) -> Tensor:
        """Samples (.., *S) to coefficients (.., *modes), real or complex."""


class Entries:
    """Every entry as a mode of its own."""

    def analysis(self, x: Tensor, /) -> Tensor:
        """x itself."""
        return x


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        train: what a model learns from.
        held_out: what it never sees.
        num_classes: number of classes, which may be left out if ``classes`` names them; None if there are no labels.
        value_range: what -1 and 1 stand for in generated arrays: (0, 1) for uint8 images; the extremes of the training
            part, in its own units, for floats.
        sample_rate: points per second, if samples are sounds.
        classes: names of the classes, in the order of the labels; their numbers, if they have no names.
        treatment: how images came to their size, in words; by default they are as they were.
        found: what the source found and what it guessed, in words, a line each, as they are said before training.
        spec: all of this that a run must remember.
    """

    train: Split
    held_out: Split
    num_classes: int | None = None
    value_range: tuple[float, float] = UNIT
    sample_rate: int | None = None
    classes: tuple[str, ...] | None = None
    treatment: str = ""
    found: tuple[str, ...] = ()
    spec: DataSpec = field(init=False)

    def __post_init__(self) -> None:
        train, held_out = self.train.images, self.held_out.images
        if train.shape[1:] != held_out.shape[1:] or train.dtype != held_out.dtype:
            raise ValueError(
                f"samples to learn from are {train.dtype} of shape {tuple(train.shape[1:])}, "
                f"held-out ones {held_out.dtype} of {tuple(held_out.shape[1:])}"
            )
        classes = self.classes
        if classes is None and self.num_classes is not None:
            classes = tuple(map(str, range(self.num_classes)))
        if classes is not None and self.num_classes not in (None, len(classes)):
            raise ValueError(f"num_classes is {self.num_classes}, but there are {len(classes)} classes")
        for part in (self.train, self.held_out) if classes is not None else ():
            low, high = (int(extreme) for extreme in part.labels.aminmax()) if len(part.labels) else (0, 0)
            if low < 0 or high >= len(classes or ()):
                raise ValueError(f"labels reach from {low} to {high}, but there are {len(classes or ())} classes")
        shape, rate = tuple(train.shape[1:]), self.sample_rate
        counts = None if classes is None else tuple(self.train.labels.bincount(minlength=len(classes)).tolist())
        spec = DataSpec(kind_of(shape, rate), shape, self.value_range, rate, classes, len(self.train.labels), counts)
        done = self.treatment or as_they_are(spec.grid)
        found = (("classes", classes), ("num_classes", spec.num_classes), ("treatment", done), ("spec", spec))
        for name, value in found:
            object.__setattr__(self, name, value)  # the object is frozen

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, *S) of one sample."""
        return self.spec.shape

    @property
    def is_image(self) -> bool:
        """Whether a sample is (C, H, W)."""
        return self.spec.is_image

    def to_unit_range(self, x: Tensor) -> Tensor:
        """Samples of this set, (.., C, *S), as float32 on the network's scale [-1, 1]."""
        return self.spec.to_network(x)

    def statistics(self, limit: int = 10_000) -> tuple[float, float]:
        """Mean and variance of all values on the network's scale [-1, 1], computed in float64.

        Args:
            limit: how many training samples to look at, evenly spaced over the set.
        """
        images, count = self.train.images, len(self.train.labels)
        rows = spread(count, limit)

        parts = [
            (len(samples), *torch.var_mean(samples.double(), correction=0))
            for samples in chunks(images, rows, "data statistics")
        ]
        counts, variances, means = (torch.tensor(column, dtype=torch.float64) for column in zip(*parts, strict=True))
        mean = counts @ means / len(rows)
        variance = counts @ (variances + (means - mean) ** 2) / len(rows)
        mean, variance = self.spec.moments_to_network(mean, variance, images.dtype)
        return float(mean), float(variance)

    def deviation(self, limit: int = 1000) -> float:
        """Root mean square over entries of the deviation over samples, on the network's scale; at least 1e-3.

        Args:
            limit: as in :meth:`statistics`.
        """
        _, variance = self.spectral_statistics(Entries(), limit)
        return max(float(variance.mean().sqrt()), LEAST_DEVIATION)

    def spectral_statistics(self, basis: Spectrum, limit: int = 10_000) -> tuple[Tensor, Tensor]:
        """Mean function and variance of every mode on the network's scale [-1, 1], computed in float64.

        One pass; means and sums of squares of the parts are joined as by Chan, Golub and LeVeque (1983), which does not
        cancel if the mean is large.

        Args:
            basis: F, the basis of the modes.
            limit: how many training samples to look at, evenly spaced over the set.

        Returns:
            The mean (C, *S) and the mean over samples and channels of abs(F(x - mean))^2, (*modes), both float64.
        """
        images, seen = self.train.images, 0
        mean = torch.zeros(self.shape, dtype=torch.float64)
        squares = torch.zeros((), dtype=torch.float64)
        for part in chunks(images, spread(len(self.train.labels), limit), "data spectrum"):
            samples = part.double()
            part_mean, count = samples.mean(0), seen + len(samples)
            shift = part_mean - mean
            squares = squares + power(basis.analysis(samples - part_mean)).sum(0)
            squares = squares + power(basis.analysis(shift)) * (seen * len(samples) / count)
            mean, seen = mean + shift * (len(samples) / count), count
        variance = squares.mean(0) / seen  # over channels
        return self.spec.moments_to_network(mean, variance, images.dtype)


def power(coefficients: Tensor) -> Tensor:
    """Squared magnitude of real or complex numbers."""
    return coefficients.real**2 + coefficients.imag**2 if coefficients.is_complex() else coefficients**2


def as_they_are(sizes: Sequence[int]) -> str:
    """The words for samples whose grid was left alone."""
    return f"{written(sizes)} as they are"


class Source(ABC):
    """Where a data set comes from.

    Attributes:
        name: what --data_name calls it.
        published_shape: channels and side of its images as published; None if there is no such set of images.
        kind: what its samples are, known before they are read: defaults that suit such data are then chosen by it.
        center_crop: the central part of images that is cut out if nothing is asked for, as :class:`DataOptions` has it.
    """

    name: str
    published_shape: tuple[int, int] | None = None
    kind: Kind | None = None
    center_crop: float | None = None

    def kind_in(self, data_dir: Path) -> Kind | None:
        """What the samples of a folder or file are, told without reading them; None if that cannot be told."""
        return self.kind

    @abstractmethod
    def load(self, options: DataOptions) -> DataSet:
        """Read the data set.

        Args:
            options: where it is and how it is wanted.

        Raises:
            DataUnavailable: with what is missing or wrong and what to do.
        """
