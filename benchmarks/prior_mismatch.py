"""How far heat dynamics land from the data when started from the published prior N(0, S(T)) instead of the data's own.

Data: a Gaussian field with the spectrum 1 / (1 + f^2)^2, f in cycles per sample and a variance of 1 per pixel, and
a mean function (tests/samplers/fields.py). The denoiser is exact and so is the law of what comes out: errors are those
of the prior, and of the steps in the lines that have any. Every error is relative to the data at t_end, mode by mode:
`mean` is what is missing of a mode's mean (where the data has one), `spectrum` the error of its variance. Then the
worst errors within bands of frequency, and the band's share of all the error (squared mean plus variance).

usage: python benchmarks/prior_mismatch.py [--steps 200]
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.dynamics import LinearDynamics, Prior
from common.samplers import GRIDS, SOLVERS
from fdp.dynamics import HeatSubVP
from tests.samplers.fields import Field, Law, frequencies, law_from_published_prior, returned_law, smooth_field

T_END = 1e-3
BANDS = ((0.0, 0.5), (0.5, 2.5), (2.5, 5.5), (5.5, 10.5), (10.5, 1e9))  # cycles per sample
CONFIGS = {  # published grids and constants
    "MNIST INR, 32x32, beta_max 5, energy_norm 1": ((32, 32), {"x_norm": 32, "energy_norm": 1, "beta_max": 5.0}),
    "CelebA INR, 64x64, beta_max 5, energy_norm 1": ((64, 64), {"x_norm": 64, "energy_norm": 1, "beta_max": 5.0}),
    "CelebA UViT, 64x64, beta_max 10, energy_norm 64": ((64, 64), {"x_norm": 64, "energy_norm": 64, "beta_max": 10.0}),
}


def errors(got: Law, want: Law) -> tuple[Tensor, Tensor]:
    """Relative errors of mean and variance per mode; of a mean that is not there, none."""
    size = want.mean.abs()
    there = size > 1e-9 * size.max()
    mean = torch.where(there, (got.mean - want.mean).abs() / size.clamp_min(1e-300), torch.zeros_like(size))
    return mean, got.variance / want.variance - 1


def multiplicity(shape: tuple[int, ...]) -> Tensor:
    """How often a column of the half spectrum occurs in the whole one, (shape[-1] // 2 + 1,)."""
    count = torch.full((shape[-1] // 2 + 1,), 2.0, dtype=torch.float64)
    count[0] = 1
    if shape[-1] % 2 == 0:
        count[-1] = 1
    return count


def by_band(got: Law, want: Law, shape: tuple[int, ...]) -> list[tuple[float, float, float]]:
    """Worst error of mean and spectrum, and share of the whole error, in each band."""
    mean, variance = errors(got, want)
    power = (got.mean - want.mean).abs().square() + (got.variance - want.variance).abs()
    power = power * multiplicity(shape)
    f, found = frequencies(shape), []
    for low, high in BANDS:
        inside = (f >= low) & (f < high)
        worst = [x[inside].abs().max().item() for x in (mean, variance)]
        found.append((worst[0], worst[1], (power[inside].sum() / power.sum()).item()))
    return found


def line(label: str, got: Law, want: Law, shape: tuple[int, ...]) -> str:
    mean, variance = errors(got, want)
    bands = by_band(got, want, shape)
    cells = "   ".join(f"{m:7.1e} {v:7.1e} {share:4.0%}" for m, v, share in bands)
    return f"{label:30s} {mean.max().item():7.1e} {variance.abs().max().item():7.1e}   {cells}"


def laws(dynamics: LinearDynamics, field: Field, steps: int) -> dict[str, Law]:
    """What comes out, by the way it was made."""

    def exponential() -> Law:
        return returned_law(dynamics, field, SOLVERS["exp2"](), steps, t_end=T_END, grid=GRIDS["log_time"])

    found = {
        "published prior, exact SDE": law_from_published_prior(dynamics, field, T_END, stochastic=True),
        "published prior, exact ODE": law_from_published_prior(dynamics, field, T_END, stochastic=False),
        f"published prior, exp2 x {steps}": exponential(),
    }
    dynamics.prior = Prior(dynamics, field.mean.unsqueeze(0), field.spectrum)
    return found | {f"data prior, exp2 x {steps}": exponential()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps of the exponential solver (default 200)")
    options = parser.parse_args(argv)
    names = ["f = 0", *(f"f {low + 0.5:g} to {high - 0.5:g}" for low, high in BANDS[1:-1]), f"f > {BANDS[-1][0]:g}"]
    for config, (shape, constants) in CONFIGS.items():
        dynamics, field = HeatSubVP(shape, **constants), smooth_field(shape)
        kept = dynamics.moments(torch.ones(1, dtype=torch.float64)).scale.max().item()
        print(f"{config}: of some mode, {kept:.1%} is left at T")
        print(f"{'':30s} {'worst':>15s}   " + "   ".join(f"{name:>20s}" for name in names))
        print(f"{'':30s} {'mean':>7s} {'spect.':>7s}   " + "   ".join(["   mean  spect. share"] * len(BANDS)))
        want = field.at(dynamics, T_END)
        for label, got in laws(dynamics, field, options.steps).items():
            print(line(label, got, want, shape), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
