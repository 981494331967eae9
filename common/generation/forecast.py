"""How long drawing will take on a CPU, told before it starts, and the short way where there is one."""

import time
from collections.abc import Sequence

import torch

from common.generation.blocks import Job
from common.samplers import SOLVERS, default_solver
from common.units import in_time

MANY = 100  # network evaluations from which on one of them is timed
QUICK = 15.0  # seconds; an evaluation below is timed again, because the first one also sets things up
LONG = 60.0  # seconds from which on a shorter way is named


@torch.no_grad()
def seconds_of_an_evaluation(job: Job, count: int) -> float:
    """Seconds that one evaluation of the network takes for so many samples, measured once or twice.

    Samples do not depend on it: states are ones, and what a network of one's own may draw is put back.
    """
    labels, (denoiser, _) = job.labels(range(count)), job.knowing(range(count))
    v = torch.ones(count, *job.shape)
    t = torch.full((count,), job.dynamics.horizon, dtype=torch.float64)
    found: list[float] = []
    with torch.random.fork_rng(devices=[]):
        while len(found) < 2 and (not found or found[0] < QUICK):
            start = time.perf_counter()
            denoiser(v, t, labels)
            found.append(time.perf_counter() - start)
    return min(found)


def forecast(job: Job, todo: Sequence[range]) -> list[str]:
    """What to say before drawing that needs many network evaluations on a CPU; nothing if it needs few, or who knows.

    Args:
        job: what every block of samples is made with.
        todo: the blocks to draw.
    """
    calls = job.evaluations
    if job.dynamics.device.type != "cpu" or calls is None or calls * len(todo) <= MANY:
        return []
    size = max(map(len, todo))
    seconds = seconds_of_an_evaluation(job, size)
    shares = sum(map(len, todo)) / size  # of a whole block; the last one may be smaller
    total = seconds * shares * calls
    lines = [
        f"time      about {in_time(total)}: {calls * len(todo):,} evaluations of the network, "
        f"{seconds:.2g} s for {size} samples at a time"
    ]
    return [*lines, *short_way(job, total)]


def short_way(job: Job, total: float) -> list[str]:
    """The line that names the default solver, if another one takes long and it takes fewer evaluations.

    Args:
        job: what every block of samples is made with.
        total: seconds that drawing takes.
    """
    name = default_solver(job.dynamics, consistent=job.consistent, conditional=job.condition is not None)
    kind, calls = SOLVERS[name], job.evaluations
    fewer = kind().calls(kind.default_steps)
    if calls is None or total <= LONG or fewer >= calls:
        return []
    return [
        f"note      a short way: --solver {name} --steps {kind.default_steps} (without --mode) takes about "
        f"{in_time(total * fewer / calls)}"
    ]
