"""One-component dynamics with a law in closed form: a member states two functions, its SDE follows."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from common.dynamics.base import LinearDynamics
from common.refusal import Refusal

# Of log sigma. FVP (0.3, 3) and FVE stand still in places (slopes down to 3e-12): what rounding leaves is not a fall.
FALL_TOLERANCE = 1e-8
# Between a member's own rates and those of its law: a share of the rate, and a change per e-fold of time.
RATE_TOLERANCE, RATE_FLOOR = 1e-6, 1e-9
FROZEN = -100.0  # log scale below which a mode has lost the data, and a law may be held where float64 can write it


class ClosedForm(LinearDynamics):
    """Base of dynamics with A = 1, where v = z, w = 1 and R = 0.

    A member states its law v | x0 ~ N(m x0, sc^2) by two functions of times (B,) float64, each to (B, *modes): either
    :meth:`scale` and :meth:`std`, m and sc, or :meth:`log_scale` and :meth:`noise_level`, log m and log(sc / m), which
    keep more digits where m or sc is tiny. Every row must follow from its own time alone. The SDE dX = f X dt + g dW
    follows by differentiation; a member may write :meth:`drift` and :meth:`diffusion` too, which are then compared
    with what follows.
    """

    num_components = 1

    def scale(self, t: Tensor) -> Tensor:
        """m."""
        return self.log_scale(t).exp()

    def std(self, t: Tensor) -> Tensor:
        """sc, the deviation of v given x0."""
        return (self.log_scale(t) + self.noise_level(t)).exp()

    def log_scale(self, t: Tensor) -> Tensor:
        """log m."""
        return self.scale(t).log()

    def noise_level(self, t: Tensor) -> Tensor:
        """log sigma = log(sc / m)."""
        return (self.std(t) / self.scale(t)).log()

    def drift(self, t: Tensor) -> Tensor:
        """Drift rate f in dX = f X dt + g dW: d log m / dt."""
        return time_derivative(self.log_scale, t.clamp_min(self.t_min))

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion g in dX = f X dt + g dW: sc sqrt(2 d log sigma / dt)."""
        t = t.clamp_min(self.t_min)
        return self.std(t) * (2 * time_derivative(self.noise_level, t).clamp_min(0)).sqrt()

    def admit(self) -> None:
        """As in the base class; the SDE must also be that of the law.

        Raises:
            TypeError: if a member states neither of two functions that follow from each other.
            Refusal: if sigma falls in time, or a drift or diffusion is written that is not the law's.
        """
        for one, other in (("scale", "log_scale"), ("std", "noise_level")):
            if all(getattr(type(self), name) is getattr(ClosedForm, name) for name in (one, other)):
                raise TypeError(f"{type(self).__name__} must state {one} or {other}")
        super().admit()
        t = self._admission_times()[1:-1]
        level = self.noise_level(t)
        falls = (level.diff(dim=0) < -FALL_TOLERANCE).reshape(len(t) - 1, -1).any(1)
        if falls.any():
            here = t[int(falls.nonzero()[0])].item()
            raise Refusal(f"{self}: the noise level sigma falls after t = {here:g}; no diffusion takes noise away")
        if type(self).drift is not ClosedForm.drift:
            self._compare("drift", "d log m / dt", t, self.drift(t), ClosedForm.drift(self, t))
        if type(self).diffusion is not ClosedForm.diffusion:
            # compared as the growth of log sigma that they make
            growth = [(g / self.std(t)).square() / 2 for g in (self.diffusion(t), ClosedForm.diffusion(self, t))]
            self._compare("diffusion", "sc sqrt(2 d log sigma / dt)", t, *growth)

    def _compare(self, name: str, formula: str, t: Tensor, written: Tensor, derived: Tensor) -> None:
        """Refuse a written rate (B, *modes) that is not the derived one."""
        per_time = (1 / t).reshape(-1, *(1,) * (derived.ndim - 1))
        wrong = (written - derived).abs() > RATE_TOLERANCE * derived.abs() + RATE_FLOOR * per_time
        wrong = (wrong | written.isnan()) & (self.log_scale(t) > FROZEN)
        if wrong.any():
            here = t[int(wrong.reshape(len(t), -1).any(1).nonzero()[0])].item()
            raise Refusal(
                f"{self}: {name} is not that of its law at t = {here:g}, {formula}; leave {name} out, then it follows"
            )

    def drift_matrix(self, t: Tensor) -> Tensor:
        return self.drift(t).unsqueeze(1).unsqueeze(1)

    def diffusion_vector(self, t: Tensor) -> Tensor:
        return self.diffusion(t).unsqueeze(1)

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # times below t_min (0 among them) have no finite noise level: they are read as t_min
        t = t.clamp_min(self.t_min)
        return self.scale(t), self.noise_level(t)

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


def time_derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of a function of times whose rows follow from their own time alone.

    Forward mode, so that one evaluation serves all modes, and no_grad and inference_mode do not matter.

    Args:
        function: times (B,) to (B, *modes).
        t: times (B,).

    Returns:
        (B, *modes).
    """
    with warnings.catch_warnings():
        # the first forward derivative of a process has torch load code of its own that it deprecates
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        slope: Tensor = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
    return slope
