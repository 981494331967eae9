"""How much memory there is to take on the CPU, and giving it back."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MMAP_THRESHOLD, LARGE = -3, 2**18  # glibc's number for it, and bytes
NO_LIMIT = 2**60  # version 1 of control groups writes a number near 2^63 for none


def give_back_large() -> None:
    """Give blocks of 256 kB and more back to the system when it is freed; nothing where the C library has no way.

    glibc keeps up to 32 MB of it, once so much was freed, and lays small blocks into the holes: the peak of a process
    that takes and frees the same large blocks again and again then depends on chance, by tens of megabytes.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(MMAP_THRESHOLD, LARGE)


def free_memory() -> int:
    """Bytes that this process can still take: those that are free or, in a job of a cluster, allowed."""
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
