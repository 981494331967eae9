"""A sweep as a job array of SLURM: one script, one task of the array for every member."""

import shlex
from pathlib import Path

from common.cluster.job import OfJob
from common.files import atomic_write
from common.refusal import Refusal, printable
from common.training.session import PROGRAM
from common.training.sweep.order import SweepOrder

SCRIPT = """#!/bin/bash
#SBATCH --job-name={id} --array=0-{last} --output=%x-%a.log --open-mode=append --requeue --signal=B:USR1@90
#SBATCH --time=04:00:00 --cpus-per-task=4 --nodes={nodes} --gpus-per-node={devices} --ntasks-per-node={devices}  # edit
# {count} trainings, each of which goes on where it was; their table and picture: {folder}
# Send it in the folder of the clone.
source scripts/slurm/job.sh || {{ echo "job       error: send it in the folder of the clone, not in $PWD"; exit 2; }}
IDS=({ids})
ID=${{IDS[$SLURM_ARRAY_TASK_ID]}}
out={place}
run {program} {words} --sweep_member "$SLURM_ARRAY_TASK_ID"
final=("$out/${{ID}}_"*/model/model-final.pth)
if [ "$code" -eq 0 ] && [ -f "${{final[0]}}" ]; then finish 0; fi
conclude "$out/${{ID}}_"*/checkpoints/last.ckpt
"""


def script_of(order: SweepOrder) -> str:
    """The text of the job script."""
    hardware, limit = order.members[0].config.hardware, order.command.max_time
    time = f"{limit:g}s" if isinstance(limit, float | int) else OfJob()  # known when the job runs
    own = [*order.again, f"--max_time={time}"]
    return SCRIPT.format(
        id=order.id,
        last=len(order.members) - 1,
        count=len(order.members),
        folder=printable(str(order.folder)),  # in a comment, which a line break would end
        nodes=hardware.num_nodes,
        devices=hardware.devices or 1,
        ids=" ".join(member.id for member in order.members),
        program=PROGRAM,
        words=shlex.join(own),
        place=shlex.quote(str(order.output_dir)),
    )


def write_script(order: SweepOrder, path: Path) -> list[str]:
    """Write the job script; returns lines to print.

    Raises:
        Refusal: if the file is there.
    """
    if path.exists() or path.is_symlink():
        raise Refusal(f"{path} is there already; name another file", "sweep_slurm")
    atomic_write(path, script_of(order).encode())
    return [
        f"sweep     {len(order.members)} trainings as a job array: {path}",
        f"next      sbatch {shlex.quote(str(path))}",
    ]
