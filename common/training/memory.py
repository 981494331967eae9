"""Memory: the most that tensors take at one time while something runs, and what there is to take."""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_LIMIT = 2**60  # version 1 of control groups writes a number near 2^63 for none


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
    return min([int(psutil.virtual_memory().available), *left_in_control_groups(Path("/proc/self/cgroup"))])


def left_in_control_groups(listing: Path, root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Bytes left under every limit that the system sets a process (Linux): of its control group and those above.

    Args:
        listing: the groups that the process is in, one per line: number, controllers, path. Not there on other systems.
        root: where control groups are seen; those of version 1 are under ``memory``.
    """
    for line in listing.read_text().splitlines() if listing.is_file() else ():
        _, controllers, path = line.split(":", 2)
        for version in (V2, V1):
            if version.controller in controllers.split(","):
                top = root / version.folder
                group = top / path.lstrip("/")
                for folder in (group, *group.parents[: len(group.relative_to(top).parts)]):
                    yield from version.left(folder)


@dataclass(frozen=True)
class _ControlGroups:
    """How one version of Linux's control groups says what memory is allowed and used.

    Attributes:
        controller: name in the listing of a process.
        folder: below the root.
        limit: file with the limit in bytes.
        usage: file with the bytes that are used.
        cache: entry of ``memory.stat`` with the bytes of files that are given up when memory is short.
    """

    controller: str
    folder: str
    limit: str
    usage: str
    cache: str

    def left(self, group: Path) -> Iterator[int]:
        """Bytes left in one group, if it has a limit."""
        files = [group / name for name in (self.limit, self.usage, "memory.stat")]
        if not all(file.is_file() for file in files):
            return
        limit, usage, details = (file.read_text() for file in files)
        if limit.strip().isdigit() and int(limit) < NO_LIMIT:
            entries = dict(line.split(" ", 1) for line in details.splitlines())
            yield int(limit) - int(usage) + int(entries.get(self.cache, 0))


V1 = _ControlGroups("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = _ControlGroups("", "", "memory.max", "memory.current", "inactive_file")
