"""Replacement: after every step the known part of the state is that of the observation (score-SDE, FDP)."""

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.guidance.conditioned import Conditioned
from common.guidance.operators import Operator


class Replacement(Conditioned):
    """The known part of a state is replaced by that of the observation, diffused to the time of the state.

    It acts on states: ``sample(.., observation=method)``. With P = A^+ A the known part of a sample,

        z <- z - P z + P Z_t,     Z_t given x0 = A^+ y + (1 - P) x0_hat,    A^+ = A' (A A')^-1

    Under dynamics whose modes decay at rates of their own what is unknown has a part in the known values of Z_t, so
    the newest x0_hat stands for it. Noise of the observation is not known to this method, but for that the result is
    not made to agree with a noisy one.

    Args:
        paper: as published: zeros stand for what is unknown; after every part of a step the observation is diffused
            to the end of the step, and for ``Grey`` to its start, without making the result agree.
    """

    imposes = True

    def __init__(
        self,
        denoiser: X0Denoiser,
        dynamics: LinearDynamics,
        operator: Operator,
        y: Tensor,
        *,
        noise_std: float = 0.0,
        paper: bool = False,
    ) -> None:
        super().__init__(denoiser, dynamics, operator, y, noise_std=noise_std)
        self.paper = paper
        self._newest: Tensor | None = None

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        found: Tensor = self.denoiser(v, t, labels)
        self._newest = found.detach().to(v.dtype)
        return found

    @torch.no_grad()
    def impose(self, z: Tensor, t: Tensor, noise: Tensor, step: tuple[Tensor, Tensor]) -> Tensor:
        """The state z (B, A, C, *S) at time t (1,), its known part replaced.

        Args:
            z: state.
            t: its time.
            noise: white noise in the shape of z.
            step: times (1,) at which the present step starts and ends.
        """
        if self.paper:
            t = step[0] if self.operator.paper_early else step[1]
        known = self.operator.inverse(self.y.to(z.dtype))
        if self._newest is not None and not self.paper:
            known = known + self._newest - self._known_part(self._newest)
        wanted = self.process.sample_state(known, t, noise)
        flat = (wanted - z).flatten(0, 1)  # components are known alike
        return z + self._known_part(flat, z.shape[1]).reshape(z.shape)

    @torch.no_grad()
    def finish(self, x: Tensor) -> Tensor:
        return x if self.paper and self.operator.paper_early else super().finish(x)

    def _known_part(self, x: Tensor, components: int = 1) -> Tensor:
        """P x of samples (B, C, *S), or of the components of states one after the other, (B A, C, *S)."""
        if components == 1:
            return self.operator.inverse(self.operator(x))
        parts = x.unflatten(0, (-1, components)).unbind(1)
        return torch.stack([self.operator.inverse(self.operator(part)) for part in parts], 1)
