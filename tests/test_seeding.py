"""Random numbers of training: pure functions of (seed, step, stream, position), equal for any number of processes."""

import itertools
import statistics

import pytest
import torch
from scipy import stats

from common.seeding import DROPOUT, FLIPS, NOISE, ORDER, TIMES, StepRandomness, mix

STREAMS = (TIMES, NOISE, FLIPS, DROPOUT, ORDER)


@pytest.mark.parametrize(
    ("numbers", "value"),
    [
        ((), 0),
        # one number: the first output of SplitMix64 at that seed, published (Vigna's splitmix64.c, Rosetta Code)
        ((0,), 0xE220A8397B1DCDAF),
        ((1234567,), 6457827717110365317),
        # several: pinned, because a run resumed tomorrow must draw what it draws today
        ((0, 0), 12035550249420947055),
        ((0, 1), 3069472533636442495),
        ((1, 0), 6791897765849424158),
        ((7, -1, 3), 15879868970586036806),
    ],
)
def test_mix_is_pinned(numbers, value):
    assert mix(*numbers) == value


def test_mix_never_collides_where_training_uses_it():
    seeds, steps = (0, 1, 2, 41, 42, 2**31, 2**63), (*range(-50, 1500), 10**6, 10**9)
    tuples = list(itertools.product(seeds, steps, STREAMS)) + list(itertools.product(seeds, steps, (DROPOUT,), (1, 2)))
    tuples += [(seed,) for seed in range(1000, 3000)] + list(itertools.product(range(10, 40), range(1500, 1600)))
    assert len(set(tuples)) == len(tuples)
    assert len({mix(*numbers) for numbers in tuples}) == len(tuples)


def test_the_32_bits_that_a_cpu_takes_repeat_as_seldom_as_chance():
    """Of n steps n^2 / 2^33 pairs share their noise on a CPU (CUDA takes all 64 bits): 10.5 of 300,000."""
    count = 300_000
    taken = {mix(0, step, NOISE) % 2**32 for step in range(count)}
    assert count - len(taken) < 30  # a Poisson number of mean 10.5 is above with probability 1e-7


@pytest.mark.parametrize("position", [0, 1, 2])
def test_mix_avalanche(position):
    """One flipped bit of any number flips half of the 64 bits."""
    flipped = []
    for base in ((0, 0, 0), (3, 1000, 4), (12345, 67890, 2)):
        for bit in range(64):
            changed = list(base)
            changed[position] ^= 1 << bit
            flipped.append((mix(*base) ^ mix(*changed)).bit_count())
    # 192 draws of Binomial(64, 1/2): mean 32 +- 0.29, each within 6 deviations of 4
    assert statistics.mean(flipped) == pytest.approx(32, abs=1.5)
    assert min(flipped) >= 8
    assert max(flipped) <= 56


def test_mix_depends_on_the_order_of_its_numbers():
    assert len({mix(*numbers) for numbers in itertools.permutations((1, 2, 3))}) == 6


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("micro_step", [0, 17, -1])
def test_ranks_share_the_draw_of_one_process(world_size, micro_step):
    batch = 12 // world_size
    whole = StepRandomness(5, micro_step, 12, 0, 1, "cpu")
    parts = [StepRandomness(5, micro_step, batch, rank, world_size, "cpu") for rank in range(world_size)]
    assert torch.equal(torch.cat([part.uniform(TIMES) for part in parts]), whole.uniform(TIMES))
    assert torch.equal(torch.cat([part.normal(NOISE, (1, 4, 4)) for part in parts]), whole.normal(NOISE, (1, 4, 4)))


def test_draws_are_repeatable_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    draws = [StepRandomness(1, 2, 8, 0, 1, "cpu") for _ in range(2)]
    draws[1].normal(FLIPS, (3,))  # using another stream in between shifts nothing
    draws[1].uniform(NOISE)
    assert torch.equal(draws[0].uniform(TIMES), draws[1].uniform(TIMES))
    assert torch.equal(draws[0].normal(NOISE, (5,)), draws[1].normal(NOISE, (5,)))
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_steps_and_seeds_are_independent():
    count = 4096
    keys = [(0, 0), (0, 1), (1, 0), (1, 1)]
    draws = [StepRandomness(s, k, count, 0, 1, "cpu").uniform(stream) for s, k in keys for stream in STREAMS]
    assert all(draw.dtype == torch.float64 for draw in draws)
    correlation = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / count**0.5  # 190 pairs of independent draws stay below


def test_laws_of_the_draws():
    draws = StepRandomness(3, 9, 5000, 0, 1, "cpu")
    uniform, normal = draws.uniform(TIMES), draws.normal(NOISE, (2,))
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert normal.dtype == torch.float32
    assert normal.shape == (5000, 2)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
