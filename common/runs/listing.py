"""A list of runs: what each is, how far it is, whether it is whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.config.flags import Checked
from common.config.schema import RunConfig
from common.config.stored import read_config
from common.files import UNREADABLE, Manifest, load_checkpoint, owner_of
from common.files.writing import host_name
from common.refusal import Refusal
from common.runs.folder import FINAL, WEIGHTS, RunFolder, run_folders
from common.table import table
from common.units import in_bytes

HEADER = ("run", "data", "process", "network", "step", "state", "on disk", "newest samples")
UNKNOWN = "?"


@dataclass(frozen=True)
class ListConfig(Checked):
    """Which runs to list.

    Attributes:
        output_dir: folder that holds the runs
        check: also read every file that has check sums, which takes a while: damage is seen then, not only what is
            missing or has another size
    """

    output_dir: Path = Path("runs")
    check: bool = False


def list_runs(config: ListConfig) -> list[str]:
    """The table, the newest run last, and what is wrong with those that are damaged.

    Raises:
        Refusal: if there is no such folder.
    """
    if not config.output_dir.is_dir():
        raise Refusal(f"{config.output_dir}: no such folder; give the one that holds the runs", "output_dir")
    folders = run_folders(config.output_dir)
    if not folders:
        return [f"no runs under {config.output_dir}"]
    rows: list[tuple[str, ...]] = [HEADER]
    remarks: list[str] = []
    for folder in tqdm(folders, desc="reading", unit=" runs", disable=None if config.check else True, leave=False):
        row, wrong = describe(folder, thoroughly=config.check)
        rows.append(row)
        remarks += [f"{folder.name}: {text}" for text in wrong]
    return [*table(rows), *(["", *dict.fromkeys(remarks)] if remarks else [])]


def describe(folder: RunFolder, *, thoroughly: bool) -> tuple[tuple[str, ...], list[str]]:
    """The row of a run, and what is wrong with it."""
    wrong: list[str] = []
    config = None
    if not folder.is_released:
        try:
            config = read_config(folder.path)
        except Refusal as error:
            wrong.append(str(error))
    wrong += damage(folder, thoroughly=thoroughly)
    step = newest_step(folder, wrong)
    sets = folder.sample_sets()
    row = (
        folder.name,
        config.data.data_name if config else UNKNOWN,
        process_of(config) if config else "published code" if folder.is_released else UNKNOWN,
        config.network.name if config else UNKNOWN,
        "" if step is None else f"{step:,}",
        state_of(folder, config, step, bool(wrong)),
        in_bytes(size_of(folder.path.rglob("*"))),
        f"{sets[-1].parent.name}/{sets[-1].name}" if sets else "",
    )
    return row, wrong


def process_of(config: RunConfig) -> str:
    """Name and most telling arguments of a dynamics."""
    given = config.dynamics.arguments
    told = [f"{letter}={given[name]}" for letter, name in (("H", "hurst"), ("K", "num_aug")) if name in given]
    return f"{config.dynamics.name}({', '.join(told)})" if told else config.dynamics.name


def state_of(folder: RunFolder, config: RunConfig | None, step: int | None, damaged: bool) -> str:
    """What a run is at, in a word or two."""
    if owner := owner_of(folder.path):
        return "running here" if owner.host == host_name() else f"running on {owner.host}"
    if damaged:
        return "damaged"
    if folder.is_released or folder.is_shipped:
        return "to sample from"
    finished = FINAL in folder.versions() or (config and step is not None and step >= config.recipe.train_steps)
    return "finished" if finished else "stopped"


def newest_step(folder: RunFolder, wrong: list[str]) -> int | None:
    """The step of the newest checkpoint that can be read; what cannot be read is added to what is wrong."""
    for path in folder.checkpoint_files():
        try:
            return int(load_checkpoint(path, mmap=True, checked=False)["global_step"])
        except UNREADABLE as error:
            wrong.append(f"{path} cannot be read ({type(error).__name__})")
    return None


def damage(folder: RunFolder, *, thoroughly: bool) -> list[str]:
    """What is missing or damaged of what has check sums.

    Args:
        folder: the run folder.
        thoroughly: read the files; else only their sizes are looked at.
    """
    found = []
    for manifest in (folder.manifest, *map(Manifest, folder.sample_sets())):
        try:
            files, check = sorted(manifest.files), manifest.checker(thoroughly=thoroughly)
        except Refusal as error:
            found.append(str(error))
            continue
        for path in files:
            version = WEIGHTS.fullmatch(path.name)
            if version and version[2] != FINAL and not path.exists():
                continue  # people make room
            try:
                check(path)
            except Refusal as error:
                found.append(str(error))
    for path in folder.checkpoint_files() if thoroughly else ():
        try:
            load_checkpoint(path, mmap=True)
        except UNREADABLE as error:
            found.append(f"{path} is damaged ({type(error).__name__}: {error})")
    return found


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that files take; links are not followed."""
    return sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())
