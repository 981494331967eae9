"""Models that the authors of the papers published: ``--pretrained NAME`` downloads and unpacks them once.

Each family has its kind of archive (:class:`Published`), and one that holds anything unsafe is refused. Here is that of
GFDM. Its inner structure is not documented, so run folders are searched at any depth; what is unpacked is only their
weights, ``ID_DATA_H.._K../model/[ema_]model-VERSION.pth``.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.files import download, write_json
from common.refusal import Refusal
from common.runs.folder import RunFolder, run_folders

ORIGIN = "origin.json"
UNPACKED_LIMIT = 2**34  # bytes: 16 GiB, some ten times what three networks with their averages take
DOWNLOAD_TIMEOUT = 60.0  # seconds without a byte
MEMBER = re.compile(
    r"(?:.*/)?(?P<run>[A-Za-z0-9][\w.-]*_H\d+(?:\.\d+)?_K\d+)/model/(?P<file>(?:ema_)?model-[\w.-]+\.pth)",
    re.ASCII,
)


class Published(ABC):
    """A published model, in an archive that is downloaded.

    Attributes:
        url: the archive that holds it.
        run_id: id of its run folder.
        version: version of the weights that samples are drawn from.
    """

    url: str
    run_id: str
    version: str

    @abstractmethod
    def unpack(self, archive: Path, folder: Path, origin: Mapping[str, Any]) -> list[Path]:
        """Make run folders of what is in the archive, each with an origin.json.

        Args:
            archive: a zip file.
            folder: where the run folders go; must not exist.
            origin: what origin.json shall say, beside what the kind of archive adds.

        Returns:
            The run folders, that of this model among them.

        Raises:
            Refusal: if an entry is unsafe or broken, the model is missing, or it would take too much space.
        """

    @abstractmethod
    def by_hand(self, output_dir: Path) -> str:
        """What to do with the archive, once it was downloaded by hand, as a message goes on."""

    def found(self, output_dir: Path) -> RunFolder | None:
        """Its run folder, if that is there already, with the version that is wanted."""
        folders = [folder for folder in run_folders(output_dir) if folder.name.startswith(f"{self.run_id}_")]
        return next((folder for folder in folders if self.is_whole(folder)), None)

    def is_whole(self, folder: RunFolder) -> bool:
        """Whether a folder of its id is it, with the version that is wanted."""
        return self.version in folder.versions()


@dataclass(frozen=True)
class Pretrained(Published):
    """A model of GFDM's authors.

    Attributes:
        url: the archive that holds it.
        run_id: id of its run folder.
        version: version of the weights that the authors sample from.
    """

    url: str
    run_id: str
    version: str

    def unpack(self, archive: Path, folder: Path, origin: Mapping[str, Any]) -> list[Path]:
        with opened(archive) as content:
            found = list(_weights(content.infolist()))
            files = dict(found)
            if len(files) < len(found):
                raise Refusal("the archive is refused: it holds a file of weights twice")
            names = {f"{kind}-{self.version}.pth" for kind in ("model", "ema_model")}
            if not any(file.parts[0].startswith(f"{self.run_id}_") and file.name in names for file in files):
                runs = ", ".join(sorted({file.parts[0] for file in files})) or "none"
                raise Refusal(f"the archive lacks version {self.version} of run {self.run_id}; runs in it: {runs}")
            # a reader stops at the size that an entry declares, so their sum bounds what is written
            size = sum(member.file_size for member in files.values())
            free = shutil.disk_usage(archive.parent).free
            limit, what = min((UNPACKED_LIMIT, "the limit of"), (free, "the free space of"))
            if size > limit:
                raise Refusal(f"the archive would take {size:.3g} bytes, which is above {what} {limit:.3g}")
            for file, member in files.items():
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, 2**20)  # raises if the CRC is another
                    target.flush()
                    os.fsync(target.fileno())
        made = sorted(folder.iterdir())
        for run in made:
            write_json(run / ORIGIN, origin)
        return made

    def by_hand(self, output_dir: Path) -> str:
        return f"unzip it into {output_dir} and use --run_id {self.run_id} --version {self.version}"


ARCHIVE = "https://drive.google.com/uc?id=1OySDmN2vXe5ox4egkxLR1qZuocIlAGz3"
# a register: other families add theirs
PRETRAINED: dict[str, Published] = {
    "gfdm-cifar10-h0.9-k2": Pretrained(ARCHIVE, "1299582", "v5"),
    "gfdm-cifar10-h0.7-k2": Pretrained(ARCHIVE, "1299581", "v5"),
    "vp-cifar10": Pretrained(ARCHIVE, "1299543", "v4"),
}


def fetch(name: str, output_dir: Path) -> RunFolder:
    """The run folder of a published model; downloads the archive if it is not there yet.

    Every run of the archive is kept, each with an origin.json (url, SHA-256 of the archive, date). What exists is never
    touched, and nothing is left behind on a failure.

    Args:
        name: a name of ``PRETRAINED``.
        output_dir: folder that holds the runs.

    Raises:
        Refusal: for an unknown name, a failed download, or an archive that is broken, unsafe or another one; in one
            line, with what to do instead.
    """
    if name not in PRETRAINED:
        raise Refusal(f"must be one of {', '.join(PRETRAINED)}, got {name!r}", "pretrained")
    wanted = PRETRAINED[name]
    if folder := wanted.found(output_dir):
        return folder
    if in_the_way := next(output_dir.glob(f"{wanted.run_id}_*"), None):
        raise Refusal(
            f"{name}: {in_the_way} is there without version {wanted.version}; move it away and try again", "pretrained"
        )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        # beside the runs, so that unpacked folders need only be renamed
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".pretrained-") as temporary:
            archive = Path(temporary) / "archive.zip"
            _download(wanted.url, archive)
            with archive.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            print(f"SHA-256   {digest} (the authors publish none: it cannot be compared)")
            origin = {"url": wanted.url, "sha256": digest, "date": datetime.now(UTC).isoformat(timespec="seconds")}
            here = {folder.name for folder in run_folders(output_dir)}
            for unpacked in wanted.unpack(archive, Path(temporary) / "runs", origin):
                target = output_dir / unpacked.name
                if unpacked.name not in here and not target.exists():
                    unpacked.rename(target)
    except (OSError, ValueError) as error:
        raise Refusal(
            f"{name}: {' '.join(str(error).split())}. By hand: download {wanted.url}, {wanted.by_hand(output_dir)}",
            "pretrained",
        ) from error
    found = wanted.found(output_dir)
    assert found  # unpack returned it, and nothing was in its way
    return found


def _download(url: str, path: Path) -> None:
    """Download an archive with a progress bar.

    Raises:
        Refusal: if that fails, or what came is no zip archive.
    """
    try:
        download(url, path, DOWNLOAD_TIMEOUT, UNPACKED_LIMIT)
    except OSError as error:
        raise Refusal(f"the download failed ({error})") from error
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            page = file.read(200).lstrip().startswith(b"<")
        what = "a web page came instead (a quota, or it moved)" if page else "it is cut short or something else"
        raise Refusal(f"the download is no zip archive: {what}")


def _objection(member: zipfile.ZipInfo) -> str | None:
    """Why an entry of an archive is unsafe, or None."""
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of its folder"
    if "\\" in name or not name.isprintable():
        return "has characters that do not belong in a path"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is no plain file"
    return None


def _weights(members: list[zipfile.ZipInfo]) -> Iterator[tuple[Path, zipfile.ZipInfo]]:
    """Where each file of weights goes, relative to the folder of runs."""
    for member in members:
        if match := MEMBER.fullmatch(member.filename):
            yield Path(match["run"]) / "model" / match["file"], member


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """An archive of which every entry is safe to unpack under its own name.

    Raises:
        Refusal: if one is not; and for what the readers raise inside, where an entry is broken.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                if objection := _objection(member):
                    raise Refusal(f"the archive is refused: its entry {member.orig_filename!r} {objection}")
            yield content
    except (OSError, ValueError):
        raise
    except Exception as error:  # BadZipFile, and what the decompressors raise
        raise Refusal(f"the archive is broken ({error})") from error
