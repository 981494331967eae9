"""Exponential multistep solvers of the probability-flow ODE: the linear part is integrated exactly.

With x0_hat as the slowly varying quantity and lambda = -log sigma (gDDIM, arXiv 2206.05564; DEIS, arXiv 2204.13902),

    dZ/dt = N Z - 1/2 G G' S^-1 M x0_hat,      N = F + 1/2 G G' S^-1
    Z_s = U Z_t + c_0 x0_hat + c_1 (d x0_hat / d lambda) + ..,      c_0 = M_s - U M_t

On a scalar path everything is a closed form, mode by mode: U = sc_s / sc_t, c_0 = m_s (1 - e^-h) and
c_1 = m_s (h - 1 + e^-h), with h the step in lambda. Order 1 is then DDIM (arXiv 2010.02502), order 2 is
DPM-Solver++(2M) (arXiv 2211.01095).
"""

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.dynamics.basis import apply, times
from common.dynamics.propagator import propagate
from common.samplers.base import Posterior, Solver
from common.samplers.grids import Grid, log_sigma, log_time

STANDSTILL = 1e-8  # steps in lambda below this carry no slope


def scalar_coefficients(dynamics: LinearDynamics, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (B, 1, 1, *modes), c_0 and c_1 (B, 1, *modes) of a one-component dynamics from times t to s, each (B,)."""
    here, there = dynamics.moments(t), dynamics.moments(s)
    h = here.log_sigma - there.log_sigma
    shrunk = torch.expm1(-h)
    kicks = (-there.scale * shrunk, there.scale * (h + shrunk))
    return (there.std / here.std).unsqueeze(1).unsqueeze(1), kicks[0].unsqueeze(1), kicks[1].unsqueeze(1)


def augmented_coefficients(dynamics: LinearDynamics, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (B, A, A), c_0 and c_1 (B, A) of a dynamics of any number of components, by quadrature.

    A further component that is 1 throughout and enters with weight lambda(tau) h(tau), h = -1/2 G G' S^-1 M, collects
    the integral of U(s, tau) h lambda; subtracting lambda(t) c_0 leaves c_1.
    """
    size = dynamics.num_components

    def extended(tau: Tensor) -> Tensor:
        law, g = dynamics.moments(tau), dynamics.diffusion_vector(tau)
        gain = torch.einsum("bi,bi->b", g, law.weight)  # G'w, and S^-1 M = w m / sc^2
        along = g * (gain / law.std.square()).unsqueeze(1) / 2
        pull = torch.einsum("bi,bj,bjk->bik", g, g, law.complement) / 2
        linear = dynamics.drift_matrix(tau) + along.unsqueeze(2) * law.weight.unsqueeze(1) + pull
        source = along * (law.scale * law.log_sigma).unsqueeze(1)
        matrix = torch.zeros(len(tau), size + 1, size + 1, dtype=torch.float64, device=tau.device)
        matrix[:, :size, :size], matrix[:, :size, size] = linear, source
        return matrix

    def silent(tau: Tensor) -> Tensor:
        return torch.zeros(len(tau), size + 1, dtype=torch.float64, device=tau.device)

    whole = propagate(extended, silent, t, s, dynamics.rate)[0]
    here, there = dynamics.moments(t), dynamics.moments(s)
    maps = whole[:, :size, :size]
    constant = there.mean - torch.einsum("bij,bj->bi", maps, here.mean)
    return maps, constant, whole[:, :size, size] + here.log_sigma.unsqueeze(1) * constant


class Exponential1(Solver):
    """Order 1: x0_hat held constant over the step; exact for a point mass."""

    order = 1
    path = "scalar"
    default_steps = 20
    clips = True

    def __init__(self) -> None:
        self._coefficients: tuple[Tensor, ...] = ()
        self._position = 0

    def check(self, dynamics: LinearDynamics) -> None:
        """Refuse a noise level that falls in time, except order 1 on the augmented state, which does not use it."""
        if self.order > 1 or dynamics.num_components == 1:
            dynamics.require_monotone(f"solver {type(self).__name__}")

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """Uniform in log sigma; in log t where every mode has a noise level of its own, or it falls in time."""
        return log_time if dynamics.basis.modes or not dynamics.is_monotone else log_sigma

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Integrate the coefficients of all steps at once if they are no closed form."""
        self._position = 0
        if dynamics.num_components > 1:
            self._coefficients = augmented_coefficients(dynamics, times[:-1], times[1:])

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        if dynamics.num_components > 1:
            here = slice(self._position, self._position + 1)
            maps, constant, linear = (part[here] for part in self._coefficients)
        else:
            maps, constant, linear = scalar_coefficients(dynamics, t, s)
        self._position += 1
        basis = dynamics.basis
        x0 = basis.analysis(posterior(z, t))
        moved = apply(maps, basis.analysis(z)) + apply(constant.unsqueeze(2), x0.unsqueeze(1))
        slope = self.slope(dynamics.moments(t).log_sigma, x0)
        if slope is not None:
            moved = moved + apply(linear.unsqueeze(2), slope.unsqueeze(1))
        return basis.synthesis(moved)

    def slope(self, log_sigma: Tensor, x0: Tensor) -> Tensor | None:
        """Estimate of d x0_hat / d lambda from coefficients of x0_hat, if the order asks for one; coefficients too."""
        return None


class Exponential2(Exponential1):
    """Order 2: x0_hat linear in lambda through the last two evaluations (the first step is of order 1)."""

    order = 2

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Tensor, Tensor] | None = None  # log sigma and x0_hat of the step before

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """As in order 1; nothing is remembered of an earlier run."""
        super().prepare(dynamics, times)
        self._last = None

    def slope(self, log_sigma: Tensor, x0: Tensor) -> Tensor | None:
        last, self._last = self._last, (log_sigma, x0)
        if last is None:
            return None
        back = last[0] - log_sigma
        inverse = torch.where(back > STANDSTILL, 1 / back.clamp_min(STANDSTILL), torch.zeros_like(back))
        return times(inverse, x0 - last[1])
