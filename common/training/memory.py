"""Memory: the most that tensors take at one time while something runs, and what there is to take."""

import weakref
from collections.abc import Iterable
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.memory import free_memory


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of every tensor that is made while it is entered, on any device, until it is let go.

    What an operation takes only inside itself, and what was there before, is not seen.

    Attributes:
        live: bytes now.
        peak: most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what came out."""
        inputs = {_storage_id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        answer = func(*args, **(kwargs or {}))
        for output in tree_leaves(answer):
            if isinstance(output, Tensor) and _storage_id(output) not in inputs:
                self._count(output.untyped_storage())
        return answer

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def let_go(_: Any) -> None:
            self._known.pop(key, None)
            self.live -= size

        self._known[key] = weakref.ref(storage, let_go)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storage_id(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(x.numel() * x.element_size() for x in tensors)


def taken(device: torch.device) -> int:
    """Bytes that this process has taken on a device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def available(device: torch.device) -> int:
    """Bytes that this process can still take on a device: those that are free or, in a job of a cluster, allowed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - taken(device)
    return free_memory()
