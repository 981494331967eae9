"""Which run a command line of train.py starts or goes on with, and what may change when it goes on."""

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from common.cluster.job import OfJob
from common.config.flags import Alone, Checked, duration, place, several, written
from common.config.length import averages
from common.config.plugins import class_of
from common.config.resolve import plain, section
from common.config.schema import FREE_FLAGS, SECTIONS, Keeping, Recipe, RunConfig
from common.config.stored import CONFIG, read_config
from common.data.spec import DataSpec
from common.files import UNREADABLE
from common.refusal import Refusal, require
from common.runs.folder import FINAL, RunFolder, find, of_id, run_folders
from common.runs.versions import Checkpoint
from common.seeding import SEEDS
from common.training.batches import check_same_step, known_processes
from common.training.loggers import LOGGERS
from common.training.optimizers import OPTIMIZERS, SCHEDULERS
from common.training.session import fresh_id, is_first_process
from common.training.starting import AUTO
from common.training.times import TIME_SAMPLINGS
from common.training.weights import LOSS_WEIGHTS, REDUCTIONS

OF_LENGTH = ("ema_decay", "ema_every")  # what :func:`averages` decides
FURTHER = ("dynamics_args", "model_args")  # flags that give arguments by name
CHOSEN_BY_NAME: dict[str, dict[str, Collection[str]]] = {
    "recipe": {
        "optimizer": OPTIMIZERS,
        "lr_schedule": SCHEDULERS,
        "time_sampling": TIME_SAMPLINGS,
        "loss_weight": LOSS_WEIGHTS,
        "loss_reduction": REDUCTIONS,
    },
    "model": {"prior": ("zero", "data")},
    "keeping": {"logger": LOGGERS},
}
WHOLE = ("optimizer_states", "lr_schedulers", "loops")  # what a checkpoint of training holds beside the weights


def time_limit(text: str) -> float | OfJob:
    """Seconds, or those that the job leaves."""
    return OfJob() if text == str(OfJob()) else duration(text)


@dataclass(frozen=True)
class Command(Checked):
    """What train.py is asked to do, beside what a run is.

    Attributes:
        preset: values for the flags below; a flag that is given wins
        list_presets: print what presets there are, what for and what they take, and exit
        show_preset: print the flags of a preset as a command line to paste, and exit
        dry_run: build everything, try steps, tell memory, time and disk that the run will take, and write nothing
        check_data: look at the data as the network will see it: what was found, levels, samples that are there twice, a
            picture; nothing is trained
        resume: go on with a run (id, folder name or .ckpt file); auto goes on with the run of --wb_id if it exists, and
            else starts it
        max_time: stop after so long, in a way that --resume can go on: 90s, 30m, 3.5h, 23:50:00; job stops 90 s before
            the limit of the SLURM job (default: never)
        wb_key: key of Weights & Biases; implies --logger wandb (default: $WANDB_API_KEY)
        plugin: your own module (name or .py file) that adds to the registers; see docs/extending.md (default: none)
    """

    preset: str | None = None
    list_presets: bool = False
    show_preset: str | None = None
    dry_run: bool = False
    check_data: bool = False
    resume: Annotated[str | None, place, Alone(AUTO)] = None
    max_time: Annotated[float | OfJob | None, time_limit] = None
    wb_key: str | None = None
    plugin: Annotated[tuple[str, ...], several(place)] = ()

    @property
    def only_looks(self) -> bool:
        """Whether nothing of a run is to be written."""
        return self.dry_run or self.check_data

    @property
    def starts(self) -> bool:
        """Whether the flags describe a run; otherwise they name one."""
        return self.resume in (None, AUTO)

    def seconds(self) -> float | None:
        """Seconds that it may take, from now on if the job limits them; None for no limit.

        Raises:
            Refusal: if that is the limit of a job that there is not, or that cannot be told.
        """
        return self.max_time.seconds() if isinstance(self.max_time, OfJob) else self.max_time


@dataclass(frozen=True)
class TrainOrder:
    """A command line of train.py.

    Attributes:
        command: what to do.
        config: the run it describes, before its data is known; None if it names a run to resume.
        given: flags of a run that were typed.
        of_preset: those of a preset that was named.
        words: the command line.
    """

    command: Command
    config: RunConfig | None
    given: Mapping[str, Any]
    of_preset: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def output_dir(self) -> Path:
        """The folder of runs."""
        folder: Path = section(Keeping, {**self.of_preset, **self.given}).output_dir
        return folder


@dataclass(frozen=True)
class Plan:
    """A run that is started or gone on with.

    Attributes:
        config: what it is; before its data is known, if it is started.
        folder: where it is kept.
        is_new: whether the folder holds no configuration yet.
        named: the checkpoint that was named to go on from; None takes the newest.
    """

    config: RunConfig
    folder: RunFolder
    is_new: bool
    named: Path | None = None

    def checkpoint(self) -> Checkpoint | None:
        """The state to go on from: the newest that is whole, or the one that was named; None starts afresh.

        To be asked by who holds the lock of the folder: nobody writes another one then.

        Raises:
            Refusal: if there are checkpoints but none is whole, or if there is none of a run that was finished.
        """
        folder, decays = self.folder, self.config.recipe.averages
        if self.is_new:
            return None
        if self.named is not None:
            try:
                return Checkpoint.open(self.named, decays, folder.begun)
            except UNREADABLE as error:
                raise Refusal(
                    f"{self.named} is no readable checkpoint of train.py (cut short, damaged, foreign, or of another "
                    f"run); {folder.words('resume')} takes the newest that is whole",
                    "resume",
                ) from error
        if found := Checkpoint.newest(folder, decays):
            return found
        if broken := folder.checkpoint_files():
            raise Refusal(
                f"{folder.name}: none of its checkpoints is readable ({', '.join(path.name for path in broken)}): cut "
                f"short, damaged, foreign, or of another run; move {folder.checkpoints} away to start it at step 0",
                "resume",
            )
        if FINAL in folder.versions():
            raise Refusal(
                f"{folder.name} was finished, and has no checkpoint any more to go on from; a new run starts from its "
                f"weights with {folder.words('init_from')}",
                "resume",
            )
        return None


def plan(order: TrainOrder) -> Plan:
    """The run that a command line asks for.

    Raises:
        Refusal: for a run that exists already, cannot be found, or is contradicted by a flag; for a new one with a seed
            that is not its own.
    """
    command, output_dir = order.command, order.output_dir
    if output_dir.exists() and not output_dir.is_dir():
        raise Refusal(f"{output_dir} is a file, not a folder", "output_dir")
    if order.config is None:
        return _named(order, str(command.resume), output_dir)
    wb_id = order.config.keeping.wb_id
    for run in run_folders(output_dir):
        if run.is_shipped and wb_id is not None and run.name.startswith(f"{wb_id}_"):
            raise Refusal(f"{wb_id}: {run.path} is a copy to sample from; take another id", "wb_id")
    if command.resume == AUTO and wb_id is None:
        raise Refusal("auto needs --wb_id, the id it looks for; or name a run: --resume ID", "resume")
    config = order.config.named(wb_id or fresh_id(output_dir), output_dir)
    folder = RunFolder(output_dir / config.folder_name)
    if command.resume == AUTO and not command.only_looks:  # other flags would make another folder: the id decides
        begun = of_id(str(wb_id), output_dir)
        folder = begun[0] if len(begun) == 1 else folder
    exists = wb_id is not None and folder.is_ours
    if exists and command.resume is None and not command.only_looks and is_first_process():
        raise Refusal(f"{wb_id}: {folder.path} exists; add --resume auto or take another id", "wb_id")
    if command.resume is None or not exists or command.only_looks:
        # here, not in Recipe: a run of an earlier version that has a larger one goes on and is sampled from
        require(config.recipe.seed < SEEDS, "seed", f"at most {SEEDS - 1}", config.recipe.seed)
        return Plan(config, folder, True)
    return _go_on(order, folder)


def _named(order: TrainOrder, name: str, output_dir: Path) -> Plan:
    """The run or checkpoint that --resume names."""
    if Path(name).suffix != ".ckpt":
        return _go_on(order, find(name, output_dir, flag="resume"))
    checkpoint = Path(name).resolve()
    folder = RunFolder(checkpoint.parent.parent)
    if not checkpoint.exists():
        raise Refusal(f"{name}: no such file", "resume")
    if not folder.is_ours:
        raise Refusal(f"{name}: {folder.path} is no run folder ({CONFIG} is missing)", "resume")
    return _go_on(order, folder, checkpoint)


def _go_on(order: TrainOrder, folder: RunFolder, named: Path | None = None) -> Plan:
    if folder.is_shipped:
        raise Refusal(
            f"{folder.name}: it is a copy to sample from, without a checkpoint; a new run starts from its weights with "
            f"{folder.words('init_from')}",
            "resume",
        )
    config = resumed(order.given, order.of_preset, folder)
    return Plan(config, folder, False, named)


def resumed(given: Mapping[str, Any], of_preset: Mapping[str, Any], folder: RunFolder) -> RunConfig:
    """The stored configuration of a run, with those given flags that may change.

    Args:
        given: flags that were typed.
        of_preset: those of a preset that was named.
        folder: the run folder.

    Raises:
        Refusal: if a given flag differs and may not.
    """
    if folder.is_released:
        raise Refusal(
            f"{folder.name} holds weights only and cannot go on; start from them with --init_from {folder.name}",
            "resume",
        )
    config = read_config(folder.path)
    check_names(config, folder)
    config = replace(config, processes=known_processes(config))
    known = config.flags(class_of)
    compared = {**for_length(of_preset, config.recipe, given), **given}
    recipe, wanted = config.recipe, compared.pop("global_batch", None)
    if wanted is not None:
        check_same_step(config, wanted)
        recipe = replace(recipe, global_batch=wanted)
    if recipe.global_batch and (own := compared.pop("batch_size", None)) and "batch_size" in given:
        recipe = replace(recipe, batch_size=own)  # to be compared with a share of those of a step
    config = replace(config, recipe=recipe)
    for further in FURTHER:  # compared one by one, under their own names
        compared |= compared.pop(further, None) or {}
        known |= {**config.network.arguments, **config.dynamics.arguments, **known}
    for name, value in compared.items():
        if name in FREE_FLAGS or value == AUTO or (name not in known and name not in given):
            continue  # what a preset says of a class that the run does not have means nothing to it
        found = known.get(name)
        if as_stored(found) != as_stored(value):
            longer = "; to train longer, start a new run with --init_from" if name == "train_steps" else ""
            source = "" if name in given else " (from --preset)"
            raise Refusal(
                f"{written(value)}{source} contradicts the run {folder.name}, which has {written(found)}; leave it "
                f"out, or begin another run, by another --wb_id{longer}",
                name,
            )
    changed = {
        name: replace(
            getattr(config, name),
            **{f.name: compared[f.name] for f in fields(kind) if f.name in compared and f.name in FREE_FLAGS},
        )
        for name, kind in SECTIONS.items()
    }
    # what a config.json says starts no download: that is a wish of one command line
    changed["data"] = replace(changed["data"], download=bool(given.get("download", False)))
    return replace(config, **changed).named(str(config.keeping.wb_id), folder.path.parent)


def check_names(config: RunConfig, folder: RunFolder) -> None:
    """Refuse a stored configuration that names what is in no register: a plugin is missing, or it is a foreign one.

    Raises:
        Refusal: naming it.
    """
    for part, registers in CHOSEN_BY_NAME.items():
        for name, register in registers.items():
            found = getattr(getattr(config, part), name)
            if found is not None and found not in register:
                raise Refusal(
                    f"{folder.config}: {name} {found!r} is unknown; there are {', '.join(register)} (own ones come "
                    "with --plugin)"
                )


def for_length(of_preset: Mapping[str, Any], recipe: Recipe, given: Collection[str]) -> dict[str, Any]:
    """Values of a preset as they are for a training of another length than its own: averages follow that.

    Args:
        of_preset: the values as they are stated.
        recipe: the training.
        given: flags that a user gave.
    """
    stated: Recipe = section(Recipe, of_preset)
    own = replace(stated, train_steps=recipe.train_steps, use_ema=recipe.use_ema)
    following = vars(averages(own, stated.train_steps, given))
    return {name: following[name] if name in OF_LENGTH else value for name, value in of_preset.items()}


def as_stored(value: Any) -> Any:
    """A value as flags and config.json have it in common."""
    return plain({"": value})[""]


def check_same_data(stored: DataSpec, found: DataSpec, folder: RunFolder) -> None:
    """Refuse to go on with other data: labels would mean something else, samples would have another scale.

    Args:
        stored: what the run has learned from; classes of earlier versions have numbers instead of names.
        found: what is there now.
        folder: the run folder.

    Raises:
        Refusal: naming what differs.
    """
    for f in fields(DataSpec):
        before, now = getattr(stored, f.name), getattr(found, f.name)
        same = now is not None and found.names_classes_like(stored) if f.name == "classes" else before == now
        if before is not None and not same:
            differs = f"{f.name} is {reprlib.repr(now)}, was {reprlib.repr(before)}"
            if f.name == "classes":
                differs = stored.other_classes(found)
            if f.name == "per_class":
                i = next(i for i, counts in enumerate(zip(before, now, strict=True)) if counts[0] != counts[1])
                differs = (
                    f"{now[i]:,} samples of class {(found.classes or ())[i]} to learn from, there were {before[i]:,}"
                )
            raise Refusal(f"does not hold what {folder.name} was trained on: {differs}", "data_dir")


def check_fits(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    """Refuse to go on from a checkpoint of another network, or of something else than this program.

    Args:
        checkpoint: what to go on from.
        expected: state dict of the module that goes on.

    Raises:
        Refusal: naming what does not fit.
    """
    found = {name: tuple(value.shape) for name, value in checkpoint.state.items()}
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong or not checkpoint.parts.issuperset(WHOLE):
        detail = f"{wrong[0]} is {found.get(wrong[0])}, expected {shapes.get(wrong[0])}" if wrong else "parts missing"
        raise Refusal(f"{checkpoint.path} does not fit this run: {detail}", "resume")
