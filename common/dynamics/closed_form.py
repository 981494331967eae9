"""One-component dynamics with a law in closed form: a member states log m and log sigma beside its SDE."""

from abc import abstractmethod

import torch
from torch import Tensor

from common.dynamics.base import LinearDynamics


class ClosedForm(LinearDynamics):
    """Base of dynamics with A = 1, where v = z, w = 1 and R = 0.

    A member gives four functions of times (B,) float64, each to (B, *modes): :meth:`drift`, :meth:`diffusion`,
    :meth:`log_scale` and :meth:`noise_level`.
    """

    num_components = 1

    @abstractmethod
    def drift(self, t: Tensor) -> Tensor:
        """Drift rate f in dX = f X dt + g dW."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion g in dX = f X dt + g dW."""

    @abstractmethod
    def log_scale(self, t: Tensor) -> Tensor:
        """log m."""

    @abstractmethod
    def noise_level(self, t: Tensor) -> Tensor:
        """log sigma = log(sc / m)."""

    def drift_matrix(self, t: Tensor) -> Tensor:
        return self.drift(t).unsqueeze(1).unsqueeze(1)

    def diffusion_vector(self, t: Tensor) -> Tensor:
        return self.diffusion(t).unsqueeze(1)

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # times below t_min (0 among them) have no finite noise level: they are read as t_min
        t = t.clamp_min(self.t_min)
        return self.log_scale(t).exp(), self.noise_level(t)

    def _mean(self, t: Tensor) -> Tensor:
        return self._level(t)[0].unsqueeze(1)

    def _root(self, t: Tensor) -> Tensor:
        return self._std(*self._level(t)).unsqueeze(1).unsqueeze(1)

    def _cov(self, t: Tensor) -> Tensor:
        return self._root(t).square()

    def _weight(self, t: Tensor) -> Tensor:
        return torch.ones_like(self._mean(t))

    def _complement(self, t: Tensor) -> Tensor:
        return torch.zeros_like(self._root(t))

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As in the base class, from the formulas: U = m_t / m_s, Q = m_t^2 (sigma_t^2 - sigma_s^2)."""
        s, t = s.double().clamp_min(self.t_min), t.double().clamp_min(self.t_min)
        map_ = (self.log_scale(t) - self.log_scale(s)).exp()
        start, end = self.noise_level(s), self.noise_level(t)
        # m_t^2 (sigma_t^2 - sigma_s^2) = sc_t^2 (1 - sigma_s^2 / sigma_t^2), without a difference of large numbers
        cov = (2 * (self.log_scale(t) + end)).exp() * -torch.expm1(2 * (start - end))
        return map_.unsqueeze(1).unsqueeze(1), cov.unsqueeze(1).unsqueeze(1)

    def scalar_path(self) -> LinearDynamics:
        """The dynamics itself: it has one component already."""
        return self
