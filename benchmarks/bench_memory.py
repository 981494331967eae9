"""Does sampling's memory grow with the number of steps? Peak of 1,000 steps over peak of 10, in fresh processes.

usage: python benchmarks/bench_memory.py [SOLVER ..]     (CPU: peak resident set; CUDA: peak allocated)

The network is a single convolution, so that the state (64 images of 3x32x32, K = 5) and its noise are what counts:
kept for every step, the noise alone would take 786 MB. Adaptive solvers choose their steps: a coarse and a fine
tolerance stand for 10 and 1,000. The bar is a ratio of 1.05.
"""

import resource
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.denoiser import Denoiser
from common.refusal import Refusal
from common.samplers import SOLVERS, sample
from gfdm.dynamics import FVP

BAR = 1.05
SHAPE = (64, 3, 32, 32)
TOLERANCES = {10: {"rtol": 1e-3}, 1000: {"rtol": 1e-5}}  # of adaptive solvers, by the steps that they stand for
MEASURE = "--measure"


class Convolution(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.convolution(x)


def peak_megabytes(solver: str, steps: int, state: str) -> float:
    """Draw samples in this process, on the scalar path or the whole state, and return its peak memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dynamics = FVP(0.9, 5).to(device)
    denoiser, kind = Denoiser(Convolution().to(device), dynamics), SOLVERS[solver]
    sample(
        dynamics.scalar_path() if state == "scalar" else dynamics,
        denoiser,
        SHAPE,
        solver=kind(**TOLERANCES[steps]) if kind.adaptive else kind(),
        steps=1 if kind.adaptive else steps,
        seeds=range(SHAPE[0]),
    )
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def states(solver: str) -> list[str]:
    """What a solver runs on."""
    try:
        SOLVERS[solver]().check(FVP(0.9, 5))
    except Refusal:
        return ["scalar"]
    return ["whole", "scalar"]


def main() -> int:
    if sys.argv[1:2] == [MEASURE]:
        print(peak_megabytes(sys.argv[2], int(sys.argv[3]), sys.argv[4]))
        return 0
    print(f"{'solver':>13} {'state':>7} {'10 steps MB':>12} {'1000 steps MB':>14} {'ratio':>7}")
    worst = 0.0
    for solver in sys.argv[1:] or SOLVERS:
        for state in states(solver):
            few, many = (
                float(subprocess.check_output([sys.executable, __file__, MEASURE, solver, str(n), state]))
                for n in TOLERANCES
            )
            worst = max(worst, many / few)
            print(f"{solver:>13} {state:>7} {few:>12.0f} {many:>14.0f} {many / few:>7.3f}", flush=True)
    print(f"worst ratio {worst:.3f}, bar {BAR}: {'met' if worst <= BAR else 'missed'}")
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
