"""DINOv2 (Oquab et al. 2023): 1,024 features of its ViT-L/14, with which FD-DINOv2 is taken (Stein et al. 2023)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.metrics.features.published import PublishedNetwork, normalised, resized
from common.metrics.features.vit import VisionTransformer
from common.metrics.features.weights import PinnedWeights

SIDE, PATCH = 224, 14
OFFSET = 0.1  # DINOv2 resizes its positions by (16 + 0.1) / 37
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
WEIGHTS = PinnedWeights(
    "dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "the authors of DINOv2",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    size=1_217_586_395,
)


def load(state: dict[str, Tensor]) -> VisionTransformer:
    """The network, for images of 224 x 224, from published weights of images of 518 x 518.

    What a block adds is scaled by ``gamma``, which the last layer of each half takes up.
    """

    def layer(name: str, scale: str = "") -> tuple[Tensor, Tensor]:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if not scale:
            return weight, bias
        gamma = state[f"{scale}.gamma"]
        return gamma.unsqueeze(1) * weight, gamma * bias

    own = {
        "token": state["cls_token"],
        "positions": positions(state["pos_embed"]),
        "patches.weight": state["patch_embed.proj.weight"],
        "patches.bias": state["patch_embed.proj.bias"],
        "after.weight": state["norm.weight"],
        "after.bias": state["norm.bias"],
    }
    number = 0
    while f"blocks.{number}.norm1.weight" in state:
        place = f"blocks.{number}"
        own |= VisionTransformer.block(
            number,
            norm1=layer(f"{place}.norm1"),
            attention_in=layer(f"{place}.attn.qkv"),
            attention_out=layer(f"{place}.attn.proj", f"{place}.ls1"),
            norm2=layer(f"{place}.norm2"),
            linear1=layer(f"{place}.mlp.fc1"),
            linear2=layer(f"{place}.mlp.fc2", f"{place}.ls2"),
        )
        number += 1
    return VisionTransformer(own, F.gelu, eps=1e-6)


def positions(published: Tensor) -> Tensor:
    """Embeddings (1, 1 + n^2, D) of places, resized to those of 16 x 16 patches; that of the token stays as it is."""
    count, width = published.shape[1] - 1, published.shape[2]
    side, wanted = round(count**0.5), SIDE // PATCH
    grid = published[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    scale = (wanted + OFFSET) / side
    resized = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([published[:, :1], resized.flatten(2).mT], 1)


class DinoV2(PublishedNetwork):
    """1,024 features of images that are resized to 224 x 224: bicubic with antialiasing, to whole levels."""

    name = "dinov2"
    source = WEIGHTS.url
    weights = (WEIGHTS,)
    title = ("dinov2 ViT-L/14", f"bicubic with antialiasing to whole levels of {SIDE}x{SIDE}")

    def build(self, state: dict[str, Tensor]) -> VisionTransformer:
        return load(state)

    @staticmethod
    def prepared(images: Tensor) -> Tensor:
        return normalised(resized(images, (SIDE, SIDE)), MEAN, DEVIATION)
