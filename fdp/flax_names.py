"""Where the parameters of the published (Flax) networks are in ours, and what their shapes say of a network."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.backbones import INR, UViT

Array = NDArray[Any]
Params = Mapping[str, Array]

NETWORK, RATES = "network.", "rates."  # what names begin with in the state dict of ``MetaLearned``
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
PATCHES, TABLE, BIAS = "PatchEmbeddings_0/patch_embeddings/kernel", "posembed_input/pos_embedding", "Conv_0/bias"
INR_NAME = re.compile(r"Dense(LR)?_(\d+)/(kernel|bias)", re.ASCII)


def uvit_name(flax_name: str) -> str:
    """Our name of a published parameter of the U-ViT.

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


def inr_name(flax_name: str, depth: int) -> str:
    """Our name of a published parameter of the coordinate network, or of its learned rates.

    Args:
        flax_name: as for :func:`uvit_name`.
        depth: hidden layers; layer ``depth`` is the output.

    Returns:
        The key in the state dict of ``MetaLearned(INR(..), ..)``.

    Raises:
        ValueError: if the name is not one of a coordinate network of this depth.
    """
    found = INR_NAME.fullmatch(flax_name)
    if found is None or int(found[2]) > depth:
        raise ValueError(f"{flax_name} is not a parameter of the published INR of {depth} hidden layers")
    layer = "out" if int(found[2]) == depth else f"hidden.{int(found[2])}"
    name = f"{layer}.{LEAVES[found[3]]}"
    return f"{NETWORK}{name}" if found[1] is None else f"{RATES}{name.replace('.', '-')}"


def torch_layout(flax_name: str, value: Array) -> Array:
    """The axes of a Flax parameter in our order.

    A Flax kernel is (*window, in, out), ours (out, in, *window), dense layers being those without a window; learned
    positions lose their leading axis of one. The rest is the same.

    Args:
        flax_name: as for :func:`uvit_name`.
        value: the parameter.
    """
    leaf = flax_name.rpartition("/")[2]
    if leaf == "kernel" and value.ndim >= 2:
        return np.moveaxis(value, (-1, -2), (0, 1))
    return value[0] if leaf == "pos_embedding" and value.shape[:1] == (1,) else value


def uvit_state_dict(params: Params) -> dict[str, Tensor]:
    """The state dict of ``common.backbones.UViT`` that the published parameters make.

    Args:
        params: Flax name, as for :func:`uvit_name`, to value.

    Returns:
        Our name to value.

    Raises:
        ValueError: if a name is not one of a U-ViT, or two parameters go to the same place.
    """
    return _renamed(params, uvit_name, "U-ViT")


def inr_state_dict(params: Params) -> dict[str, Tensor]:
    """The state dict of ``MetaLearned(INR(..), ..)`` that the published parameters make.

    Args:
        params: Flax name, as for :func:`inr_name`, to value.

    Returns:
        Our name to value.

    Raises:
        ValueError: if a name is not one of a coordinate network.
    """
    depth = _inr_layers(params) - 1
    return _renamed(params, lambda name: inr_name(name, depth), "INR")


def _inr_layers(params: Params) -> int:
    return sum(re.fullmatch(r"Dense_\d+/kernel", name) is not None for name in params)


def _renamed(params: Params, rename: Callable[[str], str], network: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in params.items():
        if (own := rename(name)) in state:
            raise ValueError(f"two parameters of the published {network} go to {own}")
        state[own] = torch.from_numpy(np.ascontiguousarray(torch_layout(name, value)))
    return state


@dataclass(frozen=True)
class FlaxNetwork:
    """A kind of network of the published code.

    Attributes:
        title: what it is called.
        kind: our class of it.
        state_dict: the published parameters under our names; those of the network itself begin with ``network.`` if
            it has learned rates beside it.
        holds: whether parameters are those of such a network, by their names.
        sizes: what shapes of parameters say of the network, by flag; and the channels of its output, as ``channels``.
        unsaid: what they do not say, as a message goes on.
    """

    title: str
    kind: type[nn.Module]
    state_dict: Callable[[Params], dict[str, Tensor]]
    holds: Callable[[Params], bool]
    sizes: Callable[[Params], dict[str, Any]]
    unsaid: str = ""


def _uvit_sizes(params: Params) -> dict[str, Any]:
    *window, _, width = params[PATCHES].shape
    blocks = {name.partition("/")[0] for name in params if re.match(r"(in|mid|out)_block_\d+/", name)}
    hidden = params["mid_block_0/MlpBlock_0/Dense_0/kernel"].shape[-1]
    return {
        "patch_size": window[0],
        "embed_dim": width,
        "depth": len(blocks),
        **({} if hidden == 4 * width else {"mlp_dim": hidden}),
        "position": "learned" if TABLE in params else "sincos",
        "channels": params[BIAS].size,
    }


def _inr_sizes(params: Params) -> dict[str, Any]:
    depth = _inr_layers(params) - 1
    width, channels = params["Dense_0/kernel"].shape[-1], params[f"Dense_{depth}/kernel"].shape[-1]
    learned = any(name.startswith("DenseLR_") for name in params)
    return {"width": width, "depth": depth, "learned_rates": learned, "channels": channels}


NETWORKS = (
    FlaxNetwork(
        "U-ViT",
        UViT,
        uvit_state_dict,
        lambda params: PATCHES in params,
        _uvit_sizes,
        ", and --num_heads, which the file does not say",
    ),
    FlaxNetwork("INR", INR, inr_state_dict, lambda params: all(map(INR_NAME.fullmatch, params)), _inr_sizes),
)
