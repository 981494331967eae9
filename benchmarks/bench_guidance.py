"""What an evaluation of a network costs when it is given an observation: time and memory over those of a plain one.

    python -m benchmarks.bench_guidance [--run_id digits-demo] [--samples 32] [--device cpu]

Time is the median of several calls, memory the most bytes of tensors that live at once in one. Half of the values are
observed; figures are means over noise levels. A second table has the conjugate-gradient steps that were taken at each
noise level, and what a single one and the most would have cost.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.timing import median_seconds
from common import runs
from common.guidance import METHODS, ExactCovariance
from common.guidance.conjugate import solve
from common.guidance.covariance import Covariance
from common.guidance.exact import TOLERANCE
from common.guidance.operators import Mask
from common.samplers import path_of
from common.samplers.adams import AdamsBashforth2
from common.training.memory import TensorMemory

TIMES = (0.95, 0.7, 0.5, 0.3, 0.1, 0.02)
REPEATS, NOISE = 5, 0.05


def cost(call: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Seconds and bytes of a call."""
    seconds = median_seconds(call, REPEATS, device)
    with TensorMemory() as memory:
        call()
    return seconds, memory.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_id", default="digits-demo")
    parser.add_argument("--output_dir", default="runs")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    run = runs.load(args.run_id, output_dir=args.output_dir)
    denoiser = run.denoiser.to(device)
    path = path_of(AdamsBashforth2, run.dynamics.to(device))
    shape = (args.samples, *run.data.shape)
    known = torch.zeros(shape[2:])
    known[: len(known) // 2] = 1
    operator = Mask(known).to(device)
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    x = denoiser(x, torch.full(shape[:1], 0.3, device=device), None).detach().clamp(-1, 1)  # something like data
    y = operator(x)

    def state(time: float) -> tuple[Tensor, Tensor]:
        t = torch.full(shape[:1], time, device=device)
        return path.perturb(x, t, noise), t

    def over_times(call: Callable[[Tensor, Tensor], object]) -> tuple[float, float]:
        costs = [cost(partial(call, *state(time)), device) for time in TIMES]
        return sum(c[0] for c in costs) / len(TIMES), max(c[1] for c in costs)

    with torch.no_grad():
        plain = over_times(lambda v, t: denoiser(v, t, None))
        print(f"{run.folder.name}, {args.samples} samples: plain {plain[0]:.3g} s, {plain[1] / 2**20:.3g} MiB\n")
        print("| method | time over a plain evaluation | memory over it |\n| --- | --- | --- |")
        for name, kind in METHODS.items():
            method = kind(denoiser, path, operator, y, noise_std=NOISE)
            seconds, memory = over_times(method)
            print(f"| {name} | {seconds / plain[0]:.1f} | {memory / plain[1]:.1f} |", flush=True)
        for iterations in (1, 20):
            method = ExactCovariance(denoiser, path, operator, y, noise_std=NOISE, iterations=iterations)
            seconds, memory = over_times(method)
            row = f"{seconds / plain[0]:.1f} | {memory / plain[1]:.1f}"
            print(f"| exact, at most {iterations} steps | {row} |", flush=True)
        print("\n| t | noise level | conjugate-gradient steps: mean | most |\n| --- | --- | --- | --- |")
        for time in TIMES:
            v, t = state(time)
            covariance = Covariance(denoiser, path, v, t, None)
            steps = solve(
                lambda u, c=covariance: (operator(c(operator.adjoint(u))) + NOISE**2 * u, u),
                y - operator(covariance.x0),
                steps=20,
                tolerance=TOLERANCE,
                learned=True,
                values=operator.values(run.data.shape) if path.basis.modes else None,
            ).steps
            level = float(path.representative(path.moments(t[:1]).sigma).mean())
            print(f"| {time:g} | {level:.3g} | {float(steps.float().mean()):.1f} | {int(steps.max())} |", flush=True)


if __name__ == "__main__":
    main()
