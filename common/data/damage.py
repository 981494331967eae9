"""Files that cannot be read: a message names all of them, not one a run."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.data.reading import gather, spread
from common.data.source import DataUnavailable
from common.data.trees import Files

LOOKED_AT = 2000  # files of a part that are tried to name those that cannot be read
NAMED = 5  # that a message lists

Use = Callable[[Files, int], object]


class Unreadable(DataUnavailable):
    """A file is not whole, or not as it should be."""


class Failures:
    """Whether files by index cannot be read.

    Args:
        files: where they are.
        use: reads one by its index, and raises :class:`Unreadable` if that fails; worker processes get a copy of it.
    """

    dtype = torch.bool

    def __init__(self, files: Files, use: Use) -> None:
        self._files, self._use = files, use
        self.shape = (len(files),)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.tensor([self._fails(index) for index in indices.tolist()], dtype=self.dtype)

    def _fails(self, index: int) -> bool:
        try:
            self._use(self._files, index)
        except Unreadable:
            return True
        return False


def sorted_out(files: Files, use: Use) -> tuple[Files, Files]:
    """Those files of about 2,000 that can be read, and those that cannot.

    Args:
        files: where they are.
        use: as for :class:`Failures`.
    """
    rows = spread(len(files), LOOKED_AT)
    fails = gather(Failures(files, use), rows, "looking for damage")
    return files.select(rows[~fails]), files.select(rows[fails])


def with_others(error: Unreadable, parts: Sequence[Files], use: Use) -> Unreadable:
    """The error about one file with the names of the others that cannot be read either, of about 2,000 of each part.

    Args:
        error: about one of the files.
        parts: all of them.
        use: as for :class:`Failures`.
    """
    broken = [sorted_out(files, use)[1] for files in parts]
    names = [files.name(index) for files in broken for index in range(len(files))]
    if len(names) < 2:
        return error
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return Unreadable(f"{error}; {len(names):,} such files in all: {', '.join(names[:NAMED])}{more}")
