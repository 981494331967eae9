"""Draw samples from a trained run: ``python generate.py --run_id ID``; see ``--help``."""

import sys
from collections.abc import Sequence
from functools import partial

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common import stopping
from common.cluster.place import place
from common.config.parser import reporting
from common.config.plugins import import_plugins
from common.files import Busy
from common.generation.blocks import Job
from common.generation.config import GenerateOrder
from common.generation.drawing import missing
from common.generation.misfit import told_misfit
from common.generation.opening import open_job
from common.generation.pictures import complaint, real_beside, show
from common.generation.planning import planned
from common.generation.restored import report
from common.generation.sets import Claim, claimed, findings
from common.generation.sharing import device_for, draw_all, draw_share
from common.generation.told import told_order, told_processes
from common.media.layout import Labelled
from common.runs import Run, SampleFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Run generate.py; returns the exit code."""
    with reporting("generate.py", args.generate_flag_names):
        order = args.parse_generate(argv)
        stopping.begin_work()
        return run(order)


def prepare(plugins: Sequence[str]) -> None:
    """What other processes do before they draw: with this module they have filled the registers already."""
    import_plugins(plugins)


def run(order: GenerateOrder) -> int:
    """Draw what a command line asks for; returns the exit code: 1 if no sample is finite."""
    order.check()
    here = place()
    shard, plans = order.sharing.share(here), order.sharing.dry_run
    opened, job = open_job(order, device_for(order.sample.device, here), measures=not (shard or plans))
    if plans:
        print("\n".join(planned(opened, job, order.sharing, shard)))
        return 0
    real = real_beside(opened.folder, job)
    if shard and not draw_share(opened, job, shard, here):
        return 0
    try:
        with claimed(opened, job) as claim:
            return draw(order, opened, job, claim, real)
    except Busy:
        if shard is None:
            raise
        print(f"share     {shard} is drawn, and all others are: another process puts them together now")
        return 0


def draw(order: GenerateOrder, opened: Run, job: Job, claim: Claim, real: Labelled | None) -> int:
    """Draw what is missing of a set of samples, and its pictures; returns the exit code."""
    folder, config = claim.folder, job.config
    todo = missing(folder, job)
    notes = [*opened.remarks, *claim.remarks, *findings(folder, job, todo), *told_processes(job, order.sharing.devices)]
    for remark in notes:
        print(f"note      {remark}")
    print("\n".join(told_order(opened, job, todo)), flush=True)  # before it takes that long
    calls, trajectory = draw_all(order, opened, job, claim, todo, partial(prepare, order.opening.plugin))
    told = " to ".join(map(str, sorted({min(calls), max(calls)}))) if calls else ""  # adaptive: each block its own
    print(
        f"network   {told} evaluation{'' if told == '1' else 's'} per sample"
        if told
        else "network   not needed: all samples were there"
    )
    if trajectory:
        print("\n".join(trajectory.save(SampleFolder(folder))))
    broken, text = complaint(folder, job.seeds)
    if broken:
        print(f"generate.py: warning: {text}", file=sys.stderr)
    if job.condition:
        lines = told_misfit(folder, opened.data, job.condition, config.noise_std or 0.0)
        print("\n".join([*lines, *report(folder, job.spec, job.condition, scale=config.picture_scale)]))
    print("\n".join(show(folder, job.spec, real, config.picture_scale)))
    return 0 if broken < len(job.seeds) else 1


if __name__ == "__main__":
    run_program(main, "stopped; the same command goes on")
