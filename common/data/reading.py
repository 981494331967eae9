"""Samples by index, in memory or not: the limit between the two, and reading many of them."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.readers import Readers, is_first_process, num_readers
from common.progress import bar
from common.refusal import Refusal

RESIDENT_LIMIT = 2 * 1024**3  # bytes of a set that is held in memory, and once more on the device
CHUNK_BYTES, CHUNK_SAMPLES = 1024**2, 256
GATHERED = 16  # samples read at once where nothing depends on it: a photograph takes long, and the bar moves by so many
WORTH_WORKERS = 1000  # samples from which on worker processes are started to read them


class Images(Protocol):
    """Samples that are read by index; a torch Tensor (N, C, *S) is one.

    Worker processes read from a copy of the object: it must be cheap to fork and to pickle, that is, hold where the
    samples are, not the samples.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, *S)."""

    @property
    def dtype(self) -> torch.dtype:
        """torch.uint8 or torch.float32."""

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """Samples (B, C, *S) on the CPU for indices (B,) int64."""


class Rows:
    """Some samples of others, in a given order.

    Args:
        images: the others.
        rows: (N,) int64, which of them.
    """

    def __init__(self, images: Images, rows: Tensor) -> None:
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])
        self.dtype = images.dtype

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self._images[self._rows[indices]]


def select(images: Images, rows: Tensor) -> Images:
    """Samples ``rows`` (N,) int64: a tensor of a tensor, a view of anything else."""
    return images[rows] if isinstance(images, Tensor) else Rows(images, rows)


def spread(count: int, limit: int | None) -> Tensor:
    """Indices of at most ``limit`` out of ``count`` samples, evenly spaced: sets are often sorted by class."""
    size = count if limit is None else min(limit, count)
    return torch.arange(size) * count // max(size, 1)


def num_bytes(images: Images) -> int:
    """Bytes that the samples take in memory."""
    return torch.Size(images.shape).numel() * images.dtype.itemsize


def is_small(*parts: Images) -> bool:
    """Whether the samples are few enough to be held in memory."""
    return sum(map(num_bytes, parts)) <= RESIDENT_LIMIT


class _Chunks(Dataset[Tensor | Refusal]):
    """Samples, some at a time; small pieces, for they pass through shared memory."""

    def __init__(self, images: Images, rows: Tensor, most: int) -> None:
        size = CHUNK_BYTES * images.shape[0] // max(1, num_bytes(images))
        self._images, self._rows = images, rows.split(max(1, min(most, size)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Tensor | Refusal:
        try:
            return self._images[self._rows[index]]
        except Refusal as error:
            return error  # raised inside the loader it would keep the loader, and its processes, alive


def chunks(images: Images, rows: Tensor, title: str, most: int = CHUNK_SAMPLES) -> Iterator[Tensor]:
    """Samples, some at a time and in order, under a progress bar; worker processes read what is not in memory.

    Args:
        images: where the samples are read.
        rows: (M,) int64, which ones, at least one.
        title: what the progress bar says.
        most: samples at a time; sums over them differ in their last digits by it.

    Yields:
        Samples (B, C, *S).
    """
    parallel = not isinstance(images, Tensor) and len(rows) >= WORTH_WORKERS
    pieces = _Chunks(images, rows, most)
    loader = Readers(pieces, range(len(pieces)), num_readers() if parallel else 0, stay=False)
    with bar(len(rows), title, " samples", silent=not is_first_process()) as progress:
        for samples in loader:
            if isinstance(samples, Refusal):
                raise samples
            yield samples
            progress.update(len(samples))


def gather(images: Images, rows: Tensor, title: str = "reading") -> Tensor:
    """Samples ``rows`` (M,) int64 as one tensor (M, C, *S)."""
    together = torch.empty(len(rows), *images.shape[1:], dtype=images.dtype)
    start = 0
    for samples in chunks(images, rows, title, GATHERED):
        together[start : start + len(samples)] = samples
        start += len(samples)
    return together
