"""Fractional dynamics (GFDM, arXiv 2310.17638, eqs. 9-13): dX = mu(t) X dt + g(t) dB^H, B^H by K Markov processes.

The state is (X, Y^1 .. Y^K) with dY^k = -gamma_k Y^k dt + dW and dX = mu X dt + g sum_k omega_k dY^k; only X starts
at the data, so M = m e_x and the network sees v = X - alpha . Y.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from common.dynamics.classic import LinearBeta, check_range
from common.dynamics.propagator import propagate
from common.dynamics.tabulated import Tabulated
from common.refusal import Refusal
from gfdm.ma_fbm import gamma_grid, optimal_omega

MARGINALS = ("exact", "paper")


class Fractional(Tabulated):
    """Base of FVP and FVE. A member gives mu, g and the variance X starts with.

    Args:
        hurst: Hurst index H in (0, 1); without effect for ``num_aug = 0``.
        num_aug: number K of augmenting processes; 0 drives X by Brownian motion itself.
        gamma_max: largest rate of the augmenting processes, above 1.
        normalize: scale omega so that X_T has the variance of the classical process.
        marginals: ``exact`` starts the SDE at Y_0 ~ N(0, aug_init_var), so that everything belongs to one process;
            ``paper`` starts it at Y_0 = 0 and adds aug_init_var exp(-2 gamma_k t) to Var Y^k afterwards, which is
            what released checkpoints were trained with.
        aug_init_var: that variance, above 0.
        data_var: variance of X_0 around the data.

    Raises:
        ValueError: for a value outside its range.
    """

    run_label = "H{hurst}_K{num_aug}"
    flag_names: ClassVar[dict[str, str]] = {"normalize": "norm"}
    gamma: Tensor
    omega: Tensor

    def __init__(
        self,
        hurst: float,
        num_aug: int,
        *,
        gamma_max: float,
        normalize: bool,
        marginals: str,
        aug_init_var: float,
        data_var: float,
    ) -> None:
        if not 0 < hurst < 1:
            raise Refusal(f"must lie in (0, 1), got {hurst}", "hurst")
        if marginals not in MARGINALS:
            raise Refusal(f"must be one of {', '.join(MARGINALS)}, got {marginals!r}", "marginals")
        if not 0 < aug_init_var < math.inf:
            raise Refusal(f"must be above 0 and finite, got {aug_init_var}", "aug_init_var")
        gamma = gamma_grid(num_aug, gamma_max)
        omega = optimal_omega(gamma, hurst)
        super().__init__(num_components=num_aug + 1, rate=float(gamma.max()) if num_aug else 0.0)
        self.hurst, self.num_aug, self.gamma_max = hurst, num_aug, gamma_max
        self.normalize, self.marginals, self.aug_init_var = normalize, marginals, aug_init_var
        self.data_var = data_var
        self.register_buffer("gamma", gamma, persistent=False)
        self.register_buffer("omega", omega, persistent=False)
        if num_aug and normalize:
            zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            noise = propagate(self.drift_matrix, self.diffusion_vector, zero, one)[1][0, 0, 0]
            self.omega *= self.normaliser(float(noise))
        self.tabulate()

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


class FVP(Fractional):
    """Fractional variance preserving dynamics: mu = -beta/2, g = sqrt(beta), beta linear; K = 0 is VP.

    Args:
        hurst: Hurst index H in (0, 1).
        num_aug: number K of augmenting processes, at least 0.
        gamma_max: largest rate of the augmenting processes, above 1.
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.
        normalize: scale the weights so that Var X_T = 1 given x0 (process started at Y_0 = 0).
        marginals: ``exact`` or ``paper``, see :class:`Fractional`.
        aug_init_var: variance the augmenting processes start with, above 0.

    Raises:
        ValueError: for a value outside its range.
    """

    def __init__(
        self,
        hurst: float = 0.9,
        num_aug: int = 2,
        *,
        gamma_max: float = 20.0,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        normalize: bool = True,
        marginals: str = "exact",
        aug_init_var: float = 1e-4,
    ) -> None:
        self.beta = LinearBeta(beta_min, beta_max)
        super().__init__(
            hurst,
            num_aug,
            gamma_max=gamma_max,
            normalize=normalize,
            marginals=marginals,
            aug_init_var=aug_init_var,
            data_var=0.0,
        )

    def mu(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def normaliser(self, variance: float) -> float:
        return 1 / math.sqrt(variance)


class FVE(Fractional):
    """Fractional variance exploding dynamics: mu = 0, g = sigma_min r^t sqrt(2 log r); K = 0 is VE.

    Args:
        hurst: Hurst index H in (0, 1).
        num_aug: number K of augmenting processes, at least 0.
        gamma_max: largest rate of the augmenting processes, above 1.
        sigma_min: deviation of X_0 around the data.
        sigma_max: deviation of X_T that the weights are scaled to.
        normalize: scale the weights by sigma_max / sqrt(Var X_T + sigma_min^2) (process started at Y_0 = 0).
        marginals: ``exact`` or ``paper``, see :class:`Fractional`.
        aug_init_var: variance the augmenting processes start with, above 0.

    Raises:
        ValueError: for a value outside its range.
    """

    default_ema_decay = 0.999

    def __init__(
        self,
        hurst: float = 0.9,
        num_aug: int = 2,
        *,
        gamma_max: float = 20.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        normalize: bool = True,
        marginals: str = "exact",
        aug_init_var: float = 1e-4,
    ) -> None:
        check_range(sigma_min, sigma_max, low_name="sigma_min", high_name="sigma_max")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.log_ratio = math.log(sigma_max / sigma_min)
        super().__init__(
            hurst,
            num_aug,
            gamma_max=gamma_max,
            normalize=normalize,
            marginals=marginals,
            aug_init_var=aug_init_var,
            data_var=sigma_min**2,
        )

    def mu(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def g(self, t: Tensor) -> Tensor:
        return self.sigma_min * math.sqrt(2 * self.log_ratio) * (self.log_ratio * t).exp()

    def normaliser(self, variance: float) -> float:
        return self.sigma_max / math.sqrt(variance + self.sigma_min**2)
