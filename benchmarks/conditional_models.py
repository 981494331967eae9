"""Conditional generation with trained models: every method at 7, 20 and 50 evaluations, on held-out data.

Inputs are the first held-out samples of a run. Of each, part is observed: one half, a quarter of the pixels drawn by
lot, low frequencies, the grey image of a colour one, eight pixels with noise. Then completions of every input are
drawn, always with the same seeds, and their mean is compared with the truth:

    PSNR           of the mean of the completions, on the data's scale, mean over inputs, with its interval of 95 %
    relative L2    |mean - truth| / |truth - the mean of all training data|
    coverage       how often the truth lies between the 5th and the 95th percentile of the completions, over values
                   that the observation leaves open; 16 exact ones of a Gaussian give .81, 50 give .87
    seconds        to draw all of them

Rows that are in --out already are not drawn again, so that a run that was stopped goes on. A row is marked where the
default is worse than it beyond the interval of the paired differences over inputs.

usage: python benchmarks/conditional_models.py --run RUN --out FILE.json [--runs_dir runs] [--data_dir DIR]
    [--inputs 64] [--completions 16] [--tasks half random lowpass grey sensors] [--nfe 7 20 50] [--solvers NAME ..]
    [--methods exact isotropic replacement] [--threads N]
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch
from torch import Tensor

from common.data.spec import DataSpec
from common.denoiser import Clipped
from common.files import write_json
from common.guidance import METHODS
from common.guidance.operators import Grey, LowPass, Mask, Operator
from common.metrics.reference import real_data
from common.runs import Run, load
from common.samplers import SOLVERS, default_solver, path_of, sample

LOW, HIGH = 0.05, 0.95
BLOCK = 128  # samples drawn together
SENSORS, SENSOR_NOISE = 8, 0.05  # on the network's scale


def masks(spec: DataSpec, count: int, share: float | int) -> Tensor:
    """One mask by lot for every input: a share of the points, or so many of them."""
    points = math.prod(spec.grid)
    known = share if isinstance(share, int) else round(share * points)
    found = torch.zeros(count, 1, points)
    for i in range(count):
        found[i, 0, torch.randperm(points, generator=torch.Generator().manual_seed(i))[:known]] = 1
    return found.reshape(count, 1, *spec.grid)


def half(spec: DataSpec, count: int) -> Operator:
    mask = torch.zeros(1, *spec.grid)
    mask[..., : spec.grid[-1] // 2] = 1
    return Mask(mask)


TASKS: dict[str, tuple[Callable[[DataSpec, int], Operator], float]] = {
    "half": (half, 0.0),
    "random": (lambda spec, count: Mask(masks(spec, count, 0.25), per_sample=True), 0.0),
    "lowpass": (lambda spec, count: LowPass(max(2.0, spec.grid[-1] * 10 / 64), spec.grid), 0.0),
    "grey": (lambda spec, count: Grey(), 0.0),
    "sensors": (lambda spec, count: Mask(masks(spec, count, SENSORS), per_sample=True), SENSOR_NOISE),
}


def draw(
    run: Run,
    operator: Operator,
    y: Tensor,
    labels: Tensor | None,
    method: str,
    solver: str,
    nfe: int,
    noise: float,
    completions: int,
) -> tuple[Tensor, float]:
    """Completions (N, M, C, *S) of observations y (N, ..), and the seconds that it took."""
    inputs = torch.arange(len(y)).repeat_interleave(completions)
    seeds = list(range(completions)) * len(y)
    kind, found, start = SOLVERS[solver], [], time.perf_counter()
    path = path_of(kind, run.dynamics)
    steps = kind().steps_for(nfe, components=path.num_components)
    for block in torch.arange(len(inputs)).split(BLOCK):
        rows = inputs[block].tolist()
        conditioned = METHODS[method](run.denoiser, path, operator.rows(rows), y[rows], noise_std=noise)
        result = sample(
            path,
            Clipped(conditioned),
            (len(rows), *run.data.shape),
            solver=solver,
            steps=steps,
            seeds=[seeds[i] for i in block.tolist()],
            labels=None if labels is None else labels[rows],
            denoise_last=kind.denoise_last,
            observation=conditioned if conditioned.imposes else None,
        )
        found.append(result.x if conditioned.imposes else conditioned.finish(result.x))
    return torch.cat(found).unflatten(0, (len(y), completions)), time.perf_counter() - start


def judged(truth: Tensor, drawn: Tensor, open_values: Tensor, centre: Tensor) -> dict[str, list[float]]:
    """Figures of every input; open_values (N, C, *S) is 1 where coverage counts."""
    mean = drawn.mean(1)
    error = (mean - truth).flatten(1)
    low, high = drawn.quantile(LOW, 1), drawn.quantile(HIGH, 1)
    inside = ((truth >= low) & (truth <= high)).float() * open_values
    return {
        "psnr": (10 * (4 / error.square().mean(1)).log10()).tolist(),  # the network's scale is 2 wide
        "l2": (error.norm(dim=1) / (truth - centre).flatten(1).norm(dim=1)).tolist(),
        "coverage": (inside.flatten(1).sum(1) / open_values.flatten(1).sum(1)).tolist(),
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its interval of 95 %."""
    of = torch.tensor(values, dtype=torch.float64)
    return float(of.mean()), float(1.96 * of.std() / math.sqrt(len(of)))


def table(rows: dict[str, dict], default: str) -> list[str]:
    """Markdown; a row that beats the default beyond the interval of paired differences is marked."""
    lines = ["| task | evaluations | method, solver | PSNR | relative L2 | coverage | seconds | |", "| --- " * 8 + "|"]
    for key, row in rows.items():
        task, nfe, method, solver = key.split("/")
        (p, dp), (e, de), (c, dc) = (interval(row[name]) for name in ("psnr", "l2", "coverage"))
        own = [r for k, r in rows.items() if k.startswith(f"{task}/{nfe}/{default}/")]
        better = [interval([a - b for a, b in zip(row["psnr"], base["psnr"], strict=True)]) for base in own]
        mark = "better than the default" if better and all(m > d for m, d in better) and method != default else ""
        lines.append(
            f"| {task} | {nfe} | {method}, {solver} | {p:.2f} ± {dp:.2f} | {e:.3f} ± {de:.3f} | {c:.2f} ± {dc:.2f} | "
            f"{row['seconds']:.0f} | {mark} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--completions", type=int, default=16)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    parser.add_argument("--solvers", nargs="+")
    parser.add_argument("--nfe", nargs="+", type=int, default=[7, 20, 50])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run = load(given.run, None, given.runs_dir)
    dataset, remarks = real_data(run.folder.name, run.config, given.data_dir)
    print("\n".join(remarks))
    pixels, labels = dataset.held_out.read(given.inputs)
    truth = run.data.to_network(pixels)
    labels = labels if run.data.num_classes else None
    learned, _ = dataset.train.read(1000)
    centre = run.data.to_network(learned).mean(0)
    rows = json.loads(given.out.read_text()) if given.out.is_file() else {}
    for nfe in given.nfe:
        for task in given.tasks:
            make, noise = TASKS[task]
            if task == "grey" and run.data.channels != 3:
                continue
            operator = make(run.data, len(truth))
            operator.shape_of(run.data.shape)
            seen = operator(truth)
            generator = torch.Generator().manual_seed(0)
            y = seen + noise * torch.randn(seen.shape, generator=generator) * (operator(torch.ones_like(truth)) != 0)
            open_values = 1 - operator.mask.expand_as(truth) if isinstance(operator, Mask) else torch.ones_like(truth)
            for method in given.methods:
                for solver in given.solvers or [default_solver(run.dynamics, conditional=True)]:
                    key = f"{task}/{nfe}/{method}/{solver}"
                    if key in rows:
                        continue
                    drawn, seconds = draw(run, operator, y, labels, method, solver, nfe, noise, given.completions)
                    rows[key] = {**judged(truth, drawn, open_values, centre), "seconds": seconds}
                    write_json(given.out, rows)
                    print("\n".join(table({key: rows[key]}, "")[2:]), flush=True)
    print("\n".join(table(rows, next(iter(METHODS)))))


if __name__ == "__main__":
    main()
