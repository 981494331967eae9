"""What drawing will take, told without writing anything: evaluations, time by two measured blocks, disk."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from common.generation.advance import progress_of
from common.generation.blocks import Job
from common.generation.drawing import Part, missing
from common.generation.forecast import short_way
from common.generation.room import check_room, free_at, room_for
from common.generation.sections import Shard, Sharing
from common.generation.sets import choose, identity_of
from common.runs import Run
from common.units import in_bytes, in_time

ENOUGH = 30.0  # seconds after which a block is not drawn to its end, if it has a step to measure by


class _EnoughSeen(Exception):
    """A block was drawn far enough to know how long it takes."""


def measured_block(job: Job, block: range) -> tuple[float, int | None]:
    """Draw a block, or begin to; nothing is written.

    Args:
        job: what it is made with.
        block: its samples.

    Returns:
        Seconds that the whole block takes, and denoiser calls per sample, if it was drawn to its end.
    """
    steps, share, start = 0, 0.0, time.perf_counter()

    def on_step(reached: float, _: Tensor) -> None:
        nonlocal steps, share
        if job.dynamics.device.type == "cuda":
            torch.cuda.synchronize(job.dynamics.device)
        steps += 1
        share = progress_of(job, steps, reached)
        if 0 < share < 1 and time.perf_counter() - start > ENOUGH:
            raise _EnoughSeen

    try:
        calls = job.draw(block, on_step)[2]
    except _EnoughSeen:
        return (time.perf_counter() - start) / share, None
    return time.perf_counter() - start, calls


def planned(run: Run, job: Job, sharing: Sharing, shard: Shard | None) -> list[str]:
    """What drawing will take, as lines; nothing is written.

    Args:
        run: what draws.
        job: what samples are drawn with.
        sharing: who draws.
        shard: the share that is drawn; None draws all.

    Raises:
        Refusal: if the disk has no room for it.
    """
    base = run.folder.generated(run.version)
    place, remarks = choose(base, run, job, identity_of(run, job))
    folder = place.path
    part = Part.of_shard(folder, job, *shard) if shard else Part.of_all(folder, job)
    todo = missing(folder, job, part)
    check_room(folder, job, todo)
    count, left = sum(map(len, part.blocks)), sum(map(len, todo))
    lines = [f"note      {remark}" for remark in (*run.remarks, *remarks, *job.remarks)]
    of_all = f" (share {shard} of {len(job.seeds):,})" if shard else ""
    lines += [
        f"plan      {count:,} samples{of_all} from {run.folder.name} ({run.version}): {job.how}, "
        f"on {job.dynamics.device}; nothing is drawn now",
        f"kept      {count - left:,} samples are there already",
        *(time_for(job, todo, sharing.devices) if todo else []),
        f"disk      {in_bytes(room_for(job, todo))} are needed, {in_bytes(free_at(folder))} are free",
        f"path      {folder}",
    ]
    return lines


def time_for(job: Job, todo: Sequence[range], devices: int) -> list[str]:
    """How long blocks take, and how many evaluations, as lines.

    The first block of a process also sets things up; the second is as all others.

    Args:
        job: what they are made with.
        todo: the blocks.
        devices: processes that draw.
    """
    measured = [measured_block(job, block) for block in todo[:2]]
    seconds, calls = [one for one, _ in measured], job.evaluations or max((one or 0 for _, one in measured), default=0)
    size, count = len(todo[0]), sum(map(len, todo))
    steady = seconds[-1] * size / len(todo[len(seconds) - 1])  # of a whole block; the last one may be smaller
    total = seconds[0] + steady * (count - size) / size
    known = f"{calls:,} evaluations per sample, {calls * count:,} in all" if calls else "the solver chooses its steps"
    drawn = "drawn" if all(found is not None for _, found in measured) else f"begun for {ENOUGH:.0f} s each"
    taken = " and ".join(in_time(one) for one in seconds)
    blocks = f"{len(todo):,} blocks" if len(todo) > 1 else "1 block"
    lines = [
        f"network   {known if job.steps is not None else f'about {known}' if calls else known}",
        f"time      about {in_time(total)} by one process: {blocks} of {size}; {len(measured)} of them "
        f"{'was' if len(measured) == 1 else 'were'} {drawn}, and take{'s' * (len(measured) == 1)} {taken}",
    ]
    working = min(devices, len(todo))
    if working > 1:
        rounds = -(-len(todo) // working)
        lines.append(
            f"          {working} processes draw up to {rounds:,} of them each: about "
            f"{in_time(total * rounds / len(todo))} and the seconds they take to start, if each has a GPU of its own, "
            "or as many cores as this one has now; else longer"
        )
    elif devices > 1:
        lines.append("          one process draws that block, the others have nothing to do: lower --batch_size")
    return [*lines, *short_way(job, total)]
