"""The processes of one work as they know each other, and how one of them is told that it must end."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from common.files.writing import host_name


@dataclass(frozen=True)
class Peer:
    """A process of the work, as it has introduced itself.

    Attributes:
        rank: its number.
        host: name of its machine.
        machine: tells machines (and containers) apart in which the same process numbers mean different ones.
        process: its number there.
        started: when it began, as the system counts: numbers of processes are used again.
        address: by which its machine reaches the first process; empty if it is not known.
        nonce: a random word, by which it recognises itself.
    """

    rank: int
    host: str
    machine: str
    process: int
    started: str
    address: str
    nonce: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"

    @property
    def is_gone(self) -> bool:
        """Whether it has ended; to be asked on its machine only."""
        found = status(self.process)
        return found is not None and (found[0] in "ZX" or found[1] != self.started)


def status(process: int) -> tuple[str, str] | None:
    """State and time of start of a process of this machine; ``X`` and none if it is gone, None if nothing tells."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ("X", "") if Path("/proc/self/stat").exists() else None
    rest = text.rpartition(")")[2].split()  # the name before it may hold anything
    return rest[0], rest[19]


@dataclass(frozen=True)
class Verdict:
    """Why this process must end.

    Attributes:
        line: what is said.
        code: the exit code.
        aloud: whether it is this process that says it.
    """

    line: str
    code: int
    aloud: bool


class Ended(Exception):
    """Another process of the work has ended, or was lost."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.line)
        self.verdict = verdict


def machine() -> str:
    """A word for this machine, or this container of it: the same process numbers mean the same processes."""
    found = [host_name()]
    with contextlib.suppress(OSError):  # another system
        found += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").stat().st_ino),
        ]
    return "/".join(found)
