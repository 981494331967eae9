"""The number of torch's threads that a set of samples is drawn with: on a CPU the last bits depend on it."""

import contextlib
from collections.abc import Iterator

import torch

from common.generation.blocks import Job
from common.runs import SampleFolder

THREADS = "threads"  # under which a manifest has it
MOST = 1024  # more is nobody's, whatever a file says


def _noted(place: SampleFolder) -> int | None:
    found = place.manifest.notes.get(THREADS)
    return found if type(found) is int and 1 <= found <= MOST else None


def begin_with(place: SampleFolder, job: Job, *, anew: bool) -> None:
    """Note how many threads a set is begun with, unless that is known.

    Args:
        place: the set, which nobody else begins.
        job: what it is drawn with.
        anew: whatever is known: no sample is there, and nobody draws one.
    """
    own, known = torch.get_num_threads(), _noted(place)
    if job.dynamics.device.type == "cpu" and known != own and (known is None or anew):
        place.manifest.note(THREADS, own)


@contextlib.contextmanager
def as_begun(place: SampleFolder, job: Job, *, draws: bool) -> Iterator[list[str]]:
    """Compute with as many threads as the set was begun with: shares and restarts are the same bits as one process.

    Args:
        place: the set.
        job: what it is drawn with.
        draws: whether samples of it are to be drawn, as far as their names say, so that it is told.

    Yields:
        What a user should know.
    """
    own, known = torch.get_num_threads(), _noted(place)
    if job.dynamics.device.type != "cpu" or known is None or known == own:
        yield []
        return
    told = (
        f"{place.path} was begun with {known} thread{'s' * (known != 1)} of torch, so it goes on with as many, not "
        f"with {own}: the last bits depend on it; OMP_NUM_THREADS={known} says so from the beginning"
    )
    torch.set_num_threads(known)
    try:
        yield [told] * draws
    finally:
        torch.set_num_threads(own)
