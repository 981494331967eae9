"""A list of runs: what each is, how far it is, whether it is whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.config.flags import Checked
from common.config.schema import RunConfig
from common.config.stored import read_config
from common.config.tuned import is_consistent, tuned_from
from common.files import UNREADABLE, Manifest, load_checkpoint, owner_of
from common.files.writing import host_name
from common.progress import bar
from common.refusal import Refusal
from common.runs.drawn import SampleFolder
from common.runs.folder import BEST, FINAL, RunFolder, lack_of, run_folders
from common.table import table
from common.units import in_bytes

HEADER = ("run", "data", "process", "network", "step", "state", "on disk", "newest samples")
UNKNOWN = "?"
NAMED = 5  # files of a folder that are told one by one


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


def list_runs(config: ListConfig) -> tuple[list[str], bool]:
    """The table, the newest run last, and what is wrong with those that are damaged.

    Returns:
        Lines, and whether all is whole, as far as it was looked at.

    Raises:
        Refusal: if there is no such folder.
    """
    if lack := lack_of(config.output_dir):
        raise Refusal(f"{lack}; give the folder that holds the runs", "output_dir")
    folders = run_folders(config.output_dir)
    if not folders:
        return [f"no runs under {config.output_dir}"], True
    rows: list[tuple[str, ...]] = [HEADER]
    remarks: list[str] = []
    whole = True
    with bar(len(folders), "reading", " runs", silent=not config.check) as progress:
        for folder in folders:
            row, wrong = describe(folder, thoroughly=config.check)
            rows.append(row)
            whole &= not wrong
            remarks += [f"{folder.name}: {text}" for text in [*wrong, *(unchecked(folder) if config.check else ())]]
            progress.update()
    return [*table(rows), *(["", *dict.fromkeys(remarks)] if remarks else [])], whole


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
        state_of(folder, config, step, bool(wrong)) + (objective_of(config) if config else ""),
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
    versions = folder.versions()
    finished = FINAL in versions or (config and step is not None and step >= config.recipe.train_steps)
    return ("finished" if finished else "stopped") + (", best kept" if BEST in versions else "")


def objective_of(config: RunConfig) -> str:
    """What a run was trained for, if not to denoise: from what it was tuned."""
    try:
        return f", tuned from {tuned_from(config)}" if is_consistent(config) else ""
    except Refusal:  # of a plugin that is not loaded here
        return f", {config.objective.name}"


def newest_step(folder: RunFolder, wrong: list[str]) -> int | None:
    """The step of the newest checkpoint that can be read; what cannot be read is added to what is wrong."""
    for path in folder.checkpoint_files():
        try:
            return int(load_checkpoint(path, mmap=True, checked=False)["global_step"])
        except UNREADABLE:
            wrong.append(unreadable(folder, path))
    return None


def unreadable(folder: RunFolder, checkpoint: Path) -> str:
    """What is said of a checkpoint that cannot be read."""
    return f"{checkpoint} cannot be read (cut short, damaged, or something else); {folder.mend(checkpoint)}"


def damage(folder: RunFolder, *, thoroughly: bool) -> list[str]:
    """What is missing or damaged of what has check sums.

    Args:
        folder: the run folder.
        thoroughly: read the files; else only their sizes are looked at.
    """
    found = []
    for manifest in manifests(folder):
        try:
            files, check = sorted(manifest.files), manifest.checker(thoroughly=thoroughly)
        except Refusal as error:
            found.append(str(error))
            continue
        wrong = []
        for path in files:
            if folder.is_spare(path) and not path.exists():
                continue
            try:
                check(path)
            except Refusal as error:
                wrong.append(str(error))
        more = len(wrong) - NAMED
        found += [*wrong[:NAMED], *([f"{more} more files of {manifest.folder}"] if more > 0 else [])]
    for path in folder.checkpoint_files() if thoroughly else ():
        try:
            load_checkpoint(path, mmap=True)
        except UNREADABLE:
            found.append(unreadable(folder, path))
    return found


def manifests(folder: RunFolder) -> list[Manifest]:
    """Those of a run and of its sets of samples."""
    return [folder.manifest, *(SampleFolder(path).manifest for path in folder.sample_sets())]


def unchecked(folder: RunFolder) -> list[str]:
    """What of a run has no check sums, so that nothing can be said of it."""
    weights = [path for files in folder.weight_files().values() for path in files.values()]
    kept = [folder.config, folder.prior, folder.real, *weights]
    places = map(SampleFolder, folder.sample_sets())
    there = {folder.path: kept, **{place.path: [place.settings, *place.arrays()] for place in places}}
    found = []
    for manifest in manifests(folder):
        if manifest.is_readable:  # else it is said already
            names = sorted({path for path in there[manifest.folder] if path.is_file()} - manifest.files)
            which = ", ".join(path.name for path in names[:NAMED]) + (", .." if len(names) > NAMED else "")
            found += [f"{manifest.folder} has no check sums of {which}, so damage would not be seen"] if names else []
    return found


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that files take; links are not followed."""
    return sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())
