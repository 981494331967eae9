"""Features that were computed, in files named after what they are of."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.files import UNREADABLE, atomic_write
from common.progress import tell

POINTS = "points"


class Kept:
    """Features of parts of samples, in files that are whole or not there: several programs may write the same ones.

    Args:
        folders: where they go, and, if nothing can be written there, where else.
        unwritable: those of which that is known; whoever finds another says so, and adds it.
    """

    def __init__(self, folders: Sequence[Path], unwritable: set[Path]) -> None:
        self.folders, self._unwritable = list(folders), unwritable

    @property
    def is_lasting(self) -> bool:
        """Whether there is a folder that can be written, as far as anybody knows."""
        return any(folder not in self._unwritable for folder in self.folders)

    def _used(self) -> Iterator[Path]:
        """The folders up to the first one that can be written."""
        for folder in self.folders:
            yield folder
            if folder not in self._unwritable:
                return

    def holds(self, name: str) -> bool:
        """Whether a file is there."""
        return any((folder / name).is_file() for folder in self._used())

    def read(self, name: str, count: int) -> Tensor | None:
        """Features (B, D) of so many samples; None if they are not there or damaged: they are computed again then."""
        found = (_read(folder / name, count) for folder in self._used())
        return next((points for points in found if points is not None), None)

    def write(self, name: str, points: Tensor) -> None:
        """Keep features (B, D), if any folder lets us; they can be computed again, so that is no error."""
        buffer = io.BytesIO()
        np.savez(buffer, points=points.numpy())
        for folder in self.folders:
            if folder in self._unwritable:
                continue
            try:
                atomic_write(folder / name, buffer.getvalue())
            except OSError as error:
                tell(f"note      features are not kept in {folder}: {error.strerror or error}")
                self._unwritable.add(folder)
            else:
                return


def name_of(samples: Tensor) -> str:
    """The name of the file with features of samples (B, C, *S), by the SHA-256 of these."""
    digest = hashlib.sha256(repr(tuple(samples.shape)).encode())  # the same numbers may be images of other sides
    digest.update(samples.contiguous().numpy().tobytes())
    return f"{digest.hexdigest()[:32]}.npz"


def _read(path: Path, count: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:  # a zip file: its check sum is looked at
            points = torch.from_numpy(kept[POINTS])
    except (*UNREADABLE, KeyError):
        return None
    return points if points.ndim == 2 and len(points) == count and points.dtype == torch.float32 else None
