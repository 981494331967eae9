"""Points of a feature space, as many as there are: beyond a megabyte they lie in a file and are read in pieces."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import torch
from torch import Tensor

IN_MEMORY = 2**20  # bytes of points beyond which they go to a file
ROWS_AT_ONCE = 1024  # rows that are copied at once


class Stored:
    """Points (N, D) float32 that are written in any order and read some at a time.

    The file has no name, so that nothing is left of it when the process ends, however that ends.

    Args:
        folder: where the file lies, or, if that is not there, in the one around it; one that cannot be written gives
            way to the system's place for such files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        there = [] if folder is None else [place for place in (folder, *folder.parents) if place.is_dir()]
        self._folder = there[0] if there and os.access(there[0], os.W_OK) else None
        place = None if self._folder is None else str(self._folder)
        self._file = SpooledTemporaryFile(IN_MEMORY, dir=place)  # noqa: SIM115 - it ends with this object
        weakref.finalize(self, self._file.close)  # else Python complains of it at a moment of its own
        self.shape = (0, 0)

    def put(self, start: int, points: Tensor) -> None:
        """Write points (B, D) to the rows from ``start`` on; D is that of all."""
        self.shape = (max(len(self), start + len(points)), points.shape[1])
        if points.numel():
            self._file.seek(start * points.shape[1] * torch.float32.itemsize)
            self._file.write(points.float().contiguous().numpy().data.cast("B"))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Tensor | slice) -> Tensor:
        """Points in memory.

        Args:
            which: indices (B,) int64, or a slice without steps.
        """
        if isinstance(which, slice):
            start, end, _ = which.indices(len(self))
            return self._read_into(torch.empty(max(0, end - start), self.shape[1]), start)
        found = torch.empty(len(which), self.shape[1])
        for place, row in enumerate(which.tolist()):
            self._read_into(found[place : place + 1], row)
        return found

    def split(self, size: int) -> Iterator[Tensor]:
        """All points in order, so many at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def some(self, rows: Tensor) -> "Stored":
        """Those of these rows (M,) int64, stored likewise."""
        found = Stored(self._folder)
        found.shape = (0, self.shape[1])
        for part in rows.split(ROWS_AT_ONCE):
            found.put(len(found), self[part])
        return found

    def _read_into(self, found: Tensor, start: int) -> Tensor:
        if found.numel():
            self._file.seek(start * self.shape[1] * found.element_size())
            self._file.readinto(found.numpy().data.cast("B"))
        return found


PointSet = Tensor | Stored


def some_points(points: PointSet, rows: Tensor) -> PointSet:
    """Those of these rows (M,) int64, in memory only if all are."""
    return points[rows] if isinstance(points, Tensor) else points.some(rows)
