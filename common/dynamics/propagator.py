"""Linear maps and noise covariances of dZ = F Z dt + G dW between two times, to rounding error.

Gauss-Legendre collocation with five stages (order 10), applied to the joint system

    Phi' = F Phi,      Psi' = Phi^-1 G G' Phi^-T,      Q = Phi Psi Phi'

Its weights are positive, so Q comes out as a sum of squares: symmetric, positive semi-definite and accurate relative
to itself even where it is tiny. F and G are linear-algebra-sized (A x A), the equations linear, so the implicit
stages are one small solve, batched over any number of intervals and modes.

A step must be short against the fastest rate of F, and against the time itself, of which members may be powers near 0
(the root of beta, the inverse of S). So an interval takes as many steps as it is long in theta = log t + rate t.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

STAGES = 5
RATE = 20.0  # the published gamma_max
STEP = 0.42  # of a step in theta: 1e-14 of what changes like exp(-rate t), 1e-10 of what changes like a root of t
ORIGIN = 1e-11  # times below are as good as 0: 3e-11 of the smallest covariances, where beta starts at 0
NEWTON = 40  # iterations, each e-fold nearer at least; a few are enough unless the rate is high
CHUNK = 4096  # steps that are solved together, which bounds the memory


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
    # what no path of F leads to is 0, not rounding: else a tiny m would drown in it
    links = (f != 0).reshape(-1, size, size).any(0).double() + identity[:size, :size]
    phi = (identity[:size, :size] + step * slope) * (torch.linalg.matrix_power(links, size) > 0)
    kicks = phi.unsqueeze(-3) @ torch.linalg.solve(values, g)  # Phi(t, t_i) G(t_i)
    cov = step * torch.einsum("i,...ik,...il->...kl", b, kicks.squeeze(-1), kicks.squeeze(-1))
    return phi, cov


def propagate(
    drift: Callable[[Tensor], Tensor],
    diffusion: Callable[[Tensor], Tensor],
    s: Tensor,
    t: Tensor,
    rate: float = RATE,
) -> tuple[Tensor, Tensor]:
    """Map and noise covariance over [s, t], in as many steps as every interval needs.

    Args:
        drift: F, times (N,) to (N, A, A, *modes).
        diffusion: G, times (N,) to (N, A, *modes).
        s: start times (N,) float64 in [0, T].
        t: end times (N,) float64 in [0, T].
        rate: fastest rate of F; what is slower than 20 is taken as that.

    Returns:
        (U, Q), each (N, A, A, *modes): Z_t = U Z_s + N(0, Q); Q is negative semi-definite where t < s.
    """
    rate = max(rate, RATE)
    start, end = _graded(s, rate), _graded(t, rate)
    groups, parts = plan(start, end), []
    for where, count in groups:
        fractions = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=s.device)
        edges = _ungraded(torch.lerp(start[where].unsqueeze(1), end[where].unsqueeze(1), fractions), rate)
        edges[:, 0], edges[:, -1] = s[where], t[where]
        steps = zip(edges[:, :-1].flatten().split(CHUNK), edges[:, 1:].flatten().split(CHUNK), strict=True)
        solved = [gauss_step(drift, diffusion, a, b) for a, b in steps]
        phi, cov = (torch.cat(x).unflatten(0, (-1, count)) for x in zip(*solved, strict=True))
        while phi.shape[1] > 1:
            phi, cov = compose((phi[:, ::2], cov[:, ::2]), (phi[:, 1::2], cov[:, 1::2]))
        parts.append((phi.squeeze(1), cov.squeeze(1)))
    order = torch.cat([where for where, _ in groups]).argsort()
    phi, cov = (torch.cat(x)[order] for x in zip(*parts, strict=True))
    return _modes_last(phi), _modes_last(cov)


def plan(start: Tensor, end: Tensor) -> list[tuple[Tensor, int]]:
    """Which intervals of theta (N,) take how many steps; all that is read back from a device, before sampling starts.

    Numbers are powers of two: there are few groups of intervals alike, and each is put together by halves.
    """
    exponents = ((end - start).abs() / STEP).clamp_min(1).log2().ceil().long()
    return [(torch.nonzero(exponents == exponent).flatten(), 2**exponent) for exponent in exponents.unique().tolist()]


def compose(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Map and noise covariance of two intervals in a row, matrices last."""
    phi, cov = second
    return phi @ first[0], phi @ first[1] @ phi.mT + cov


def accumulate(phi: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and noise covariances since the first time, from those of intervals in a row, each (N, .., A, A)."""
    reach = 1
    while reach < len(phi):
        ahead = compose((phi[:-reach], cov[:-reach]), (phi[reach:], cov[reach:]))
        phi, cov = torch.cat([phi[:reach], ahead[0]]), torch.cat([cov[:reach], ahead[1]])
        reach *= 2
    return phi, cov


def _graded(t: Tensor, rate: float) -> Tensor:
    """theta = log t + rate t."""
    return t.clamp_min(ORIGIN).log() + rate * t


def _ungraded(theta: Tensor, rate: float) -> Tensor:
    """Inverse of :func:`_graded` by Newton's method in log t: theta is convex there, so it converges from above."""
    log_t = torch.minimum(theta, (theta.clamp_min(rate) / rate).log())
    for _ in range(NEWTON):
        growth = rate * log_t.exp()
        log_t = log_t - (log_t + growth - theta) / (1 + growth)
    return log_t.exp()
