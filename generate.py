"""Draw samples from a trained run: ``python generate.py --run_id ID``; see ``--help``."""

import sys
from collections.abc import Sequence

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

from torch import Tensor

import args
from common import stopping
from common.config.parser import reporting
from common.generation.blocks import Job
from common.generation.config import GenerateOrder
from common.generation.drawing import generate, interrupted, missing
from common.generation.forecast import forecast
from common.generation.misfit import told_misfit
from common.generation.opening import open_job
from common.generation.pictures import Trajectory, complaint, real_beside, show
from common.generation.restored import report
from common.generation.sets import Claim, claimed, findings
from common.media.layout import Labelled
from common.progress import bar
from common.runs import Run, SampleFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Run generate.py; returns the exit code."""
    with reporting("generate.py", args.generate_flag_names):
        order = args.parse_generate(argv)
        stopping.begin_work()
        return run(order)


def run(order: GenerateOrder) -> int:
    """Draw what a command line asks for; returns the exit code: 1 if no sample is finite."""
    order.check()
    opened, job = open_job(order)
    real = real_beside(opened.folder, job)
    with claimed(opened, job) as claim:
        return draw(opened, job, claim, real)


def draw(opened: Run, job: Job, claim: Claim, real: Labelled | None) -> int:
    """Draw what is missing of a set of samples, and its pictures; returns the exit code."""
    folder, config = claim.folder, job.config
    todo = missing(folder, job)
    for remark in (*opened.remarks, *claim.remarks, *findings(folder, job, todo)):
        print(f"note      {remark}")
    print(f"weights   {opened.account}")
    count = f"{len(job.seeds)} samples"
    if job.condition:
        count = f"{job.condition.count} inputs, {job.condition.completions} completions of each,"
    print(f"{count} from {opened.folder.name} ({opened.version}): {job.how}, on {job.dynamics.device}")
    if config.task:
        print(f"task      {job.told_task}")
    if job.process:
        print(f"process   {job.process}")
    if job.told_classes:
        print(f"classes   in turn: {job.told_classes}")
    for remark in job.remarks:
        print(f"note      {remark}")
    if 0 < len(todo) < len(job.blocks):
        print(f"kept      {len(job.seeds) - sum(map(len, todo))} samples are there already")
    for line in forecast(job, todo):
        print(line, flush=True)  # before it takes that long
    trajectory = Trajectory(job) if config.trajectory else None
    shown = trajectory.alone(todo) if trajectory else []
    drawn = [*shown, *todo]
    with bar(job.steps_of(drawn), "sampling", "step", lasting=True, silent=not drawn) as progress:

        def on_step(time: float, x: Tensor) -> None:
            progress.update()
            if trajectory:
                trajectory.add(time, x)

        try:
            calls = generate(folder, job, todo, on_step=on_step, shown=shown)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(interrupted(folder, job)) from None
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
