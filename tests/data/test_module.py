"""The data module: order, scaling, flips and the split over processes are functions of (seed, step)."""

import os
import time
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from common.data import DataSet, Split, reading
from common.data.module import BatchOrder, DataModule
from common.seeding import FLIPS, NOISE, StepRandomness

CPU = torch.device("cpu")


def take(order: BatchOrder, start: int, count: int) -> torch.Tensor:
    return torch.cat([order[step] for step in range(start, start + count)])


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(20, 5), (20, 8), (7, 3), (5, 5)])
def test_every_pass_is_a_fresh_permutation(size, batch):
    passes = take(BatchOrder(size, batch, seed=3), 0, 4 * size)[: 4 * size].reshape(4, size)
    assert torch.equal(passes.sort(1).values, torch.arange(size).expand(4, size))
    assert len({tuple(p.tolist()) for p in passes}) == 4


def test_order_is_a_function_of_seed_and_step():
    order = BatchOrder(50, 8, seed=1)
    forward = [order[step] for step in range(30)]
    # any access, in any order, of a new object: nothing is remembered
    for step in (29, 3, 17, 3, 0, 28):
        assert torch.equal(BatchOrder(50, 8, seed=1)[step], forward[step])
        assert torch.equal(order[step], forward[step])
    assert not torch.equal(take(BatchOrder(50, 8, seed=2), 0, 6), take(BatchOrder(50, 8, seed=1), 0, 6))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_one_process(world_size):
    whole = BatchOrder(23, 6, seed=0)
    parts = [BatchOrder(23, 6 // world_size, 0, rank, world_size) for rank in range(world_size)]
    for step in range(12):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole[step])


@pytest.mark.parametrize("batch", [11, 25, 64])
def test_a_batch_larger_than_the_set_holds_whole_passes(batch):
    order = BatchOrder(10, batch, seed=0)
    indices = take(order, 0, 3)
    assert [len(order[step]) for step in range(3)] == [batch] * 3
    counts = torch.bincount(indices, minlength=10)
    assert counts.max() - counts.min() <= 1


# -- the module -------------------------------------------------------------------------------------------------------


def small(train: int = 30, held_out: int = 11) -> DataSet:
    generator = torch.Generator().manual_seed(0)

    def split(count: int, first: int) -> Split:
        images = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(first, first + count))  # the label names the sample

    return DataSet(split(train, 0), split(held_out, 1000), num_classes=1000 + held_out)


def module(
    *,
    flip=False,
    val_samples=1000,
    batch=6,
    rank=0,
    world_size=1,
    step=0,
    accumulate=1,
    training=True,
    data=None,
    workers=0,
) -> DataModule:
    module = DataModule(
        data or small(), batch_size=batch, seed=4, flip=flip, val_samples=val_samples, num_workers=workers
    )
    module.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        global_step=step,
        accumulate_grad_batches=accumulate,
        training=training,
        strategy=SimpleNamespace(root_device=CPU),
    )
    return module


def batches(data: DataModule, count: int | None = None) -> list:
    loader = data.train_dataloader() if data.trainer.training else data.val_dataloader()
    return [data.transfer_batch_to_device(item, CPU, 0) for item in islice(iter(loader), count)]


def test_samples_are_scaled_to_the_unit_range():
    data = small()
    for batch in batches(module(data=data), 3):
        assert torch.equal(batch.x0, data.spec.to_network(data.train.images[batch.labels]))


def test_training_goes_on_where_the_run_stands():
    whole = batches(module(accumulate=2), 12)
    rest = batches(module(step=4, accumulate=2), 4)
    assert [batch.micro_step for batch in whole] == list(range(12))
    for expected, found in zip(whole[8:], rest, strict=True):
        assert found.micro_step == expected.micro_step
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.x0, expected.x0)


def test_flips_mirror_exactly_and_are_a_function_of_the_step():
    data = small(train=300)
    plain = data.spec.to_network(data.train.images)
    flipped = []
    for batch in batches(module(flip=True, batch=50, data=data), 6):
        straight = plain[batch.labels]
        draws = StepRandomness(4, batch.micro_step, 50, 0, 1, CPU).uniform(FLIPS)
        mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(batch.x0, straight, strict=True)])
        untouched = torch.tensor([torch.equal(a, b) for a, b in zip(batch.x0, straight, strict=True)])
        assert torch.equal(mirrored, draws < 0.5)
        assert torch.equal(untouched, ~mirrored)
        flipped.append(mirrored)
    assert 0.4 < torch.cat(flipped).double().mean() < 0.6  # 300 fair coins: deviation 0.03
    again = batches(module(flip=True, batch=50, data=data, step=3), 3)
    for expected, found in zip(batches(module(flip=True, batch=50, data=data), 6)[3:], again, strict=True):
        assert torch.equal(found.x0, expected.x0)


def test_two_ranks_see_the_flips_of_one():
    whole = batches(module(flip=True, batch=6), 5)
    parts = [batches(module(flip=True, batch=3, rank=rank, world_size=2), 5) for rank in range(2)]
    for step, expected in enumerate(whole):
        found = [part[step] for part in parts]
        assert torch.equal(torch.cat([batch.x0 for batch in found]), expected.x0)
        assert torch.equal(torch.cat([batch.labels for batch in found]), expected.labels)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("val_samples", [1, 7, 11, 1000])
def test_validation_uses_each_held_out_sample_once(world_size, val_samples):
    data = small()
    seen = []
    for rank in range(world_size):
        part = module(val_samples=val_samples, batch=2, rank=rank, world_size=world_size, training=False, data=data)
        for index, batch in enumerate(batches(part)):
            assert batch.micro_step == index
            assert torch.equal(batch.x0, data.spec.to_network(data.held_out.images[batch.labels - 1000]))
            seen += batch.labels.tolist()
    size = min(val_samples, 11)
    assert sorted(seen) == [1000 + i * 11 // size for i in range(size)]


def test_no_process_validates_on_an_empty_batch():
    """Three processes, one sample: two of them have nothing to do."""
    sizes = [
        len(batch.labels)
        for rank in range(3)
        for batch in batches(module(val_samples=1, rank=rank, world_size=3, training=False))
    ]
    assert sizes == [1]


def test_validation_is_never_flipped():
    data = small()
    for batch in batches(module(flip=True, training=False, data=data)):
        assert torch.equal(batch.x0, data.spec.to_network(data.held_out.images[batch.labels - 1000]))


def test_without_a_trainer_the_first_batch_is_that_of_one_process():
    data = DataModule(small(), batch_size=5, seed=0, flip=True, val_samples=4)
    assert next(iter(data.train_dataloader()))[0] == 0
    assert [len(indices) for _, indices in data.val_dataloader()] == [4]


# -- sets that are not on the device ----------------------------------------------------------------------------------


class Lazy:
    """Images behind an index; the later in a block of four batches, the faster."""

    def __init__(self, images: torch.Tensor, delay: float = 0.0) -> None:
        self._images, self.shape, self.dtype, self.delay = images, tuple(images.shape), images.dtype, delay

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        time.sleep(self.delay * (int(indices[0]) % 3))
        return self._images[indices]


def lazy(data: DataSet, delay: float = 0.0) -> DataSet:
    train, held_out = (Split(Lazy(part.images, delay), part.labels) for part in (data.train, data.held_out))
    return DataSet(train, held_out, data.num_classes, data.value_range)


def floats() -> DataSet:
    train, held_out = torch.randn(30, 2, 7), torch.randn(11, 2, 7)
    labels = torch.arange(30)
    return DataSet(Split(train, labels), Split(held_out, labels[:11] + 1000), None, (-2.5, 3.0))


def check_same(expected: list, found: list) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.micro_step == other.micro_step
        assert torch.equal(one.labels, other.labels)
        assert one.x0.dtype == other.x0.dtype == torch.float32
        assert torch.equal(one.x0, other.x0)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("make", [small, floats])
@pytest.mark.parametrize("training", [True, False])
def test_streamed_batches_are_those_of_the_device_whatever_reads_them(workers, make, training):
    data, options = make(), {"flip": True, "training": training, "batch": 4}
    count = 17 if training else None
    expected = batches(module(data=data, **options), count)
    found = batches(module(data=lazy(data, 0.004), workers=workers, **options), count)
    check_same(expected, found)
    assert [batch.micro_step for batch in found] == list(range(17 if training else 3))


@pytest.mark.parametrize("workers", [0, 3])
def test_streamed_training_goes_on_where_the_run_stands(workers):
    data = lazy(small(), 0.004)
    whole = batches(module(data=data, workers=workers, flip=True, accumulate=2), 12)
    rest = batches(module(data=data, workers=workers, flip=True, accumulate=2, step=4), 4)
    check_same(whole[8:], rest)


@pytest.mark.parametrize("training", [True, False])
def test_two_ranks_share_a_streamed_batch(training):
    data, count = small(), 5 if training else None
    whole = batches(module(flip=True, training=training, data=data), count)
    parts = [
        batches(module(flip=True, batch=3, rank=r, world_size=2, training=training, data=lazy(data), workers=2), count)
        for r in range(2)
    ]
    if training:
        for step, expected in enumerate(whole):
            assert torch.equal(torch.cat([part[step].x0 for part in parts]), expected.x0)
    else:
        seen = torch.cat([batch.labels for part in parts for batch in part])
        assert sorted(seen.tolist()) == list(range(1000, 1011))


class Counting(Lazy):
    """Notes what is read."""

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        self.read += indices.tolist()
        return super().__getitem__(indices)


@pytest.mark.parametrize("training", [True, False])
def test_a_process_reads_its_own_batches_and_no_more(training):
    """Three processes of 2 samples, 5 steps of the set's 30 or all of the 11 that are held out: each sample once."""
    found = []
    for rank in range(3):
        data = small()
        parts = [replace(part, images=Counting(part.images)) for part in (data.train, data.held_out)]
        counted = replace(data, train=parts[0], held_out=parts[1])
        own = module(data=counted, batch=2, rank=rank, world_size=3, training=training)
        for part in parts:
            part.images.read = []
        seen = [label for batch in batches(own, 5 if training else None) for label in batch.labels.tolist()]
        read = parts[0 if training else 1].images.read
        assert parts[1 if training else 0].images.read == []
        assert read == [label - (0 if training else 1000) for label in seen]
        found += read
    assert sorted(found) == list(range(30 if training else 11))


@pytest.mark.parametrize(
    ("rank", "world_size", "batch", "accumulate"), [(0, 2, 3, 1), (1, 2, 3, 1), (0, 1, 3, 2), (2, 3, 1, 2)]
)
def test_held_out_samples_meet_the_same_noise_however_they_are_parted(rank, world_size, batch, accumulate):
    """11 samples, 6 of a step: numbers for 6 and then for 5 are drawn together."""

    def drawn(data: DataModule) -> dict[int, torch.Tensor]:
        found = {}
        for x0, labels, number, held_out in batches(data):
            draws = StepRandomness.of_rows(4, -1 - number, *held_out, CPU).normal(NOISE, x0.shape[1:])
            found |= dict(zip(labels.tolist(), draws, strict=True))
        return found

    whole = drawn(module(training=False))
    for index in range(2):
        expected = StepRandomness(4, -1 - index, (6, 5)[index], 0, 1, CPU).normal(NOISE, (1, 4, 4))
        assert torch.equal(torch.stack([whole[1000 + 6 * index + i] for i in range(len(expected))]), expected)
    parts = drawn(module(training=False, batch=batch, rank=rank, world_size=world_size, accumulate=accumulate))
    assert sorted(parts) == sorted(whole)[rank::world_size]
    assert all(torch.equal(noise, whole[label]) for label, noise in parts.items())


def test_functions_are_mirrored_along_their_points():
    data = floats()
    plain = data.spec.to_network(data.train.images)
    for batch in batches(module(flip=True, data=data), 4):
        draws = StepRandomness(4, batch.micro_step, 6, 0, 1, CPU).uniform(FLIPS)
        for image, label, draw in zip(batch.x0, batch.labels, draws, strict=True):
            assert torch.equal(image, plain[label].flip(-1) if draw < 0.5 else plain[label])


class Processes(Lazy):
    """Every value is the process that reads it."""

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return torch.full((len(indices), *self.shape[1:]), float(os.getpid()))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_workers_read(workers, training):
    part = Split(Processes(torch.zeros(50, 1, 4)), torch.arange(50))
    data = module(data=DataSet(part, part, None, (-1.0, 1.0)), workers=workers, training=training)
    readers = {int(batch.x0[0, 0, 0]) for batch in batches(data, 8)}
    assert len(readers) == max(1, workers)
    assert (os.getpid() in readers) == (workers == 0)


def test_what_is_small_is_on_the_device_and_needs_no_workers(monkeypatch):
    data = small()
    nbytes = 30 * 16
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", nbytes)
    resident = module(data=data, workers=3)
    loader = resident.train_dataloader()
    assert loader.num_workers == 0
    assert [tuple(torch.as_tensor(part).shape) for part in next(iter(loader))] == [(), (6,)]
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", nbytes - 1)
    streamed = module(data=data, workers=3)  # a large tensor is read by workers too
    assert streamed.train_dataloader().num_workers == 3
    assert streamed.val_dataloader().num_workers == 0  # each part for itself
    check_same(batches(resident, 7), batches(streamed, 7))


def test_workers_default_to_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(5)), raising=False)
    data = DataModule(lazy(small()), batch_size=5, seed=0, flip=True, val_samples=4)
    assert data.train_dataloader().num_workers == data.val_dataloader().num_workers == 5
    assert DataModule(small(), batch_size=5, seed=0, flip=True, val_samples=4).train_dataloader().num_workers == 0


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_memory_is_pinned_for_a_gpu_and_workers_stay(device, pinned):
    streamed = module(data=lazy(small()), workers=2)
    streamed.trainer.strategy.root_device = torch.device(device)
    for loader in (streamed.train_dataloader(), streamed.val_dataloader()):
        assert loader.pin_memory == pinned
        assert loader.persistent_workers


class Noting(pl.LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list = []
        self.validated: list = []

    def training_step(self, batch, index):
        self.seen.append(batch)
        return self.weight * batch.x0.mean()

    def validation_step(self, batch, index):
        self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, data: DataSet, workers: int, steps: int, checkpoint=None) -> Noting:
    noting = Noting()
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=2,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    batches = DataModule(data, batch_size=6, seed=4, flip=True, val_samples=9, num_workers=workers)
    trainer.fit(noting, batches, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return noting


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_streams_stops_and_goes_on(tmp_path, workers):
    data = small()
    whole = fit(tmp_path, data, 0, steps=6)
    first = fit(tmp_path, lazy(data), workers, steps=3)
    rest = fit(tmp_path, lazy(data), workers, steps=6, checkpoint=tmp_path / "3.ckpt")
    assert [batch.micro_step for batch in whole.seen] == list(range(12))
    check_same(whole.seen, first.seen + rest.seen)
    check_same(whole.validated[:2], first.validated[:2])
    assert len(whole.validated) == 6
    assert torch.equal(whole.weight, rest.weight)
