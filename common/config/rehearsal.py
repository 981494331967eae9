"""How large a network from a stored configuration would be, found out without memory, before it is made."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn.modules import module as registration

from common.config.plugins import build, is_own
from common.config.schema import RunConfig
from common.refusal import Refusal

OF_MODULE = 32  # numbers that a module counts as, with all that Python keeps of it; its weights take more in a file
FURTHER = 2**20  # numbers that stand in no file, such as tables of positions


def rehearse(config: RunConfig, weights: Path | None) -> None:
    """Make the network of a configuration from anywhere, without memory, and stop if it becomes too large.

    A class of a plugin is not rehearsed: it is the user's own code, and may not stand it.

    Args:
        config: what the run is.
        weights: the file that its weights are in: there are no more of them than bytes; None if there is none yet, so
            that they only have to fit into memory.

    Raises:
        Refusal: if the network would be larger, or cannot be made.
    """
    if not is_own(config.network):
        return
    if weights is None:
        numbers = psutil.virtual_memory().total // 4
        problem = (
            f"the network has more than the {numbers:,} numbers that this machine has memory for; take a smaller one"
        )
    else:
        numbers = weights.stat().st_size + FURTHER
        problem = f"{weights} does not fit this network, which has more numbers than the file can hold"
    with at_most(numbers, problem), torch.device("meta"):
        build(config.network, nn.Module)


@contextlib.contextmanager
def at_most(numbers: int, problem: str) -> Iterator[None]:
    """Refuse to make modules with more parameters and buffers, while they are being made.

    Args:
        numbers: how many numbers there may be.
        problem: what to say if there are more.
    """
    left = numbers

    def count(_: Any, name: str, part: Any) -> None:
        nonlocal left
        left -= OF_MODULE if isinstance(part, nn.Module) else 0 if part is None else part.numel()
        if left < 0:
            raise Refusal(problem)

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
