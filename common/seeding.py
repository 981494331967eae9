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
    """Draws of one optimiser step, made for all of its samples and cut to one part of them.

    So a step is the same however its samples are parted, among processes or in micro-steps.

    Args:
        seed: seed of the run.
        step: index of the step; below 0 of samples that are held out.
        batch: samples of a part.
        part: index of the part.
        parts: number of parts.
        device: where to draw.
    """

    def __init__(self, seed: int, step: int, batch: int, part: int, parts: int, device: torch.device | str) -> None:
        self._key, self._part = (seed, step), part
        self._total, self._mine = batch * parts, slice(part * batch, (part + 1) * batch)
        self._device = device

    @classmethod
    def of_micro_step(
        cls,
        seed: int,
        micro_step: int,
        batch: int,
        rank: int,
        world_size: int,
        accumulated: int,
        device: torch.device | str,
    ) -> "StepRandomness":
        """Those of a process in a micro-step.

        Args:
            seed: seed of the run.
            micro_step: index of the micro-step (optimiser step times accumulation plus position).
            batch: samples per process and micro-step.
            rank: index of the process.
            world_size: number of processes.
            accumulated: micro-steps of an optimiser step.
            device: where to draw.
        """
        step, position = divmod(micro_step, accumulated)
        return cls(seed, step, batch, position * world_size + rank, accumulated * world_size, device)

    @classmethod
    def of_rows(cls, seed: int, step: int, total: int, rows: slice, device: torch.device | str) -> "StepRandomness":
        """Those of any rows of a step of ``total`` samples."""
        draws = cls(seed, step, total, 0, 1, device)
        draws._mine = rows
        return draws

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(mix(*self._key, stream))

    def uniform(self, stream: int) -> Tensor:
        """One number in [0, 1) per sample, (B,) float64."""
        draw = torch.rand(self._total, generator=self._generator(stream), device=self._device, dtype=torch.float64)
        return draw[self._mine]

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """White noise (B, *shape), float32."""
        draw = torch.randn(self._total, *shape, generator=self._generator(stream), device=self._device)
        mine = draw[self._mine]
        return mine if len(mine) == self._total else mine.clone()  # that of the others is not kept

    def restart_dropout(self) -> None:
        """Seed torch's global generator, which dropout draws from, for this step and part.

        Called before every evaluation of a network, so that each sees the same masks, and a resumed one those of an
        uninterrupted one.
        """
        torch.manual_seed(mix(*self._key, DROPOUT, self._part))
