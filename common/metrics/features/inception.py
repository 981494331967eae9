"""Inception v3 with the weights of 2015 that FID was defined with (Heusel et al. 2017): 2,048 features, 1,008 logits.

The file is pytorch-fid's, the same byte for byte as torch-fidelity's. Two kinds differ in how images are resized to
299 x 299, and their figures must not be compared: ``inception`` does as pytorch-fid, ``inception-clean`` as clean-fid
(Parmar, Zhang, Zhu 2022). Both look at images of whole levels, as files of images hold them.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from common.files import load_state
from common.metrics.features.base import Classifying, Wanted, in_bytes
from common.metrics.features.weights import PinnedWeights

SIDES = (299, 299)
WEIGHTS = PinnedWeights(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "pytorch-fid",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    size=95_628_359,
)


class Inception(Classifying):
    """2,048 features of images that are resized as pytorch-fid does: bilinear, without antialiasing."""

    name = "inception"
    source = WEIGHTS.url
    weights = (WEIGHTS,)
    automatic = False
    resizing: ClassVar[str] = "bilinear"

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return "" if wanted.data.spec.is_image else "reads images"

    def __init__(self, wanted: Wanted) -> None:
        file, path = self.file(wanted)
        from common.metrics.features.inception_network import inception  # only here: torchvision takes a while

        self._sha256 = file.sha256
        self.network, self._last = inception(load_state(path))

    @property
    def identity(self) -> str:
        return f"inception v3 of 2015 {self._sha256[:12]}, {self.resizing} from whole levels to 299x299"

    @staticmethod
    def resized(images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 as the network takes them, (B, 3, 299, 299) in [-1, 1]."""
        return 2 * F.interpolate(images / 255, SIDES, mode="bilinear", align_corners=False) - 1

    def __call__(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = self.network.to(samples.device)(self.resized(in_bytes(samples)))
        return features

    def logits(self, points: Tensor) -> Tensor:
        return points @ self._last.to(points).T


class InceptionClean(Inception):
    """2,048 features of images that are resized as clean-fid does: bicubic, with antialiasing, without rounding."""

    name = "inception-clean"
    resizing = "bicubic with antialiasing"

    @staticmethod
    def resized(images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 as the network takes them, (B, 3, 299, 299) in [-1, 0.992]."""
        levels = F.interpolate(images.float(), SIDES, mode="bicubic", antialias=True).clamp(0, 255)
        return (levels - 128) / 128
