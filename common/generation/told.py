"""What is said before samples are drawn."""

import torch

from common.cores import cores
from common.generation.blocks import Job
from common.generation.forecast import forecast
from common.runs import Run


def told_order(run: Run, job: Job, todo: list[range]) -> list[str]:
    """What is drawn and how, as lines.

    Args:
        run: what draws.
        job: what samples are drawn with.
        todo: the blocks that are missing.
    """
    count = f"{len(job.seeds)} samples"
    if job.condition:
        count = f"{job.condition.count} inputs, {job.condition.completions} completions of each,"
    lines = [
        f"weights   {run.account}",
        f"{count} from {run.folder.name} ({run.version}): {job.how}, on {job.dynamics.device}",
    ]
    if job.config.task:
        lines.append(f"task      {job.told_task}")
    if job.process:
        lines.append(f"process   {job.process}")
    if job.told_classes:
        lines.append(f"classes   in turn: {job.told_classes}")
    lines += [f"note      {remark}" for remark in job.remarks]
    if 0 < len(todo) < len(job.blocks):
        lines.append(f"kept      {len(job.seeds) - sum(map(len, todo))} samples are there already")
    return [*lines, *forecast(job, todo)]


def told_processes(job: Job, devices: int) -> list[str]:
    """What to know of drawing by several processes."""
    notes, there = [], len(job.blocks)
    if devices > there:
        notes.append(
            f"--devices {devices}: there {'is 1 block' if there == 1 else f'are {there} blocks'} of "
            f"{job.config.batch_size} samples, each of which one process draws; a smaller --batch_size makes more of "
            "them"
        )
    threads, draw = torch.get_num_threads(), min(devices, there)
    if job.dynamics.device.type == "cpu" and draw > 1 and draw * threads > cores():
        notes.append(
            f"{draw} processes of {threads} threads share {cores()} cores: as many threads as one process has, "
            "because the last bits depend on it; with OMP_NUM_THREADS=1 processes do not get in each other's way"
            if threads > 1
            else f"{draw} processes share {cores()} core{'s' * (cores() > 1)}: more than that many draw no faster"
        )
    return notes
