"""Networks for images whose published weights are fetched: what is common to all of them."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.files import load_state
from common.metrics.features.base import Features, Wanted, in_unit_range

AT_ONCE = 64  # images in the network: more take gigabytes, and are no faster on a CPU


class PublishedNetwork(Features):
    """Features of images by a network with published weights, which is asked for by name.

    Images are rounded to whole levels first, as the files hold them that published figures are taken from.

    Attributes:
        title: the network, and what becomes of images, for its identity.
    """

    automatic = False
    title: ClassVar[tuple[str, str]]

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return "" if wanted.data.spec.is_image else "reads images"

    def __init__(self, wanted: Wanted) -> None:
        file, path = self.file(wanted)
        self._sha256 = file.sha256
        self.network = self.build(load_state(path))

    @property
    def identity(self) -> str:
        network, treatment = self.title
        return f"{network} {self._sha256[:12]}, {treatment}"

    @abstractmethod
    def build(self, state: dict[str, Tensor]) -> nn.Module:
        """The network, normalised images to features (B, D), with published weights."""

    @staticmethod
    @abstractmethod
    def prepared(images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 as the network takes them, float32."""

    def __call__(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.network(self.prepared(in_bytes(some))) for some in samples.split(AT_ONCE)])


def in_bytes(samples: Tensor) -> Tensor:
    """Images (B, C, H, W) on the network's scale as colours (B, 3, H, W), uint8: what a file of images holds."""
    return (in_unit_range(samples, 3) * 255).round().to(torch.uint8)


def resized(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) uint8 as Pillow resizes colours: bicubic with antialiasing, in whole levels after each axis.

    Pillow calculates with integers: of 64 x 64 pixels one in a hundred is another, by two levels at most.

    Args:
        images: the images.
        sides: height and width.

    Returns:
        (B, C, *sides) float32, whole levels in [0, 255].
    """
    levels = images.float()
    for size in ((images.shape[-2], sides[1]), sides):  # Pillow begins with the width
        if size != levels.shape[-2:]:
            levels = nn.functional.interpolate(levels, size, mode="bicubic", antialias=True).clamp(0, 255).round()
    return levels


def normalised(levels: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Levels (B, C, H, W) in [0, 255] as shares of 255, less a mean of each channel and over a deviation of it."""
    shift, scale = (levels.new_tensor(values).reshape(-1, 1, 1) for values in (mean, deviation))
    return (levels / 255 - shift) / scale
