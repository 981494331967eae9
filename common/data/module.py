"""The data module: small sets live on the device as uint8; batch indices are a function of the step."""

from collections.abc import Iterator
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from common.data.source import Arrays, Split
from common.seeding import FLIPS, ORDER, StepRandomness, mix


class Batch(NamedTuple):
    """What a training or validation step gets.

    Attributes:
        images: (B, C, H, W) float32 in [-1, 1], on the device.
        labels: (B,) int64, on the device.
        micro_step: index of the training micro-step; of the validation batch in validation.
    """

    images: Tensor
    labels: Tensor
    micro_step: int


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 in 0 .. 255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


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


class _Steps(IterableDataset):
    """(micro_step, indices) from a first micro-step on, without end."""

    def __init__(self, order: BatchOrder, first: int) -> None:
        self.order, self.first = order, first

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        micro_step = self.first
        while True:
            yield micro_step, self.order[micro_step]
            micro_step += 1


class DataModule(pl.LightningDataModule):
    """Batches of a data set held in memory.

    Args:
        arrays: the data set.
        batch_size: samples per process and micro-step, at least 1.
        seed: seed of the run.
        flip: mirror each training image left to right with probability 1/2.
        val_samples: how many held-out samples validation uses.
    """

    def __init__(self, arrays: Arrays, *, batch_size: int, seed: int, flip: bool, val_samples: int) -> None:
        super().__init__()
        self.arrays, self.batch_size, self.seed, self.flip = arrays, batch_size, seed, flip
        self.val_samples = min(val_samples, len(arrays.held_out.labels))
        self._on_device: dict[tuple[str, torch.device], Split] = {}

    @property
    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """An endless loader that starts where the run stands."""
        trainer = self.trainer
        first = trainer.global_step * trainer.accumulate_grad_batches if trainer else 0
        order = BatchOrder(len(self.arrays.train.labels), self.batch_size, self.seed, *self._rank)
        return DataLoader(_Steps(order, first), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """The first ``val_samples`` held-out samples, each once, dealt out over the processes."""
        rank, world_size = self._rank
        mine = torch.arange(self.val_samples)[rank::world_size]
        batches = list(enumerate(mine.split(self.batch_size))) if len(mine) else []
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: tuple[int, Tensor], device: torch.device, dataloader_idx: int) -> Batch:
        """Look the samples up in the copy of the set that lies on the device, then scale and flip them there."""
        micro_step, indices = batch
        training = bool(self.trainer and self.trainer.training)
        part = self._resident("train" if training else "held_out", device)
        indices = indices.to(device, non_blocking=True)
        images = to_unit_range(part.images[indices])
        if training and self.flip:
            draws = StepRandomness(self.seed, micro_step, len(indices), *self._rank, device).uniform(FLIPS)
            images = torch.where((draws < 0.5).reshape(-1, 1, 1, 1), images.flip(-1), images)
        return Batch(images, part.labels[indices], micro_step)

    def _resident(self, name: str, device: torch.device) -> Split:
        if (name, device) not in self._on_device:
            part: Split = getattr(self.arrays, name)
            self._on_device[name, device] = Split(part.images.to(device), part.labels.to(device))
        return self._on_device[name, device]
