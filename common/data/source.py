"""What a data set is to this program: uint8 arrays with labels, split into training and held-out parts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


class DataUnavailable(ValueError):
    """The data is not where it was looked for; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Arrays:
    """A data set in memory.

    Attributes:
        train: what a model learns from.
        held_out: what it never sees.
        num_classes: number of classes.
    """

    train: Split
    held_out: Split
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of one sample."""
        return tuple(self.train.images.shape[1:])


class Source(ABC):
    """Where a data set comes from."""

    name: str

    @abstractmethod
    def load(self, data_dir: Path) -> Arrays:
        """Read the data set.

        Args:
            data_dir: folder that holds data sets in torchvision's layout.

        Raises:
            DataUnavailable: with what is missing and how to get it.
        """
