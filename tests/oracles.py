"""What the tests compare with: SDEs written again in NumPy, exact denoisers, exact distances. Reads no library code.

An :class:`SDE` states F, G and the start of one member; :func:`moments` solves its moment equations with SciPy.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad, solve_ivp
from scipy.special import gamma as gamma_function
from scipy.special import gammainc
from torch import Tensor

Array = NDArray[np.float64]

# -- SDEs, from the papers' formulas -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SDE:
    """dZ = F(t) Z dt + G(t) dW on [0, horizon], with Z_0 | x0 ~ N(e_1 x0, start)."""

    F: Callable[[float], Array]
    G: Callable[[float], Array]
    start: Array
    horizon: float = 1.0


def beta(t: float) -> float:
    return 0.1 + 19.9 * t


def gammas(num_aug: int, gamma_max: float = 20.0) -> Array:
    """From 1 / gamma_max to gamma_max, geometric; 1 alone for one process."""
    return np.ones(1) if num_aug == 1 else np.geomspace(1 / gamma_max, gamma_max, num_aug)


@functools.cache
def omegas(hurst: float, num_aug: int, horizon: float = 1.0) -> Array:
    """Best weights in mean square, the integrals E[B Y^k] over [0, T] by quadrature (kernel form, no closed form)."""
    rates = gammas(num_aug)
    target = [
        quad(lambda s, g=g: gammainc(hurst + 0.5, g * s) / g ** (hurst + 0.5), 0, horizon, epsabs=1e-15, epsrel=1e-13)[
            0
        ]
        for g in rates
    ]
    gram = [
        [quad(lambda s, r=a + b: -math.expm1(-r * s) / r, 0, horizon, epsabs=1e-15, epsrel=1e-13)[0] for a in rates]
        for b in rates
    ]
    return np.linalg.solve(np.array(gram), np.array(target))


def fbm_variance(hurst: float, t: Array) -> Array:
    """Variance of type-II fractional Brownian motion."""
    return t ** (2 * hurst) / (2 * hurst * gamma_function(hurst + 0.5) ** 2)


def fractional(
    mu: Callable[[float], float], g: Callable[[float], float], rates: Array, weights: Array, start: Array
) -> SDE:
    """dX = mu X dt + g dB with dB = sum_k w_k dY^k, dY^k = -gamma_k Y^k dt + dW."""

    def drift(t: float) -> Array:
        matrix = np.diag([mu(t), *-rates])
        matrix[0, 1:] = -g(t) * weights * rates
        return matrix

    def diffusion(t: float) -> Array:
        return np.array([g(t) * weights.sum(), *np.ones_like(rates)])

    return SDE(drift, diffusion, start)


def classical(
    mu: Callable[[float], float], g: Callable[[float], float], start: float = 0.0, horizon: float = 1.0
) -> SDE:
    return SDE(lambda t: np.array([[mu(t)]]), lambda t: np.array([g(t)]), np.array([[start]]), horizon)


def _variance_at_end(build: Callable[[Array], SDE], weights: Array) -> float:
    """Var X_T of the process started at Y_0 = 0, X_0 = x0."""
    sde = build(weights)
    return float(moments(SDE(sde.F, sde.G, 0 * sde.start), np.array([1.0]))[1][0, 0, 0])


@functools.cache
def fvp(hurst: float = 0.9, num_aug: int = 2, aug_init_var: float = 1e-4) -> SDE:
    mu, g = (lambda t: -beta(t) / 2), (lambda t: math.sqrt(beta(t)))
    if num_aug == 0:
        return classical(mu, g)
    rates, weights = gammas(num_aug), omegas(hurst, num_aug)

    def build(w: Array) -> SDE:
        return fractional(mu, g, rates, w, np.diag([0.0, *np.full(num_aug, aug_init_var)]))

    return build(weights / math.sqrt(_variance_at_end(build, weights)))


@functools.cache
def fve(hurst: float = 0.9, num_aug: int = 2, aug_init_var: float = 1e-4) -> SDE:
    low, high = 0.01, 50.0
    mu, g = (lambda t: 0.0), (lambda t: low * (high / low) ** t * math.sqrt(2 * math.log(high / low)))
    if num_aug == 0:
        return classical(mu, g, low**2)
    rates, weights = gammas(num_aug), omegas(hurst, num_aug)

    def build(w: Array) -> SDE:
        return fractional(mu, g, rates, w, np.diag([low**2, *np.full(num_aug, aug_init_var)]))

    return build(weights * high / math.sqrt(_variance_at_end(build, weights) + low**2))


def vp() -> SDE:
    return fvp(num_aug=0)


def ve() -> SDE:
    return fve(num_aug=0)


def subvp() -> SDE:
    total = lambda t: 0.1 * t + 9.95 * t**2  # noqa: E731
    return classical(lambda t: -beta(t) / 2, lambda t: math.sqrt(beta(t) * -math.expm1(-2 * total(t))))


def edm(sigma_max: float = 80.0) -> SDE:
    return classical(lambda t: 0.0, lambda t: sigma_max * math.sqrt(2 * t))


def flow() -> SDE:
    return classical(lambda t: -1 / (1 - t), lambda t: math.sqrt(2 * t / (1 - t)), horizon=0.995)


def cld(rate: float = 4.0, mass: float = 0.25, share: float = 0.04) -> SDE:
    friction = 2 * math.sqrt(mass)
    matrix = rate * np.array([[0.0, 1 / mass], [-1.0, -friction / mass]])
    vector = np.array([0.0, math.sqrt(2 * friction * rate)])
    return SDE(lambda t: matrix, lambda t: vector, np.diag([0.0, share * mass]))


# -- their laws, by SciPy ----------------------------------------------------------------------------------------------


def _integrate(sde: SDE, first: float, last: float, tolerance: float, atol: float, **options):
    """SciPy's solution of Phi' = F Phi, Q' = F Q + Q F' + G G' from Phi = 1, Q = 0, flattened."""
    size = len(sde.start)

    def slope(t: float, flat: Array) -> Array:
        phi, cov = flat.reshape(2, size, size)
        matrix, vector = sde.F(t), sde.G(t)
        change = matrix @ cov + cov @ matrix.T + np.outer(vector, vector)
        return np.concatenate([(matrix @ phi).ravel(), change.ravel()])

    begin = np.concatenate([np.eye(size).ravel(), np.zeros(size**2)])
    result = solve_ivp(slope, (first, last), begin, method="DOP853", rtol=tolerance, atol=atol, **options)
    assert result.success, result.message
    return result


def solve(
    sde: SDE, times: Array, first: float = 0.0, tolerance: float = 1e-12, atol: float = 1e-22
) -> tuple[Array, Array]:
    """(Phi, Q) from time ``first`` to each of the sorted ``times``: propagator and noise since, (N, A, A) each."""
    size = len(sde.start)
    result = _integrate(sde, first, times[-1], tolerance, atol, t_eval=times)
    stacked = result.y.T.reshape(-1, 2, size, size)
    return stacked[:, 0], stacked[:, 1]


def law(sde: SDE) -> Callable[[float], tuple[Array, Array]]:
    """t to (M (A,), S (A, A)), interpolated between SciPy's steps."""
    size = len(sde.start)
    dense = _integrate(sde, 0.0, sde.horizon, 1e-12, 1e-22, dense_output=True).sol

    def at(t: float) -> tuple[Array, Array]:
        phi, cov = dense(t).reshape(2, size, size)
        return phi[:, 0], phi @ sde.start @ phi.T + cov

    return at


def moments(sde: SDE, times: Array) -> tuple[Array, Array]:
    """(M (N, A), S (N, A, A)) of Z_t given x0 at sorted times."""
    phi, cov = solve(sde, np.asarray(times, dtype=float))
    return phi[:, :, 0], phi @ sde.start @ phi.transpose(0, 2, 1) + cov


def information(mean: Array, cov: Array) -> Array:
    """sigma = (M' S^-1 M)^(-1/2), with S scaled to unit diagonal first."""
    deviation = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    scaled = mean / deviation
    correlation = cov / deviation[:, :, None] / deviation[:, None, :]
    solution = np.linalg.solve(correlation, scaled[:, :, None])[:, :, 0]
    return (scaled * solution).sum(1) ** -0.5


def log_sigma_by_rate(sde: SDE, first: float, times: Array) -> Array:
    """log sigma at sorted times from d(sigma^2)/dt = (G' psi)^2, solved together with M and S from ``first`` on."""
    size = len(sde.start)
    mean, cov = moments(sde, np.array([first]))
    begin = np.concatenate([mean[0], cov[0].ravel(), [math.log(information(mean, cov)[0])]])

    def slope(t: float, flat: Array) -> Array:
        m, s, level = flat[:size], flat[size:-1].reshape(size, size), flat[-1]
        matrix, vector = sde.F(t), sde.G(t)
        deviation = np.sqrt(np.diag(s))
        psi = np.linalg.solve(s / np.outer(deviation, deviation), m / deviation) / deviation
        psi /= m @ psi
        rate = (vector @ psi) ** 2 / 2 * math.exp(-2 * level)
        return np.concatenate([matrix @ m, (matrix @ s + s @ matrix.T + np.outer(vector, vector)).ravel(), [rate]])

    result = solve_ivp(slope, (first, times[-1]), begin, method="DOP853", t_eval=times, rtol=1e-11, atol=1e-20)
    assert result.success, result.message
    return result.y[-1]


# -- exact denoisers: any callable (v, t, labels) to x0_hat ------------------------------------------------------------


class GaussianDenoiser:
    """Posterior mean of data N(mean, std^2), pixel by pixel, under a dynamics of the pixel basis."""

    def __init__(self, dynamics, mean: float = 0.3, std: float = 0.2) -> None:
        self.dynamics, self.mean, self.std = dynamics, mean, std

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        law = self.dynamics.moments(t)
        scale, noise = (field.reshape(-1, *(1,) * (v.ndim - 1)) for field in (law.scale, law.std.square()))
        gain = self.std**2 * scale / (scale**2 * self.std**2 + noise)
        return (self.mean + gain * (v.double() - scale * self.mean)).to(v.dtype)


@dataclass(frozen=True)
class Mixture:
    """Three narrow modes in one dimension (the toy problem of the reference tables)."""

    means: tuple[float, ...] = (-0.8, -0.1, 0.7)
    deviations: tuple[float, ...] = (0.05, 0.1, 0.02)
    weights: tuple[float, ...] = (0.3, 0.4, 0.3)

    @property
    def mean(self) -> float:
        return float(np.dot(self.weights, self.means))

    @property
    def variance(self) -> float:
        return float(np.dot(self.weights, np.square(self.means) + np.square(self.deviations)) - self.mean**2)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        mode = rng.choice(3, size=count, p=self.weights)
        return rng.normal(np.take(self.means, mode), np.take(self.deviations, mode))

    def quantiles(self, count: int) -> Array:
        """Quantiles at the middles of ``count`` equal parts of probability."""
        x = np.linspace(-1.5, 1.5, 200001)
        modes = zip(self.weights, self.means, self.deviations, strict=True)
        cdf = sum(w * torch.special.ndtr(torch.from_numpy((x - m) / s)).numpy() for w, m, s in modes)
        return np.interp((np.arange(count) + 0.5) / count, cdf, x)

    def distance(self, samples: Array) -> float:
        """Wasserstein-1 distance of samples to the exact law."""
        return float(np.abs(np.sort(samples) - self.quantiles(len(samples))).mean())

    def floor(self, count: int, repeats: int = 64) -> float:
        """Mean distance of independent exact samples of the same size."""
        rng = np.random.default_rng(0)
        return float(np.mean([self.distance(self.sample(count, rng)) for _ in range(repeats)]))


class MixtureDenoiser:
    """Posterior mean of a :class:`Mixture`, pixel by pixel: a softmax-weighted mean; works for a time per sample."""

    def __init__(self, dynamics, mixture: Mixture | None = None) -> None:
        mixture = mixture or Mixture()
        self.dynamics = dynamics
        self.modes = list(zip(mixture.weights, mixture.means, mixture.deviations, strict=True))

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        law = self.dynamics.moments(t)
        scale, noise = (field.to(v.dtype).reshape(-1, *(1,) * (v.ndim - 1)) for field in (law.scale, law.std.square()))
        logits, centres = [], []
        for weight, mean, deviation in self.modes:
            variance = scale**2 * deviation**2 + noise
            residual = v - scale * mean
            logits.append(math.log(weight) - (variance.log() + residual.square() / variance) / 2)
            centres.append(mean + scale * deviation**2 / variance * residual)
        return (torch.stack(logits).softmax(0) * torch.stack(centres)).sum(0)


# -- orders of convergence ---------------------------------------------------------------------------------------------


def slope(steps: list[int], errors: list[float]) -> float:
    """Order of convergence: minus the least-squares slope of log error against log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
