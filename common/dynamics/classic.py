"""Classical members: VP, VE and sub-VP (score-SDE, arXiv 2011.13456, eqs. 29-31) and CLD (arXiv 2112.07068)."""

import math

import torch
from torch import Tensor

from common.dynamics.closed_form import ClosedForm, log_expm1
from common.dynamics.tabulated import Tabulated
from common.refusal import Refusal, require


def check_range(low: float, high: float, *, low_name: str, high_name: str, strict: bool = True) -> None:
    """Refuse a pair of bounds that is not 0 < low < high (or 0 <= low <= high)."""
    ok = 0 < low < high < math.inf if strict else 0 <= low <= high < math.inf
    if not ok:
        relation = "0 < {} < {}" if strict else "0 <= {} <= {}"
        raise Refusal(
            f"must be finite, and {relation.format(low_name, high_name)}; got {low_name}={low}, {high_name}={high}",
            low_name,
        )


HOTTEST = 10.0  # share of the stationary variance to start with; from 1e3 on, correlations turn between two nodes
MOST_DAMPED = 700.0  # -log m at T, up to which m is a float64 number


class LinearBeta:
    """The linear schedule beta(t) = beta_min + (beta_max - beta_min) t on [0, 1].

    Args:
        beta_min: rate at t = 0, at least 0.
        beta_max: rate at t = 1, at least ``beta_min`` and above 0; both together at most 2800.

    Raises:
        Refusal: for bounds out of order.
    """

    def __init__(self, beta_min: float, beta_max: float) -> None:
        check_range(beta_min, beta_max, low_name="beta_min", high_name="beta_max", strict=False)
        if beta_max == 0:
            raise Refusal("must be above 0, got 0", "beta_max")
        if beta_min + beta_max > 4 * MOST_DAMPED:
            raise Refusal(
                f"{beta_max:g} is too large: with beta_min={beta_min:g} at most {4 * MOST_DAMPED - beta_min:g} leaves "
                f"a share of the data that a number can hold, exp(-{MOST_DAMPED:g})",
                "beta_max",
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def __call__(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        """Integral of beta from 0 to t."""
        return t * (self.beta_min + (self.beta_max - self.beta_min) * t / 2)


class VP(ClosedForm):
    """Variance preserving: dX = -beta/2 X dt + sqrt(beta) dW (score-SDE eq. 32-33).

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.

    Raises:
        Refusal: for bounds out of order.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        self.beta = LinearBeta(beta_min, beta_max)

    def drift(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def log_scale(self, t: Tensor) -> Tensor:
        return -self.beta.integral(t) / 2

    def noise_level(self, t: Tensor) -> Tensor:
        return log_expm1(self.beta.integral(t)) / 2

    def extra_repr(self) -> str:
        return f"beta_min={self.beta.beta_min}, beta_max={self.beta.beta_max}"


class SubVP(VP):
    """Sub-VP: dX = -beta/2 X dt + sqrt(beta (1 - exp(-2 int beta))) dW (score-SDE eq. 34-35)."""

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self.beta.integral(t))).sqrt()

    def noise_level(self, t: Tensor) -> Tensor:
        integral = self.beta.integral(t)
        return (-torch.expm1(-integral)).log() + integral / 2


class VE(ClosedForm):
    """Variance exploding: dX = sigma_min r^t sqrt(2 log r) dW, r = sigma_max / sigma_min (score-SDE eq. 30-31).

    X_0 has variance sigma_min^2 around the data, so that Var X_t = sigma_min^2 r^(2 t).

    Args:
        sigma_min: noise level at t = 0.
        sigma_max: noise level at t = 1.

    Raises:
        Refusal: unless 0 < sigma_min < sigma_max.
    """

    default_ema_decay = 0.999

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        check_range(sigma_min, sigma_max, low_name="sigma_min", high_name="sigma_max")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.log_ratio = math.log(sigma_max / sigma_min)

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return math.sqrt(2 * self.log_ratio) * self.noise_level(t).exp()

    def log_scale(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def noise_level(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_min) + self.log_ratio * t

    def extra_repr(self) -> str:
        return f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"


class CLD(Tabulated):
    """Critically damped Langevin diffusion (arXiv 2112.07068, eqs. 5-6): data X and velocity V, both with a mean.

        dX = beta V / mass dt,      dV = -beta X dt - beta friction V / mass dt + sqrt(2 friction beta) dW

    with friction = 2 sqrt(mass) and V_0 ~ N(0, initial_share * mass).

    Args:
        beta: overall rate, above 0, at most 700 sqrt(mass).
        mass: mass of the velocity, above 0.
        initial_share: share of its stationary variance that the velocity starts with, above 0, at most 10.

    Raises:
        Refusal: for a value out of range, or that would leave nothing of the data at T.
    """

    remedy = ("initial_share", "take a smaller one, a larger beta or a smaller mass")
    matrix: Tensor
    column: Tensor

    def __init__(self, beta: float = 4.0, mass: float = 0.25, initial_share: float = 0.04) -> None:
        for name, value in (("beta", beta), ("mass", mass), ("initial_share", initial_share)):
            if not 0 < value < math.inf:
                raise Refusal(f"must be above 0 and finite, got {value}", name)
        require(initial_share <= HOTTEST, "initial_share", f"at most {HOTTEST:g}", initial_share)
        friction = 2 * math.sqrt(mass)
        damping = beta / math.sqrt(mass)  # both eigenvalues of -F
        if damping > MOST_DAMPED:
            raise Refusal(
                f"{beta:g} is too large: with mass={mass:g} at most {MOST_DAMPED * math.sqrt(mass):g} leaves a share "
                f"of the data that a number can hold, exp(-{MOST_DAMPED:g})",
                "beta",
            )
        super().__init__(num_components=2, rate=damping)
        self.beta, self.mass, self.initial_share = beta, mass, initial_share
        self.friction = friction
        rows = [[0.0, 1 / mass], [-1.0, -friction / mass]]
        self.register_buffer("matrix", beta * torch.tensor(rows, dtype=torch.float64), persistent=False)
        column = torch.tensor([0.0, math.sqrt(2 * friction * beta)], dtype=torch.float64)
        self.register_buffer("column", column, persistent=False)
        self.tabulate()

    def drift_matrix(self, t: Tensor) -> Tensor:
        return self.matrix.expand(len(t), 2, 2)

    def diffusion_vector(self, t: Tensor) -> Tensor:
        return self.column.expand(len(t), 2)

    def initial_cov(self) -> Tensor:
        return torch.tensor([[0.0, 0.0], [0.0, self.initial_share * self.mass]], dtype=torch.float64)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, mass={self.mass}, initial_share={self.initial_share}"
