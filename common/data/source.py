"""What a data set is to this program: samples with labels, split into training and held-out parts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from common.data.reading import Images, chunks, gather, spread
from common.refusal import Refusal

HELD_OUT_SHARE = 10  # one sample in ten is held out of a set without a held-out part,
HELD_OUT_LIMIT = 1000  # but no more than these


class DataUnavailable(Refusal):
    """The data is not where it was looked for, or not as asked; the message says what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        # a loader rebuilds the error of a worker process from its traceback, at the end of which stands the message
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def to_unit_range(images: Tensor, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Samples on the network's scale.

    Args:
        images: uint8 in 0 .. 255, or floats.
        value_range: which floats become -1 and 1; without effect on uint8.

    Returns:
        float32 in [-1, 1] (floats outside ``value_range`` go beyond).
    """
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    low, high = value_range
    return (images.float() - low) / (high - low) * 2 - 1


def hold_out(count: int) -> tuple[Tensor, Tensor]:
    """Indices, ascending int64, of the training and held-out parts of a set that has no split: the same ones always.

    Raises:
        DataUnavailable: where there are fewer than two samples.
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
        labels: (N,) int64, zeros where the set has no labels.
    """

    images: Tensor | Images
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images are uint8 or float32, not {self.images.dtype}")
        if self.images.shape[0] != len(self.labels):
            raise ValueError(f"{self.images.shape[0]} images, but {len(self.labels)} labels")

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
        image_size: side of the square images that are wanted; None takes them as they are.
        channels: channels that are wanted; None takes what there is.
        download: fetch what is missing, where the source can.
        center_crop: side of the central square that is cut out before resizing, as a fraction of the shorter side, in
            (0, 1]; None leaves it to the source: the whole square (1) where images are resized, 140/178 for celeba.
        length: points of the functions that are wanted, cut or padded with zeros, where the source can; None takes
            them as they are, 8,000 for spokendigits.
    """

    data_dir: Path
    image_size: int | None = None
    channels: int | None = None
    download: bool = False
    center_crop: float | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "channels", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refusal(f"must be at least 1, got {value}", name)
        if self.center_crop is not None and not 0 < self.center_crop <= 1:
            raise Refusal(f"must be above 0 and at most 1, got {self.center_crop}", "center_crop")


class Spectrum(Protocol):
    """A linear, norm-preserving transform of samples, as ``common.dynamics.Fourier``."""

    def analysis(self, x: Tensor, /) -> Tensor:
        """Samples (.., *S) to coefficients (.., *modes), real or complex."""


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        train: what a model learns from.
        held_out: what it never sees.
        num_classes: number of classes; None where there are no labels.
        value_range: what -1 and 1 stand for in generated arrays: (0, 1) for uint8 images; the extremes of the training
            part, in its own units, for floats.
        sample_rate: points per second, where samples are sound.
    """

    train: Split
    held_out: Split
    num_classes: int | None
    value_range: tuple[float, float] = (0.0, 1.0)
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        train, held_out = self.train.images, self.held_out.images
        if train.shape[1:] != held_out.shape[1:] or train.dtype != held_out.dtype:
            raise ValueError(
                f"samples to learn from are {train.dtype} of shape {tuple(train.shape[1:])}, "
                f"held-out ones {held_out.dtype} of {tuple(held_out.shape[1:])}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, *S) of one sample."""
        return tuple(self.train.images.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether a sample is (C, H, W)."""
        return len(self.shape) == 3

    def to_unit_range(self, images: Tensor) -> Tensor:
        """Samples of this set, (.., C, *S), as float32 on the network's scale [-1, 1]."""
        return to_unit_range(images, self.value_range)

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
        low, high = self._levels
        return float((mean - low) / (high - low) * 2 - 1), float(variance * (2 / (high - low)) ** 2)

    def spectral_statistics(self, basis: Spectrum, limit: int = 10_000) -> tuple[Tensor, Tensor]:
        """Mean function and variance of every mode on the network's scale [-1, 1], computed in float64.

        One pass; means and sums of squares of the parts are joined as by Chan, Golub and LeVeque (1983), which does not
        cancel where the mean is large.

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
        low, high = self._levels
        variance = squares.mean(0) / seen  # over channels
        return (mean - low) / (high - low) * 2 - 1, variance * (2 / (high - low)) ** 2

    @property
    def _levels(self) -> tuple[float, float]:
        """The stored values that become -1 and 1."""
        return (0.0, 255.0) if self.train.images.dtype == torch.uint8 else self.value_range


def power(coefficients: Tensor) -> Tensor:
    """Squared magnitude of real or complex numbers."""
    return coefficients.real**2 + coefficients.imag**2 if coefficients.is_complex() else coefficients**2


class Source(ABC):
    """Where a data set comes from."""

    name: str

    @abstractmethod
    def load(self, options: DataOptions) -> DataSet:
        """Read the data set.

        Args:
            options: where it is and how it is wanted.

        Raises:
            DataUnavailable: with what is missing or wrong and what to do.
        """
