"""Exponential multistep solvers: the linear part of a reverse process is integrated exactly, x0_hat by a polynomial.

With lambda = -log sigma and the share a of the score that drives the state, 1/2 on the probability-flow ODE (gDDIM,
arXiv 2206.05564; DEIS, arXiv 2204.13902) and 1 on the reverse SDE,

    dZ = (N Z - a G G' S^-1 M x0_hat) dt + G dW (on the SDE),      N = F + a G G' S^-1
    Z_s = U Z_t + sum_k c_k (d^k x0_hat / d lambda^k) + Q^(1/2) xi,      c_0 = M_s - U M_t

The derivatives are those of the polynomial through the last evaluations (Newton's divided differences), so a step is
one small matrix per mode over the state and these. A past step far shorter than the one ahead is left out: on grids
that end in long steps extrapolation runs wild, the more the higher the order.

On a scalar path everything is a closed form, mode by mode: with h the step in lambda, U = (sc_s / sc_t) e^((1 - 2a) h),
Q = sc_s^2 (1 - e^(-2h)) and c_k = m_s J_k, J_0 = 1 - e^(-2ah), J_k = h^k / k! - J_(k-1) / 2a. On the ODE, order 1 is
DDIM (arXiv 2010.02502) and order 2 DPM-Solver++(2M), on the SDE SDE-DPM-Solver++(2M) (arXiv 2211.01095).
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.dynamics.basis import apply
from common.dynamics.propagator import propagate
from common.samplers.base import Posterior, Solver
from common.samplers.grids import Grid, log_sigma, log_time

STANDSTILL = 1e-8  # past steps in lambda below this carry no slope,
REACH = 1.5  # nor do those that the step ahead is more than so many times as long as

Node = tuple[Tensor, Tensor]  # log sigma (1, *modes) and x0_hat there, as coefficients (B, C, *modes)


@dataclass(frozen=True)
class Linear:
    """What steps make of the state, of x0_hat and of noise.

    Attributes:
        maps: U, (N, A, A, *modes).
        kicks: c_k for k below the order, (N, A, order, *modes).
        root: Q^(1/2), (N, A, A, *modes); zero on the ODE.
    """

    maps: Tensor
    kicks: Tensor
    root: Tensor

    def __getitem__(self, part: slice) -> "Linear":
        return Linear(self.maps[part], self.kicks[part], self.root[part])


def scalar_steps(dynamics: LinearDynamics, t: Tensor, s: Tensor, order: int, stochastic: bool) -> Linear:
    """Steps of a one-component dynamics from times t (N,) to s (N,), from the formulas."""
    here, there, rate = dynamics.moments(t), dynamics.moments(s), 2.0 if stochastic else 1.0
    h = here.log_sigma - there.log_sigma
    maps = there.std / here.std * ((1 - rate) * h).exp()
    shares = [-torch.expm1(-rate * h)]
    for k in range(1, order):
        shares.append(h**k / math.factorial(k) - shares[-1] / rate)
    kicks = there.scale.unsqueeze(1) * torch.stack(shares, 1)
    root = (rate - 1) * there.std * (-torch.expm1(-2 * h)).sqrt()
    return Linear(maps[:, None, None], kicks[:, None], root[:, None, None])


def augmented_steps(dynamics: LinearDynamics, t: Tensor, s: Tensor, order: int, stochastic: bool) -> Linear:
    """Steps of a dynamics of any number of components from times t (N,) to s (N,), by quadrature.

    Further components y, of which y_0 drives the state as x0_hat does and dy_k = y_(k+1) dlambda, make x0_hat a
    polynomial: what a unit of y_k at t, which is (lambda - lambda_t)^k / k! in y_0, makes of the state is c_k.
    """
    size, share = dynamics.num_components, 1.0 if stochastic else 0.5
    whole = size + order

    def extended(tau: Tensor) -> Tensor:
        law, g = dynamics.moments(tau), dynamics.diffusion_vector(tau)
        gain = torch.einsum("bi...,bi...->b...", g, law.weight)  # G'w, and S^-1 M = w m / sc^2
        along = share * g * (gain / law.std.square()).unsqueeze(1)
        pull = share * torch.einsum("bi...,bj...,bjk...->bik...", g, g, law.complement)
        matrix = torch.zeros(len(tau), whole, whole, *dynamics.basis.modes, dtype=torch.float64, device=tau.device)
        matrix[:, :size, :size] = dynamics.drift_matrix(tau) + along.unsqueeze(2) * law.weight.unsqueeze(1) + pull
        matrix[:, :size, size] = -along * law.scale.unsqueeze(1)
        for k in range(size, whole - 1):
            matrix[:, k, k + 1] = -(gain / law.std).square() / 2  # dlambda / dt
        return matrix

    def diffusion(tau: Tensor) -> Tensor:
        vector = torch.zeros(len(tau), whole, *dynamics.basis.modes, dtype=torch.float64, device=tau.device)
        if stochastic:
            vector[:, :size] = dynamics.diffusion_vector(tau)
        return vector

    solved, cov = propagate(extended, diffusion, t, s, dynamics.rate)
    maps, kicks = solved[:, :size, :size], solved[:, :size, size:]
    # to rounding, whatever tables say: a point mass stays on its mean
    kicks[:, :, 0] = dynamics.moments(s).mean - torch.einsum("bij...,bj...->bi...", maps, dynamics.moments(t).mean)
    return Linear(maps, kicks, joint_root(-cov[:, :size, :size]))


def joint_root(cov: Tensor) -> Tensor:
    """R with R R' = Q for covariances Q (N, A, A, *modes) of any rank, accurate in every component's own scale."""
    deviation = cov.diagonal(dim1=1, dim2=2).movedim(-1, 1).clamp_min(0).sqrt()
    unit = torch.where(deviation > 0, deviation, 1)
    values, vectors = torch.linalg.eigh((cov / unit.unsqueeze(1) / unit.unsqueeze(2)).movedim((1, 2), (-2, -1)))
    root = (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT
    found: Tensor = deviation.unsqueeze(2) * root.movedim((-2, -1), (1, 2))
    return found


def derivatives(levels: Sequence[Tensor], step: Tensor) -> Tensor:
    """Derivatives in lambda, at the first of the nodes, of the polynomial through values at all of them.

    Nodes behind a step that carries no slope are left out, mode by mode.

    Args:
        levels: log sigma of the n nodes, each (1, *modes).
        step: the step in lambda ahead, (1, *modes).

    Returns:
        (n, n, 1, *modes): of the k-th derivative, the weight of value j.
    """
    count, nodes = len(levels), [levels[0] - level for level in levels]
    carries = [(a - b).abs() > (step.abs() / REACH).clamp_min(STANDSTILL) for a, b in pairwise(nodes)]
    values = torch.eye(count, dtype=torch.float64, device=nodes[0].device)
    table = list(values.reshape(count, count, *(1,) * nodes[0].ndim).expand(count, count, *nodes[0].shape))
    newton = [table[0]]
    for width in range(1, count):
        for j in range(count - width):
            whole = torch.stack(carries[j : j + width]).all(0)
            span = torch.where(whole, nodes[j] - nodes[j + width], torch.inf)
            table[j] = (table[j] - table[j + 1]) / span
        newton.append(table[0])
    powers = [newton.pop()]  # of lambda, by nested multiplication
    while newton:
        node = nodes[len(newton) - 1]
        powers = [newton.pop() - node * powers[0], *(a - node * b for a, b in pairwise(powers)), powers[-1]]
    return torch.stack([math.factorial(k) * power for k, power in enumerate(powers)])


def advance(linear: Linear, state: Tensor, known: Sequence[Node], step: Tensor) -> Tensor:
    """One step of coefficients (B, A, C, *modes), x0_hat being the polynomial through what is known, newest first."""
    slopes = derivatives([level for level, _ in known], step)
    weights = torch.einsum("nak...,kjn...->naj...", linear.kicks[:, :, : len(known)], slopes)
    columns = torch.cat([state, *(x0.unsqueeze(1) for _, x0 in known)], 1)
    return apply(torch.cat([linear.maps, weights], 2), columns)


class Exponential1(Solver):
    """Order 1: x0_hat held constant over the step; exact for a point mass."""

    order = 1
    path = "scalar"
    default_steps = 20
    clips = True
    corrects_start: ClassVar[bool] = False  # whether the first step is taken again with x0_hat at its end

    def __init__(self) -> None:
        self._known: deque[Node] = deque(maxlen=self.order)
        self._steps: Linear | None = None
        self._position = 0

    def check(self, dynamics: LinearDynamics) -> None:
        """Refuse a noise level that falls in time, except order 1 on the augmented state, which does not use it."""
        if self.order > 1 or dynamics.num_components == 1:
            dynamics.require_monotone(f"solver {type(self).__name__}")

    def calls(self, steps: int, *, components: int = 1, denoise_last: bool | None = None) -> int:
        """One a step, and one more where the first step is corrected."""
        return super().calls(steps, components=components, denoise_last=denoise_last) + self.corrects_start

    def draws(self, components: int) -> int:
        """As many as there are components: the noise of a step is a joint one."""
        return components

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """Uniform in log sigma; in log t where every mode has a noise level of its own, or it falls in time."""
        return log_time if dynamics.basis.modes or not dynamics.is_monotone else log_sigma

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Integrate all steps at once if they are no closed form; nothing is remembered of an earlier run."""
        self._known.clear()
        self._position = 0
        self._steps = None
        if dynamics.num_components > 1:
            self._steps = augmented_steps(dynamics, times[:-1], times[1:], self.order, self.stochastic)

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        basis, linear = dynamics.basis, self._linear(dynamics, t, s)
        here, there = dynamics.moments(t).log_sigma, dynamics.moments(s).log_sigma
        state, step = basis.analysis(z), here - there
        self._known.appendleft((here, basis.analysis(posterior(z, t))))
        moved = advance(linear, state, self._known, step)
        if self.corrects_start and len(self._known) == 1:
            ahead = basis.analysis(posterior(basis.synthesis(moved), s))
            moved = advance(linear, state, [*self._known, (there, ahead)], step)
        if noise is not None:
            moved = moved + apply(linear.root, basis.analysis(noise.reshape(z.shape)))
        return basis.synthesis(moved)

    def _linear(self, dynamics: LinearDynamics, t: Tensor, s: Tensor) -> Linear:
        if self._steps is None:
            return scalar_steps(dynamics, t, s, self.order, self.stochastic)
        self._position += 1
        return self._steps[self._position - 1 : self._position]


class Exponential2(Exponential1):
    """Order 2: x0_hat linear in lambda through the last two evaluations; the first step is of order 1."""

    order = 2


class Exponential3(Exponential1):
    """Order 3: x0_hat quadratic in lambda through the last three evaluations.

    The first step is an exponential trapezoid: with x0_hat at its end, one evaluation more, it is taken again. It and
    the second step are of order 2, which is enough for one step each.
    """

    order = 3
    corrects_start = True
