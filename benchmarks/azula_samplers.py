"""Samplers of azula 0.11, the nearest library, over our network and noise levels; see few_evaluations.py.

azula is no requirement: importing this file needs it. Its denoiser gives our x0_hat, and its schedule our m
and sc at a time of ours, so that times which are uniform to it are uniform in our time. All its deterministic samplers
are here: multistep ones of every order from 2 to 4 (of order 1 they are Euler's method, but for REAB).
"""

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from azula.sample import (
    DDIMSampler,
    EulerSampler,
    HeunSampler,
    REABSampler,
    Sampler,
    vABSampler,
    xEABSampler,
    zABSampler,
    zEABSampler,
)
from torch import Tensor

from common.dynamics import LinearDynamics
from common.samplers import Posterior

EVALUATIONS = {HeunSampler: 2}  # of a step; of all others 1
SAMPLERS: dict[str, tuple[type[Sampler], dict[str, int]]] = {
    "Euler": (EulerSampler, {}),
    "DDIM": (DDIMSampler, {}),
    "Heun": (HeunSampler, {}),
    "REAB1": (REABSampler, {"order": 1}),
    **{
        f"{kind.__name__.removesuffix('Sampler')}{order}": (kind, {"order": order})
        for kind in (vABSampler, zABSampler, xEABSampler, zEABSampler, REABSampler)
        for order in (2, 3, 4)
    },
}


class Levels(Schedule):
    """m and sc of a dynamics of one component and one noise level, in float64.

    Args:
        dynamics: whose they are.
    """

    def __init__(self, dynamics: LinearDynamics) -> None:
        self._dynamics = dynamics

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        law = self._dynamics.moments(t.flatten())
        return law.scale.reshape(t.shape), law.std.reshape(t.shape)


class Network(Denoiser):
    """Our network as azula asks for it.

    Args:
        dynamics: whose noise levels it knows.
        posterior: state (B, 1, C, *S) and time (1,) to x0_hat (B, C, *S).
    """

    def __init__(self, dynamics: LinearDynamics, posterior: Posterior) -> None:
        super().__init__()
        self.schedule = Levels(dynamics)
        self._posterior = posterior

    def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
        return DiracPosterior(mean=self._posterior(x_t.unsqueeze(1), t.reshape(1)))


def steps_for(name: str, nfe: int) -> int | None:
    """Steps of a sampler that take so many evaluations; None if there is no such number."""
    steps, rest = divmod(nfe, EVALUATIONS.get(SAMPLERS[name][0], 1))
    return steps if steps and not rest else None


@torch.no_grad()
def draw(name: str, dynamics: LinearDynamics, posterior: Posterior, start: Tensor, times: Tensor) -> Tensor:
    """Sample with azula.

    Args:
        name: of ``SAMPLERS``.
        dynamics: whose noise levels the network knows: one component, one level for all of the data.
        posterior: the network, whose calls are counted.
        start: noise (B, C, *S) at the first of the times.
        times: (steps + 1,) float64, which fall.

    Returns:
        The state at the last of the times (B, C, *S).
    """
    kind, arguments = SAMPLERS[name]

    class OnGrid(kind):
        @property
        def timesteps(self) -> Tensor:
            return times

    found: Tensor = OnGrid(Network(dynamics, posterior), silent=True, **arguments)(start)
    return found
