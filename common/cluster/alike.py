"""What must be the same in all processes of one work, and the words for what is not."""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cluster.peers import Peer, Verdict
from common.cluster.store import AGAIN
from common.files import atomic_write
from common.refusal import Refusal
from common.stopping import LOST

APART = 60.0  # seconds by which clocks may differ
SEEN = 10.0  # seconds in which a new file is seen on all machines
TOKEN = ".meeting-{}"
SHOWN = 4  # processes that a line names
NOT_GIVEN = "not given"


@dataclass(frozen=True)
class Alike:
    """What must be the same in all processes.

    Attributes:
        facts: values by what they are, in words.
        mend: what to do if they differ.
    """

    facts: Mapping[str, str]
    mend: str


def difference(alike: Sequence[Alike], own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What is not alike in two processes, in a line; empty if all is."""
    for group, here, there in zip(alike, own["facts"], other["facts"], strict=False):
        for name in (*here, *(name for name in there if name not in here)):
            one, two = here.get(name, NOT_GIVEN), there.get(name, NOT_GIVEN)
            if one != two:
                first, second = Peer(**own["peer"]), Peer(**other["peer"])
                return f"{name} is {one} for {first} and {two} for {second}: {group.mend}"
    return ""


def compare(alike: Sequence[Alike], came: Mapping[int, Mapping[str, Any]], folder: Path | None) -> None:
    """Make sure that all processes that have come are alike.

    Args:
        alike: what must be the same.
        came: how they have introduced themselves, by rank, the first process among them.
        folder: what all must see.

    Raises:
        Refusal: naming what is not, and where.
    """
    own = came[0]
    for rank in range(1, own["count"]):
        other, who = came[rank], Peer(**came[rank]["peer"])
        if other["count"] != own["count"]:
            raise Refusal(
                f"rank 0 is one of {own['count']} processes and {who} one of {other['count']}: start all with "
                "the same number of them ($WORLD_SIZE)"
            )
        if why := difference(alike, own, other):
            raise Refusal(why)
        if abs(other["late"]) > APART:
            ahead = "ahead of" if other["late"] > 0 else "behind"
            raise Refusal(
                f"the clock of {who} is {abs(other['late']):,.0f} s {ahead} that of {Peer(**own['peer'])}: set "
                "the clocks of the machines (NTP)"
            )
        if not other["sees"]:
            raise Refusal(
                f"{who} does not see the folder {folder} of {Peer(**own['peer'])}: it must be one folder for "
                "all machines, on a file system that they share",
                "output_dir",
            )


def absent(missing: Sequence[int], came: Mapping[int, Mapping[str, Any]], seconds: float) -> str:
    """Who has not come, in a line."""

    def listed(names: Sequence[str]) -> str:
        return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

    there = [f"{rank} on {came[rank]['peer']['host']}" for rank in sorted(came)]
    return (
        f"rank {listed([str(rank) for rank in missing])} has not come within {seconds:g} s (--join_timeout); there are "
        f"rank {listed(there)}: start all processes, and look what those that are missing have said"
    )


def early(rank: int, code: int) -> Verdict:
    """A process that has ended before all had met."""
    if code < 0:
        return Verdict(f"rank {rank} was killed before training began; start the same command again", LOST, True)
    return Verdict(f"rank {rank} has ended with exit code {code} before training began", code or 1, True)


def nonces(came: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """By which those who came recognise themselves."""
    return [entry["peer"]["nonce"] for entry in came.values()]


@contextlib.contextmanager
def token_in(folder: Path | None) -> Iterator[str]:
    """A file in a folder that others look for; its name, empty if there is no folder."""
    if folder is None:
        yield ""
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    name = TOKEN.format(secrets.token_hex(8))
    atomic_write(folder / name, b"")
    try:
        yield name
    finally:
        (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something was written there meanwhile
            for place in made:
                place.rmdir()


def sees_token(folder: Path | None, name: str) -> bool:
    """Whether the file is seen in what this process has for that folder; a network's file system may take a while."""
    if folder is None or not name:
        return True
    end = time.monotonic() + SEEN
    while not (folder / name).exists():
        if time.monotonic() > end:
            return False
        time.sleep(AGAIN)
    return True
