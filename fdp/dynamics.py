"""Heat-type dynamics with coloured noise in Fourier space (FDP, arXiv 2303.00800, section 5 and appendix)."""

import math

import torch
from torch import Tensor

from common.dynamics.basis import Fourier
from common.dynamics.classic import MOST_DAMPED, check_range
from common.dynamics.closed_form import ClosedForm, log_expm1
from common.refusal import Refusal

# Constants of the published spectra (its code, sdetools): r is scaled for a 64 x 64 grid, b is bounded below.
NOISE_SCALE = 4096 / 23.27
NOISE_FLOOR = 2.0
DAMPING_FLOOR = 0.3
DAMPING_SCALE = 33.0**2
MOST_REGAINED = 300.0  # exponent up to which the inverse of damping is a float64 number, and its square


class HeatSubVP(ClosedForm):
    """Every Fourier mode is damped at its own rate b and driven by noise of its own variance r:

        dX = -beta(t) b X dt + sqrt(2 beta(t) r) dW,     m = exp(-b B(t)),     Var = (r / b) (1 - m^2)
        beta(t) = const c exp(c t),   B(t) = const (exp(c t) - 1),   c = log((beta_min + beta_max) / (2 const) + 1)

    with b = 1/(s + 0.3) + ((s + 2)/1089)^(1/4), r = (4096/23.27) / (s + 2) / energy_norm and s the squared frequency.

    Args:
        shape: data grid, 1-D or 2-D, even or odd, square or not.
        beta_min: lower end of the total damping B(1), which is the mean of both ends; at least 0.
        beta_max: upper end of the total damping B(1), at least ``beta_min`` and above 0.
        const: scale of the exponential schedule, above 0.
        x_norm: frequency of one cycle per point of the grid, above 0 (default: longest side of the grid).
        energy_norm: divisor of the variance of the noise, above 0.

    Raises:
        Refusal: for a value outside its range.
    """

    default_prior = "data"
    b: Tensor
    r: Tensor

    @classmethod
    def defaults_for(cls, grid: tuple[int, ...]) -> dict[str, object]:
        """x_norm is the longest side: one cycle per grid then has frequency 1."""
        return {"x_norm": float(max(grid))}

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        beta_min: float = 0.1,
        beta_max: float = 10.0,
        const: float = 0.02,
        x_norm: float,
        energy_norm: float = 1.0,
    ) -> None:
        super().__init__()
        shape = tuple(shape)
        if len(shape) not in (1, 2) or min(shape) < 2:
            raise Refusal(f"must be one or two sizes of at least 2, got {shape}", "shape")
        check_range(beta_min, beta_max, low_name="beta_min", high_name="beta_max", strict=False)
        for name, value in (("beta_max", beta_max), ("const", const), ("x_norm", x_norm), ("energy_norm", energy_norm)):
            if not 0 < value < math.inf:
                raise Refusal(f"must be above 0 and finite, got {value}", name)
        self.basis = Fourier(shape)
        self.shape, self.beta_min, self.beta_max, self.const = shape, beta_min, beta_max, const
        self.x_norm, self.energy_norm = x_norm, energy_norm
        self.c = math.log1p((beta_min + beta_max) / 2 / const)
        # cycles per sample times x_norm; on a square even grid the published |fftfreq| * x_norm
        axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[:-1]]
        axes.append(torch.fft.rfftfreq(shape[-1], dtype=torch.float64))
        squared = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0) * x_norm**2
        self.register_buffer(
            "b", 1 / (squared + DAMPING_FLOOR) + ((squared + NOISE_FLOOR) / DAMPING_SCALE) ** 0.25, False
        )
        self.register_buffer("r", NOISE_SCALE / (squared + NOISE_FLOOR) / energy_norm, False)
        self._slowest = int(self.b.argmin())
        fastest = float(self.b.max())
        if fastest * (beta_min + beta_max) / 2 > MOST_DAMPED:
            raise Refusal(
                f"{beta_max:g} is too large: with beta_min={beta_min:g} and x_norm={x_norm:g} at most "
                f"{2 * MOST_DAMPED / fastest - beta_min:.4g} leaves every mode a share of the data that a number can "
                f"hold, exp(-{MOST_DAMPED:g})",
                "beta_max",
            )

    def beta(self, t: Tensor) -> Tensor:
        """Overall rate, (B,)."""
        return self.const * self.c * (self.c * t).exp()

    def total(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t, (B,)."""
        return self.const * torch.expm1(self.c * t)

    def _per_mode(self, rate: Tensor, spectrum: Tensor) -> Tensor:
        return rate.reshape(-1, *(1,) * spectrum.ndim) * spectrum

    def drift(self, t: Tensor) -> Tensor:
        return -self._per_mode(self.beta(t), self.b)

    def diffusion(self, t: Tensor) -> Tensor:
        return self._per_mode(2 * self.beta(t), self.r).sqrt()

    def log_scale(self, t: Tensor) -> Tensor:
        return -self._damping(t)

    def _damping(self, t: Tensor) -> Tensor:
        """b B(t), (B, *modes)."""
        return self._per_mode(self.total(t), self.b)

    def noise_level(self, t: Tensor) -> Tensor:
        # sigma^2 = (r / b) (1 - m^2) / m^2
        return (self.r / self.b).log() / 2 + log_expm1(2 * self._damping(t)) / 2

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As in the base class: U = exp(-b (B_t - B_s)), Q = (r / b) (1 - U^2)."""
        damping = self._per_mode(self.total(t.double()) - self.total(s.double()), self.b).clamp_min(-MOST_REGAINED)
        cov = self.r / self.b * -torch.expm1(-2 * damping)
        return (-damping).exp().unsqueeze(1).unsqueeze(1), cov.unsqueeze(1).unsqueeze(1)

    def representative(self, per_mode: Tensor) -> Tensor:
        """The mode that is damped slowest: the last to lose the data."""
        return per_mode.flatten(1)[:, self._slowest]

    @property
    def metric(self) -> Tensor:
        """b / r: the weight of the published loss."""
        return self.b / self.r

    def extra_repr(self) -> str:
        return (
            f"shape={self.shape}, beta_min={self.beta_min}, beta_max={self.beta_max}, const={self.const}, "
            f"x_norm={self.x_norm}, energy_norm={self.energy_norm}"
        )
