"""Files that are either whole or not there: written beside their place, brought to the disk, then renamed."""

import contextlib
import io
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

# .NAME.HOST.PROCESS.RANDOM.tmp
TEMPORARY = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<process>\d+)\.[0-9a-f]{8}\.tmp", re.ASCII)
FOREIGN_AGE = 86400.0  # seconds without a change after which a temporary file of another machine is a left-over


def host_name() -> str:
    """This machine, in letters that fit into a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40] or "host"


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # of another user; or a number that is none
    return True


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system inside are about this file: not about its stand-in, and not about nothing.

    (A write to an open file that finds the disk full does not say which file.)
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The place for a new file, which takes the name of the old one once it is whole and on the disk.

    Args:
        path: where it goes; missing folders are made. A link there is replaced, not followed.

    Yields:
        A path beside it, to be written.

    Raises:
        OSError: naming ``path``, e.g. if the disk is full; the old file and nothing else is there then.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{host_name()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            yield temporary
            sync(temporary)
            temporary.chmod(0o666 & ~umask())  # some writers make files that nobody else may read
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def umask() -> int:
    """The rights that new files of this process do not have."""
    mask = os.umask(0o077)  # it is only told by setting another: one that gives nothing away meanwhile
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Bring the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; file systems that cannot do without."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(*folders: Path) -> None:
    """Remove temporary files of :func:`replacing` whose process is dead, from folders but not from those inside them.

    Whether a process of another machine is dead cannot be seen: its file goes when nothing was written to it for a day.
    """
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            match = TEMPORARY.fullmatch(path.name)
            if match is None or path.is_symlink() or not path.is_file():
                continue
            if match["host"] == host_name():
                dead = not is_alive(int(match["process"]))
            else:
                dead = time.time() - path.stat().st_mtime > FOREIGN_AGE
            if dead:
                path.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file of these bytes as :func:`replacing` does."""
    with replacing(path) as place, place.open("xb") as file:
        file.write(content)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic_write(path, buffer.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, atomically.

    Raises:
        ValueError: for NaN and infinite numbers, which JSON does not have.
    """
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


class _Kept:
    """A file that keeps its errors for later: torch's writer, in C++, does not stand them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.error = file, None

    error: BaseException | None

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self._file.write(content)
            except BaseException as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        if self.error is None:
            self._file.flush()


def save(path: Path, content: Any) -> None:
    """``torch.save`` of tensors and plain data, atomically, without a copy in memory."""
    with replacing(path) as place, place.open("xb") as file:
        kept = _Kept(file)
        torch.save(content, kept)  # type: ignore[arg-type]  # all that it uses of a file
        if kept.error is not None:
            raise kept.error


def save_safetensors(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a state dict and texts that describe it as .safetensors, atomically."""
    own = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as place:
        place.touch(exist_ok=False)
        try:
            safetensors.save_file(own, place, metadata)
        except SafetensorError as error:
            if not (number := re.search(r"\(os error (\d+)\)", str(error))):
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
