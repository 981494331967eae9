"""Correctors: what brings a state nearer to the law of its own time, between two steps of a predictor."""

import math

import torch
from torch import Tensor

from common.broadcast import align
from common.dynamics import LinearDynamics
from common.dynamics.basis import apply
from common.refusal import Refusal
from common.samplers.base import Posterior


class Corrector:
    """Brings a state nearer to the law of its own time; this one leaves it as it is.

    Args:
        snr: signal-to-noise ratio of a correction, above 0.
        paper: as published: one step size for the whole batch.

    Raises:
        Refusal: for a ratio out of range.
    """

    evaluations: int = 0
    draws: int = 0

    def __init__(self, snr: float, paper: bool) -> None:
        if not 0 < snr < math.inf:
            raise Refusal(f"must be above 0 and finite, got {snr}", "snr")
        self.snr, self.paper = snr, paper

    def __call__(self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Correct z (B, A, C, *S) at time t (1,) with noise (B, draws, C, *S)."""
        return z


def unit_kick(dynamics: LinearDynamics, t: Tensor) -> Tensor:
    """d = G / sqrt(G' S^-1 G), (1, A, *modes): what noise can move, in units of the law given x0; sc if A = 1."""
    law = dynamics.moments(t)
    if dynamics.num_components == 1:
        return law.std.unsqueeze(1)
    g = dynamics.diffusion_vector(t.double())
    along = torch.einsum("bi...,bi...->b...", g, law.weight) / law.std
    across = torch.einsum("bi...,bij...,bj...->b...", g, law.complement, g)
    return g / (along.square() + across).sqrt().unsqueeze(1)


class Langevin(Corrector):
    """Langevin steps (score-SDE, algorithms 4 and 5), the same for all samples and mode by mode as long as suits it:

        z + 2 snr^2 d d' s + 2 snr d xi,      d = G / sqrt(G' S^-1 G)

    This is z + e G G' s + sqrt(2 e) G xi with e = 2 (snr |G xi| / |G G' s|)^2, both norms being what one mode has on
    average given x0. Steps known by t alone have the stationary law of Langevin's theory, for data of variance V in a
    mode Var = P / (1 - snr^2 sc^2 / P), P = m^2 V + sc^2 (along d), whatever the dimension. Norms of a sample depend on
    the kick that they scale, and norms over all modes leave a step that is far too long in the fastest one: 1.59 of
    the variance of heat's mean at t = .9 on 32 x 32.

    ``paper`` takes the published norms, over all modes and means over the batch; any factor of G cancels, so under
    heat dynamics they are those of Langevin preconditioned with r, as published.
    """

    evaluations = 1
    draws = 1

    def __init__(self, snr: float, paper: bool) -> None:
        super().__init__(snr, paper)
        if not paper and snr >= 1:
            raise Refusal(f"must be below 1, got {snr}: from 1 on corrections diverge", "snr")

    def __call__(self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        if self.paper:
            return self._published(dynamics, posterior, z, t, noise)
        basis, kick = dynamics.basis, unit_kick(dynamics, t)
        score = dynamics._score(basis.analysis(z), t, basis.analysis(posterior(z, t)))
        along = 2 * self.snr**2 * apply(kick.unsqueeze(1), score) + 2 * self.snr * basis.analysis(noise)
        return z + basis.synthesis(apply(kick.unsqueeze(2), along))

    def _published(self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        kick = dynamics.apply_diffusion(noise.squeeze(1), t)
        pull = dynamics.attraction(z, t, posterior(z, t))
        kick_norm, pull_norm = (x.flatten(1).norm(dim=1).mean(0, keepdim=True) for x in (kick, pull))
        size = 2 * (self.snr * kick_norm / pull_norm).square()
        return z + align(size, z) * pull + align((2 * size).sqrt(), z) * kick


CORRECTORS: dict[str, type[Corrector]] = {"langevin": Langevin, "none": Corrector}
