"""Points of a feature space, as many as there are: beyond a few megabytes they lie in a file and are read in pieces."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import torch
from torch import Tensor

IN_MEMORY = 2**20  # bytes of points beyond which they go to a file
ROWS_AT_ONCE = 1024  # rows that are copied at once


class Stored:
    """Points (N, D) float32 that are written once, in order, and read some at a time.

    The file has no name, so that nothing is left of it when the process ends, however that ends.

    Args:
        parts: points (B, D) in order.
        folder: where the file lies; one that cannot be written gives way to the system's place for such files.
    """

    def __init__(self, parts: Iterable[Tensor], folder: Path | None = None) -> None:
        self._folder = folder if folder is not None and os.access(folder, os.W_OK) else None
        place = None if self._folder is None else str(self._folder)
        self._file = SpooledTemporaryFile(IN_MEMORY, dir=place)  # noqa: SIM115 - it ends with this object
        count, width = 0, 0
        for part in parts:
            self._file.write(part.float().contiguous().numpy().data.cast("B") if part.numel() else b"")
            count, width = count + len(part), part.shape[1]
        self.shape = (count, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: "Tensor | slice") -> Tensor:
        """Points in memory.

        Args:
            which: indices (B,) int64, or a slice without steps.
        """
        if isinstance(which, slice):
            start, end, _ = which.indices(len(self))
            return self._read(start, max(0, end - start))
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
        return Stored([torch.empty(0, self.shape[1])] if not len(rows) else self._parts(rows), self._folder)

    def _parts(self, rows: Tensor) -> Iterator[Tensor]:
        for some in rows.split(ROWS_AT_ONCE):
            yield self[some]

    def _read(self, start: int, count: int) -> Tensor:
        found = torch.empty(count, self.shape[1])
        self._read_into(found, start)
        return found

    def _read_into(self, found: Tensor, start: int) -> None:
        if found.numel():
            self._file.seek(start * self.shape[1] * found.element_size())
            self._file.readinto(found.numpy().data.cast("B"))


PointSet = Tensor | Stored


def some_points(points: PointSet, rows: Tensor) -> PointSet:
    """Those of these rows (M,) int64, in memory only if all are."""
    return points[rows] if isinstance(points, Tensor) else points.some(rows)
