"""How well 1,000 Euler-Maruyama steps return the data law, with an exact denoiser: no network error.

Data: one pixel, three narrow modes (tests/oracles.py). Every figure is the Wasserstein-1 distance of 20,000 samples to
the exact quantiles less its floor (the distance of 20,000 exact samples), mean over groups of seeds, for two priors:
N(0, S(T)), as published, and the one with the data's mean and variance at T.

usage (from the project's root): python -m benchmarks.quality_mixture [--groups N] [--steps N] [--solver NAME]
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from common.dynamics import CLD, LinearDynamics, Prior
from common.samplers import SOLVERS, sample
from gfdm.dynamics import FVE, FVP
from tests.oracles import Mixture, MixtureDenoiser

SEEDS, SIDE = 50, 20  # seeds and pixels of one group: the pixels of an image are independent draws
MIXTURE = Mixture()

MEMBERS: dict[str, Callable[[], LinearDynamics]] = {
    **{
        f"{family.__name__} H={hurst} K={num_aug}": lambda f=family, h=hurst, k=num_aug: f(h, k)
        for family in (FVP, FVE)
        for num_aug in (0, 2, 3)
        for hurst in ((0.1, 0.5, 0.9) if num_aug else (0.5,))  # without auxiliary processes H has no effect
    },
    "CLD": CLD,
}


def excess(dynamics: LinearDynamics, groups: int, steps: int, solver: str) -> tuple[float, float]:
    """Distance less its floor: mean over groups and the standard error of the mean."""
    floor = MIXTURE.floor(SEEDS * SIDE**2)
    distances = []
    for group in range(groups):
        result = sample(
            dynamics,
            MixtureDenoiser(dynamics),
            (SEEDS, 1, SIDE, SIDE),
            solver=solver,
            steps=steps,
            seeds=range(group * SEEDS, (group + 1) * SEEDS),
        )
        distances.append(MIXTURE.distance(result.x.flatten().double().numpy()) - floor)
    error = statistics.stdev(distances) / math.sqrt(groups) if groups > 1 else math.nan
    return statistics.mean(distances), error


def main() -> None:
    """Print one line per dynamics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=8, help="groups of 20,000 samples (default 8)")
    parser.add_argument("--steps", type=int, default=1000, help="solver steps (default 1000)")
    parser.add_argument("--solver", choices=SOLVERS, default="em", help="solver (default em)")
    options = parser.parse_args()
    print("dynamics           sigma(T)   zero-mean prior      prior with data moments")
    for name, build in MEMBERS.items():
        begin = time.perf_counter()
        dynamics = build()
        end = dynamics.log_sigma(torch.ones(1, dtype=torch.float64)).exp().item()
        published = excess(dynamics, options.groups, options.steps, options.solver)
        dynamics.prior = Prior(dynamics, MIXTURE.mean, MIXTURE.variance)
        informed = excess(dynamics, options.groups, options.steps, options.solver)
        figures = "      ".join(f"{mean:+.4f} +- {error:.4f}" for mean, error in (published, informed))
        print(f"{name:18s} {end:8.3g}   {figures}   ({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
