"""Files of one kind and the folders they lie in: below a folder, or in a zip file that is read without unpacking it.

Links to files and folders are followed. Hidden files and folders are passed over without a word; whatever else is
passed over is kept with its reason, so that it can be told (:func:`passed_over`).
"""

import errno
import io
import os
import stat
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from common.data.pillow import HEIC, endings
from common.data.source import DataUnavailable
from common.units import in_bytes

# folders that a system or a NAS adds: thumbnails, wastebaskets, what macOS adds to a zip file
OF_SYSTEMS = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("system volume information", "lost+found"),
    )
)
OF_SYSTEM, SPECIAL, NOWHERE, LOOP = "of a system or a NAS", "pipes or devices", "links to nothing", "links to above"
OTHERS_NAMED = 6  # reasons that a line names
LARGEST_MEMBER = 2**28  # bytes of one file in a zip file, which is unpacked in memory
MOST_LINKS = 10_000  # links to folders, which may lead to each other in ever more ways


class Passed(NamedTuple):
    """A file or folder that was passed over.

    Attributes:
        name: its path in the tree.
        reason: why; its ending in lower case if it is that, empty for a file without one.
    """

    name: str
    reason: str


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


@dataclass(frozen=True)
class Tree:
    """Files of one kind by folder.

    Attributes:
        path: the folder or zip file, for messages.
        names: paths of the files below it, sorted, with / between folders.
        places: paths of the folders below it.
        passed: what was passed over below it.
        prefix: where it lies in what was opened, with / at its end; empty for all of it.
        opener: from paths in what was opened to files.
        links: folders below it that are links, which were followed.
        is_archive: whether it is a zip file.
    """

    path: Path
    names: list[str]
    places: list[str]
    passed: list[Passed]
    prefix: str
    opener: Callable[[list[str]], Files]
    links: list[str]
    is_archive: bool

    @property
    def direct(self) -> list[str]:
        """The files directly in it."""
        return [name for name in self.names if "/" not in name]

    @property
    def folders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        return sorted({place.partition("/")[0] for place in self.places})

    def below(self, folder: str) -> list[str]:
        """Paths, in this tree, of all files below one of its folders, sorted."""
        start, end = (bisect_left(self.names, folder + mark) for mark in ("/", "0"))  # 0 follows / in the order
        return self.names[start:end]

    def child(self, folder: str) -> "Tree":
        """One of the folders as a tree; its path may have several parts."""
        start = f"{folder}/"

        def cut(names: Iterable[str]) -> list[str]:
            return [name.removeprefix(start) for name in names if name.startswith(start)]

        passed = [Passed(name.removeprefix(start), why) for name, why in self.passed if name.startswith(start)]
        names = [name.removeprefix(start) for name in self.below(folder)]
        return Tree(
            self.path / folder,
            names,
            cut(self.places),
            passed,
            self.prefix + start,
            self.opener,
            cut(self.links),
            self.is_archive,
        )

    def files(self, names: Iterable[str]) -> Files:
        """The files of these paths in this tree, also those that were passed over."""
        return self.opener([self.prefix + name for name in names])


def passed_over(tree: Tree, but: Collection[str] = ()) -> list[str]:
    """What was passed over, in words: a line, or none.

    Args:
        tree: the files.
        but: paths of files that were used all the same.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in tree.passed:
        if name not in but:
            reasons[reason].append(name)
    if not reasons:
        return []
    told = []
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        first = min(names, key=len)
        what = reason if reason.startswith((".", *(OF_SYSTEM, SPECIAL, NOWHERE, LOOP))) else "without an ending"
        more = ", .." if len(names) > 1 else ""
        told.append(f"{len(names):,} {what} ({first}{more})")
    unread = sum(len(names) for reason, names in reasons.items() if reason in HEIC)
    if len(told) > OTHERS_NAMED:
        told[OTHERS_NAMED:] = [f"{len(told) - OTHERS_NAMED} more kinds"]
    found = [f"passed    over: {'; '.join(told)}"]
    if unread and not endings() & HEIC:
        found.append(f"note      {unread:,} photographs are HEIC, which needs: pip install pillow-heif")
    return found


class Paths:
    """Files in folders.

    Args:
        paths: (N,) bytes; one array, so that worker processes share it.
    """

    def __init__(self, paths: np.ndarray) -> None:
        self._paths = paths

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> "Paths":
        """Files by their paths in a folder."""
        return cls(np.array([os.fsencode(f"{folder}/{name}") for name in names], dtype=np.bytes_))

    def __len__(self) -> int:
        return len(self._paths)

    def select(self, rows: Tensor) -> "Paths":
        return Paths(self._paths[rows.numpy()])

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def open(self, index: int) -> BinaryIO:
        return Path(self.name(index)).open("rb")


def read_folder(path: Path, wanted: Collection[str]) -> Tree:
    """The files of a folder and of all below it; links are followed, but not in a circle.

    Raises:
        OSError: for a folder that cannot be read.
    """
    names: list[str] = []
    places: list[str] = []
    passed: list[Passed] = []
    links: list[str] = []
    todo: list[tuple[str, tuple[str, ...]]] = [
        ("", (os.path.realpath(path),))
    ]  # folders to read, and the real places that links on the way there join
    while todo:
        place, way = todo.pop()
        with os.scandir(f"{path}/{place}" if place else path) as scan:
            entries = list(scan)
        for entry in entries:
            if not is_visible(entry.name):
                continue
            name = f"{place}/{entry.name}" if place else entry.name
            if _is_folder(entry):
                if entry.name.casefold() in OF_SYSTEMS:
                    passed.append(Passed(name + "/", OF_SYSTEM))
                    continue
                further = way
                if entry.is_symlink():
                    here, real = map(os.path.realpath, (f"{path}/{place}", entry.path))
                    if any(f"{passed_by}/".startswith(f"{real}/") for passed_by in (*way, here)):
                        passed.append(Passed(name + "/", LOOP))
                        continue
                    links.append(name)
                    if len(links) > MOST_LINKS:
                        raise OSError(errno.ELOOP, f"more than {MOST_LINKS:,} links to folders", entry.path)
                    further = (*way, here, real)
                places.append(name)
                todo.append((name, further))
            elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # noqa: PTH113  # unlike a Path, no error
                _sort_in(name, entry.name, wanted, names, passed)
            else:
                is_lost = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
                passed.append(Passed(name, NOWHERE if is_lost else SPECIAL))
    return Tree(
        path, sorted(names), places, passed, "", lambda found: Paths.of(path, found), sorted(links), is_archive=False
    )


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder, or a link to one; a link in a circle is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112


def _sort_in(name: str, last: str, wanted: Collection[str], names: list[str], passed: list[Passed]) -> None:
    """Put a file with the wanted ones, or with those that are passed over."""
    ending = os.path.splitext(last)[1].lower()  # noqa: PTH122  # of every file of a large set: a Path is slow
    if ending in wanted:
        names.append(name)
    else:
        passed.append(Passed(name, ending))


def read_archive(path: Path, wanted: Collection[str]) -> Tree:
    """The files of a zip file.

    Raises:
        OSError, zipfile.BadZipFile, NotImplementedError: if it cannot be read.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    names: list[str] = []
    places: set[str] = set()
    passed: list[Passed] = []
    of_systems: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member_name(member)
            parts = name.rstrip("/").split("/")
            if not all(map(is_visible, parts)):
                continue
            folders = parts if name.endswith("/") else parts[:-1]
            added = next((i for i, part in enumerate(folders) if part.casefold() in OF_SYSTEMS), None)
            if added is not None:
                of_systems.add("/".join(folders[: added + 1]) + "/")
                continue
            places.update("/".join(folders[: i + 1]) for i in range(len(folders)))
            members[name] = member
            if name.endswith("/"):
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                passed.append(Passed(name, NOWHERE))  # its content is a path, of another machine
            else:
                _sort_in(name, parts[-1], wanted, names, passed)
    passed += [Passed(name, OF_SYSTEM) for name in sorted(of_systems) if name.casefold() != "__macosx/"]
    return Tree(
        path,
        sorted(set(names)),
        sorted(places),
        passed,
        "",
        lambda found: Members(path, [members[name] for name in found]),
        [],
        is_archive=True,
    )


def member_name(member: zipfile.ZipInfo) -> str:
    r"""The path of a member with / between folders; some programs under Windows write \, some name no encoding."""
    name = member.filename
    if not member.flag_bits & 0x800 and not name.isascii():  # not marked as UTF-8: macOS writes that all the same
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = member.filename
    is_folder = name.endswith(("/", "\\")) or member.is_dir()
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join(parts) + "/" * is_folder


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
        if size > LARGEST_MEMBER:
            raise zipfile.BadZipFile(f"{in_bytes(size)}: files in a zip file are read up to {in_bytes(LARGEST_MEMBER)}")
        with self._archive.open("rb") as file:
            file.seek(start)
            # 30 bytes, of which only the lengths of what follows matter, then name, extra field and content
            signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
            if signature != b"PK\x03\x04":
                raise zipfile.BadZipFile("no member begins where the archive says")
            file.seek(name + extra, os.SEEK_CUR)
            content = file.read(min(packed, LARGEST_MEMBER + 1024))
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        if len(content) != size or zlib.crc32(content) != crc:
            raise zipfile.BadZipFile("its checksum is wrong")
        return io.BytesIO(content)


def table_of(members: list[zipfile.ZipInfo]) -> np.ndarray:
    """Where the members of a zip file lie, one row each."""
    names = [os.fsencode(member_name(member)) for member in members]
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


def open_tree(source: str, path: Path, wanted: Collection[str] | None = None, what: str = "images") -> Tree:
    """The files of a folder or zip file.

    Args:
        source: name of the source, for messages.
        path: the folder or file.
        wanted: endings of the files, in lower case; None for images.
        what: what the files are, for messages.

    Raises:
        DataUnavailable: if it is neither, or cannot be read.
    """
    wanted = endings() if wanted is None else wanted
    if path.is_dir():
        try:
            return read_folder(path, wanted)
        except OSError as error:
            place = error.filename or path
            raise DataUnavailable(f"--data_name {source}: {place} cannot be read ({error.strerror})") from error
    if not path.is_file() or path.suffix.lower() != ".zip":
        there = path.exists()
        problem, one = ("is no folder and no .zip file", "one") if there else ("is not there", "a folder or .zip")
        raise DataUnavailable(f"--data_name {source}: {path} {problem}; point --data_dir at {one} with {what}")
    try:
        return read_archive(path, wanted)
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
