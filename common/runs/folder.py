"""A run folder: every name in it, once, and how a run is found by its id."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.schema import Keeping
from common.config.stored import CONFIG, PRIOR
from common.files import Manifest, refuse_links
from common.files.manifest import restore
from common.natural import natural
from common.refusal import Refusal
from common.runs.drawn import SampleFolder

WEIGHTS = re.compile(r"(model|ema[\d.e-]*_model)-(.+)\.(?:pth|safetensors)")
STEP = re.compile(r"step-(\d+)\.ckpt")
FINAL, BEST, LATEST = "final", "best", "latest"
SHIPPED = "SHIPPED.md"  # says that a run is a copy to sample from


class RunNotFound(Refusal):
    """No such run or version; the message lists what there is."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """Its name, as ``--run_id`` takes it."""
        return self.path.name

    @property
    def config(self) -> Path:
        """What the run is."""
        return self.path / CONFIG

    @property
    def prior(self) -> Path:
        """Mean function and spectrum of the data, if sampling starts from those."""
        return self.path / PRIOR

    @property
    def real(self) -> Path:
        """A few samples of the data, for pictures."""
        return self.path / "real.safetensors"

    @property
    def time_grid(self) -> Path:
        """The time grid that was measured on its network, if one was."""
        return self.path / "grid.json"

    @property
    def data(self) -> Path:
        """What was found of the data, in words, and its classes."""
        return self.path / "data.txt"

    @property
    def environment(self) -> Path:
        """Command lines and versions of packages."""
        return self.path / "environment.txt"

    @property
    def metrics(self) -> Path:
        """The log lines."""
        return self.path / "metrics.csv"

    @property
    def loss_picture(self) -> Path:
        """Loss curve, and loss by noise level."""
        return self.path / "loss.png"

    @property
    def samples(self) -> Path:
        """Sample grids drawn while training."""
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        """Whole states of training."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The newest whole state."""
        return self.checkpoints / "last.ckpt"

    @property
    def model(self) -> Path:
        """Kept weights, ``[ema_]model-{version}.pth``."""
        return self.path / "model"

    def weights(self, kind: str, version: str) -> Path:
        """One file of weights."""
        return self.model / f"{kind}-{version}.pth"

    def generated(self, version: str) -> Path:
        """What was drawn from a version of the weights, one folder per way of drawing."""
        return self.path / "generated_data" / f"model-{version}"

    def sample_sets(self) -> list[Path]:
        """All folders of drawn samples, the newest last, by when they say they were begun.

        Those that do not say come first, in the order of their versions and names. One whose manifest is damaged comes
        last, so that it is refused by name, not passed over. Times of files say nothing: those of a copy are others.
        """

        def order(path: Path) -> tuple[Any, ...]:
            drawn = SampleFolder(path)
            readable = drawn.manifest.is_readable
            begun = drawn.manifest.made if readable else ""
            return not readable, begun, drawn.version == FINAL, natural(drawn.version), natural(path.name)

        places = map(SampleFolder, self.path.glob("generated_data/model-*/*"))
        return sorted((place.path for place in places if place.is_set), key=order)

    @property
    def is_shipped(self) -> bool:
        """Whether it is a copy to sample from, as come with the program: never trained, not what ``latest`` means."""
        return (self.path / SHIPPED).is_file()

    @property
    def is_ours(self) -> bool:
        """Whether it has a configuration, or should have one."""
        if self.config.is_file():
            return True
        try:
            return self.manifest.lists(self.config)
        except Refusal:  # a damaged manifest, which is said when the run is opened
            return True

    @property
    def is_released(self) -> bool:
        """Whether it is in the layout of the published code: weights, but no configuration."""
        return not self.is_ours and bool(self._weight_paths())

    def _weight_paths(self) -> list[Path]:
        return [path for path in self.model.glob("*model-*") if WEIGHTS.fullmatch(path.name)]

    @property
    def manifest(self) -> Manifest:
        """Check sums of what the run keeps, except checkpoints, which have their own."""
        return Manifest(self.path, self.mend)

    def mend(self, path: Path) -> str:
        """What to do about a file of it that is missing or damaged."""
        version, others = WEIGHTS.fullmatch(path.name), [file for file in self.checkpoint_files() if file != path]
        final = version is not None and version[2] == FINAL and path.suffix == ".pth"
        if final or path in (self.prior, self.real, self.last_checkpoint):
            from_start = path in (self.prior, self.real) and FINAL not in self.versions()
            if not self.is_shipped and (others or from_start):
                return f"python train.py {self.words('resume')} writes it again"
        if version and path.suffix != ".pth" and path.with_suffix(".pth").is_file():
            return f"python scripts/export.py {self.words('run_id')} --version {version[2]} writes it again"
        return f"{restore(path)}, or remove it and do without" if self.is_spare(path) else restore(path)

    def is_spare(self, path: Path) -> bool:
        """Whether people may remove a file of it, e.g. to make room: checkpoints, earlier weights, real samples."""
        version = WEIGHTS.fullmatch(path.name)
        return (
            path in (self.real, self.time_grid)
            or path.parent == self.checkpoints
            or (version is not None and version[2] != FINAL)
        )

    @property
    def begun(self) -> str:
        """When it was begun, as text that sorts; empty if nothing says so (earlier versions, the published code).

        Times of files are no answer: those of a copy are others.
        """
        try:
            return self.manifest.made
        except Refusal:  # it is damaged, which is said when the run is opened
            return ""

    def weight_files(self) -> dict[str, dict[str, Path]]:
        """Files of weights by version and kind, versions in the order that training writes them: best, v9, v10, final.

        ``best`` is of any step, and so counts as older than the others.

        A kind is ``model``, ``ema_model`` or, for further averages, ``ema{decay:g}_model``; an exported .safetensors
        counts if there is no .pth.
        """
        files: dict[str, dict[str, Path]] = {}
        for path in sorted(self._weight_paths(), key=lambda path: (path.suffix != ".pth", path.name)):
            match = WEIGHTS.fullmatch(path.name)
            assert match  # that is how they were chosen
            files.setdefault(match[2], {}).setdefault(match[1], path)
        return dict(sorted(files.items(), key=lambda item: (item[0] == FINAL, item[0] != BEST, natural(item[0]))))

    def lost_weights(self) -> list[Path]:
        """Final weights that were written, and are not there any more.

        Raises:
            Refusal: if the manifest is damaged.
        """
        listed = {path: WEIGHTS.fullmatch(path.name) for path in self.manifest.files if path.parent == self.model}
        return sorted(path for path, match in listed.items() if match and match[2] == FINAL and not path.exists())

    def versions(self) -> list[str]:
        """Versions of the kept weights, in the order that training writes them."""
        return list(self.weight_files())

    def newest_version(self) -> str:
        """``final`` if it is there, else the last version; ``final`` too if there is none."""
        return (self.versions() or [FINAL])[-1]

    def checkpoint_files(self) -> list[Path]:
        """Checkpoints of training, the newest first."""
        steps = {path: STEP.fullmatch(path.name) for path in self.checkpoints.glob("step-*.ckpt")}
        numbered = sorted(((int(match[1]), path) for path, match in steps.items() if match), reverse=True)
        last = [self.last_checkpoint] if self.last_checkpoint.exists() else []
        return [*last, *(path for _, path in numbered)]

    def refuse_links(self) -> None:
        """Refuse symbolic links inside it, which would lead what is written, or copied from it, to another place.

        W&B keeps some of its own in ``wandb``; ``generated_data`` is looked at by those who write there.

        Raises:
            Refusal: naming the first one.
        """
        for place in sorted(self.path.iterdir()):
            refuse_links(self.path, place, inside=place.name not in ("wandb", "generated_data"))

    def words(self, flag: str) -> str:
        """What names the run on a command line, by a flag such as ``resume``; with its place unless that is ./runs."""
        named = [f"--{flag}", self.name]
        place, usual = self.path.parent, Keeping.output_dir
        # not by absolute paths: the working folder may have been removed since
        elsewhere = place != usual and not (usual.exists() and place.exists() and usual.samefile(place))
        return shlex.join([*named, "--output_dir", str(self.path.parent)] if elsewhere else named)


def lack_of(output_dir: Path) -> str:
    """Why there can be no runs in a place, in words; empty if it is a folder."""
    if output_dir.is_dir():
        return ""
    return f"{output_dir} is {'a file, not a folder' if output_dir.exists() else 'not there'}"


def run_folders(output_dir: Path) -> list[RunFolder]:
    """Run folders under a directory, the newest last; released ones also one level deeper (people unzip by hand).

    Those that do not say when they were begun come first.
    """
    folders = [path for path in output_dir.glob("*") if path.is_dir() and not path.name.startswith(".")]  # no leftovers
    visible = [RunFolder(path) for path in folders]
    found = [folder for folder in visible if folder.is_ours or folder.is_released]
    rest = [folder for folder in visible if folder not in found]
    deeper = [RunFolder(path.parent) for folder in rest for path in folder.path.glob("*/model")]
    found += [folder for folder in deeper if folder.is_released]
    return sorted(found, key=lambda folder: (folder.begun, natural(folder.name)))


def of_id(wb_id: str, output_dir: Path) -> list[RunFolder]:
    """The runs of an id, which have a configuration."""
    return [run for run in run_folders(output_dir) if run.is_ours and run.name.startswith(f"{wb_id}_")]


def find(run_id: str, output_dir: Path, flag: str = "run_id") -> RunFolder:
    """The folder of a run: by id, by folder name, or ``latest``.

    Args:
        run_id: what to look for.
        output_dir: folder that holds the runs.
        flag: the flag a message names.

    Raises:
        RunNotFound: with the runs there are, or the place of one that was named by a path.
    """
    folders = {folder.path.relative_to(output_dir).as_posix(): folder for folder in run_folders(output_dir)}
    if Path(run_id).resolve().parent == output_dir.resolve():  # a path, as a shell completes it
        run_id = Path(run_id).name
    of_users = [folder for folder in folders.values() if not folder.is_shipped]
    if run_id == LATEST and of_users:
        if len(of_users) > 1 and not of_users[-1].begun:
            raise RunNotFound(
                f"{run_id}: none of the runs under {output_dir} says when it was begun (earlier versions did not note "
                f"it); give the name of one: {', '.join(folder.name for folder in of_users)}",
                flag,
            )
        return of_users[-1]
    if run_id == LATEST and folders:
        raise RunNotFound(
            f"{run_id}: nothing was trained under {output_dir} yet; there are copies to sample from: "
            f"{', '.join(folders)}",
            flag,
        )
    matches = (
        [name for name in folders if name == run_id]
        or [name for name, folder in folders.items() if folder.name == run_id]
        or [name for name, folder in folders.items() if run_id and folder.name.startswith(f"{run_id}_")]
    )
    if len(matches) == 1:
        return folders[matches[0]]
    if matches:
        raise RunNotFound(f"{run_id} fits several runs: {', '.join(matches)}. Give the whole name of one.", flag)
    place = RunFolder(Path(run_id))
    if run_id and place.path.is_dir() and (place.is_ours or place.is_released):
        raise RunNotFound(f"{run_id} does not lie in {output_dir}; give {place.words(flag)}", flag)
    if lack := lack_of(output_dir):
        raise RunNotFound(f"{run_id}: {lack}; --output_dir names the folder that holds the runs", flag)
    known = ", ".join(folders) or "none"
    raise RunNotFound(f"{run_id}: no such run under {output_dir}. Runs there: {known}", flag)
