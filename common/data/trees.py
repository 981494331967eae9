"""Image files and the folders they lie in: below a folder, or in a zip file that is read without unpacking it.

Hidden files and folders, and files that are no images by their ending, are passed over.
"""

import io
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from torch import Tensor

from common.data.pillow import endings
from common.data.source import DataUnavailable

APPLE = "__MACOSX"  # what macOS adds to a zip file


class Files(Protocol):
    """Files by index. Worker processes get a copy: it holds where the files are, in arrays, not what is in them."""

    def __len__(self) -> int: ...

    def select(self, rows: Tensor) -> "Files":
        """The files ``rows`` (M,) int64."""

    def name(self, index: int) -> str:
        """What messages call a file."""

    def open(self, index: int) -> BinaryIO:
        """The content of a file.

        Raises:
            Exception: whatever reading it raises.
        """


class Tree(ABC):
    """Image files by folder.

    Attributes:
        path: the folder or zip file, for messages.
        folders: names of the folders directly in it, sorted.
        images: paths of the images directly in it, sorted.
    """

    path: Path
    folders: list[str]
    images: list[str]

    @abstractmethod
    def below(self, folder: str) -> list[str]:
        """Paths of all images below one of the folders, sorted."""

    @abstractmethod
    def child(self, folder: str) -> "Tree":
        """One of the folders as a tree."""

    @abstractmethod
    def files(self, paths: Iterable[str]) -> Files:
        """The images of these paths."""


class Directory(Tree):
    """A folder.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with os.scandir(path) as scan:
            entries = [entry for entry in scan if is_visible(entry.name)]
        self.folders = sorted(entry.name for entry in entries if entry.is_dir())
        self.images = sorted(entry.path for entry in entries if is_image(entry.name) and entry.is_file())

    def below(self, folder: str) -> list[str]:
        found = []
        for place, folders, names in os.walk(self.path / folder):
            folders[:] = filter(is_visible, folders)
            found += [f"{place}/{name}" for name in names if is_image(name)]
        return sorted(found)

    def child(self, folder: str) -> "Directory":
        return Directory(self.path / folder)

    def files(self, paths: Iterable[str]) -> "Paths":
        return Paths(np.array([os.fsencode(path) for path in paths]))


class Paths:
    """Files in folders.

    Args:
        paths: (N,) bytes; one array, so that worker processes share it.
    """

    def __init__(self, paths: np.ndarray) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def select(self, rows: Tensor) -> "Paths":
        return Paths(self._paths[rows.numpy()])

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def open(self, index: int) -> BinaryIO:
        return Path(self.name(index)).open("rb")


class Archive(Tree):
    """A zip file, or a folder in it.

    Args:
        path: the zip file.
        members: its visible members by name.
        prefix: the folder in it, with a slash at its end, or nothing.
    """

    def __init__(self, path: Path, members: dict[str, zipfile.ZipInfo], prefix: str = "") -> None:
        self._archive, self._prefix = path, prefix
        self.path = path / prefix
        self._members = {name: member for name, member in members.items() if name.startswith(prefix)}
        self._below: dict[str, list[str]] = defaultdict(list)
        self.images = []
        for name in sorted(self._members):
            folder, slash, rest = name.removeprefix(prefix).partition("/")
            found = self._below[folder] if slash else self.images
            if is_image((rest or folder).rpartition("/")[2]) and not name.endswith("/"):
                found.append(name)
        self.folders = sorted(self._below)

    @classmethod
    def open(cls, path: Path) -> "Archive":
        """The content of a zip file; if everything lies in one folder, that folder.

        Raises:
            OSError, zipfile.BadZipFile, NotImplementedError: if it cannot be read.
        """
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename: member
                for member in archive.infolist()
                if all(is_visible(part) and part != APPLE for part in member.filename.rstrip("/").split("/"))
            }
        tree = cls(path, members)
        while len(tree.folders) == 1 and not tree.images:
            tree = tree.child(tree.folders[0])
        return tree

    def below(self, folder: str) -> list[str]:
        return self._below[folder]

    def child(self, folder: str) -> "Archive":
        return Archive(self._archive, self._members, f"{self._prefix}{folder}/")

    def files(self, paths: Iterable[str]) -> "Members":
        return Members(self._archive, [self._members[path] for path in paths])


class Members:
    """Members of a zip file, each read from where it lies.

    ``zipfile`` keeps an object per member and one position in the file: with CelebA's 200,000 images that is 100 MB in
    every worker process, and the position would be shared between forked ones. Here a table says where members begin.

    Args:
        archive: the zip file.
        members: the members, or a table of them.
    """

    def __init__(self, archive: Path, members: "list[zipfile.ZipInfo] | np.ndarray") -> None:
        self._archive = archive
        self._table = members if isinstance(members, np.ndarray) else table_of(members)

    def __len__(self) -> int:
        return len(self._table)

    def select(self, rows: Tensor) -> "Members":
        return Members(self._archive, self._table[rows.numpy()])

    def name(self, index: int) -> str:
        return str(self._archive / os.fsdecode(self._table[index]["name"]))

    def open(self, index: int) -> BinaryIO:
        _, start, packed, size, method, encrypted, crc = self._table[index].tolist()
        if encrypted or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{'encrypted' if encrypted else f'compression method {method}'}: not supported")
        with self._archive.open("rb") as file:
            file.seek(start)
            # 30 bytes, of which only the lengths of what follows matter, then name, extra field and content
            signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
            if signature != b"PK\x03\x04":
                raise zipfile.BadZipFile("no member begins where the archive says")
            file.seek(name + extra, os.SEEK_CUR)
            content = file.read(packed)
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        if len(content) != size or zlib.crc32(content) != crc:
            raise zipfile.BadZipFile("its checksum is wrong")
        return io.BytesIO(content)


def table_of(members: list[zipfile.ZipInfo]) -> np.ndarray:
    """Where the members of a zip file lie, one row each."""
    names = [os.fsencode(member.filename) for member in members]
    fields = [
        ("name", f"S{max(map(len, names), default=1)}"),
        *((field, np.int64) for field in ("start", "packed", "size", "method", "encrypted", "crc")),
    ]
    return np.array(
        [
            (name, m.header_offset, m.compress_size, m.file_size, m.compress_type, m.flag_bits & 1, m.CRC)
            for name, m in zip(names, members, strict=True)
        ],
        dtype=fields,
    )


def open_tree(source: str, path: Path) -> Tree:
    """The images of a folder or zip file.

    Args:
        source: name of the source, for messages.
        path: the folder or file.

    Raises:
        DataUnavailable: if it is neither, or cannot be read.
    """
    if path.is_dir():
        try:
            return Directory(path)
        except OSError as error:
            raise DataUnavailable(f"--data_name {source}: {path} cannot be read ({error.strerror})") from error
    if not path.is_file() or path.suffix.lower() != ".zip":
        raise DataUnavailable(
            f"--data_name {source}: {path} is no folder and no .zip file; point --data_dir at one with images"
        )
    try:
        return Archive.open(path)
    except Exception as error:  # what zipfile raises for a cut or foreign file differs with the place of the cut
        raise DataUnavailable(
            f"--data_name {source}: {path} cannot be read as a zip file ({type(error).__name__}: {error}); "
            "bring it again"
        ) from error


def is_visible(name: str) -> bool:
    """Whether a file or folder is not hidden."""
    return not name.startswith(".")


def is_image(name: str) -> bool:
    """Whether a file is an image by its ending; hidden files are none."""
    return is_visible(name) and Path(name).suffix.lower() in endings()
