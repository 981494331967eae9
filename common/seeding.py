"""Random numbers of training as functions of (seed, step, stream, position): nothing to save, nothing to resume.

Torch's generator on a CPU takes the low 32 bits of what it is seeded with, that of CUDA all 64. So a seed that somebody
chooses lies below ``SEEDS``; the keys of :func:`mix`, one per step and stream, may repeat on a CPU as chance has it.
"""

import torch
from torch import Tensor

SEEDS = 2**32  # of seeds from here on, or below 0, a CPU would make the stream of another seed
_MASK = 2**64 - 1

# one stream per use, so that adding one never shifts another
TIMES, NOISE, FLIPS, DROPOUT, ORDER, LABELS = range(6)


def mix(*numbers: int) -> int:
    """A 64-bit seed from a tuple of integers (SplitMix64's finaliser, applied number by number)."""
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class StepRandomness:
    """Draws of one micro-step, made for the global batch and cut to this process.

    Args:
        seed: seed of the run.
        micro_step: index of the micro-step (optimiser step times accumulation plus position).
        batch: samples per process.
        rank: index of this process.
        world_size: number of processes.
        device: where to draw.
    """

    def __init__(
        self, seed: int, micro_step: int, batch: int, rank: int, world_size: int, device: torch.device | str
    ) -> None:
        self._key, self._rank = (seed, micro_step), rank
        self._total, self._mine = batch * world_size, slice(rank * batch, (rank + 1) * batch)
        self._device = device

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(mix(*self._key, stream))

    def uniform(self, stream: int) -> Tensor:
        """One number in [0, 1) per sample, (B,) float64."""
        draw = torch.rand(self._total, generator=self._generator(stream), device=self._device, dtype=torch.float64)
        return draw[self._mine]

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """White noise (B, *shape), float32."""
        draw = torch.randn(self._total, *shape, generator=self._generator(stream), device=self._device)
        return draw[self._mine]

    def restart_dropout(self) -> None:
        """Seed torch's global generator, which dropout draws from, for this micro-step and process.

        Called before every evaluation of a network, so that each sees the same masks, and a resumed one those of an
        uninterrupted one.
        """
        torch.manual_seed(mix(*self._key, DROPOUT, self._rank))
