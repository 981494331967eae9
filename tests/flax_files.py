"""Checkpoints as Flax writes them, for tests: trees of arrays to bytes, by the description of the format alone."""

from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from tests.backbones.test_inr import golden_weights
from tests.backbones.test_uvit import published_weights

Tree = dict[str, Any]


def array(value: NDArray[Any], code: int = 1, kind: str = "", raw: bytes | None = None) -> msgpack.ExtType:
    """The extension that an array is kept as."""
    content = [list(value.shape), kind or value.dtype.name, value.tobytes() if raw is None else raw]
    return msgpack.ExtType(code, msgpack.packb(content, use_bin_type=True))


def nested(flat: dict[str, NDArray[Any]]) -> Tree:
    """Parameters by path to maps of maps."""
    tree: Tree = {}
    for name, value in flat.items():
        *folders, leaf = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = array(value)
    return tree


def content(average: dict[str, NDArray[Any]], step: int = 20000) -> Tree:
    """The whole outermost map; other copies of the weights are twice as large."""
    other = {"params": nested({name: 2 * value for name, value in average.items()})}
    counter = array(np.array(step, np.int32))
    moments = {"mini_step": counter, "inner_opt_state": {"0": {}, "1": {"0": {"count": counter, "mu": other}}}}
    return {
        "step": counter,
        "params": other,
        "opt_state": {"mini_step": counter, "skip_state": {}},
        "opt_state_params": moments,
        "ema_params": {"params": nested(average)},
        "rng": array(np.array([0, 42], np.uint32)),
    }


def packed(tree: Tree) -> bytes:
    """The bytes of a file."""
    found: bytes = msgpack.packb(tree, use_bin_type=True)
    return found


def average_of(weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The averages that were recorded: nine tenths of a recipe, in float32."""
    return {name: (0.9 * value.astype(np.float32)).astype(np.float32) for name, value in weights.items()}


INR = "--width 32 --depth 3 --image_size 8"
UVIT = "--patch_size 2 --embed_dim 64 --depth 5 --num_heads 4"


def inr(learned_rates: bool = True) -> dict[str, NDArray[np.float32]]:
    """Averages of the coordinate network that :data:`INR` describes."""
    weights = average_of(golden_weights("small_lr_8x8"))
    return {name: value for name, value in weights.items() if learned_rates or "DenseLR" not in name}


def uvit(name: str = "uvit2d") -> dict[str, NDArray[np.float32]]:
    """Averages of the U-ViT that :data:`UVIT` describes, on 16 x 16 or, as ``uvit1d``, on 64 points."""
    return average_of(published_weights(name))
