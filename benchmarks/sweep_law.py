"""The law of every dynamics against an exact reference, over all arguments that the constructors accept.

For each member: arguments at their ends, one and two at a time, and random ones; at times between t_min and T the
fields of the law, the prior, the transition and the inverse of the noise level are compared with those of
tests/dynamics/exact.py. What a constructor refuses is counted by argument. Exits 1 if an error is above the bar,
or anything else is raised.

    scale, std      relative                        prior       as cov, at T, variance 0 and .25
    log_sigma       absolute                        transition  U S U' + Q as cov, for pairs of times
    mean            in deviations, of the largest   carried     U M as mean, of the largest or 1
    cov             |dS_ij| / sqrt(S_ii S_jj)       level       |log_sigma(time_at(L)) - L|
    weight          of the largest entry            time        time_at(L) relative to t, where sigma grows with t
    complement      scaled as cov, of the largest

usage: python benchmarks/sweep_law.py [--member fvp] [--points 200] [--times 20] [--seed 0] [--out sweep.json]
"""

import argparse
import itertools
import json
import math
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.dynamics import CLD, EDM, VE, VP, Flow, LinearDynamics, Prior, SubVP
from common.refusal import Refusal
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP
from tests.dynamics import exact

BAR = 1e-6
RISING = 0.05  # slope of log sigma in log t from which on a time can be told from its level
UNDERFLOW = 1e-300  # scales below it are not compared
PATIENCE = 10  # seconds after which a constructor counts as failed
MEMORY = 8 * 2**30  # bytes of address space beyond what is in use at the start

Arguments = dict[str, Any]
Array = NDArray[np.float64]

BUILD: dict[str, Callable[..., LinearDynamics]] = {
    "fvp": FVP,
    "fve": FVE,
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "cld": CLD,
    "edm": EDM,
    "flow": Flow,
    "heat": HeatSubVP,
}

# -- arguments ---------------------------------------------------------------------------------------------------------

FRACTIONAL: dict[str, tuple[Any, ...]] = {  # what each argument is in turn, away from its default
    "hurst": (1e-4, 0.1, 0.5, 1 - 1e-4),
    "num_aug": (0, 1, 3, 4, 5, 6, 7),
    "gamma_max": (1.001, 2.0, 100.0, 1e3, 1e4, 1e6),
    "normalize": (False,),
    "marginals": ("paper",),
    "aug_init_var": (1e-12, 1e-8, 1.0, 100.0),
}
BETA = {"beta_min": (0.0, 1e-6, 20.0), "beta_max": (0.1, 1e-3, 200.0, 1e3, 2799.0, 1e6)}
SIGMA = {"sigma_min": (1e-8, 49.999), "sigma_max": (0.010001, 1e3, 1e8)}
ENDS = (1e-6, 1e-3, 1e3, 1e6)
CORNERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "fvp": FRACTIONAL | BETA,
    "fve": FRACTIONAL | SIGMA,
    "vp": BETA,
    "subvp": BETA,
    "ve": SIGMA,
    "cld": {"beta": ENDS, "mass": ENDS, "initial_share": (1e-6, 1e-3, 1.0, 10.0)},
    "edm": {"sigma_max": (1e-8, 1e8)},
    "flow": {},
    "heat": BETA | {"const": ENDS, "x_norm": ENDS, "energy_norm": ENDS, "shape": ((7,), (4, 6), (5, 3))},
}
BASE: dict[str, Arguments] = {"heat": {"shape": (8,), "x_norm": 8.0}}


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(min(math.exp(rng.uniform(math.log(low), math.log(high))), high))


def draw_beta(rng: np.random.Generator) -> Arguments:
    high = log_uniform(rng, 1e-3, 3e3)
    low = 0.0 if rng.random() < 0.2 else log_uniform(rng, min(1e-6, high), high)
    return {"beta_min": low, "beta_max": high}


def draw_sigma(rng: np.random.Generator) -> Arguments:
    low, high = sorted(log_uniform(rng, 1e-8, 1e8) for _ in range(2))
    return {"sigma_min": low, "sigma_max": high}


def draw(member: str, rng: np.random.Generator) -> Arguments:
    """Random arguments of a member."""
    if member in ("vp", "subvp"):
        return draw_beta(rng)
    if member == "ve":
        return draw_sigma(rng)
    if member == "edm":
        return {"sigma_max": log_uniform(rng, 1e-8, 1e8)}
    if member == "cld":
        mass = log_uniform(rng, 1e-6, 1e6)
        return {
            "beta": math.sqrt(mass) * log_uniform(rng, 1e-4, 1e3),
            "mass": mass,
            "initial_share": log_uniform(rng, 1e-6, 20.0),
        }
    if member == "flow":
        return {}
    if member == "heat":
        shape = tuple(int(n) for n in rng.integers(2, 10, size=rng.integers(1, 3)))
        return draw_beta(rng) | {
            "shape": shape,
            **{name: log_uniform(rng, 1e-6, 1e6) for name in ("const", "x_norm", "energy_norm")},
        }
    return (draw_beta(rng) if member == "fvp" else draw_sigma(rng)) | {
        "hurst": float(rng.uniform(1e-4, 1 - 1e-4)),
        "num_aug": int(rng.integers(0, 8)),
        "gamma_max": log_uniform(rng, 1.001, 1.1e4),
        "normalize": bool(rng.random() < 0.7),
        "marginals": "exact" if rng.random() < 0.7 else "paper",
        "aug_init_var": log_uniform(rng, 1e-12, 200.0),
    }


def cases(member: str, points: int, seed: int) -> Iterator[Arguments]:
    """The defaults, one and two arguments away from them, then random ones."""
    base, ends = BASE.get(member, {}), CORNERS[member]
    yield base
    for name, values in ends.items():
        yield from (base | {name: value} for value in values)
    for first, second in itertools.combinations(ends, 2):
        outer = [(values[0], values[-1]) if len(values) > 1 else values for values in (ends[first], ends[second])]
        yield from (base | {first: a, second: b} for a, b in itertools.product(*outer))
    rng = np.random.default_rng(seed)
    yield from (draw(member, rng) for _ in range(points if ends else 0))


# -- comparison --------------------------------------------------------------------------------------------------------


def look_at(dynamics: LinearDynamics, count: int, rng: np.random.Generator) -> Array:
    """Times: both ends, and random ones between, half of them log-uniform."""
    low, high = dynamics.t_min, dynamics.horizon
    early = (count - 2) // 2
    between = [np.exp(rng.uniform(np.log(low), np.log(high), early)), rng.uniform(low, high, count - 2 - early)]
    return np.unique(np.concatenate([[low, high], *between]).clip(low, high))


def reference(member: str, times: Array, arguments: Arguments) -> dict[str, Array]:
    """Fields of the law (B, ..) in float64."""
    found = exact.laws(member, times.tolist(), **arguments)
    names = ("mean", "cov", "weight", "scale", "std", "log_sigma", "complement")
    return {name: np.stack([np.asarray(getattr(law, name), dtype=float) for law in found]) for name in names}


def per_time(errors: Array) -> Array:
    return np.abs(errors).reshape(len(errors), -1).max(1)


def diagonal(cov: Array) -> Array:
    """Deviations (B, A, *modes)."""
    return np.sqrt(np.moveaxis(np.diagonal(cov, axis1=1, axis2=2), -1, 1))


def of_mean(got: Array, want: Array, deviation: Array, *, there: Array, least: float = 0.0) -> Array:
    """In deviations, over the largest entry or ``least``, whichever is more."""
    size = np.maximum((np.abs(want) / deviation).max(1), least)
    return per_time(np.where(there, np.abs((got - want) / deviation).max(1) / np.where(there, size, 1), 0))


def of_cov(got: Array, want: Array) -> Array:
    deviation = diagonal(want)
    return per_time((got - want) / deviation[:, :, None] / deviation[:, None])


def of_complement(got: Array, want: Array, cov: Array) -> Array:
    deviation = diagonal(cov)
    pairs = deviation[:, :, None] * deviation[:, None]
    size = np.abs(want * pairs).max((1, 2), keepdims=True)
    return per_time((got - want) * pairs / np.where(size > 0, size, 1))


def prior_root(dynamics: LinearDynamics, variance: float, shape: tuple[int, ...]) -> Array:
    """The square root of the covariance that the prior draws with, (1, A, A, *modes), column by column."""
    size, basis = dynamics.num_components, dynamics.basis
    white = torch.randn(1, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns = []
    for a in range(size):
        noise = torch.zeros(1, size, 1, *shape, dtype=torch.float64)
        noise[:, a] = white
        drawn = Prior(dynamics, 0.0, variance).sample((1, 1, *shape), noise)
        ratio = basis.analysis(drawn) / basis.analysis(white).unsqueeze(1)
        columns.append((ratio.real if ratio.is_complex() else ratio)[:, :, 0])
    root = torch.stack(columns, 2)
    return (root if basis.modes else root.mean((-2, -1))).numpy()


def square(root: Array) -> Array:
    found: Array = np.einsum("bij...,bkj...->bik...", root, root)
    return found


def compare(member: str, dynamics: LinearDynamics, arguments: Arguments, times: Array) -> dict[str, tuple[float, Any]]:
    """Worst error of every quantity, and the time (or times) where it is."""
    want, t = reference(member, times, arguments), torch.from_numpy(times)
    law = dynamics.moments(t)
    got = {name: getattr(law, name).numpy() for name in want}
    alive = want["scale"] > UNDERFLOW
    relative = {name: got[name] / np.where(alive, want[name], got[name]) - 1 for name in ("scale", "std")}
    deviation = diagonal(want["cov"])
    weight = np.abs(want["weight"]).reshape(len(t), -1).max(1)
    errors = {
        "scale": per_time(relative["scale"]),
        "std": per_time(got["std"] / want["std"] - 1),
        "log_sigma": per_time(np.where(alive, got["log_sigma"] - want["log_sigma"], 0)),
        "mean": of_mean(got["mean"], want["mean"], deviation, there=alive),
        "cov": of_cov(got["cov"], want["cov"]),
        "weight": per_time(got["weight"] - want["weight"]) / weight,
        "complement": of_complement(got["complement"], want["complement"], want["cov"]),
    }
    found: dict[str, tuple[float, Any]] = {name: worst(error, times) for name, error in errors.items()}

    shape = arguments.get("shape", (2, 1))
    end = {name: value[-1:] for name, value in want.items()}
    outer = end["mean"][:, :, None] * end["mean"][:, None]
    found["prior"] = max(
        worst(of_cov(square(prior_root(dynamics, v, shape)), end["cov"] + v * outer), np.array([v]))
        for v in (0.0, 0.25)
    )
    if arguments.get("marginals") != "paper":
        found |= compare_transition(dynamics, want, alive, times)
    if dynamics.is_monotone:
        level, there = (torch.from_numpy(x) for x in (want["log_sigma"], alive))
        found |= compare_inverse(dynamics, dynamics.representative(level), dynamics.representative(there), t)
    return found


def compare_transition(
    dynamics: LinearDynamics, want: dict[str, Array], alive: Array, times: Array
) -> dict[str, tuple[float, tuple[float, float]]]:
    """From each time to the next ones near and far."""
    count = len(times)
    pairs = [(i, i + gap) for gap in (1, 2, 5, 11, count - 1) for i in range(0, count - gap, max(1, gap // 2))]
    s, t = np.array(pairs).T
    u, q = (x.numpy() for x in dynamics.transition(torch.from_numpy(times[s]), torch.from_numpy(times[t])))
    cov = np.einsum("bij...,bjk...,blk...->bil...", u, want["cov"][s], u) + q
    mean = np.einsum("bij...,bj...->bi...", u, want["mean"][s])
    off = of_mean(mean, want["mean"][t], diagonal(want["cov"][t]), there=alive[t], least=1.0)
    spans = np.stack([times[s], times[t]], 1)
    return {
        "transition": worst(of_cov(cov, want["cov"][t]), spans),
        "carried": worst(off, spans),
    }


def compare_inverse(
    dynamics: LinearDynamics, level: Tensor, there: Tensor, t: Tensor
) -> dict[str, tuple[float, float]]:
    """From the noise level (B,) back to time, where that mode is there."""
    back = dynamics.time_at(level)
    low, high = (t * (1 - 1e-4)).clamp_min(dynamics.t_min), (t * (1 + 1e-4)).clamp_max(dynamics.horizon)
    rising = (dynamics.log_sigma(high) - dynamics.log_sigma(low)) / (high / low).log() > RISING
    off = (dynamics.log_sigma(back) - level).abs()
    return {
        "level": worst(torch.where(there, off, 0).numpy(), t.numpy()),
        "time": worst(torch.where(there & rising, (back / t - 1).abs(), 0).numpy(), t.numpy()),
    }


def worst(errors: Array, places: Array) -> tuple[float, Any]:
    """The largest error, and where; what is no number is infinite."""
    errors = np.where(np.isnan(errors), np.inf, errors)
    where = int(errors.argmax())
    return float(errors[where]), places[where].tolist()


# -- the sweep ---------------------------------------------------------------------------------------------------------


def look(member: str, arguments: Arguments, count: int, seed: int) -> dict[str, Any]:
    """One case: its errors, the refusal, or what else was raised."""
    case: dict[str, Any] = {"member": member, "arguments": arguments}
    try:
        dynamics = in_time(BUILD[member], arguments)
    except Refusal as refusal:
        return case | {"refused": refusal.argument or "law", "message": str(refusal)}
    except Exception as failure:
        return case | {"failed": f"{type(failure).__name__}: {failure}"}
    try:
        with np.errstate(all="ignore"):
            times = look_at(dynamics, count, np.random.default_rng(seed))
            return case | {"errors": compare(member, dynamics, arguments, times)}
    except Exception as failure:
        return case | {"failed": f"{type(failure).__name__}: {failure}"}


def show(arguments: Arguments) -> str:
    return ", ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in arguments.items()) or "defaults"


def table(member: str, found: list[dict[str, Any]]) -> str:
    """Counts, and the worst of every quantity with where it is."""
    refused = Counter(case["refused"] for case in found if "refused" in case)
    failed = [case for case in found if "failed" in case]
    by = "".join(f", {name} {count}" for name, count in refused.most_common())
    lines = [f"{member}: {len(found)} tried, {refused.total()} refused{by}; {len(failed)} failed"]
    lines += [f"  failed      {case['failed']} ({show(case['arguments'])})" for case in failed[:5]]
    compared = [case for case in found if "errors" in case]
    for name in dict.fromkeys(name for case in compared for name in case["errors"]):
        having = [case for case in compared if name in case["errors"]]
        case = max(having, key=lambda case: case["errors"][name][0])
        above = sum(case["errors"][name][0] > BAR for case in having)
        error, place = case["errors"][name]
        where = ", ".join(f"{x:.4g}" for x in np.atleast_1d(place))
        lines.append(f"  {name:11s} {error:8.1e}  above in {above:3d}   at {where} of {show(case['arguments'])}")
    return "\n".join(lines)


def stop(*_: object) -> None:
    raise TimeoutError(f"more than {PATIENCE} s")


def in_time(build: Callable[..., LinearDynamics], arguments: Arguments) -> LinearDynamics:
    """What a constructor makes, within :data:`PATIENCE` once :func:`limit` was called."""
    if signal.getsignal(signal.SIGALRM) is not stop:
        return build(**arguments)
    try:
        signal.alarm(PATIENCE)
        return build(**arguments)
    finally:
        signal.alarm(0)


def limit() -> None:
    """Let a constructor that takes too long, or too much memory, fail instead of the machine."""
    signal.signal(signal.SIGALRM, stop)
    if not Path("/proc/self/statm").exists():
        return
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--member", choices=[*BUILD, "all"], default="all", help="one member (default all)")
    parser.add_argument("--points", type=int, default=200, help="random points a member (default 200)")
    parser.add_argument("--times", type=int, default=20, help="times a point, at least 4 (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of points and times (default 0)")
    parser.add_argument("--out", type=Path, help="write every case to this JSON file")
    options = parser.parse_args(argv)
    everything = []
    for member in BUILD if options.member == "all" else [options.member]:
        todo = list(cases(member, options.points, options.seed))
        found = [
            look(member, arguments, options.times, options.seed + i)
            for i, arguments in enumerate(tqdm(todo, desc=member, disable=None))
        ]
        print(table(member, found), flush=True)
        everything += found
        if options.out:
            options.out.write_text(json.dumps(everything, indent=1))
    bad = [case for case in everything if "failed" in case or any(e > BAR for e, _ in case.get("errors", {}).values())]
    print(f"{len(bad)} of {len(everything)} points above {BAR:g} or failed")
    return int(bool(bad))


if __name__ == "__main__":
    limit()
    raise SystemExit(main())
