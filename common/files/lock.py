"""One writer to a folder: a lock that ends with its process, and says whose it is."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from common.files.writing import host_name, is_alive, naming
from common.refusal import Refusal

LOCK = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of a file system that has none
_held: set[int] = set()  # handles of this process


@dataclass(frozen=True)
class Owner:
    """Who writes a folder.

    Attributes:
        host: machine.
        process: its number there.
        since: local time, ISO 8601.
        program: e.g. ``train.py``.
    """

    host: str
    process: int
    since: str
    program: str

    def __str__(self) -> str:
        return f"{self.program} (process {self.process} on {self.host}, since {self.since})"

    @property
    def may_live(self) -> bool:
        """Whether it may still run: seen on this machine, assumed of others."""
        return self.host != host_name() or is_alive(self.process)


class Busy(Refusal):
    """A folder is being written by somebody else, who may be done a little later."""


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    """A forked process, e.g. one that reads data, would hold the lock beyond the death of its parent."""
    while _held:
        os.close(_held.pop())


def _read(handle: int) -> Owner | None:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
        return Owner(str(content["host"]), int(content["process"]), str(content["since"]), str(content["program"]))
    except (ValueError, LookupError, TypeError):
        return None  # it is just being written


def _try(handle: int, kind: int = fcntl.LOCK_EX) -> Owner | None:
    """Take the lock of an open file; returns who has it already, None if it was taken."""
    unknown = Owner("an unknown host", 0, "now", "another program")
    try:
        for wait in (0.02, 0.05, 0.1, None):  # somebody may just be looking whose it is
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None:
                    return _read(handle) or unknown
                time.sleep(wait)
            else:
                return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        owner = _read(handle)
        return owner if owner is not None and owner.may_live else None
    return None


def owner_of(folder: Path) -> Owner | None:
    """Who is writing a folder at the moment; None if nobody is. A lock whose process died counts for nothing."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _try(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path, program: str, mend: str = "wait for it, or stop it", wait: float = 0.0) -> Iterator[None]:
    """Be the only one who writes a folder; it is made if it is missing.

    The lock is the kernel's (``flock``), so that it ends with the process, however that ends; where a file system has
    none, the file says who has it, and a dead process of this machine is recognised.

    Args:
        folder: the folder.
        program: who asks, e.g. ``train.py``.
        mend: what to do if somebody has it.
        wait: seconds to wait for it before that is said.

    Raises:
        Busy: naming who has it.
        OSError: if nothing can be written there.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        handle = _take(path, program, mend, time.monotonic() + wait)
    except BaseException:
        _leave(made)
        raise
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)
        _leave(made)


def _leave(made: list[Path]) -> None:
    """Remove folders that were made for the lock, the innermost first, if nothing was written into them."""
    with contextlib.suppress(OSError):  # there is something in it
        for folder in made:
            folder.rmdir()


def _take(path: Path, program: str, mend: str, deadline: float) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # whoever had the lock may just have removed an empty folder
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            owner = _try(handle)
            if owner is not None and time.monotonic() >= deadline:
                hint = f"; if that is dead, remove {path}" if owner.host != host_name() else ""
                raise Busy(f"{path.parent} is being written by {owner}; {mend}{hint}")
            if owner is None and _is_at(handle, path):  # else its owner has just removed it: once more
                own = Owner(host_name(), os.getpid(), datetime.now().isoformat(timespec="seconds"), program)
                os.ftruncate(handle, 0)
                try:
                    with naming(path):
                        os.pwrite(handle, json.dumps(asdict(own)).encode(), 0)
                except OSError:  # the disk is full
                    path.unlink()
                    raise
                _watch_forks()
                _held.add(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if owner is not None:
            time.sleep(0.05)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    with contextlib.suppress(FileNotFoundError):
        return os.fstat(handle).st_ino == path.stat().st_ino
    return False
