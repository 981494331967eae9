"""Run folders of the published GFDM code: weights alone, ``{id}_{data}_H{hurst}_K{num_aug}/model/*.pth``.

They are found like our own, and loaded with a configuration that the caller makes.
"""

import re
from dataclasses import dataclass

from torch import Tensor

from common.refusal import Refusal

RELEASED_NAME = re.compile(r"([^_]+).*_([^_]+)_H(\d+(?:\.\d+)?)_K(\d+)")
EMA_PYTORCH = {"initted", "step", "online_model", "ema_model"}  # first parts of the names in such a file


@dataclass(frozen=True)
class ReleasedName:
    """What the name of such a folder says, e.g. ``1299582_cifar10_H0.9_K2``.

    Attributes:
        run_id: its id, the first part.
        data_name: the data set; the name has no underscore.
        hurst: Hurst index H.
        num_aug: number K of augmenting processes.
    """

    run_id: str
    data_name: str
    hurst: float
    num_aug: int


def parse_released_name(name: str) -> ReleasedName:
    """What the name of a released folder says.

    Raises:
        Refusal: if it does not say.
    """
    match = RELEASED_NAME.fullmatch(name)
    if not match:
        raise Refusal(f"{name!r} does not say data, Hurst index and number of processes as ID_DATA_H0.9_K2 does")
    return ReleasedName(match[1], match[2], float(match[3]), int(match[4]))


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own state dict out of what the published code saves.

    The averaged part of an ema-pytorch file is taken, and ``module.`` (torch's data parallel wrapper) is removed from
    the front of the names if all have it. Any other state dict is returned as it is.
    """
    prefix, parts = "ema_model.", {name.partition(".")[0] for name in state}
    if "ema_model" in parts and parts <= EMA_PYTORCH:
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state
