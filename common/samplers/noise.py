"""Random numbers of a sampler: sample i depends on seed i alone, never on its batch mates."""

from collections.abc import Iterable, Sequence
from operator import index

import torch
from torch import Tensor

from common.refusal import Refusal
from common.seeding import SEEDS

CHUNK = 16  # steps drawn at a time for each sample; part of the definition of a sample, do not change


def check_seeds(seeds: Iterable[int]) -> None:
    """Refuse what is no seed of its own.

    Raises:
        Refusal: for anything but whole numbers below 2^32: on a CPU it would be the sample of another seed.
    """
    for seed in seeds:
        try:
            known = 0 <= index(seed) < SEEDS
        except TypeError:
            known = False
        if not known:
            raise Refusal(f"must be whole numbers from 0 to {SEEDS - 1}, got {seed}", "seeds")


def fresh_seeds(count: int) -> list[int]:
    """Different seeds from torch's global generator; those of another call may be among them."""
    seeds: dict[int, None] = {}
    while len(seeds) < count:
        # 62 bits, of which 32 count: what torch.manual_seed gave in earlier versions it gives now
        drawn = torch.randint(2**62, (count - len(seeds),)) % SEEDS
        seeds |= dict.fromkeys(drawn.tolist())
    return list(seeds)


class NoiseSource:
    """One generator per sample, so that any batch, process or restart gives the same sample for a seed.

    Args:
        seeds: one integer in [0, 2^32) per sample.
        shape: shape of one sample (C, *S).
        device: where the numbers are drawn (CPU and CUDA generators differ).
        dtype: dtype of the numbers.
        draws: white-noise fields per step, at least 1.

    Raises:
        Refusal: for any other seed.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        draws: int = 1,
    ) -> None:
        check_seeds(seeds)
        self.shape = tuple(shape)
        self._step_shape = self.shape if draws == 1 else (draws, *self.shape)
        self._generators = [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
        self._device, self._dtype = device, dtype
        self._chunk: Tensor | None = None
        self._position = CHUNK

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        draws = [torch.randn(shape, generator=g, device=self._device, dtype=self._dtype) for g in self._generators]
        return torch.stack(draws)

    def start(self, components: int) -> Tensor:
        """White noise for the start state, (B, components, C, *S); call it before :meth:`step`."""
        return self._draw((components, *self.shape))

    def step(self) -> Tensor:
        """White noise of the next step: (B, C, *S), or (B, draws, C, *S) for several draws."""
        if self._chunk is None or self._position == CHUNK:
            self._chunk, self._position = self._draw((CHUNK, *self._step_shape)), 0
        self._position += 1
        return self._chunk[:, self._position - 1]
