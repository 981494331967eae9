"""Blocks of samples on disk: which are missing, who draws them, and what is noted of them."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.files import Manifest, write_array
from common.generation.blocks import Job, StepCallback, fitting
from common.refusal import Refusal
from common.runs import SampleFolder

NOTED_EVERY = 5.0  # seconds at least between manifests, each of which is of all blocks, half a million perhaps


@dataclass(frozen=True)
class Part:
    """The blocks of a set that somebody draws, and where the check sums of what is drawn are noted.

    Attributes:
        place: the set.
        blocks: its blocks, or some of them.
        kept: the files that ``manifest`` is to list.
        manifest: that of the set, or, while several draw at the same time, one beside it.
    """

    place: SampleFolder
    blocks: list[range]
    kept: set[Path]
    manifest: Manifest

    @classmethod
    def of_all(cls, folder: Path, job: Job) -> "Part":
        """All blocks of a set."""
        place = SampleFolder(folder)
        return cls(place, job.blocks, job.kept(place), place.manifest)

    @classmethod
    def of_shard(cls, folder: Path, job: Job, index: int, count: int) -> "Part":
        """The blocks that are the share of one of ``count`` who draw at the same time."""
        place, mine = SampleFolder(folder), job.blocks[index::count]
        return cls(place, mine, {*job.files(place, mine)}, cls.manifest_of(place, index, count))

    @staticmethod
    def manifest_of(place: SampleFolder, index: int, count: int) -> Manifest:
        """Where one of them notes check sums."""
        return replace(place.manifest, at=place.shard(index, count))

    @property
    def absent(self) -> list[range]:
        """Blocks whose arrays are not there, by their names alone."""
        there = set(map(self.place.start_of, self.place.blocks()))
        return [block for block in self.blocks if block.start not in there]

    @property
    def is_all(self) -> bool:
        """Whether it is the whole set."""
        return self.manifest.at is None

    @property
    def listed(self) -> set[Path]:
        """Files that have check sums; of a share, also those that others have.

        Raises:
            Refusal: if a manifest is damaged.
        """
        return self.manifest.files if self.is_all else self.manifest.files | self.place.manifest.files

    @property
    def checker(self) -> Callable[[Path], bool]:
        """Holds a file against its check sum.

        Raises:
            Refusal: if a manifest is damaged.
        """
        return self.place.manifest.checker(later=None if self.is_all else self.manifest)

    @property
    def stale(self) -> set[Path]:
        """Files that ``manifest`` is to list and does not, or lists and is not to."""
        return self.kept ^ self.manifest.files if self.is_all else self.kept - self.listed


def missing(folder: Path, job: Job, part: Part | None = None) -> list[range]:
    """Blocks of samples that are not there or not whole, so that a run that was cut off goes on where it stood.

    A block is whole if its arrays have the shapes of the job, the labels are the ones to ask for, and both are what
    the manifest says, if that lists them.

    Args:
        folder: the set.
        job: what it is made with.
        part: the blocks that are looked at; None looks at all.

    Raises:
        Refusal: if the manifest is damaged.
    """
    part = part or Part.of_all(folder, job)
    check = part.checker
    return [block for block in part.blocks if not _is_whole(part.place, job, block, check)]


def _is_whole(place: SampleFolder, job: Job, block: range, check: Callable[[Path], bool]) -> bool:
    data, labels = place.block(block.start), job.labels(block)
    try:
        fitting(data, (len(block), *job.spec.grid, job.spec.channels), np.float32)
        if labels is not None:
            kept = fitting(place.labels_of(data), tuple(labels.shape), np.int64)
            if not np.array_equal(kept, labels.numpy()):
                return False
        for path in job.files(place, [block]):
            check(path)
    except Refusal:
        return False
    return True


def write_block(place: SampleFolder, job: Job, indices: range, on_step: StepCallback) -> int:
    """Draw one block and write ``data/data_*.npy`` and ``label/label_*.npy``; denoiser calls per sample."""
    data = place.block(indices.start)
    samples, labels, calls = job.draw(indices, on_step)
    if labels is not None:
        write_array(place.labels_of(data), labels)
    write_array(data, samples)  # after its labels: a block with data is whole
    return calls


def generate(
    folder: Path,
    job: Job,
    todo: Sequence[range],
    *,
    on_step: StepCallback = lambda _, __: None,
    shown: Sequence[range] = (),
    written: Iterable[tuple[range, int]] | None = None,
    part: Part | None = None,
) -> list[int]:
    """Draw samples and write ``data/data_*.npy`` and ``label/label_*.npy``, one pair per block; and the manifest.

    That lists blocks every few seconds, at the end, and when it is stopped: only the last ones before a kill are not.

    Args:
        folder: where the arrays go; nobody else writes them there.
        job: what every block is made with.
        todo: the blocks to draw, as :func:`missing` finds them.
        on_step: called once per solver step with the time reached and the data component (B, C, *S) of its block.
        shown: samples that are drawn first for ``on_step`` alone; nothing of them is written.
        written: draws the blocks in any order, and gives each one that is written with its denoiser calls; None draws
            them here, one after the other, by :func:`write_block`.
        part: the blocks of which check sums are noted, and where; None takes all.

    Returns:
        Denoiser calls per sample of every block that was drawn; they differ only if the solver chooses its steps.
    """
    part, calls = part or Part.of_all(folder, job), list[int]()
    for indices in shown:
        calls.append(job.draw(indices, on_step)[2])
    if written is None:
        written = ((block, write_block(part.place, job, block, on_step)) for block in todo)
    new = {*job.files(part.place, todo)}
    if stale := new | part.stale:
        with part.manifest.renewing(*stale) as note:
            fresh, noted = sorted(stale - new), -NOTED_EVERY
            try:
                if fresh and todo:  # what was kept comes first
                    note(fresh)
                    fresh, noted = [], time.monotonic()
                for block, nfe in written:
                    calls.append(nfe)
                    fresh += job.files(part.place, [block])
                    if time.monotonic() - noted >= NOTED_EVERY:
                        note(fresh)
                        fresh, noted = [], time.monotonic()
            except (KeyboardInterrupt, Refusal):
                note(fresh)
                raise
    return calls


def interrupted(folder: Path, job: Job, part: Part | None = None) -> str:
    """What to say when :func:`generate` was stopped: whole blocks are kept, the one in work is drawn again."""
    part = part or Part.of_all(folder, job)
    count = sum(map(len, part.blocks))
    kept = count - sum(map(len, missing(folder, job, part)))
    again = "" if kept == count else ", the block of samples in work is drawn again"
    return f"stopped; the same command goes on: {kept} of {count} samples are kept{again}"
