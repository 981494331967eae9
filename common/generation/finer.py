"""Samples on another grid than that of the run: its last evaluation alone is on that one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.backbones.resizing import TARGET
from common.data.spec import LARGEST, DataSpec
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.guidance import Matched
from common.refusal import Refusal
from common.samplers.base import Posterior

AT_ONCE = 2**18  # points that the network answers at together


@dataclass(frozen=True)
class Finer:
    """What gives x0_hat on another grid, of the state at the end of sampling.

    It is the network without guidance, observation and clipping: these were at work on the way to that state.

    Attributes:
        denoiser: of the run, or under another process.
        shape: (C, *S) of the samples that the state is of.
        target: the other grid.
    """

    denoiser: Denoiser | Matched
    shape: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def of(cls, denoiser: Denoiser | Matched, spec: DataSpec, target: Sequence[int]) -> "Finer":
        """For samples of a run.

        Raises:
            Refusal: if its network cannot answer there.
        """
        grid = tuple(target)
        if len(grid) != len(spec.grid) or min(grid) < 1:
            axes = "height and width, e.g. 128,128" if spec.is_image else "one number of points"
            raise Refusal(f"must be {axes}, got {grid}; samples of this run have {spec.grid}", TARGET)
        if spec.channels * math.prod(grid) > LARGEST:
            raise Refusal(f"{grid} has {math.prod(grid):,} points; at most {LARGEST:,} numbers make a sample", TARGET)
        own = denoiser.denoiser if isinstance(denoiser, Matched) else denoiser
        assert isinstance(own, Denoiser)  # Matched is made of one
        own.check_grid(grid)
        return cls(denoiser, spec.shape, grid)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of such samples."""
        own = self.denoiser.denoiser if isinstance(self.denoiser, Matched) else self.denoiser
        told = getattr(getattr(own, "backbone", None), "on_other_grids", "")
        return (f"samples on another grid: {told}",) if told else ()

    def spec(self, spec: DataSpec) -> DataSpec:
        """What a sample on the other grid is; a sound has more points per second there."""
        rate = spec.sample_rate and max(1, round(spec.sample_rate * self.target[0] / spec.grid[0]))
        return replace(spec, shape=(spec.channels, *self.target), sample_rate=rate)

    @torch.no_grad()
    def __call__(self, dynamics: LinearDynamics, z: Tensor, t_end: float, labels: Tensor | None) -> Tensor:
        """x0_hat (B, C, *target), some samples at a time.

        Args:
            dynamics: what was reversed.
            z: state at t_end (B, A, C, *S).
            t_end: the end of sampling.
            labels: classes (B,) int64, or None.
        """
        t = torch.tensor([t_end], dtype=torch.float64, device=z.device)
        size = max(1, AT_ONCE // math.prod(self.target))
        parts = []
        for start in range(0, len(z), size):
            some = slice(start, start + size)
            posterior = Posterior(dynamics, self._answer, None if labels is None else labels[some])
            parts.append(posterior(z[some], t))
        return torch.cat(parts)

    def _answer(self, v: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        found: Tensor = self.denoiser(v, t, labels, out_shape=self.target)
        return found
