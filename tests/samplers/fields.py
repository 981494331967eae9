"""Gaussian random fields: under linear dynamics every law is Gaussian mode by mode, that of the samples included."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.samplers import Posterior, Solver
from common.samplers.grids import Grid


@dataclass(frozen=True)
class Law:
    """Mean and variance of every mode of a stationary field.

    Attributes:
        mean: the mean's coefficients in the orthonormal real FFT, (*half spectrum) complex.
        variance: (*half spectrum).
    """

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Field:
    """Data x0: a mean function plus a stationary Gaussian field, one channel, float64.

    Attributes:
        mean: (*S).
        spectrum: variance of every coefficient of the orthonormal real FFT, (*half spectrum).
    """

    mean: Tensor
    spectrum: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.mean.ndim, 0))

    def analysis(self, x: Tensor) -> Tensor:
        return torch.fft.rfftn(x, dim=self._axes, norm="ortho")

    def synthesis(self, coefficients: Tensor) -> Tensor:
        return torch.fft.irfftn(coefficients, s=self.shape, dim=self._axes, norm="ortho")

    def _fit(self, coefficient: Tensor) -> Tensor:
        """(B, *modes) of a pixel or Fourier basis to (B, *half spectrum)."""
        return coefficient.reshape(len(coefficient), *(coefficient.shape[1:] or (1,) * self.mean.ndim))

    def denoiser(self, dynamics: LinearDynamics) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """Posterior mean: mu + k P / (k^2 P + S) (v - k mu), mode by mode."""

        def denoise(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            law = dynamics.moments(t)
            k, s = (self._fit(x).unsqueeze(1) for x in (law.scale, law.std.square()))
            mean = self.analysis(self.mean)
            gain = k * self.spectrum / (k.square() * self.spectrum + s)
            return self.synthesis(mean + gain * (self.analysis(v.double()) - k * mean)).to(v.dtype)

        return denoise

    def consistency(self, dynamics: LinearDynamics) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """The end of the path of the probability-flow ODE through v: mu + sqrt(P / (k^2 P + S)) (v - k mu)."""

        def end(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            law = dynamics.moments(t)
            k, s = (self._fit(x).unsqueeze(1) for x in (law.scale, law.std.square()))
            mean = self.analysis(self.mean)
            ratio = (self.spectrum / (k.square() * self.spectrum + s)).sqrt()
            return self.synthesis(mean + ratio * (self.analysis(v.double()) - k * mean)).to(v.dtype)

        return end

    def at(self, dynamics: LinearDynamics, t: float) -> Law:
        """The law of the data component at time t."""
        time = torch.tensor([t], dtype=torch.float64)
        k, s = (self._fit(x)[0] for x in (dynamics._mean(time)[:, 0], dynamics._cov(time)[:, 0, 0]))
        return Law(k * self.analysis(self.mean), k.square() * self.spectrum + s)

    def denoised_at(self, dynamics: LinearDynamics, t: float) -> Law:
        """The law of x0_hat at time t."""
        law = dynamics.moments(torch.tensor([t], dtype=torch.float64))
        k, s = (self._fit(x)[0] for x in (law.scale, law.std.square()))
        known = k.square() * self.spectrum
        return Law(self.analysis(self.mean), self.spectrum * known / (known + s))


def frequencies(shape: tuple[int, ...]) -> Tensor:
    """Absolute frequency in cycles per sample of every mode, (*half spectrum)."""
    axes = [torch.fft.fftfreq(n, d=1 / n, dtype=torch.float64) for n in shape[:-1]]
    axes.append(torch.fft.rfftfreq(shape[-1], d=1 / shape[-1], dtype=torch.float64))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


def smooth_field(shape: tuple[int, ...]) -> Field:
    """Spectrum 1 / (1 + f^2)^2 with a variance of 1 per pixel; mean 1/2 and waves of 1 and 3 cycles along the axes."""
    spectrum = (1 + frequencies(shape).square()) ** -2
    full = torch.fft.irfftn(spectrum, s=shape, norm="backward")  # covariance between pixels; at lag 0 the variance
    grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in shape), indexing="ij")
    waves = sum(torch.cos(2 * math.pi * g) + torch.cos(6 * math.pi * g + 1) for g in grids)
    return Field(0.5 + waves / (2 * len(shape)), spectrum / full.flatten()[0])


def law_from_published_prior(dynamics: LinearDynamics, field: Field, t_end: float, *, stochastic: bool) -> Law:
    """What exact reversal of the SDE, or the exact flow, makes of N(0, S(T)); for one component, in closed form."""
    end, start = field.at(dynamics, t_end), field.at(dynamics, dynamics.horizon)
    times = torch.tensor([t_end, dynamics.horizon], dtype=torch.float64)
    published = dynamics.moments(times[1:]).cov[0, 0, 0]
    if stochastic:  # regression of the end on the start: their covariance over the start's variance
        gain = dynamics.transition(times[:1], times[1:])[0][0, 0, 0] * end.variance / start.variance
    else:  # the flow of a Gaussian scales by the ratio of deviations
        gain = (end.variance / start.variance).sqrt()
    return Law(end.mean - gain * start.mean, end.variance + gain.square() * (published - start.variance))


def returned_law(
    dynamics: LinearDynamics,
    field: Field,
    solver: Solver,
    steps: int,
    *,
    t_end: float = 1e-3,
    grid: Grid | None = None,
    denoise_last: bool = False,
    noisy_end: bool = False,
    consistent: bool = False,
) -> Law:
    """The law of x that a linear solver returns from the dynamics' prior, without any sampling error.

    ``consistent`` answers with ends of paths, not with posterior means. ``noisy_end`` gives the last step noise too:
    then the law is that of the scheme itself, step by step.

    One row of a batch has no noise: it carries the mean. Every other row has a unit impulse in one of all the noises,
    the prior's included; its difference to the first row is that noise's transfer function.
    """
    solver.check(dynamics)
    components, size = dynamics.num_components, field.mean.numel()
    draws = solver.draws(components) if solver.stochastic else 0
    rows = 1 + components + (steps - 1 + noisy_end) * draws
    origin = (0,) * (1 + field.mean.ndim)

    def impulses(first: int, count: int) -> Tensor:
        noise = torch.zeros(rows, count, 1, *field.shape, dtype=torch.float64)
        for j in range(count):
            noise[(first + j, j, *origin)] = 1
        return noise

    times = (grid or solver.default_grid(dynamics))(dynamics, t_end, steps)
    solver.prepare(dynamics, times)
    posterior = Posterior(dynamics, (field.consistency if consistent else field.denoiser)(dynamics), None)
    z = dynamics.prior.sample((rows, 1, *field.shape), impulses(1, components))
    for i in range(steps):
        silent = i == steps - 1 and not noisy_end
        noise = None if silent or not draws else impulses(1 + components + i * draws, draws)
        noise = noise.squeeze(1) if draws == 1 and noise is not None else noise
        z = solver.step(dynamics, posterior, z, times[i : i + 1], times[i + 1 : i + 2], noise)
    x = posterior(z, times[-1:]) if denoise_last else z[:, 0]
    coefficients = field.analysis(x[:, 0])
    transfer = (coefficients[1:] - coefficients[0]) * math.sqrt(size)  # an impulse has 1 / sqrt(size) of every wave
    return Law(coefficients[0], transfer.abs().square().sum(0))
