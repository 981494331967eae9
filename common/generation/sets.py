"""Whose a set of samples is: one writer and one way of drawing to a folder; and what may be read of it."""

import contextlib
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.files import Busy, Owner, locked, open_array, owner_of, refuse_links, remove_leftovers, write_json
from common.files.lock import LOCK
from common.generation.blocks import Job
from common.generation.config import OBSERVED, with_ranges
from common.generation.drawing import Part
from common.generation.identity import flags_for, input_flags, samples_of
from common.generation.opening import made_from
from common.generation.room import check_room
from common.generation.sections import Shard
from common.generation.threads import as_begun, begin_with
from common.labels import NULL_LABEL
from common.natural import natural
from common.refusal import Refusal
from common.runs import Run, RunFolder, SampleFolder
from common.runs.drawn import AGAIN
from common.runs.versions import PLAIN

PROGRAM = "generate.py"
PATIENCE, AGAIN_AFTER = 10.0, 0.2  # seconds to wait for another program that chooses its folder
MANY = 12  # times as long, where hundreds may choose at once
WAIT = "wait for it, or stop it"
NAMED = 5  # damaged blocks that are told by name


class Claim(NamedTuple):
    """A folder that nobody else writes, or the share of its blocks that nobody else draws.

    Attributes:
        folder: where samples go.
        remarks: what a user should know of how it was chosen.
        part: the blocks that are drawn.
    """

    folder: Path
    remarks: list[str]
    part: Part


@contextlib.contextmanager
def claimed(run: Run, job: Job, shard: Shard | None = None) -> Iterator[Claim]:
    """The folder for the samples of a job, as long as one draws into it.

    It is the one that holds such samples already, whatever its name, else a new one, named after the solver and the
    kind of weights; a number is added if that name is taken by others. Samples of which nobody knows how they were
    drawn, or that foreign arrays lie among, are left as they are.

    Several may draw shares of one set at the same time: each has a lock and a manifest of its own, and nobody has the
    set as a whole meanwhile. Whoever claims that next lists in its manifest what theirs list.

    Args:
        run: what draws them.
        job: what they are drawn with.
        shard: the share that is claimed; None claims all.

    Raises:
        Busy: if somebody else draws the same.
        Refusal: if a symbolic link would lead elsewhere, or the disk has no room for them.
    """
    base, wanted = run.folder.generated(run.version), identity_of(run, job)
    refuse_links(run.folder.path, base)
    until = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            with locked(base, PROGRAM, wait=PATIENCE * (MANY if shard else 1)):  # two that choose see each other
                place, remarks = choose(base, run, job, wanted)
                refuse_links(base, place.path, inside=True)
                owner = owner_of(place.path) if shard else None
                part = Part.of_shard(place.path, job, *shard) if shard else Part.of_all(place.path, job)
                if owner is None or time.monotonic() >= until:
                    check_room(place.path, job, part.absent)
                    is_new = not place.blocks() and not writers(place.path)
                    remarks += [*_enter(stack, place, shard), *_prepare(place, job, wanted)]
                    begin_with(place, job, anew=is_new)
                    remarks += stack.enter_context(as_begun(place, job, draws=bool(part.absent)))
                    break
            time.sleep(AGAIN_AFTER)  # somebody may just be putting the set together
        yield Claim(place.path, remarks, part)


def _enter(stack: contextlib.ExitStack, place: SampleFolder, shard: Shard | None) -> list[str]:
    """Take the lock of a set, or of a share of it, and put together what shares have left that nobody draws now.

    Returns:
        What a user should know.

    Raises:
        Busy: if somebody else draws the same.
    """
    remarks = []
    if shard is None:
        stack.enter_context(locked(place.path, PROGRAM))
    elif owner := owner_of(place.path):
        raise Busy(f"{place.path} is being written by {owner}; {WAIT}")
    for found in _shards(place):
        if (shard is None or found.of != shard.of) and (owner := owner_of(place.shard(*found))):
            raise Busy(f"share {found} of {place.path} is being drawn by {owner}; {WAIT}")
    if not place.manifest.is_readable:
        place.manifest.path.unlink()
        remarks.append(f"{place.manifest.path} was damaged; it is written anew")
    for found in _shards(place):
        if shard is None or found.of != shard.of:
            _put_together(place, found)
    if shard is not None:
        stack.enter_context(locked(place.shard(*shard), PROGRAM))
        own = Part.manifest_of(place, *shard)
        if not own.is_readable:
            own.path.unlink()
    return remarks


def _shards(place: SampleFolder) -> list[Shard]:
    """Shares of a set that somebody draws, or has left."""
    names = (path.name.partition("-of-") for path in place.shards.glob("*-of-*"))
    return sorted(Shard(int(index), int(count)) for index, _, count in names if index.isdecimal() and count.isdecimal())


def writers(folder: Path) -> list[Owner]:
    """Who draws a set at the moment, as a whole or in shares."""
    place = SampleFolder(folder)
    folders = [folder, *(place.shard(*found) for found in _shards(place))]
    return [owner for owner in map(owner_of, folders) if owner is not None]


def _put_together(place: SampleFolder, found: Shard) -> None:
    """List in the manifest of a set what that of a share lists, which goes then."""
    of_share = Part.manifest_of(place, *found)
    if of_share.exists and of_share.is_readable:
        place.manifest.take_in(of_share)
    for path in (of_share.path, place.shard(*found) / LOCK):
        path.unlink(missing_ok=True)
    remove_leftovers(place.shard(*found))
    for folder in (place.shard(*found), place.shards):
        with contextlib.suppress(OSError):  # there is something else in it, which is not ours
            folder.rmdir()


def _prepare(place: SampleFolder, job: Job, wanted: Mapping[str, Any]) -> list[str]:
    """Write what says how samples are drawn, unless it is there; what a user should know of it."""
    if not place.settings.exists() or not place.manifest.lists(place.settings):
        with place.manifest.renewing(place.settings):
            if not place.settings.exists():
                write_json(place.settings, wanted)
    remarks = _keep_inputs(place, job)
    remove_leftovers(place.path, place.data, place.labels, place.audio)
    return remarks


def _keep_inputs(place: SampleFolder, job: Job) -> list[str]:
    """Write what a task is done on, unless it is there; what a user should know of it."""
    writers = job.condition.writers(place) if job.condition else {}
    damaged, check = list[Path](), place.manifest.checker()
    for path in writers:
        try:
            if not check(path):
                damaged.append(path)
        except Refusal:
            damaged.append(path)
    if damaged:
        told = [f"{path} was damaged; it is written anew" for path in damaged if place.manifest.lists(path)]
        with place.manifest.renewing(*damaged):
            for path in damaged:
                writers[path](path)
        return told
    return []


def identity_of(run: Run, job: Job) -> dict[str, Any]:
    """What tells the samples of a job from others, as settings.json keeps it."""
    return job.config.identity(made_from(run, job))


def choose(base: Path, run: Run, job: Job, wanted: Mapping[str, Any]) -> tuple[SampleFolder, list[str]]:
    """The folder that samples of a job belong into, and what a user should know of others; nothing is written.

    Args:
        base: where sets of samples of these weights are.
        run: what draws them.
        job: what they are drawn with.
        wanted: their identity.
    """
    left = list[str]()
    for place in map(SampleFolder, sorted(base.glob("*"), key=lambda path: natural(path.name))):
        if (kept := place.kept()) is not None and with_ranges(kept) == wanted:
            if not (foreign := _foreign(place, job)):
                return place, []
            left.append(f"{place.path} is left as it is: {foreign[0]} is not of this set")
    name, number = f"{job.config.folder_name}{run.source.suffix(run.kind)}", 1
    place = SampleFolder(base / name)
    while any(path.exists() for path in (place.settings, place.data, place.labels)):
        if place.kept() is None:
            left.append(f"{place.path} is left as it is: its {place.settings.name} is missing or damaged")
        number += 1
        place = SampleFolder(base / f"{name}-{number}")
    return place, left


def _foreign(place: SampleFolder, job: Job) -> list[Path]:
    """What stands where a set writes but is none of its files."""
    manifest = place.manifest.path
    own = {manifest, *job.kept(place)}
    there = [path for path in (place.settings, manifest, *place.arrays()) if path.exists()]
    strange = [path for path in there if path not in own or not path.is_file()]
    return sorted([*strange, *(path for path in (place.data, place.labels) if path.exists() and not path.is_dir())])


def findings(folder: Path, job: Job, todo: Sequence[range], part: Part | None = None) -> list[str]:
    """What a user should know of samples that are there: which are drawn again, and that others cannot be checked.

    Args:
        folder: their folder.
        job: what they are drawn with.
        todo: the blocks that are not there or not whole.
        part: the blocks that are drawn; None takes all.
    """
    part = part or Part.of_all(folder, job)
    place = part.place
    damaged = [path.name for path in job.files(place, todo) if path.exists() and path.parent == place.data]
    which = ", ".join(damaged[:NAMED]) + (", .." if len(damaged) > NAMED else "")
    found = [f"{len(damaged)} drawn again, since damaged or without their labels: {which}"] if damaged else []
    kept = {*job.files(place, part.blocks)}.difference(job.files(place, todo))
    if unlisted := kept - part.listed:
        found.append(f"{len(unlisted)} files had no check sums yet, so damage would not be seen; they have them now")
    return found


def check_set(folder: Path) -> list[str]:
    """Hold a set of samples against its manifest and its settings before it is used.

    Args:
        folder: the set.

    Returns:
        What a user should know: that it cannot be checked.

    Raises:
        Refusal: if it is damaged, or not drawn to its end.
    """
    place = SampleFolder(folder)
    check, listed = place.manifest.checker(), place.manifest.files
    there = {*place.arrays(), *([place.settings] if place.settings.exists() else [])}
    unchecked = [path for path in sorted(there | listed) if not check(path)]
    found = []
    if place.settings not in there:
        found.append(f"{folder} has no {place.settings.name}: nothing says how its samples were drawn")
    elif (kept := place.kept()) is None:
        raise Refusal(
            f"{place.settings} is damaged, so nothing says how its samples were drawn; {place.mend(place.settings)}"
        )
    else:
        _check_count(place, with_ranges(kept))
    if unchecked:
        found.append(f"{len(unchecked)} files of {folder} have no check sums, so damage would not be seen")
    return found


def _check_count(place: SampleFolder, identity: Mapping[str, Any]) -> None:
    blocks = {block: len(open_array(block)) for block in place.blocks()}
    count, there = samples_of(identity), sum(blocks.values())
    if count is not None and there < count:
        how = (
            f"{owners[0]} draws the rest"
            if (owners := writers(place.path))
            else f"go on with: {command_for(place, identity)}"
        )
        raise Refusal(f"{place.path}: {there} of {count} samples are there; {how}")
    start = 0
    for block, length in blocks.items():
        if SampleFolder.start_of(block) != start or (count is not None and start + length > count):
            raise Refusal(f"{block} is not of this set, by the numbers of its samples; move it away")
        start += length


def command_for(place: SampleFolder, identity: Mapping[str, Any]) -> str:
    """The command that draws a set of samples, or goes on with one that is not whole; on inputs as far as it says."""
    folder, weights = RunFolder(place.path.parents[2]), [f"--version={place.version}"]
    if place.kind == PLAIN:
        weights.append("--use_ema=False")
    elif decay := re.fullmatch(rf"ema([\d.e-]+)_{PLAIN}", place.kind):
        weights.append(f"--ema_decay={decay[1]}")
    words = [*weights, *flags_for(identity), *(input_flags(place.inputs) if OBSERVED in identity else [])]
    return f"python {PROGRAM} {folder.words('run_id')} {shlex.join(words)}"


def check_labels(folder: Path, labels: np.ndarray | None, num_classes: int | None, *, of_task: bool = False) -> None:
    """Refuse samples that have lost their labels, or have others than there can be.

    Args:
        folder: the set.
        labels: its labels (N,); None if it has none.
        num_classes: number of classes of the run; None if it was trained without labels.
        of_task: whether the samples complete inputs, whose classes need not be known.

    Raises:
        Refusal: saying which.
    """
    if num_classes is None:
        return
    if labels is None:
        raise Refusal(f"{folder}: its labels are missing; {AGAIN}")
    if len(labels) and not (labels.min() >= (NULL_LABEL if of_task else 0) and labels.max() < num_classes):
        raise Refusal(f"{folder}: its labels are not all in 0 .. {num_classes - 1}; {AGAIN}")
