"""NumPy's files, ``.npy`` and ``.npz``: what lies in them, told by the headers of the arrays.

What a file is, its first bytes say, not its name. Nothing is unpickled. Before memory is taken for an array, its header
has been read (at most ``MAX_HEADER`` bytes of it), the values that the header promises are there, and there is room
for them. An array that lies in its file as it is, in an ``.npy`` or an uncompressed ``.npz``, need not be read at
all: it can be mapped.
"""

import contextlib
import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Literal

import numpy as np

from common.memory import free_memory
from common.units import in_bytes

SUFFIXES = (".npy", ".npz")
MAGIC, ZIP = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")
OTHERS = {  # how files start that are taken for NumPy's
    b"\x80": "a Python pickle, which is never opened here: load it where you trust it, and save its arrays",
    b"\x89HDF": "an HDF5 file; read it with h5py, and save its arrays",
    b"MATLAB": "a MATLAB file; read it with scipy.io.loadmat, and save its arrays",
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"<": "a page of the web, perhaps in the place of a download; fetch the file again",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
}
LENGTHS = {1: "<H", 2: "<I", 3: "<I"}  # version of the format to how the length of the header is written
MAX_HEADER = 10_000  # bytes, NumPy's own limit: Python's parser may not survive much longer ones
MAX_MEMBERS = 10_000
LOCAL = struct.Struct("<4s22xHH")  # what stands before a member of a zip file; lengths of its name and extra field
ENCRYPTED = 1
COPIES = 3  # an array, the same in our order, and its two parts are in memory at the same time
PIECE = 1024**2
FAILURES = (
    *(OSError, ValueError, TypeError, EOFError, KeyError, NotImplementedError, RuntimeError, MemoryError, SyntaxError),
    *(OverflowError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)


class Unreadable(ValueError):
    """A file or an array in it that cannot be read; the message goes on from its name."""


@contextlib.contextmanager
def plain_words() -> Iterator[None]:
    """Whatever the libraries raise for a damaged or foreign file, as :class:`Unreadable`."""
    try:
        yield
    except Unreadable:
        raise
    except FAILURES as error:
        raise Unreadable(f"cannot be read ({str(error) or type(error).__name__}); save or fetch it again") from error


@dataclass(frozen=True)
class Stored:
    """An array in a file, known by its header; cheap to pickle.

    Attributes:
        path: the file.
        member: name of the array in an ``.npz`` file; None for an ``.npy`` file.
        shape: of the array.
        dtype: of the array.
        fortran: whether the first axis runs fastest.
        start: bytes before the values, in the file or in the member.
        place: position of the values in the file; None if they are compressed.
        trailing: bytes after the values that belong to no array.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int
    place: int | None
    trailing: int

    def __str__(self) -> str:
        return f"{self.shape} of {self.dtype}"

    @property
    def name(self) -> str:
        """What a user calls it: its name in an ``.npz`` file, or that of its ``.npy`` file."""
        return self.path.name if self.member is None else self.member

    @property
    def variable(self) -> str:
        """What lines of Python in messages call it."""
        return "x" if self.member is None else self.member

    @property
    def order(self) -> Literal["F", "C"]:
        """NumPy's word for which axis runs fastest."""
        return "F" if self.fortran else "C"

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def has_room(self) -> bool:
        """Whether memory can hold it while it is prepared."""
        return COPIES * self.nbytes <= free_memory()

    def map(self) -> np.ndarray:
        """The array, read from the file as it is used."""
        with plain_words():
            return np.memmap(self.path, self.dtype, "r", self.place or 0, self.shape, self.order)

    def read(self) -> np.ndarray:
        """The array in memory.

        Raises:
            Unreadable: for Python objects, for too little memory, and for damaged values.
        """
        if self.dtype.hasobject:
            raise Unreadable(
                f"{self.variable} {self} cannot be read: it holds Python objects, which are never unpickled; save "
                f"numbers, as numpy.stack(list({self.variable})) makes them where all have one shape"
            )
        if not self.has_room:
            raise Unreadable(
                f"{self.variable} {self} takes {in_bytes(COPIES * self.nbytes)} while it is read, "
                f"{in_bytes(max(0, free_memory()))} are free; save it without compression, with numpy.save or "
                "numpy.savez, then it is read as it is used"
            )
        with plain_words(), contextlib.ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(self.path.open("rb"))
            if self.member is not None:
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(archive.open(f"{self.member}.npy"))
            take(file, self.start)
            values = bytearray(self.nbytes)
            for first in range(0, len(values), PIECE):  # zipfile would make a copy of all that is asked for at once
                size = min(PIECE, len(values) - first)
                values[first : first + size] = take(file, size)
            flat = np.frombuffer(values, self.dtype) if values else np.empty(0, self.dtype)
            return flat.reshape(self.shape, order=self.order)


def take(file: IO[bytes], count: int) -> bytes:
    """The next bytes of a file.

    Raises:
        Unreadable: if there are fewer.
    """
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    if count:
        raise Unreadable("cannot be read: it ends early; save or fetch it again")
    return b"".join(parts)


def member_names(path: Path) -> list[str] | None:
    """Names of the arrays in an ``.npz`` file, in its order; None for an ``.npy`` file, which holds one without a name.

    Raises:
        Unreadable: if it is neither, is damaged, or has two arrays of one name.
    """
    with plain_words():
        with path.open("rb") as file:
            head = file.read(32)
        if head.startswith(MAGIC):
            return None
        if not head.startswith(ZIP):
            other = next((words for start, words in OTHERS.items() if head.startswith(start)), None)
            reason = f"it is {other}" if other else "it is no NumPy file" if head else "it is empty"
            raise Unreadable(f"cannot be read: {reason}")
        with zipfile.ZipFile(path) as archive:
            files = [name for name in archive.namelist() if name.endswith(".npy") and not is_hidden(name)]
    if len(files) > MAX_MEMBERS:
        raise Unreadable(f"holds {len(files):,} arrays, {MAX_MEMBERS:,} are read at most; stack the samples in one")
    names = [name.removesuffix(".npy") for name in files]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise Unreadable(f"holds {twice[0]} twice; save it again with one of them")
    return names


def is_hidden(name: str) -> bool:
    """Whether a member of a zip file is none of the user's: macOS adds such ones."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def header(path: Path, member: str | None = None) -> Stored:
    """An array of a file, without its values.

    Args:
        path: the file.
        member: name of the array, if it is an ``.npz`` file.

    Raises:
        Unreadable: if there is no such array, or not all of it.
    """
    with plain_words(), contextlib.ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(path.open("rb"))
        file, length, place = raw, path.stat().st_size, 0
        stored = True
        if member is not None:
            archive = stack.enter_context(zipfile.ZipFile(raw))
            info = archive.getinfo(f"{member}.npy")
            if info.flag_bits & ENCRYPTED:
                raise Unreadable(f"cannot be read: {member} is encrypted; save it without a password")
            file, length = stack.enter_context(archive.open(info)), info.file_size
            stored = info.compress_type == zipfile.ZIP_STORED
            raw.seek(info.header_offset)
            _, of_name, of_extra = LOCAL.unpack(take(raw, LOCAL.size))
            place = info.header_offset + LOCAL.size + of_name + of_extra
            raw.seek(place)
        shape, fortran, dtype, start = parse(file, member or path.name)
        found = Stored(path, member, shape, dtype, fortran, start, place + start if stored else None, 0)
        if dtype.hasobject:
            return found
        trailing = length - start - found.nbytes
        if trailing < 0:
            raise Unreadable(
                f"cannot be read: {found.name} {found} has {in_bytes(found.nbytes)} by its header, but only "
                f"{in_bytes(max(0, length - start))} are there; save or fetch it again"
            )
        if member is None and trailing >= len(MAGIC):
            file.seek(start + found.nbytes)
            if file.read(len(MAGIC)) == MAGIC:
                raise Unreadable(
                    "holds several arrays, one after the other, without names; save them as "
                    f"numpy.savez('{path.stem}.npz', x=.., y=..)"
                )
        return Stored(path, member, shape, dtype, fortran, start, found.place, trailing)


def parse(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """The header of an array that starts here: shape, whether the first axis runs fastest, type, and bytes of it.

    Raises:
        Unreadable: if it is none.
    """
    head = take(file, len(MAGIC) + 2)
    version, minor = head[len(MAGIC) :]
    if not head.startswith(MAGIC) or version not in LENGTHS or minor:
        raise Unreadable(f"cannot be read: {name} is no array of NumPy's, or of a newer format than 3")
    written = take(file, struct.calcsize(LENGTHS[version]))
    (length,) = struct.unpack(LENGTHS[version], written)
    if length > MAX_HEADER:
        raise Unreadable(
            f"cannot be read: the header of {name} has {in_bytes(length)}, {in_bytes(MAX_HEADER)} are read at most; "
            "save numbers only"
        )
    text = io.BytesIO(written + take(file, length))
    read = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(text)
    except FAILURES as error:
        raise Unreadable(f"cannot be read: the header of {name} is damaged; save or fetch it again") from error
    if any(side < 0 for side in shape):
        raise Unreadable(f"cannot be read: {name} has the impossible shape {shape}; save or fetch it again")
    return tuple(map(int, shape)), fortran, dtype, len(head) + len(written) + length
