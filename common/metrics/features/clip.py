"""CLIP (Radford et al. 2021): 512 features of its ViT-B/32, with which FID-CLIP is taken (Kynkaanniemi et al. 2023).

The weights are those of OpenAI, in the file that the library transformers reads: OpenAI's own file is a program in
TorchScript, which torch does not read as plain numbers.
"""

import torch
from torch import Tensor

from common.metrics.features.published import PublishedNetwork, normalised, resized
from common.metrics.features.vit import VisionTransformer, quick_gelu
from common.metrics.features.weights import PinnedWeights

SIDE = 224
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
REVISION = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
WEIGHTS = PinnedWeights(
    "clip-vit-base-patch32.bin",
    "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
    "openai/clip-vit-base-patch32",
    f"https://huggingface.co/openai/clip-vit-base-patch32/resolve/{REVISION}/pytorch_model.bin",
    size=605_247_071,
)


def load(state: dict[str, Tensor]) -> VisionTransformer:
    """The network for images, 224 x 224, from weights by transformers' names; those for texts are left."""
    vision = {name.removeprefix("vision_model."): value for name, value in state.items()}

    def layer(*names: str) -> tuple[Tensor, Tensor]:
        weight, bias = (torch.cat([vision[f"{name}.{part}"] for name in names]) for part in ("weight", "bias"))
        return weight, bias

    own = {
        "token": vision["embeddings.class_embedding"].reshape(1, 1, -1),
        "positions": vision["embeddings.position_embedding.weight"].unsqueeze(0),
        "patches.weight": vision["embeddings.patch_embedding.weight"],
        "head.weight": vision["visual_projection.weight"],
    }
    for ours, theirs in {"before": "pre_layrnorm", "after": "post_layernorm"}.items():
        own[f"{ours}.weight"], own[f"{ours}.bias"] = layer(theirs)
    number = 0
    while f"encoder.layers.{number}.layer_norm1.weight" in vision:
        place = f"encoder.layers.{number}"
        own |= VisionTransformer.block(
            number,
            norm1=layer(f"{place}.layer_norm1"),
            attention_in=layer(*(f"{place}.self_attn.{part}_proj" for part in "qkv")),
            attention_out=layer(f"{place}.self_attn.out_proj"),
            norm2=layer(f"{place}.layer_norm2"),
            linear1=layer(f"{place}.mlp.fc1"),
            linear2=layer(f"{place}.mlp.fc2"),
        )
        number += 1
    return VisionTransformer({name: value.float() for name, value in own.items()}, quick_gelu, eps=1e-5)


class Clip(PublishedNetwork):
    """512 features of images as clean-fid takes them.

    The shorter side is resized to 224, bicubic with antialiasing, rounded to whole levels, and the middle cut out.
    """

    name = "clip"
    source = WEIGHTS.url
    weights = (WEIGHTS,)
    title = ("clip ViT-B/32", f"bicubic with antialiasing to whole levels, middle {SIDE}x{SIDE}")

    def build(self, state: dict[str, Tensor]) -> VisionTransformer:
        return load(state)

    @staticmethod
    def prepared(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        short = min(height, width)
        wide = resized(images, (SIDE * height // short, SIDE * width // short))
        top, left = (round((side - SIDE) / 2) for side in wide.shape[-2:])
        return normalised(wide[..., top : top + SIDE, left : left + SIDE], MEAN, DEVIATION)
