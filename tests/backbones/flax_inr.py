"""Where the parameters of the published (Flax) coordinate network and of its learned rates are in ours."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

LEAVES = {"kernel": "weight", "bias": "bias"}


def inr_name(flax_name: str, depth: int) -> str:
    """Our name of a published parameter.

    Args:
        flax_name: path in the Flax tree, joined by slashes, without the outer ``params``.
        depth: hidden layers; layer ``depth`` is the output.

    Returns:
        The key in the state dict of ``MetaLearned(INR(..), ..)``.

    Raises:
        ValueError: if the name is not one of a coordinate network of this depth.
    """
    found = re.fullmatch(r"Dense(LR)?_(\d+)/(kernel|bias)", flax_name)
    if found is None or int(found[2]) > depth:
        raise ValueError(f"{flax_name} is not a parameter of the published INR of {depth} hidden layers")
    layer = "out" if int(found[2]) == depth else f"hidden.{int(found[2])}"
    name = f"{layer}.{LEAVES[found[3]]}"
    return f"network.{name}" if found[1] is None else f"rates.{name.replace('.', '-')}"


def inr_layout(flax_name: str, value: Array) -> Array:
    """The axes of a Flax parameter in our order: a kernel is (in, out) there and (out, in) here."""
    return value.swapaxes(-1, -2) if flax_name.endswith("/kernel") else value


def inr_state_dict(params: Mapping[str, Array]) -> dict[str, Tensor]:
    """The state dict of ``MetaLearned(INR(..), ..)`` that the published parameters make.

    Args:
        params: Flax name, as for ``inr_name``, to value.

    Returns:
        Our name to value.

    Raises:
        ValueError: if a name is not one of a coordinate network.
    """
    depth = sum(re.fullmatch(r"Dense_\d+/kernel", name) is not None for name in params) - 1
    return {
        inr_name(name, depth): torch.from_numpy(np.ascontiguousarray(inr_layout(name, value)))
        for name, value in params.items()
    }
