"""The models that the authors of FDP published, for ``--pretrained``: checkpoints of Flax in one archive, logs.zip.

The archive's inner structure is not documented. So files ``checkpoint_N`` are looked for at any depth, of every folder
the one with the largest N is read where it lies, and whichever has the network of a preset is that preset's model; of
several the one whose path names the preset's data. Nothing but the run folders made of them is written.
"""

import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from common.refusal import Refusal
from common.runs.folder import FINAL, RunFolder
from common.runs.pretrained import ORIGIN, Published, opened
from fdp.flax_file import FlaxCheckpoint, read_stream
from fdp.flax_run import Imported, imported
from fdp.presets import PRESETS

CHECKPOINT = re.compile(r"checkpoint_(\d{1,12})", re.ASCII)
TOLD = 8  # checkpoints that a message names


@dataclass(frozen=True)
class Released(Published):
    """A model of FDP's authors.

    Attributes:
        url: the archive that holds it.
        preset: what its network and its process are.
    """

    url: str
    preset: str
    version = FINAL

    @property
    def run_id(self) -> str:  # type: ignore[override]  # a field there
        return f"released-{self.preset}"

    def is_whole(self, folder: RunFolder) -> bool:
        return super().is_whole(folder) and (folder.path / ORIGIN).is_file()

    def by_hand(self, output_dir: Path) -> str:
        out = output_dir / self.run_id
        return (
            f"unzip it, then python -m fdp.flax_import CHECKPOINT --preset {self.preset} --out {out} and use --run_id "
            f"{self.run_id}"
        )

    def unpack(self, archive: Path, folder: Path, origin: Mapping[str, Any]) -> list[Path]:
        models = [model for model in RELEASED.values() if model.url == self.url and model != self]
        folder.mkdir()
        with opened(archive) as content:
            read, problems = [], []
            for member in newest(content):
                try:
                    read.append((member.filename, _read(content, member)))
                except Refusal as refusal:
                    problems.append(str(refusal))
                    print(f"note      {refusal}")
        made = []
        for model in (self, *models):
            try:
                entry, run = model.choose(read, folder)
            except Refusal as refusal:
                if model is not self:  # it came along, if it is there
                    continue
                told = "; ".join(problems[:TOLD])
                raise Refusal(f"{refusal}{f'; and {told}' if told else ''}") from refusal
            place = folder / run.config.folder_name
            run.write(place, {**origin, "entry": entry, "preset": model.preset})
            made.append(place)
        return made

    def choose(self, read: list[tuple[str, FlaxCheckpoint]], folder: Path) -> tuple[str, Imported]:
        """The checkpoint that is this model's, and the run it makes.

        Args:
            read: checkpoints by their place in the archive.
            folder: folder of runs.

        Raises:
            Refusal: if there is none, or which of several is not certain.
        """
        fitting: dict[str, Imported] = {}
        problems = []
        for entry, checkpoint in read:
            try:
                fitting[entry] = imported(checkpoint, self.preset, {}, folder / self.run_id, entry)
            except Refusal as refusal:
                problems.append(str(refusal))
        named = [entry for entry in fitting if str(PRESETS[self.preset]["data_name"]) in entry.lower()]
        sure = named or list(fitting)
        if len(sure) == 1:
            return sure[0], fitting[sure[0]]
        if sure:
            raise Refusal(f"the archive holds several networks of preset {self.preset}: {', '.join(sure[:TOLD])}")
        why = "; ".join(problems[:TOLD]) or "there is no file checkpoint_N in it"
        raise Refusal(f"the archive holds no network of preset {self.preset}: {why}")


def newest(content: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Of every folder of an archive, in the order of their names, the checkpoint of the latest step."""
    folders: dict[str, list[tuple[int, zipfile.ZipInfo]]] = defaultdict(list)
    for member in content.infolist():
        place = PurePosixPath(member.filename)
        if not member.is_dir() and (match := CHECKPOINT.fullmatch(place.name)) and "__MACOSX" not in place.parts:
            folders[str(place.parent)].append((int(match[1]), member))
    for _, members in sorted(folders.items()):
        yield max(members, key=lambda numbered: numbered[0])[1]


def _read(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> FlaxCheckpoint:
    with content.open(member) as file:  # to its end, where its check sum is compared
        return read_stream(file, member.file_size, member.filename)


LOGS = "https://drive.google.com/uc?id=1R9aRsV7q4yU0ey47tR7hFvKttEilUv0i"
RELEASED: dict[str, Released] = {
    preset: Released(LOGS, preset) for preset in ("fdp-mnist-inr", "fdp-celeba-inr", "fdp-celeba-uvit")
}
