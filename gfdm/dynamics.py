"""Fractional dynamics (GFDM, arXiv 2310.17638, eqs. 9-13): dX = mu(t) X dt + g(t) dB^H, B^H by K Markov processes.

The state is (X, Y^1 .. Y^K) with dY^k = -gamma_k Y^k dt + dW and dX = mu X dt + g sum_k omega_k dY^k; only X starts
at the data, so M = m e_x and the network sees v = X - alpha . Y.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from common.dynamics.classic import LinearBeta, check_range
from common.dynamics.propagator import propagate
from common.dynamics.tabulated import Tabulated
from common.refusal import Refusal, require
from gfdm.ma_fbm import gamma_grid, optimal_omega

Marginals = Literal["exact", "paper"]


@dataclass(eq=False, repr=False)
class Fractional(Tabulated):
    """Base of FVP and FVE. A member gives mu, g, the variance X starts with, and how omega is normalised.

    Args:
        hurst: Hurst index H in (0, 1); it has no effect without augmenting processes.
        num_aug: number K of augmenting processes; 0 drives X by Brownian motion itself, which is classical VP or VE.
        gamma_max: largest rate of the augmenting processes, above 1.
        normalize: normalise the weights omega, so that X_T has the variance of the classical process.
        marginals: law of the augmented process: exact starts it at Y_0 ~ N(0, aug_init_var), so that everything
            belongs to one process; paper starts it at 0 and adds aug_init_var exp(-2 gamma_k t) to Var Y^k
            afterwards, as published weights were trained.
        aug_init_var: variance that the augmenting processes start with, above 0, at most 100.

    Raises:
        Refusal: for a value outside its range.
    """

    hurst: float = 0.9
    num_aug: int = 2
    gamma_max: float = field(default=20.0, kw_only=True)
    normalize: bool = field(default=True, kw_only=True)
    marginals: Marginals = field(default="exact", kw_only=True)
    aug_init_var: float = field(default=1e-4, kw_only=True)

    run_label: ClassVar[str] = "H{hurst}_K{num_aug}"
    flag_names: ClassVar[dict[str, str]] = {"normalize": "norm"}
    more_noise: ClassVar[str] = "choose other --hurst or --num_aug (e.g. 0.9 and 2)"
    remedy: ClassVar[tuple[str | None, str]] = ("aug_init_var", "take a value nearer to 1e-4, or a smaller num_aug")
    gamma: Tensor = field(init=False)
    omega: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.hurst < 1:
            raise Refusal(f"must lie in (0, 1), got {self.hurst}", "hurst")
        require(self.marginals in get_args(Marginals), "marginals", "one of exact, paper", self.marginals)
        require(0 < self.aug_init_var <= 100, "aug_init_var", "above 0 and at most 100", self.aug_init_var)
        gamma = gamma_grid(self.num_aug, self.gamma_max)
        omega = optimal_omega(gamma, self.hurst)
        super().__init__(num_components=self.num_aug + 1, rate=max([self.schedule_rate, *gamma.tolist()]))
        self.register_buffer("gamma", gamma, persistent=False)
        self.register_buffer("omega", omega, persistent=False)
        if self.num_aug and self.normalize:
            zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            noise = propagate(self.drift_matrix, self.diffusion_vector, zero, one, self.rate)[1][0, 0, 0]
            self.omega *= self.normaliser(float(noise))
        self.tabulate()

    @property
    @abstractmethod
    def data_var(self) -> float:
        """Variance of X_0 around the data."""

    @property
    @abstractmethod
    def schedule_rate(self) -> float:
        """Fastest rate at which X is damped, or g changes."""

    @abstractmethod
    def mu(self, t: Tensor) -> Tensor:
        """Drift rate of X, (B,)."""

    @abstractmethod
    def g(self, t: Tensor) -> Tensor:
        """Diffusion of X, (B,)."""

    @abstractmethod
    def normaliser(self, variance: float) -> float:
        """Factor on omega, given Var X_T of the process started at Y_0 = 0 with the plain weights."""

    def drift_matrix(self, t: Tensor) -> Tensor:
        data_row = torch.cat([self.mu(t).unsqueeze(1), -self.g(t).unsqueeze(1) * self.omega * self.gamma], dim=1)
        rates = torch.nn.functional.pad(-torch.diag(self.gamma), (1, 0)).expand(len(t), -1, -1)
        return torch.cat([data_row.unsqueeze(1), rates], dim=1)

    def diffusion_vector(self, t: Tensor) -> Tensor:
        g = self.g(t).unsqueeze(1)
        along_data = g * self.omega.sum() if self.num_aug else g
        return torch.cat([along_data, torch.ones_like(g).expand(-1, self.num_aug)], dim=1)

    def initial_cov(self) -> Tensor:
        return torch.diag(torch.tensor([self.data_var] + [self.aug_init_var] * self.num_aug, dtype=torch.float64))

    def marginal_cov(self, t: Tensor, propagator: Tensor, noise_cov: Tensor) -> Tensor:
        if self.marginals == "exact":
            return super().marginal_cov(t, propagator, noise_cov)
        # the published regularisation: the diagonal of the propagator only, so Y's share never reaches X
        diagonal = propagator.diagonal(dim1=-2, dim2=-1).square() * self.initial_cov().diagonal()
        return noise_cov + torch.diag_embed(diagonal)

    def extra_repr(self) -> str:
        return f"hurst={self.hurst}, num_aug={self.num_aug}, marginals={self.marginals}, normalize={self.normalize}"


@dataclass(eq=False, repr=False)
class FVP(Fractional):
    """Fractional variance preserving dynamics: mu = -beta/2, g = sqrt(beta), beta linear; K = 0 is VP.

    Args:
        beta_min: rate beta at t = 0.
        beta_max: rate beta at t = 1.
    """

    beta_min: float = field(default=0.1, kw_only=True)
    beta_max: float = field(default=20.0, kw_only=True)

    data_var = 0.0

    def __post_init__(self) -> None:
        self.beta = LinearBeta(self.beta_min, self.beta_max)
        super().__post_init__()

    @property
    def schedule_rate(self) -> float:
        return self.beta_max / 2

    def mu(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def normaliser(self, variance: float) -> float:
        return 1 / math.sqrt(variance)


@dataclass(eq=False, repr=False)
class FVE(Fractional):
    """Fractional variance exploding dynamics: mu = 0, g = sigma_min r^t sqrt(2 log r), r = sigma_max / sigma_min.

    K = 0 is VE. The weights are normalised by sigma_max / sqrt(Var X_T + sigma_min^2).

    Args:
        sigma_min: noise level at t = 0, the deviation of X_0 around the data.
        sigma_max: noise level at t = 1.
    """

    sigma_min: float = field(default=0.01, kw_only=True)
    sigma_max: float = field(default=50.0, kw_only=True)

    default_ema_decay: ClassVar[float] = 0.999

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max, low_name="sigma_min", high_name="sigma_max")
        self.log_ratio = math.log(self.sigma_max / self.sigma_min)
        super().__post_init__()

    @property
    def data_var(self) -> float:
        return self.sigma_min**2

    @property
    def schedule_rate(self) -> float:
        return self.log_ratio

    def mu(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def g(self, t: Tensor) -> Tensor:
        return self.sigma_min * math.sqrt(2 * self.log_ratio) * (self.log_ratio * t).exp()

    def normaliser(self, variance: float) -> float:
        return self.sigma_max / math.sqrt(variance + self.sigma_min**2)
