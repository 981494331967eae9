"""Who draws the blocks of a set: this process, others of this machine, or several jobs at the same time."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cluster.place import Place
from common.cluster.workers import Report, Workers
from common.config.build import check_device
from common.config.parser import complain
from common.files import Busy, owner_of, remove_leftovers
from common.generation.advance import Advance
from common.generation.blocks import Job, StepCallback
from common.generation.config import GenerateOrder
from common.generation.drawing import Part, generate, interrupted, missing, write_block
from common.generation.opening import open_job
from common.generation.pictures import Trajectory
from common.generation.sections import Shard
from common.generation.sets import PROGRAM, Claim, claimed, findings, identity_of
from common.generation.signs import Beating, Listening
from common.progress import tell
from common.refusal import Refusal
from common.runs import Run, SampleFolder
from common.stopping import LOST

GONE = 60.0  # seconds without a lock and without a new block after which another one of a job counts as dead
LOOKED_EVERY = 1.0  # seconds between two looks at what the others of a job do
Written = Iterator[tuple[range, int]]


def device_for(name: str, here: Place) -> torch.device:
    """The device of ``--device``; of several processes of a machine, each takes the next GPU.

    Raises:
        Refusal: for cuda without CUDA.
    """
    device = check_device(name)
    if device.type == "cpu" or not here.from_outside:
        return device
    return torch.device("cuda", here.local_rank % torch.cuda.device_count())


# -- all blocks --------------------------------------------------------------------------------------------------------


def draw_all(
    order: GenerateOrder, run: Run, job: Job, claim: Claim, todo: list[range], prepare: Callable[[], None]
) -> tuple[list[int], Trajectory | None]:
    """Draw the blocks of a set that are missing, here or by other processes of this machine.

    Args:
        order: the command line.
        run: what draws them.
        job: what they are drawn with.
        claim: the set.
        todo: the blocks.
        prepare: called first in every other process; it must be found by its name.

    Returns:
        Denoiser calls per sample of every block, and the way out of the noise, if that is asked for.

    Raises:
        KeyboardInterrupt: saying what is kept.
    """
    trajectory = Trajectory(job) if job.config.trajectory else None
    shown = trajectory.alone(todo) if trajectory else []

    def add(reached: float, x: Tensor) -> None:
        if trajectory:
            trajectory.add(reached, x)

    processes = min(order.sharing.devices, len(todo))
    try:
        with Advance(job, claim.part, todo, silent=not todo) as advance:
            draw = (
                _by_processes(order, run, job, claim, todo, processes, prepare, advance, trajectory)
                if processes > 1
                else _here(job, claim, todo, advance, add)
            )
            with draw as written:
                calls = generate(claim.folder, job, todo, on_step=add, shown=shown, written=written, part=claim.part)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(interrupted(claim.folder, job, claim.part)) from None
    return calls, trajectory


@contextlib.contextmanager
def _here(job: Job, claim: Claim, todo: Sequence[range], advance: Advance, on_step: StepCallback) -> Iterator[Written]:
    def one_by_one() -> Written:
        for block in todo:

            def step(reached: float, x: Tensor, block: range = block) -> None:
                advance.step(block, reached)
                on_step(reached, x)

            calls = write_block(claim.part.place, job, block, step)
            advance.whole(block)
            yield block, calls

    yield one_by_one()


@contextlib.contextmanager
def _by_processes(
    order: GenerateOrder,
    run: Run,
    job: Job,
    claim: Claim,
    todo: Sequence[range],
    count: int,
    prepare: Callable[[], None],
    advance: Advance,
    trajectory: Trajectory | None,
) -> Iterator[Written]:
    def on_step(block: range, content: tuple[float, np.ndarray | None]) -> None:
        reached, x = content
        advance.step(block, reached)
        if trajectory and x is not None:
            trajectory.add(reached, torch.from_numpy(x))

    def on_death(block: range | None, how: str) -> None:
        tell(f"note      a process that draws was {how}; its block is drawn again" if block else f"note      {how}")
        if block:
            advance.lost(block)
            if trajectory and block.start == 0:
                trajectory.begin()

    def results(workers: Workers[range, int]) -> Written:
        for block, calls in workers.results(todo, on_step, on_death):
            advance.whole(block)
            yield block, calls

    given = order, claim.folder, identity_of(run, job), run.dynamics.node_density, trajectory.count if trajectory else 0
    try:
        with Workers(
            count,
            set_up,
            given,
            device=job.dynamics.device.type,
            threads=torch.get_num_threads(),  # the number of them shows in the last bits
            prepare=prepare,
            name="process that draws",
        ) as workers:
            yield results(workers)
    finally:
        remove_leftovers(claim.part.place.data, claim.part.place.labels)


def set_up(
    device: torch.device, order: GenerateOrder, folder: Any, identity: dict[str, Any], density: Any, watched: int
) -> Callable[[range, Report], int]:
    """What another process draws a block with.

    Args:
        device: where it computes.
        order: the command line.
        folder: the set.
        identity: what its samples are, so that they are the same.
        density: a grid that was measured.
        watched: samples of the first block whose states the first process wants to see.

    Raises:
        Refusal: if the run has become another one.
    """
    run, job = open_job(order, device, measures=False, density=density)
    if identity_of(run, job) != identity:
        raise Refusal(f"{run.folder.name} has changed while samples were drawn from it; start again")
    place = SampleFolder(folder)

    def draw(block: range, report: Report) -> int:
        def on_step(reached: float, x: Tensor) -> None:
            report((reached, x[:watched].cpu().numpy() if watched and block.start == 0 else None))

        return write_block(place, job, block, on_step)

    return draw


# -- a share -----------------------------------------------------------------------------------------------------------


def draw_share(run: Run, job: Job, shard: Shard, here: Place) -> bool:
    """Draw a share of a set; of several processes that a launcher has started, the first one waits for the others.

    Args:
        run: what draws them.
        job: what they are drawn with.
        shard: the share.
        here: which of several processes this is.

    Returns:
        Whether all blocks are there, so that the set can be put together.

    Raises:
        Busy: if somebody draws this share already, or the set as a whole.
        KeyboardInterrupt: saying what is kept.
        SystemExit: with the exit code of a process that has lost another one, which holds its share and does nothing.
    """
    speaks = not here.from_outside or here.is_first
    listening = Listening(shard.of) if here.from_outside and here.is_first else None
    try:
        place, advance = _draw_share(run, job, shard, silent=not speaks, listening=listening)
    except Busy:
        if speaks:
            raise
        return False  # it came so late that the first one draws in its place
    with advance:
        lost = _wait_for_others(run, job, shard, place, advance, listening) if listening else []
        left = sum(map(len, Part.of_all(place.path, job).absent))
    if lost:
        complain(
            PROGRAM,
            f"process {', '.join(map(str, lost))} of {shard.of} gives no sign of life and holds its share: "
            f"{left:,} of {len(job.seeds):,} samples are missing; end it, and the same command goes on",
        )
        raise SystemExit(LOST)
    if left and speaks:
        print(
            f"share     {shard} is drawn; {len(job.seeds) - left:,} of {len(job.seeds):,} samples are there. The last "
            f"share puts them together, or the same command without --shard\npath      {place.path}"
        )
    return speaks and not left


def _draw_share(
    run: Run,
    job: Job,
    shard: Shard,
    *,
    silent: bool,
    listening: Listening | None = None,
    on_step: StepCallback = lambda _, __: None,
) -> tuple[SampleFolder, Advance]:
    with claimed(run, job, shard) as claim, Beating(claim.part.place, shard, listening):
        part = claim.part
        todo = missing(claim.folder, job, part)
        if not silent:
            for remark in (*run.remarks, *claim.remarks, *findings(claim.folder, job, todo, part), *job.remarks):
                print(f"note      {remark}")
            count = sum(map(len, part.blocks))
            print(
                f"share     {shard}: {count:,} of {len(job.seeds):,} samples from {run.folder.name} ({run.version}): "
                f"{job.how}, on {job.dynamics.device}",
                flush=True,
            )
        advance = Advance(job, part, todo, silent=silent)
        try:
            with _here(job, claim, todo, advance, on_step) as written:
                generate(claim.folder, job, todo, written=written, part=part)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(interrupted(claim.folder, job, part)) from None
    return part.place, advance


def _wait_for_others(
    run: Run, job: Job, shard: Shard, place: SampleFolder, advance: Advance, listening: Listening
) -> list[int]:
    """Wait until all shares are drawn; those of others that have died are drawn here.

    Returns:
        Numbers of those that cannot be waited for: they hold their shares and give no sign of life.
    """
    begun = time.monotonic()
    since = dict.fromkeys(range(shard.of), (-1, begun))  # blocks that are there, and when that was first seen
    while True:
        gone, now = set(Part.of_all(place.path, job).absent), time.monotonic()
        waits = False
        for number in range(shard.of):
            mine = job.blocks[number :: shard.of]
            count, owner = len(mine) - len(gone.intersection(mine)), owner_of(place.shard(number, shard.of))
            if owner or count > since[number][0]:
                since[number] = count, now
            if count < len(mine) and now - since[number][1] > GONE:
                tell(f"note      process {number} of {shard.of} has died, or never came: its share is drawn here")
                with contextlib.suppress(Busy):  # it has just come
                    one = Shard(number, shard.of)
                    _draw_share(run, job, one, silent=True, listening=listening, on_step=lambda _, __: advance.show())
                since[number] = count, time.monotonic()
            waits = waits or count < len(mine) or owner is not None
        advance.show(now=not waits)
        if not waits:
            return []
        if lost := listening.silent(place):
            return lost
        time.sleep(LOOKED_EVERY)
