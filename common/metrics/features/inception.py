"""Inception v3 with the weights of 2015 that FID was defined with (Heusel et al. 2017): 2,048 features, 1,008 logits.

The file is pytorch-fid's, the same byte for byte as torch-fidelity's. Two kinds differ in how images are resized to
299 x 299, and their figures must not be compared: ``inception`` does as pytorch-fid, ``inception-clean`` as clean-fid
(Parmar, Zhang, Zhu 2022). Both look at images of whole levels, as files of images hold them.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from common.metrics.features.base import Classifying
from common.metrics.features.published import PublishedNetwork
from common.metrics.features.weights import PinnedWeights

SIDES = (299, 299)
WEIGHTS = PinnedWeights(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "pytorch-fid",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    size=95_628_359,
)


class Inception(PublishedNetwork, Classifying):
    """2,048 features of images that are resized as pytorch-fid does: bilinear, without antialiasing."""

    name = "inception"
    source = WEIGHTS.url
    weights = (WEIGHTS,)
    title = ("inception v3 of 2015", "bilinear to 299x299")

    def build(self, state: dict[str, Tensor]) -> nn.Module:
        from common.metrics.features.inception_network import inception  # only here: torchvision takes a while

        network, self._last = inception(state)
        return network

    @staticmethod
    def prepared(images: Tensor) -> Tensor:
        return 2 * F.interpolate(images / 255, SIDES, mode="bilinear", align_corners=False) - 1

    def logits(self, points: Tensor) -> Tensor:
        return points @ self._last.to(points).T


class InceptionClean(Inception):
    """2,048 features of images that are resized as clean-fid does: bicubic, with antialiasing, without rounding."""

    name = "inception-clean"
    title = ("inception v3 of 2015", "bicubic with antialiasing to 299x299")

    @staticmethod
    def prepared(images: Tensor) -> Tensor:
        levels = F.interpolate(images.float(), SIDES, mode="bicubic", antialias=True).clamp(0, 255)
        return (levels - 128) / 128
