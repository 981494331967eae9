"""Generated samples, read some at a time: their number and size do not matter for memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.reading import chunks, spread
from common.data.source import Split
from common.data.spec import DataSpec
from common.files import open_array
from common.refusal import Refusal

AT_ONCE = 256  # samples in memory


class Drawn:
    """Samples that a model drew, without those that hold NaN or infinite values.

    Args:
        read: gives all samples in order, some at a time, each part (B, C, *S) on the network's scale [-1, 1].
        labels: (N,) int64, the classes that were asked for; None if the samples were drawn without.
        name: what messages call them, mostly their folder.

    Raises:
        Refusal: if there are none, or none is finite.
    """

    def __init__(self, read: Callable[[], Iterator[Tensor]], labels: Tensor | None, name: str) -> None:
        self._read, self.name = read, name
        parts = [(part.shape[1:], part.flatten(1).isfinite().all(1)) for part in read()]
        if not parts:
            raise Refusal(f"{name}: there is no sample")
        self._finite = torch.cat([finite for _, finite in parts])
        self.shape = tuple(parts[0][0])
        self.not_finite = int((~self._finite).sum())
        self.labels = None if labels is None else labels[self._finite]
        if not len(self):
            raise Refusal(f"{name}: no sample there is finite, so there is nothing to compare; draw others")

    @classmethod
    def of(cls, arrays: np.ndarray, labels: np.ndarray | None, spec: DataSpec, name: str) -> "Drawn":
        """Samples in memory.

        Args:
            arrays: (N, *S, C) in the units of the data.
            labels: (N,) integers, or None.
            spec: what a sample is.
            name: what messages call them.
        """
        parts = [arrays[start : start + AT_ONCE] for start in range(0, len(arrays), AT_ONCE)]
        kept = None if labels is None else torch.from_numpy(labels)
        return cls(lambda: (_from_array(part, spec) for part in parts), kept, name)

    @classmethod
    def in_files(cls, files: Sequence[Path], labels: Tensor | None, spec: DataSpec, name: str, count: int) -> "Drawn":
        """Samples as generate.py left them.

        Args:
            files: whole arrays (B, *S, C) float32 in the units of the data, in order.
            labels: of all samples, (N,) int64, or None.
            spec: what a sample is.
            name: what messages call them.
            count: how many, the first ones.
        """

        def read() -> Iterator[Tensor]:
            left = count
            for path in files:
                block = open_array(path)[:left]
                left -= len(block)
                for start in range(0, len(block), AT_ONCE):
                    yield _from_array(np.array(block[start : start + AT_ONCE]), spec)
                if not left:
                    return

        return cls(read, None if labels is None else labels[:count], name)

    @classmethod
    def of_parts(cls, splits: list[Split], spec: DataSpec, name: str, count: int | None = None) -> "Drawn":
        """Samples of another program, read as a data set is; they have no labels to have been asked for.

        Args:
            splits: the parts of the set.
            spec: what a sample of the real data is.
            name: what messages call them.
            count: how many, evenly spaced; None takes all.
        """
        return cls(lambda: read_over(splits, spec, count), None, name)

    def __len__(self) -> int:
        return int(self._finite.sum())

    def chunks(self) -> Iterator[Tensor]:
        """Samples (B, C, *S) in order, on the network's scale, some at a time."""
        start = 0
        for part in self._read():
            finite = self._finite[start : start + len(part)]
            start += len(part)
            if finite.any():
                yield part if finite.all() else part[finite]

    def with_labels(self) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`chunks` of samples that have labels, with these (B,)."""
        assert self.labels is not None  # whoever asks has looked
        start = 0
        for part in self.chunks():
            yield part, self.labels[start : start + len(part)]
            start += len(part)

    @cached_property
    def all(self) -> Tensor:
        """Samples (N, C, *S) on the network's scale, in memory."""
        return torch.cat(list(self.chunks()))


def spread_over(splits: Sequence[Split], limit: int | None) -> list[Tensor]:
    """Rows of at most ``limit`` samples of several parts together, evenly spaced; of each as many as its size asks."""
    sizes = [len(split.labels) for split in splits]
    if limit is None or limit >= sum(sizes):
        return [torch.arange(size) for size in sizes]
    chosen, starts = spread(sum(sizes), limit), [sum(sizes[:place]) for place in range(len(sizes))]
    within = [chosen - start for start in starts]
    return [rows[(rows >= 0) & (rows < size)] for rows, size in zip(within, sizes, strict=True)]


def labels_over(splits: Sequence[Split], limit: int | None) -> Tensor:
    """Labels (N,) of :func:`spread_over`."""
    parts = [part.labels[rows] for part, rows in zip(splits, spread_over(splits, limit), strict=True)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts])


def read_over(splits: Sequence[Split], spec: DataSpec, limit: int | None) -> Iterator[Tensor]:
    """Samples of several parts, those of :func:`spread_over`, (B, C, *S) on the network's scale, some at a time."""
    for split, rows in zip(splits, spread_over(splits, limit), strict=True):
        if len(rows):
            yield from map(spec.to_network, chunks(split.images, rows, "reading", AT_ONCE))


def _from_array(array: np.ndarray, spec: DataSpec) -> Tensor:
    return spec.to_network(torch.from_numpy(array).movedim(-1, 1))
