"""Linear maps and noise covariances of dZ = F Z dt + G dW between two times, to rounding error.

Gauss-Legendre collocation with five stages (order 10), applied to the joint system

    Phi' = F Phi,      Psi' = Phi^-1 G G' Phi^-T,      Q = Phi Psi Phi'

Its weights are positive, so Q comes out as a sum of squares: symmetric, positive semi-definite and accurate relative
to itself even where it is tiny. F and G are linear-algebra-sized (A x A), the equations linear, so the implicit
stages are one small solve, batched over any number of intervals and modes.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

STAGES = 5
SUBSTEPS = 64
GRADING = 1e-3  # substeps are graded from here on: members change like log t for small t ..
RATE = 20.0  # .. and like exp(-20 t) for large t (the published gamma_max)


@functools.cache
def _tableau(stages: int) -> tuple[Tensor, Tensor, Tensor]:
    """Butcher tableau (A, b, c) of Gauss-Legendre collocation on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(stages)
    c = (nodes + 1) / 2
    powers = np.arange(1, stages + 1)
    # sum_j a_ij c_j^(k-1) = c_i^k / k for k = 1 .. stages
    vandermonde = c[:, None] ** (powers - 1)
    a = (c[:, None] ** powers / powers) @ np.linalg.inv(vandermonde)
    return torch.from_numpy(a), torch.from_numpy(weights / 2), torch.from_numpy(c)


def _matrix_last(x: Tensor, axes: int) -> Tensor:
    """(N, [A,] A, *modes) to (N, *modes, [A,] A)."""
    return x.movedim(tuple(range(1, 1 + axes)), tuple(range(-axes, 0)))


def _modes_last(x: Tensor) -> Tensor:
    """(N, *modes, A, A) to (N, A, A, *modes)."""
    return x.movedim((-2, -1), (1, 2))


def gauss_step(
    drift: Callable[[Tensor], Tensor], diffusion: Callable[[Tensor], Tensor], s: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """One collocation step per interval [s, t].

    Args:
        drift: F, times (N,) to (N, A, A, *modes).
        diffusion: G, times (N,) to (N, A, *modes).
        s: interval starts (N,) float64.
        t: interval ends (N,) float64.

    Returns:
        (Phi, Q) with matrices last, each (N, *modes, A, A).
    """
    a, b, c = (x.to(s.device) for x in _tableau(STAGES))
    h = t - s
    times = s.unsqueeze(1) + h.unsqueeze(1) * c  # (N, stages)
    count = times.shape[0]
    f = _matrix_last(drift(times.reshape(-1)), 2)  # (N stages, *modes, A, A)
    g = _matrix_last(diffusion(times.reshape(-1)), 1).unsqueeze(-1)  # (N stages, *modes, A, 1)
    f, g = f.unflatten(0, (count, STAGES)), g.unflatten(0, (count, STAGES))
    f, g = f.movedim(1, -3), g.movedim(1, -3)  # (N, *modes, stages, A, .)
    size = f.shape[-1]
    step = h.reshape(count, *(1,) * (f.ndim - 2))  # broadcasts over (N, *modes, A, A)

    # stage values X_i = I + h sum_j a_ij F_j X_j: one linear system of size stages * A
    coupling = torch.einsum("ij,...jkl->...ikjl", a, f).flatten(-4, -3).flatten(-2, -1)
    identity = torch.eye(STAGES * size, dtype=torch.float64, device=s.device)
    right = torch.eye(size, dtype=torch.float64, device=s.device).repeat(STAGES, 1)
    stacked = torch.linalg.solve(identity - step * coupling, right.expand(*coupling.shape[:-1], size))
    values = stacked.unflatten(-2, (STAGES, size))  # (N, *modes, stages, A, A)

    slope = torch.einsum("i,...ikl->...kl", b, f @ values)
    phi = identity[:size, :size] + step * slope
    kicks = phi.unsqueeze(-3) @ torch.linalg.solve(values, g)  # Phi(t, t_i) G(t_i)
    cov = step * torch.einsum("i,...ik,...il->...kl", b, kicks.squeeze(-1), kicks.squeeze(-1))
    return phi, cov


def propagate(
    drift: Callable[[Tensor], Tensor],
    diffusion: Callable[[Tensor], Tensor],
    s: Tensor,
    t: Tensor,
    substeps: int = SUBSTEPS,
) -> tuple[Tensor, Tensor]:
    """Map and noise covariance over [s, t], in graded substeps.

    Args:
        drift: F, times (N,) to (N, A, A, *modes).
        diffusion: G, times (N,) to (N, A, *modes).
        s: start times (N,) float64 in [0, T].
        t: end times (N,) float64 in [0, T].
        substeps: collocation steps per interval.

    Returns:
        (U, Q), each (N, A, A, *modes): Z_t = U Z_s + N(0, Q); Q is negative semi-definite where t < s.
    """
    start, end = _graded(s), _graded(t)
    fractions = torch.linspace(0, 1, substeps + 1, dtype=torch.float64, device=s.device)
    edges = _ungraded(start.unsqueeze(1) + (end - start).unsqueeze(1) * fractions)
    edges[:, 0], edges[:, -1] = s, t
    phis, covs = gauss_step(drift, diffusion, edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1))
    phis, covs = phis.unflatten(0, (-1, substeps)), covs.unflatten(0, (-1, substeps))
    phi, cov = phis[:, 0], covs[:, 0]
    for k in range(1, substeps):
        phi, cov = phis[:, k] @ phi, phis[:, k] @ cov @ phis[:, k].mT + covs[:, k]
    return _modes_last(phi), _modes_last(cov)


def _graded(t: Tensor) -> Tensor:
    return torch.log1p(t / GRADING) + RATE * t


def _ungraded(theta: Tensor) -> Tensor:
    """Inverse of :func:`_graded` by Newton's method: for a concave function monotone from the second iterate on."""
    t = theta / RATE
    for _ in range(60):
        t = t - (_graded(t) - theta) / (1 / (GRADING + t) + RATE)
        t = t.clamp_min(0)
    return t
