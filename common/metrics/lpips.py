"""LPIPS (Zhang et al., arXiv 1801.03924), version 0.1: a distance of images in the layers of AlexNet."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common.files import load_state
from common.metrics.features.base import in_unit_range
from common.metrics.features.weights import PinnedWeights

LEAST = 32  # pixels on the shorter side, below which a layer of AlexNet has no values
AT_ONCE = 64  # images in the network
LAYERS = (1, 4, 7, 9, 11)  # of AlexNet's features, whose outputs are compared
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours on [-1, 1], as LPIPS was fitted
SMALL = 1e-8  # so that a place without any feature has a length to be divided by
BACKBONE = PinnedWeights(
    "alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "torchvision",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    size=244_408_911,
)
HEADS = PinnedWeights(
    "lpips-alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "the package torchmetrics",
    inside=("torchmetrics", "functional/image/lpips_models/alex.pth"),
)


class Lpips(nn.Module):
    """Sum over five layers of the weighted squared distance of unit feature vectors, mean over places.

    Args:
        backbone: weights of torchvision's AlexNet.
        heads: the weights of the features of every layer, ``lin0.model.1.weight`` (1, F, 1, 1) and so on.
    """

    def __init__(self, backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        from torchvision.models import alexnet  # only here: torchvision takes a while to import

        super().__init__()
        network = alexnet(weights=None)
        network.load_state_dict(backbone)
        self.features = network.features[: LAYERS[-1] + 1].eval().requires_grad_(False)
        self.heads = [heads[f"lin{i}.model.1.weight"] for i in range(len(LAYERS))]

    @classmethod
    def found_in(cls, folder: Path) -> "Lpips | None":
        """The distance, if its weights lie in a folder; nothing is fetched.

        Raises:
            Refusal: if a file is there that is another one, or damaged.
        """
        if BACKBONE.find(folder) is None or HEADS.find(folder) is None:
            return None
        return cls(load_state(BACKBONE.path(folder)), load_state(HEADS.path(folder)))

    @torch.no_grad()
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances (B,) of images (B, C, H, W) on the network's scale [-1, 1]."""
        parts = zip(one.split(AT_ONCE), other.split(AT_ONCE), strict=True)
        return torch.cat([self._of_some(*pair) for pair in parts])

    def _of_some(self, one: Tensor, other: Tensor) -> Tensor:
        total = torch.zeros(len(one))
        for head, mine, its in zip(self.heads, self._layers(one), self._layers(other), strict=True):
            total += (head * (mine - its).square()).sum(1).mean((1, 2))
        return total

    def _layers(self, images: Tensor) -> list[Tensor]:
        """Unit feature vectors of every place (B, F, h, w), layer by layer."""
        shift, scale = (torch.tensor(values).reshape(-1, 1, 1) for values in (SHIFT, SCALE))
        h, found = (in_unit_range(images.float(), 3) * 2 - 1 - shift) / scale, []
        for i, layer in enumerate(self.features):
            h = layer(h)
            if i in LAYERS:
                found.append(h / (h.square().sum(1, keepdim=True) + SMALL).sqrt())
        return found
