"""manifest.json: sizes and SHA-256 of the files of a folder, so that damage is noticed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from common.files.reading import read_json, sha256
from common.files.writing import write_json
from common.refusal import Refusal

MANIFEST = "manifest.json"
FORMAT = 1
NOTES = "notes"
LARGEST = 64 * 1024**2  # bytes: of half a million files


def restore(path: Path) -> str:
    """What to do about a file that no program writes again."""
    return "put a copy of it back"


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder. It is written by whoever holds the folder's lock, after the files that it lists.

    A file that is not listed (an earlier version wrote it, or its process was killed before it was) is not damaged:
    it just cannot be checked.

    Attributes:
        folder: the folder.
        mend: says what to do about a file of it that is missing or damaged.
        at: where it is, if that is not the folder: one of several who write the folder notes what it has written.
    """

    folder: Path
    mend: Callable[[Path], str] = restore
    at: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return (self.at or self.folder) / MANIFEST

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.exists()

    @property
    def is_readable(self) -> bool:
        """Whether there is none, or a whole one."""
        try:
            self._read()
        except Refusal:
            return False
        return True

    @property
    def files(self) -> set[Path]:
        """The files that it lists.

        Raises:
            Refusal: if it is damaged.
        """
        return {self.folder / name for name in self._read()["files"]}

    def _read(self) -> dict[str, Any]:
        try:
            content = read_json(self.path, LARGEST)
            if flaw := _flaw(content):
                raise ValueError(flaw)
        except FileNotFoundError:
            return {"format": FORMAT, "made": "", "files": {}}
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise Refusal(f"{self.path} cannot be read ({reason}); remove it to go on without check sums") from error
        return dict(content)

    @property
    def made(self) -> str:
        """When the folder was begun, as UTC in ISO 8601, which sorts as text; empty if nothing says so.

        Raises:
            Refusal: if it is damaged.
        """
        return str(self._read()["made"])

    @property
    def notes(self) -> dict[str, Any]:
        """What else was noted of the folder, by name; plain data that may be anybody's.

        Raises:
            Refusal: if it is damaged.
        """
        return dict(self._read().get(NOTES, {}))

    def note(self, name: str, value: Any) -> None:
        """Note something of the folder, plain data, under a name.

        Raises:
            Refusal: if it is damaged.
        """
        content = self._read()
        content[NOTES] = {**content.get(NOTES, {}), name: value}
        content["made"] = content["made"] or now()
        self._write(content)

    def lists(self, path: Path) -> bool:
        """Whether it lists a file of the folder.

        Raises:
            Refusal: if it is damaged.
        """
        return path.relative_to(self.folder).as_posix() in self._read()["files"]

    def check(self, path: Path, *, thoroughly: bool = True) -> bool:
        """Hold a file of the folder against the manifest.

        Args:
            path: the file.
            thoroughly: read it; else only its size is looked at.

        Returns:
            Whether it is listed, and so was found right.

        Raises:
            Refusal: if it is missing or another than the one listed, or the manifest is damaged.
        """
        return self.checker(thoroughly=thoroughly)(path)

    def checker(self, *, thoroughly: bool = True, later: "Manifest | None" = None) -> Callable[[Path], bool]:
        """:meth:`check` for many files, of a manifest that is read once.

        Args:
            thoroughly: as in :meth:`check`.
            later: another one of the same folder, which counts where both list a file.

        Raises:
            Refusal: if one of them is damaged.
        """
        return partial(self._check, self._read()["files"] | (later._read()["files"] if later else {}), thoroughly)

    def take_in(self, later: "Manifest") -> None:
        """List what another manifest of the same folder lists; that counts where both list a file.

        Raises:
            Refusal: if one of them is damaged.
        """
        content, other = self._read(), later._read()
        content["files"] |= other["files"]
        content["made"] = content["made"] or other["made"] or now()
        self._write(content)

    def _write(self, content: dict[str, Any]) -> None:
        """The same bytes in whatever order files were written, by however many processes."""
        write_json(self.path, {**content, "files": dict(sorted(content["files"].items()))})

    def _check(self, entries: dict[str, Any], thoroughly: bool, path: Path) -> bool:
        entry = entries.get(path.relative_to(self.folder).as_posix())
        if entry is None:
            return False
        if not path.is_file():
            raise Refusal(f"{path} is missing, though {MANIFEST} lists it; {self.mend(path)}")
        if path.stat().st_size != entry["size"] or (thoroughly and sha256(path) != entry["sha256"]):
            raise Refusal(
                f"{path} is damaged, or another file than was written: its SHA-256 is not that in {MANIFEST}; "
                f"{self.mend(path)} (if the change is meant, remove {self.path})"
            )
        return True

    def begin(self, made: str = "") -> None:
        """Start it, without files, if there is none.

        Args:
            made: when the folder was begun, if that is known (default: now).
        """
        if not self.exists:
            write_json(self.path, {"format": FORMAT, "made": made or now(), "files": {}})

    @contextlib.contextmanager
    def renewing(self, *paths: Path) -> Iterator[Callable[[Iterable[Path]], None]]:
        """Write files of the folder: meanwhile they are not listed, so that a kill at any time leaves no false entry.

        Args:
            paths: the files; those that are not there afterwards are not listed.

        Yields:
            What lists some of them already, which are written by then; the rest are listed at the end.
        """
        names = {path.relative_to(self.folder).as_posix() for path in paths}
        content, waiting = self._read(), set(paths)
        if names & content["files"].keys():
            content["files"] = {name: entry for name, entry in content["files"].items() if name not in names}
            write_json(self.path, content)

        def note(written: Iterable[Path]) -> None:
            for path in written:
                if path.is_file():
                    name = path.relative_to(self.folder).as_posix()
                    content["files"][name] = {"size": path.stat().st_size, "sha256": sha256(path)}
                waiting.discard(path)
            content["made"] = content["made"] or now()
            self._write(content)

        yield note
        note(sorted(waiting))


def _flaw(content: Any) -> str | None:
    """What is wrong with what a manifest holds, in words."""
    if not isinstance(content, dict) or "format" not in content:
        return "it is no manifest"
    if content["format"] != FORMAT:
        return f"format {content['format']!r}; this program reads {FORMAT}"
    files = content.get("files")
    if not isinstance(files, dict) or not isinstance(content.get("made"), str):
        return "it does not say which files there are, and since when"
    if not isinstance(content.get(NOTES, {}), dict):
        return "its notes have no names"
    if not all(isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)
               for entry in files.values()):  # fmt: skip
        return "an entry has no size and sha256"
    if any(".." in (place := PurePosixPath(name)).parts or place.is_absolute() for name in files):
        return "it lists a file outside of the folder"
    return None


def now() -> str:
    """The time, as manifests have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
