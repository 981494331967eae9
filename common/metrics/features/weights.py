"""Published files of weights: each is known by its SHA-256, and fetched only if it is asked for by name."""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.files import download, sha256, sync
from common.refusal import Refusal

FLAG = "features"


@dataclass(frozen=True)
class PinnedWeights:
    """A file of weights that is known by its SHA-256.

    Attributes:
        name: its name in the folder of weights.
        sha256: of its content, in hexadecimal digits.
        origin: whose it is, in words.
        url: where it is fetched from; empty if it has to be brought.
        size: bytes that it has; what is longer is not fetched to its end.
        inside: a package that brings it, and its path there, e.g. ("resemblyzer", "pretrained.pt").
    """

    name: str
    sha256: str
    origin: str
    url: str = ""
    size: int = 0
    inside: tuple[str, str] | None = None

    def find(self, folder: Path) -> Path | None:
        """Where the file is: in the folder of weights, or in its package; None if it is not there.

        Nothing is fetched, and its content is not looked at.
        """
        places = [folder / self.name]
        if self.inside and (spec := importlib.util.find_spec(self.inside[0])) and spec.origin:
            places.append(Path(spec.origin).parent / self.inside[1])
        return next((place for place in places if place.is_file()), None)

    def needed(self, folder: Path) -> str:
        """What a user has to do to have the file in a folder, with its check sum."""
        source = self.url or self.origin
        return (
            f"needs {self.name} from {source} in {folder} (SHA-256 {self.sha256}); bring it there, or name its folder "
            "by --weights_dir"
        )

    def path(self, folder: Path) -> Path:
        """The file, after its check sum was looked at; it is fetched if it is not there.

        Raises:
            Refusal: if it cannot be had, or is another one, with what to do.
        """
        if (path := self.find(folder)) is None:
            return self._fetch(folder)
        if (found := sha256(path)) != self.sha256:
            again = "remove it, and it is fetched again" if self.url else f"bring it again: {self.origin}"
            raise Refusal(
                f"{path} is damaged, or another file under that name: its SHA-256 is {found}, not {self.sha256}; "
                f"{again}"
            )
        return path

    def _fetch(self, folder: Path) -> Path:
        if not self.url:
            raise Refusal(self.needed(folder), FLAG)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # beside its place, so that a file that is whole needs only be renamed
            with tempfile.TemporaryDirectory(dir=folder, prefix=".weights-") as scratch:
                fetched = Path(scratch, self.name)
                download(self.url, fetched, limit=self.size)
                if (found := sha256(fetched)) != self.sha256:
                    raise OSError(f"what came is another file, its SHA-256 is {found}")
                sync(fetched)
                fetched.replace(folder / self.name)
        except OSError as error:
            raise Refusal(f"{self.needed(folder)}. The download failed: {error}", FLAG) from error
        return folder / self.name
