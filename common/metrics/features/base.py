"""A kind of features, and what it is asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.data.source import DataSet
from common.metrics.features.weights import FLAG, PinnedWeights
from common.refusal import Refusal

EXTRA = "'fractional-functional-diffusion[metrics]'"  # what brings the packages that some kinds need


@dataclass(frozen=True, eq=False)
class Wanted:
    """What features are for.

    Attributes:
        data: the real data.
        weights_dir: folder for files of weights that are given or fetched.
        cache_dir: folder for what is made of data, and made again if it is gone.
    """

    data: DataSet
    weights_dir: Path
    cache_dir: Path


class Features(ABC):
    """Numbers (D) of every sample.

    A subclass takes ``wanted`` in its constructor.

    Attributes:
        name: what --features calls it.
        source: where its weights come from, for messages and metrics.json; empty if there are none.
        weights: files of weights, any of which will do; the last one is fetched if none is there.
        automatic: whether ``auto`` takes it; a kind that needs a large download is asked for by name, so that figures
            do not depend on what was fetched before.
        costs: whether they take so long that they are worth keeping.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    weights: ClassVar[tuple[PinnedWeights, ...]] = ()
    automatic: ClassVar[bool] = True
    costs: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def unfit(cls, wanted: Wanted) -> str:
        """Why it cannot read such data, or what has to be installed; empty if nothing is in the way."""

    @classmethod
    def lacking(cls, wanted: Wanted) -> str:
        """Why it cannot be had as things are, and what to do; empty if it can. It is quick, and fetches nothing."""
        if (problem := cls.unfit(wanted)) or not cls.weights or cls._there(wanted):
            return problem
        return cls.weights[-1].needed(wanted.weights_dir)

    @classmethod
    def _there(cls, wanted: Wanted) -> PinnedWeights | None:
        return next((file for file in cls.weights if file.find(wanted.weights_dir)), None)

    @classmethod
    def file(cls, wanted: Wanted) -> tuple[PinnedWeights, Path]:
        """One of its files of weights, checked, and where it is; fetched if none is there.

        Raises:
            Refusal: if it cannot be had, or the data is of another kind, with what to do.
        """
        if problem := cls.unfit(wanted):
            raise Refusal(f"{cls.name} {problem}", FLAG)
        file = cls._there(wanted) or cls.weights[-1]
        return file, file.path(wanted.weights_dir)

    @abstractmethod
    def __init__(self, wanted: Wanted) -> None: ...

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells these features from others: weights, and how samples are brought to them."""

    def to(self, device: torch.device) -> None:
        """Compute on this device from now on; samples must lie there."""
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device)

    @property
    def suits(self) -> bool:
        """Whether ``auto`` may take it for this data."""
        return True

    @property
    def account(self) -> str:
        """What a user should know of them, in words."""
        return self.identity

    @abstractmethod
    def __call__(self, samples: Tensor) -> Tensor:
        """Features.

        Args:
            samples: (B, C, *S) float32 on the network's scale [-1, 1].

        Returns:
            (B, D) float32.
        """


class Classifying(Features):
    """Features below the last, linear layer of a classifier."""

    @abstractmethod
    def logits(self, points: Tensor) -> Tensor:
        """Logits (B, K) of the classifier's answers, of its features (B, D)."""


def in_unit_range(samples: Tensor, channels: int) -> Tensor:
    """Images (B, C, H, W) on the network's scale as levels in [0, 1], grey (1) or in colour (3), clipped."""
    levels = ((samples + 1) / 2).clamp(0, 1)
    if levels.shape[1] == channels:
        return levels
    if channels == 1:
        return (levels[:, :3] * levels.new_tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)
    return levels[:, :1].expand(-1, 3, -1, -1) if levels.shape[1] < 3 else levels[:, :3]
