"""Random numbers of a sampler: their definition, their law, and that a seed alone decides them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from common.refusal import Refusal
from common.samplers import NoiseSource

CPU, SHAPE = torch.device("cpu"), (2, 3, 3)


def draw(seeds: list[int], steps: int, components: int = 2, shape=SHAPE, dtype=torch.float32) -> list[torch.Tensor]:
    """Start noise and the noise of each step."""
    source = NoiseSource(seeds, shape, CPU, dtype)
    return [source.start(components), *(source.step() for _ in range(steps))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_is_its_seeds_stream_in_chunks_of_16_steps(dtype):
    seed, steps = 1234, 40
    drawn = draw([7, seed], steps, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(drawn[0][1], torch.randn((2, *SHAPE), generator=generator, dtype=dtype))
    for first in range(0, steps, 16):
        chunk = torch.randn((16, *SHAPE), generator=generator, dtype=dtype)
        for k in range(first, min(first + 16, steps)):
            assert torch.equal(drawn[1 + k][1], chunk[k - first])


def test_batch_mates_do_not_matter():
    alone = [draw([seed], 20) for seed in (5, 0, 11)]
    together = draw([5, 0, 11], 20)
    for k, noise in enumerate(together):
        assert torch.equal(noise, torch.cat([one[k] for one in alone]))


def test_a_seed_repeated_is_a_sample_repeated():
    noise = draw([3, 3, 4], 2)
    assert all(torch.equal(x[0], x[1]) and not torch.equal(x[0], x[2]) for x in noise)


def test_steps_hold_white_noise():
    # normal entries; no correlation between neighbouring seeds, steps or pixels
    noise = torch.stack(draw(list(range(64)), 48, components=1, shape=(1, 8, 8))[1:], 1).double()  # (64, 48, 1, 8, 8)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    for axis in (0, 1, 3, 4):
        size = noise.shape[axis]
        product = noise.narrow(axis, 0, size - 1) * noise.narrow(axis, 1, size - 1)
        assert abs(product.mean().item()) < 4 / math.sqrt(product.numel())


def test_one_chunk_is_all_that_is_kept():
    source = NoiseSource([0, 1], (1, 4, 4), CPU, torch.float32)
    for _ in range(100):
        source.step()
    held = [value for value in vars(source).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in held) == 2 * 16 * 16


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1, np.int64(5), torch.tensor(5)])
def test_a_whole_number_below_2_to_32_is_a_seed(seed):
    drawn = draw([seed], 1)
    generator = torch.Generator().manual_seed(int(seed))
    assert torch.equal(drawn[0][0], torch.randn((2, *SHAPE), generator=generator))


def test_torchs_generator_on_the_cpu_is_mt19937_with_32_bits_of_the_seed():
    """Why seeds end at 2^32. NumPy's MT19937, seeded by init_genrand, is the same generator written by others."""
    for seed in (0, 7, 2**32 - 1):
        bits = np.random.RandomState(seed).randint(0, 2**32, 700, dtype=np.uint32).astype(np.int64)
        for same in (seed, seed + 2**32, seed - 2**32):
            generator = torch.Generator().manual_seed(same)
            assert torch.equal(torch.empty(700).random_(2**24, generator=generator).long(), torch.tensor(bits) % 2**24)


@pytest.mark.parametrize(
    "seed", [-1, 2**32, 7 + 2**32, 2**62 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 1.0, 1.5, math.nan, "7", None]
)
def test_any_other_seed_is_refused_by_name(seed):
    """Each of them would be the sample of another seed, or none."""
    with pytest.raises(Refusal, match=r"^seeds must be whole numbers from 0 to 4294967295, got ") as refused:
        draw([3, seed], 1)
    assert refused.value.argument == "seeds"
    assert str(seed) in str(refused.value)
