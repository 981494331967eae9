"""The data module: order, scaling, flips and the split over processes are functions of (seed, step)."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from common.data import DataModule, DataSet, Split, to_unit_range
from common.data.module import BatchOrder
from common.seeding import FLIPS, StepRandomness

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

    return DataSet(split(train, 0), split(held_out, 1000), num_classes=10)


def module(
    *, flip=False, val_samples=1000, batch=6, rank=0, world_size=1, step=0, accumulate=1, training=True, data=None
) -> DataModule:
    module = DataModule(data or small(), batch_size=batch, seed=4, flip=flip, val_samples=val_samples)
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


def test_bytes_are_scaled_to_the_unit_range():
    levels = torch.arange(256, dtype=torch.uint8)
    scaled = to_unit_range(levels)
    assert scaled.dtype == torch.float32
    assert scaled[[0, 255]].tolist() == [-1, 1]
    assert torch.allclose(scaled.double(), levels.double() / 127.5 - 1, atol=1e-7)
    data = small()
    for batch in batches(module(data=data), 3):
        assert torch.equal(batch.images, to_unit_range(data.train.images[batch.labels]))


def test_training_goes_on_where_the_run_stands():
    whole = batches(module(accumulate=2), 12)
    rest = batches(module(step=4, accumulate=2), 4)
    assert [batch.micro_step for batch in whole] == list(range(12))
    for expected, found in zip(whole[8:], rest, strict=True):
        assert found.micro_step == expected.micro_step
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.images, expected.images)


def test_flips_mirror_exactly_and_are_a_function_of_the_step():
    data = small(train=300)
    plain = to_unit_range(data.train.images)
    flipped = []
    for batch in batches(module(flip=True, batch=50, data=data), 6):
        straight = plain[batch.labels]
        draws = StepRandomness(4, batch.micro_step, 50, 0, 1, CPU).uniform(FLIPS)
        mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(batch.images, straight, strict=True)])
        untouched = torch.tensor([torch.equal(a, b) for a, b in zip(batch.images, straight, strict=True)])
        assert torch.equal(mirrored, draws < 0.5)
        assert torch.equal(untouched, ~mirrored)
        flipped.append(mirrored)
    assert 0.4 < torch.cat(flipped).double().mean() < 0.6  # 300 fair coins: deviation 0.03
    again = batches(module(flip=True, batch=50, data=data, step=3), 3)
    for expected, found in zip(batches(module(flip=True, batch=50, data=data), 6)[3:], again, strict=True):
        assert torch.equal(found.images, expected.images)


def test_two_ranks_see_the_flips_of_one():
    whole = batches(module(flip=True, batch=6), 5)
    parts = [batches(module(flip=True, batch=3, rank=rank, world_size=2), 5) for rank in range(2)]
    for step, expected in enumerate(whole):
        found = [part[step] for part in parts]
        assert torch.equal(torch.cat([batch.images for batch in found]), expected.images)
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
            assert torch.equal(batch.images, to_unit_range(data.held_out.images[batch.labels - 1000]))
            seen += batch.labels.tolist()
    assert sorted(seen) == list(range(1000, 1000 + min(val_samples, 11)))


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
        assert torch.equal(batch.images, to_unit_range(data.held_out.images[batch.labels - 1000]))


def test_without_a_trainer_the_first_batch_is_that_of_one_process():
    data = DataModule(small(), batch_size=5, seed=0, flip=True, val_samples=4)
    assert next(iter(data.train_dataloader()))[0] == 0
    assert [len(indices) for _, indices in data.val_dataloader()] == [4]
