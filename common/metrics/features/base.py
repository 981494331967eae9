"""A kind of features, and what it is asked for."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.data.source import DataSet
from common.refusal import Refusal


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
        costs: whether they take so long that they are worth keeping.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    costs: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def lacking(cls, wanted: Wanted) -> str:
        """Why it cannot be had, and what to do; empty if it can. It looks, and takes no time."""

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


class PinnedWeights:
    """A file of weights that is known by its SHA-256.

    Args:
        name: its name in the folder of weights.
        sha256: of its content, in hexadecimal digits.
        origin: where it is to be had.
    """

    def __init__(self, name: str, sha256: str, origin: str) -> None:
        self.name, self.sha256, self.origin = name, sha256, origin

    def lacking(self, folder: Path) -> str:
        """Why the file cannot be used, and what to do; empty if it is there. Its content is looked at later."""
        if (folder / self.name).is_file():
            return ""
        return f"needs {self.name} ({self.origin}) in {folder}; bring it there, or name its folder by --weights_dir"

    def read(self, folder: Path) -> bytes:
        """The content of the file.

        Raises:
            Refusal: if it is not there, or another one.
        """
        if problem := self.lacking(folder):
            raise Refusal(problem, "features")
        content = (folder / self.name).read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise Refusal(
                f"{folder / self.name} is damaged, or another file under that name: its SHA-256 is {found}, not "
                f"{self.sha256}; fetch it again from {self.origin}"
            )
        return content


def in_unit_range(samples: Tensor, channels: int) -> Tensor:
    """Images (B, C, H, W) on the network's scale as levels in [0, 1], grey (1) or in colour (3), clipped."""
    levels = ((samples + 1) / 2).clamp(0, 1)
    if levels.shape[1] == channels:
        return levels
    if channels == 1:
        return (levels[:, :3] * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)
    return levels[:, :1].expand(-1, 3, -1, -1) if levels.shape[1] < 3 else levels[:, :3]
