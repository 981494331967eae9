"""What is observed of a sample: a linear map and its adjoint."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.guidance.conjugate import solve

PROBES = 3  # random pairs by which an adjoint is tested
AGREES = 1e-9  # of the inner products' size, in float64
INVERSE_STEPS = 100  # conjugate-gradient steps of a pseudo-inverse, at most
INVERSE_TOLERANCE = 1e-6  # of the residual, at which they end


class Operator(nn.Module, ABC):
    """A linear map A from samples to observations: y = A x0 + noise.

    Its tensors are buffers, so that ``to`` moves it. One that differs from sample to sample (masks of their own) holds
    them along the first axis and overrides :meth:`rows`.

    Attributes:
        projector: whether A A' is an orthogonal projection: what lies outside its range is noise alone.
        paper_early: whether the published sampler of this task noises the known part to the time before a step, not
            after it (``Replacement`` under ``paper``).
    """

    projector: ClassVar[bool] = False
    paper_early: ClassVar[bool] = False

    @abstractmethod
    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the observation of one sample of shape (C, *S).

        Raises:
            Refusal: if it cannot be applied to such samples.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: (B, C, *S) to (B, *shape_of)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A' y: (B, *shape_of) to (B, C, *S)."""

    def inverse(self, y: Tensor) -> Tensor:
        """The pseudo-inverse, A' (A A')^-1 y: the smallest sample that has this observation, (B, C, *S)."""
        if self.projector:
            return self.adjoint(y)

        def squared(u: Tensor) -> tuple[Tensor, Tensor]:
            back = self.adjoint(u)
            return self(back), back

        return solve(squared, y, steps=INVERSE_STEPS, tolerance=INVERSE_TOLERANCE).carried

    def values(self, shape: Sequence[int]) -> Tensor:
        """How many values are observed of a sample of shape (C, *S): the rank of A, () or (N,) float64."""
        return torch.tensor(float(math.prod(self.shape_of(shape))), dtype=torch.float64)

    def rows(self, indices: Sequence[int]) -> "Operator":
        """The operator of some samples; itself if it is the same for all."""
        return self

    def picture(self, y: Tensor) -> Tensor:
        """What is known, on a grid that can be looked at: (B, C or 1, *S'), NaN where nothing is known."""
        return y


def check_adjoint(operator: Operator, shape: Sequence[int], count: int = 2) -> None:
    """Hold <A x, y> against <x, A' y> on random pairs, and A A' A against A for a projector.

    Args:
        operator: what is tested; it stays as it is.
        shape: shape (C, *S) of a sample.
        count: samples of a batch; as many as the operator holds, if it differs from sample to sample.

    Raises:
        ValueError: if they differ, or a result has another shape than it should.
    """
    generator = torch.Generator().manual_seed(0)
    operator, observed = copy.deepcopy(operator).cpu().double(), operator.shape_of(shape)
    name = type(operator).__name__
    for _ in range(PROBES):
        x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        y = torch.randn(count, *observed, generator=generator, dtype=torch.float64)
        seen, back = operator(x), operator.adjoint(y)
        if seen.shape != y.shape or back.shape != x.shape:
            raise ValueError(
                f"{name}: A x has shape {tuple(seen.shape)} and A' y {tuple(back.shape)}, they should have "
                f"{tuple(y.shape)} and {tuple(x.shape)}"
            )
        here, there = (seen * y).flatten(1).sum(1), (x * back).flatten(1).sum(1)
        if bool(((here - there).abs() > AGREES * (seen.norm() * y.norm() + x.norm() * back.norm())).any()):
            raise ValueError(f"{name}.adjoint is not the adjoint: <A x, y> differs from <x, A' y>")
        if operator.projector and bool((operator(operator.adjoint(seen)) - seen).norm() > AGREES * seen.norm()):
            raise ValueError(f"{name} says that it is a projector, but A A' A x differs from A x")
