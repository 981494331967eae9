"""Conditional methods on a Gaussian field whose posterior is known: how far mean and variance of the samples are off.

    python -m benchmarks.conditional_field [--evaluations 50] [--draws 2000] [--solvers exp2] [--dynamics fvp,heat]

The field has 12 x 12 points and the spectrum 0.6 / (1 + f^2 / 2)^1.2; the denoiser is exact, so what is off is the
method's and the solver's. Mean: sqrt(error^2 - floor^2) over the distance of the posterior's mean from the prior's, the
floor being what so many exact draws would be off by. Variance: that of all values together over the posterior's.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import CLD, VE, VP, LinearDynamics
from common.dynamics.prior import Prior
from common.guidance import METHODS, Conditioned, Replacement
from common.guidance.operators import Grey, LowPass, Mask, Operator, Points
from common.samplers import GRIDS, SOLVERS, path_of, sample
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVP

SIDE, NOISE = 12, 0.05
AXES = (-2, -1)
OBSERVED, RADIUS, SENSORS = 0.15, 3.0, 20

DYNAMICS: dict[str, Callable[[], LinearDynamics]] = {
    "fvp": lambda: FVP(0.9, 2),
    "cld": CLD,
    "ve": VE,
    "heat": lambda: HeatSubVP((SIDE, SIDE), x_norm=float(SIDE), energy_norm=200.0),
    "vp": VP,
}


def spectrum() -> Tensor:
    """Variance of every coefficient of the orthonormal FFT, (12, 7)."""
    full, half = (torch.fft.fftfreq(SIDE, d=1 / SIDE), torch.fft.rfftfreq(SIDE, d=1 / SIDE))
    squared = full.double().square().unsqueeze(1) + half.double().square()
    return 0.6 / (1 + squared / 2) ** 1.2


def deviation() -> float:
    """Deviation of the values of the field."""
    unit = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    unit[0, 0] = 1
    return float(torch.fft.irfftn(torch.fft.rfftn(unit) * spectrum(), s=(SIDE, SIDE))[0, 0]) ** 0.5


def exact_denoiser(dynamics: LinearDynamics) -> X0Denoiser:
    """E[x0 | v], mode by mode."""
    power = spectrum()

    def denoise(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        law = dynamics.moments(t)
        scale, std = (x.reshape(len(x), 1, *(x.shape[1:] or (1, 1))) for x in (law.scale, law.std))
        gain = scale * power / (scale.square() * power + std.square())
        seen = torch.fft.rfftn(v, dim=AXES, norm="ortho")
        return torch.fft.irfftn(gain.to(v.dtype) * seen, s=(SIDE, SIDE), dim=AXES, norm="ortho")

    return denoise


@dataclass(frozen=True)
class Case:
    """An observation of one field, and the posterior that follows.

    Attributes:
        operator: A.
        y: observation (1, *shape_of), float64.
        shape: shape (C, 12, 12) of the field; channels are independent.
        mean: mean of the posterior, (C * 144).
        cov: its covariance, (C * 144, C * 144).
    """

    operator: Operator
    y: Tensor
    shape: tuple[int, ...]
    mean: Tensor
    cov: Tensor


def case(name: str, seed: int = 0) -> Case:
    """One of ``mask``, ``lowpass``, ``points``, ``grey``, by linear algebra in float64."""
    generator = torch.Generator().manual_seed(seed)
    grid, channels = (SIDE, SIDE), 3 if name == "grey" else 1
    kept = torch.rand(grid, generator=generator, dtype=torch.float64) < OBSERVED
    at = torch.rand(SENSORS, 2, generator=generator, dtype=torch.float64) * 2 - 1
    makers: dict[str, Callable[[], Operator]] = {
        "mask": lambda: Mask(kept),
        "lowpass": lambda: LowPass(RADIUS, grid),
        "points": lambda: Points(at, grid),
        "grey": Grey,
    }
    operator, size = makers[name](), channels * SIDE**2
    unit = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, *grid)
    one = torch.fft.irfftn(torch.fft.rfftn(unit, dim=AXES) * spectrum(), s=grid, dim=AXES).flatten(1)
    prior = torch.block_diag(*[(one + one.T) / 2] * channels)
    white = torch.randn(size, generator=generator, dtype=torch.float64)
    x = (torch.linalg.cholesky(prior) @ white).reshape(1, channels, *grid)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, channels, *grid)
    matrix = operator(basis).flatten(1).T
    seen = operator(x)
    noise = torch.randn(seen.shape, generator=generator, dtype=torch.float64)
    y = seen + NOISE * (operator(operator.adjoint(noise)) if operator.projector else noise)
    system = matrix @ prior @ matrix.T + NOISE**2 * torch.eye(len(matrix), dtype=torch.float64)
    gain = torch.linalg.solve(system, matrix @ prior).T
    return Case(operator, y, (channels, *grid), gain @ y.flatten(), prior - gain @ matrix @ prior)


def measured(x: Tensor, truth: Case) -> tuple[float, float]:
    """Bias of the mean and total variance of draws (N, ..), each relative as the table has them."""
    x, total = x.double().flatten(1), float(truth.cov.trace())
    mean = x.mean(0)
    squared = float((mean - truth.mean).square().sum()) - total / len(x)
    return math.sqrt(max(squared, 0)) / float(truth.mean.norm()), float(x.var(0).sum()) / total


def draw(
    truth: Case, dynamics: LinearDynamics, method: str, solver: str, steps: int, draws: int, grid: str = ""
) -> Tensor:
    """Samples (draws, C, 12, 12) of a method."""
    path = path_of(SOLVERS[solver], dynamics)
    dtype = torch.get_default_dtype()
    y = truth.y.to(dtype).expand(draws, *truth.y.shape[1:])
    known: Conditioned = METHODS[method](exact_denoiser(path), path, truth.operator, y, noise_std=NOISE)
    chosen = GRIDS[grid] if grid else None
    return sample(
        path, known, (draws, *truth.shape), solver=solver, steps=steps, seeds=range(draws), grid=chosen,
        observation=known if isinstance(known, Replacement) else None,
    ).x  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--solvers", default="exp2")
    parser.add_argument("--grids", default="")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--dynamics", default="fvp,cld,ve,heat")
    parser.add_argument("--cases", default="mask,lowpass,points,grey")
    args = parser.parse_args()
    print("| observed | dynamics | solver, grid | method | mean | variance | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in args.cases.split(","):
        truth = case(name)
        for kind in args.dynamics.split(","):
            dynamics = DYNAMICS[kind]()
            dynamics.data_std = deviation()  # what a run knows of its data, and below what one under heat knows
            if dynamics.basis.modes:
                dynamics.prior = Prior(dynamics, 0.0, spectrum())
            for solver in args.solvers.split(","):
                for grid in args.grids.split(",") if args.grids else [""]:
                    for method in args.methods.split(","):
                        begun = time.perf_counter()
                        steps = SOLVERS[solver]().steps_for(args.evaluations, denoise_last=False)
                        x = draw(truth, dynamics, method, solver, steps, args.draws, grid=grid)
                        mean, variance = measured(x, truth)
                        row = (name, kind, f"{solver} {grid}".strip(), method, f"{mean:.3f}", f"{variance:.3f}")
                        print("|", " | ".join(row), f"| {time.perf_counter() - begun:.0f} |", flush=True)


if __name__ == "__main__":
    main()
