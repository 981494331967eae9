"""Where the parameters of the published (Flax) U-ViT are in ours."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

UVIT_MODULES = {
    "PatchEmbeddings_0/patch_embeddings": "patch_embed",
    "Dense_0": "time_embed.0",
    "Dense_1": "time_embed.2",
    "posembed_input": "position",
    "norm": "norm",
    "decoder_pred": "decoder",
    "Conv_0": "final",
}
UVIT_BLOCKS = {"in": "in_blocks.{}.", "mid": "mid_block.", "out": "out_blocks.{}.block."}
UVIT_BLOCK_MODULES = {
    "LayerNorm_0": "norm1",
    "Attention_0/qkv": "attention.qkv",
    "Attention_0/proj": "attention.proj",
    "LayerNorm_1": "norm2",
    "MlpBlock_0/Dense_0": "mlp.0",
    "MlpBlock_0/Dense_1": "mlp.2",
}
LEAVES = {"bias": "bias", "scale": "weight", "kernel": "weight", "pos_embedding": "weight"}


def uvit_name(flax_name: str) -> str:
    """Our name of a published parameter.

    Args:
        flax_name: path in the Flax tree, joined by slashes, without the outer ``params``.

    Returns:
        The key in the state dict of ``common.backbones.UViT``.

    Raises:
        ValueError: if the name is not one of a U-ViT.
    """
    module, _, leaf = flax_name.rpartition("/")
    prefix, inner, modules = "", module, UVIT_MODULES
    if block := re.fullmatch(r"(in|mid|out)_block_(\d+)/(.+)", module):
        side, index, inner = block.groups()
        prefix, modules = UVIT_BLOCKS[side].format(index), UVIT_BLOCK_MODULES
        if side == "out" and inner == "Dense_0":  # the layer that takes the skip in
            prefix, modules = f"out_blocks.{index}.", {"Dense_0": "join"}
    if inner not in modules or leaf not in LEAVES:
        raise ValueError(f"{flax_name} is not a parameter of the published U-ViT")
    return f"{prefix}{modules[inner]}.{LEAVES[leaf]}"


def torch_layout(flax_name: str, value: Array) -> Array:
    """The axes of a Flax parameter in our order.

    A Flax kernel is (*window, in, out), ours (out, in, *window), dense layers being those without a window; learned
    positions lose their leading axis of one. The rest is the same.

    Args:
        flax_name: as for ``uvit_name``.
        value: the parameter.
    """
    leaf = flax_name.rpartition("/")[2]
    if leaf == "kernel":
        return np.moveaxis(value, (-1, -2), (0, 1))
    return value[0] if leaf == "pos_embedding" else value


def uvit_state_dict(params: Mapping[str, Array]) -> dict[str, Tensor]:
    """The state dict that the published parameters make.

    Args:
        params: Flax name, as for ``uvit_name``, to value.

    Returns:
        Our name to value.

    Raises:
        ValueError: if a name is not one of a U-ViT, or two parameters go to the same place.
    """
    _refuse_doubles(uvit_name(name) for name in params)
    return {
        uvit_name(name): torch.from_numpy(np.ascontiguousarray(torch_layout(name, value)))
        for name, value in params.items()
    }


def _refuse_doubles(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two parameters of the published U-ViT go to {name}")
        seen.add(name)
