"""Whether the disk has room for samples, before the first one is drawn."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.generation.blocks import Job
from common.refusal import Refusal
from common.runs import SampleFolder
from common.units import in_bytes

HEADER = 128  # bytes of a .npy file before its numbers
ENTRY = 250  # bytes of a file in the manifest
PICTURES = 2**20  # bytes that pictures and settings take, about


def room_for(job: Job, todo: Sequence[range]) -> int:
    """Bytes that blocks take on the disk, with what is kept beside them."""
    numbers = 4 * job.spec.channels * math.prod(job.spec.grid)
    labelled = job.spec.num_classes is not None
    of_blocks = sum(HEADER + len(block) * numbers + labelled * (HEADER + 8 * len(block)) for block in todo)
    return of_blocks + len(job.files(SampleFolder(Path()), todo)) * ENTRY + PICTURES * bool(todo)


def free_at(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def check_room(folder: Path, job: Job, todo: Sequence[range]) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        Refusal: naming what is needed and what is free.
    """
    needed, free = room_for(job, todo), free_at(folder)
    if needed > free:
        raise Refusal(
            f"{folder}: {in_bytes(needed)} are needed for {sum(map(len, todo)):,} samples, and {in_bytes(free)} are "
            "free; make room there, draw fewer (--n_samples), or copy the run to a larger disk and name its folder "
            "with --output_dir"
        )
