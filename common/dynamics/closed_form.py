"""One-component dynamics with a law in closed form: two functions of time say it all."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from common.dynamics.base import ADMISSION_TIMES, LinearDynamics
from common.refusal import Refusal

# A drift and a diffusion that a member writes are compared with the slopes of its law
CHECKED = 5  # at so many times between t_min and T,
STEP = 1e-4  # found from differences over this share of the time (torch.func.jvp takes two seconds when first used),
AGREEMENT = 1e-5  # and must agree this closely,
FAINT = -200.0  # unless the log scale is lower: such a mode is gone, and may be cut off

FALL_TOLERANCE = 1e-8  # of log sigma, what rounding leaves of a level that stands still


class ClosedForm(LinearDynamics):
    """Base of dynamics with A = 1, where v = z, w = 1 and R = 0.

    A member gives two functions of times (B,) float64, each to (B, *modes): :meth:`log_scale` and :meth:`noise_level`
    or, if those are simpler, :meth:`scale` and :meth:`std`. The SDE dX = f X dt + g dW follows by differentiation,

        f = d log m / dt,      g = sc sqrt(2 d log sigma / dt),

    unless a member writes :meth:`drift` and :meth:`diffusion` itself; they are then compared when one is made.
    """

    num_components = 1

    def log_scale(self, t: Tensor) -> Tensor:
        """log m."""
        return self.scale(t).log()

    def noise_level(self, t: Tensor) -> Tensor:
        """log sigma = log(sc / m)."""
        return self.std(t).log() - self.scale(t).log()

    def scale(self, t: Tensor) -> Tensor:
        """m, the share of the data that is left."""
        return self.log_scale(t).exp()

    def std(self, t: Tensor) -> Tensor:
        """sc, the deviation of v given x0."""
        return self.scale(t) * self.noise_level(t).exp()

    def drift(self, t: Tensor) -> Tensor:
        """Drift rate f in dX = f X dt + g dW."""
        return slope(self.log_scale, t.clamp_min(self.t_min))

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion g in dX = f X dt + g dW."""
        t = t.clamp_min(self.t_min)
        return self.std(t) * (2 * slope(self.noise_level, t).clamp_min(0)).sqrt()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for pair in (("log_scale", "noise_level"), ("scale", "std")):
            if all(getattr(cls, name) is not getattr(ClosedForm, name) for name in pair):
                return
        raise TypeError(f"{cls.__name__} must define log_scale and noise_level, or scale and std")

    def admit(self) -> None:
        """As in the base class; sigma must not fall, and a drift or diffusion that is written must belong to the law.

        Raises:
            Refusal: naming what is wrong, and where.
        """
        super().admit()
        times = torch.linspace(self.t_min, self.horizon, ADMISSION_TIMES, dtype=torch.float64)
        falls = (self.noise_level(times).diff(dim=0) < -FALL_TOLERANCE).reshape(ADMISSION_TIMES - 1, -1).any(1)
        if bool(falls.any()):
            begin, end = times[int(falls.nonzero()[0]) :][:2].tolist()
            raise Refusal(
                f"{type(self).__name__}: the noise level falls between t = {begin:.3g} and {end:.3g}, and no diffusion "
                "takes noise away. std over scale must grow with t"
            )
        share = torch.arange(1, CHECKED + 1, dtype=torch.float64) / (CHECKED + 1)
        t = torch.lerp(torch.tensor(self.t_min, dtype=torch.float64), torch.tensor(self.horizon).double(), share)
        alive = self.log_scale(t) > FAINT
        rates: dict[str, Callable[[], Tensor]] = {
            "drift": lambda: difference(self.log_scale, t),
            "diffusion": lambda: self.std(t) * (2 * difference(self.noise_level, t)).sqrt(),
        }
        for name, rate in rates.items():
            if getattr(type(self), name) is getattr(ClosedForm, name):
                continue
            written, derived = getattr(self, name)(t), rate()
            # so written that NaN is apart too
            apart = ~((written - derived).abs() <= AGREEMENT * (derived.abs() + AGREEMENT)) & alive
            if bool(apart.any()):
                first = tuple(apart.nonzero()[0].tolist())  # time and mode
                raise Refusal(
                    f"{type(self).__name__}: {name} does not belong to its law: at t = {float(t[first[0]]):.3g} it is "
                    f"{float(written[first]):.6g}, and that of log_scale and noise_level is "
                    f"{float(derived[first]):.6g}. Leave {name} out, and it follows from them"
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


def log_expm1(x: Tensor) -> Tensor:
    """log(exp(x) - 1) of x > 0 without overflow: x + log(1 - exp(-x))."""
    return x + (-torch.expm1(-x)).log()


def slope(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of a function of times (B,) to (B, *modes), by forward differentiation; also under inference_mode."""
    # torch.func before torch 2.13 gives zeros in inference mode (its issue 177318), and the first call of a process
    # loads code of torch that warns of itself
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        t = t.clone() if t.is_inference() else t
        derivative: Tensor = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
    return derivative


def difference(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The same to eight digits or so, by central differences."""
    step = STEP * t
    change = function(t + step) - function(t - step)
    return change / (2 * step).reshape(-1, *(1,) * (change.ndim - 1))
