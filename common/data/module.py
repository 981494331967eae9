"""The data module: small sets live on the device, others are streamed; a batch is a function of its step."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.readers import Readers, num_readers
from common.data.reading import is_small, spread
from common.data.source import DataSet, Split
from common.refusal import Refusal
from common.seeding import FLIPS, ORDER, StepRandomness, mix

# what a loader yields: number and indices, or number, samples and labels, or why they could not be read
Read = tuple[int, Tensor] | tuple[int, Tensor, Tensor] | Refusal


class Rows(NamedTuple):
    """Which of the samples a batch holds that random numbers are drawn for together.

    Attributes:
        total: number of those samples.
        rows: which.
    """

    total: int
    rows: slice


class Batch(NamedTuple):
    """What a training or validation step gets.

    Attributes:
        x0: (B, C, *S) float32 in [-1, 1], on the device.
        labels: (B,) int64, on the device.
        micro_step: index of the training micro-step; in validation, of the samples that are drawn for together.
        held_out: which of those they are, in validation.
    """

    x0: Tensor
    labels: Tensor
    micro_step: int
    held_out: Rows | None = None


class BatchOrder:
    """Indices of every batch of an endless epoch: a fresh permutation per pass, a function of (seed, step).

    Args:
        size: number of samples.
        batch: samples per process.
        seed: seed of the run.
        rank: index of this process.
        world_size: number of processes.
    """

    def __init__(self, size: int, batch: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.batch, self.seed = size, batch, seed
        self.rank, self.world_size = rank, world_size
        self._passes: dict[int, Tensor] = {}

    def _permutation(self, index: int) -> Tensor:
        if index not in self._passes:
            for old in [key for key in self._passes if key < index - 1]:
                del self._passes[old]
            generator = torch.Generator().manual_seed(mix(self.seed, index, ORDER))
            self._passes[index] = torch.randperm(self.size, generator=generator)
        return self._passes[index]

    def __getitem__(self, micro_step: int) -> Tensor:
        """Indices (B,) int64 of this process's batch at a micro-step."""
        start = (micro_step * self.world_size + self.rank) * self.batch
        parts, end = [], start + self.batch
        while start < end:
            index, offset = divmod(start, self.size)
            part = self._permutation(index)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return torch.cat(parts)


class _Batches(Dataset[Read]):
    """Batch number i as (i, indices), or as (i, samples, labels) if it is read by the loader's workers.

    Args:
        order: indices (B,) int64 of every batch.
        part: what to read; None leaves it at the indices.
    """

    def __init__(self, order: BatchOrder | Sequence[Tensor], part: Split | None) -> None:
        self.order, self.part = order, part

    def __getitem__(self, index: int) -> Read:
        indices = self.order[index]
        if self.part is None:
            return index, indices
        try:
            return index, self.part.images[indices], self.part.labels[indices]
        except Refusal as error:
            return error  # raised inside the loader it would keep the loader, and its processes, alive


class _From(Sampler[int]):
    """first, first + 1, .. without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return count(self.first)


class DataModule(pl.LightningDataModule):
    """Batches of a data set.

    A part that is a tensor of at most ``RESIDENT_LIMIT`` bytes is copied to the device once, and its loader yields
    indices. Any other part is streamed: worker processes read whole batches, in order, whatever their number.

    Args:
        data: the data set.
        batch_size: samples per process and micro-step, at least 1.
        seed: seed of the run.
        flip: mirror each training sample along its last axis with probability 1/2.
        val_samples: how many held-out samples validation uses.
        num_workers: processes that read a streamed part; None takes one per core, at most 8. A part on the device
            needs none.
    """

    def __init__(
        self,
        data: DataSet,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        val_samples: int,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed, self.flip = data, batch_size, seed, flip
        self.val_samples = min(val_samples, len(data.held_out.labels))
        self.num_workers = num_readers() if num_workers is None else num_workers
        self._on_device: dict[tuple[str, torch.device], Split] = {}

    @property
    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _accumulated(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def train_dataloader(self) -> DataLoader[Read]:
        """An endless loader that starts where the run stands."""
        trainer = self.trainer
        first = trainer.global_step * self._accumulated if trainer else 0
        order = BatchOrder(len(self.data.train.labels), self.batch_size, self.seed, *self._rank)
        return self._loader(self.data.train, order, _From(first))

    def val_dataloader(self) -> DataLoader[Read]:
        """``val_samples`` held-out samples, evenly spaced, each once, dealt out over the processes."""
        rank, world_size = self._rank
        mine = spread(len(self.data.held_out.labels), self.val_samples)[rank::world_size]
        batches = mine.split(self.batch_size) if len(mine) else ()
        return self._loader(self.data.held_out, batches, range(len(batches)))

    def _loader(self, part: Split, order: BatchOrder | Sequence[Tensor], sampler: Iterable[int]) -> DataLoader[Read]:
        if is_resident(part):
            return DataLoader(_Batches(order, None), batch_size=None, sampler=sampler)
        trainer = self.trainer
        pinned = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return Readers(_Batches(order, part), sampler, self.num_workers, stay=True, pin_memory=pinned)

    def transfer_batch_to_device(
        self,
        batch: Read,
        device: torch.device,
        dataloader_idx: int,
    ) -> Batch:
        """Look the samples up in the copy that lies on the device, or bring them there; scale and flip them there.

        Raises:
            DataUnavailable: if they could not be read.
        """
        if isinstance(batch, Refusal):
            raise batch
        training = bool(self.trainer and self.trainer.training)
        if len(batch) == 2:
            micro_step, indices = batch
            part = self._resident("train" if training else "held_out", device)
            indices = indices.to(device, non_blocking=True)
            x0, labels = part.images[indices], part.labels[indices]
        else:
            micro_step = batch[0]
            x0, labels = (stored.to(device, non_blocking=True) for stored in batch[1:])
        x0 = self.data.spec.to_network(x0)
        if training and self.flip:
            draws = StepRandomness.of_micro_step(self.seed, micro_step, len(x0), *self._rank, self._accumulated, device)
            mirrored = (draws.uniform(FLIPS) < 0.5).reshape(-1, *(1,) * (x0.ndim - 1))
            x0 = torch.where(mirrored, x0.flip(-1), x0)
        return Batch(x0, labels, micro_step) if training else self._held_out(x0, labels, micro_step)

    def _held_out(self, x0: Tensor, labels: Tensor, index: int) -> Batch:
        """A batch of validation: random numbers are drawn for as many samples as an optimiser step has.

        So a sample meets the same ones however samples are parted.
        """
        rank, world_size = self._rank
        together = self.batch_size * world_size * self._accumulated
        number, position = divmod(index, self._accumulated)
        first = rank + world_size * self.batch_size * position
        rows = slice(first, first + world_size * len(x0), world_size)
        return Batch(x0, labels, number, Rows(min(together, self.val_samples - number * together), rows))

    def _resident(self, name: str, device: torch.device) -> Split:
        if (name, device) not in self._on_device:
            part: Split = getattr(self.data, name)
            self._on_device[name, device] = Split(part.images.to(device), part.labels.to(device))  # type: ignore[union-attr]
        return self._on_device[name, device]


def is_resident(part: Split) -> bool:
    """Whether a part is in memory and small enough to lie on the device too."""
    return isinstance(part.images, Tensor) and is_small(part.images)
