"""What a training starts from: ``--init_from`` names a file of weights, or a run by id, name or folder.

An objective may tune what was trained before: the run that it starts from then says what is trained.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from common.config.flags import at_home
from common.config.schema import RunConfig
from common.config.stored import read_config
from common.config.tuned import kept_flags
from common.refusal import Refusal
from common.runs import RunFolder, find
from common.runs.folder import of_id
from common.training.objective import Objective

FLAG, AUTO = "init_from", "auto"


def weights_file(source: str, output_dir: Path) -> Path | None:
    """The file of weights that is started from; None if a run is named.

    Args:
        source: what ``--init_from`` says: any file, or, as a run notes it, one by its path in the folder of runs.
        output_dir: that folder.
    """
    return next((place.resolve() for place in (Path(source), output_dir / source) if place.is_file()), None)


def noted(file: Path, output_dir: Path) -> str:
    """What a run says it was started from: run and version, by a path that stays right if the folder of runs is moved.

    Args:
        file: the file of weights.
        output_dir: the folder that holds the runs; a file elsewhere is noted by its whole path.
    """
    file, folder = file.resolve(), output_dir.resolve()
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def start_folder(source: str, output_dir: Path) -> RunFolder:
    """The folder of the run that is started from.

    Args:
        source: what ``--init_from`` says, if that is no file.
        output_dir: folder that holds the runs.

    Raises:
        RunNotFound: if there is no such run.
    """
    folder = RunFolder(Path(source))
    return folder if folder.is_ours else find(source, output_dir, flag=FLAG)  # a folder lies anywhere


def start_config(source: str, output_dir: Path) -> RunConfig | None:
    """What the run is that is started from, or in whose folder the weights lie; None if they lie in no run of ours.

    Raises:
        Refusal: if there is no such run, or its configuration is damaged.
    """
    file = weights_file(source, output_dir)
    folder = RunFolder(file.parent.parent) if file else start_folder(source, output_dir)
    return read_config(folder.path) if folder.is_ours else None


class Start(Protocol):
    """What a command line says of where a training starts.

    Attributes:
        init_from: what ``--init_from`` says.
        output_dir: folder that holds the runs.
        resume: the run to go on with.
        wb_id: id of the run.
    """

    @property
    def init_from(self) -> str | None: ...
    @property
    def output_dir(self) -> str: ...
    @property
    def resume(self) -> str | None: ...
    @property
    def wb_id(self) -> str | None: ...


def values_for(objective: type[Objective], asked: Start) -> dict[str, Any]:
    """Values of flags for an objective that tunes a run: what that run is, and how it is tuned; else nothing.

    A tuning that goes on says all itself: the run that it started from may be gone.

    Args:
        objective: the objective.
        asked: the command line.

    Raises:
        Refusal: if there is no such run, or it cannot be read.
    """
    if not (objective.starts_from_run and asked.init_from) or asked.resume not in (None, "", AUTO):
        return {}
    source, folder = at_home(asked.init_from), Path(at_home(asked.output_dir))
    begun = of_id(asked.wb_id, folder) if asked.wb_id and asked.resume is not None else []
    start = read_config(begun[0].path) if len(begun) == 1 else start_config(source, folder)
    if start is None:
        raise Refusal(
            f"{source}: nothing says what these weights are; give a run, or a file of weights in the folder of one",
            FLAG,
        )
    return {**kept_flags(start), **objective.suited(start)}


def check_objective(
    config: RunConfig | None, objective: type[Objective], given: Collection[str], preset: str | None
) -> None:
    """Refuse an objective without what it starts from, or under the id of another run, and flags without effect.

    Args:
        config: the run; None if it is gone on with, and its own config.json says all.
        objective: its objective.
        given: flags that a user gave.
        preset: the preset that was named.

    Raises:
        Refusal: naming the flag.
    """
    if config is None:
        return
    name = config.objective.name
    if objective.starts_from_run and config.recipe.init_from is None:
        raise Refusal(f"{name} tunes what was trained before; name it: --init_from RUN", "objective")
    wb_id = config.keeping.wb_id
    others = of_id(wb_id, config.keeping.output_dir) if objective.starts_from_run and wb_id else []
    if other := next((run.name for run in others if not run.name.endswith(f"_{name}")), None):
        raise Refusal(f"{wb_id} is the id of {other}, and a tuning is a run of its own; take another id", "wb_id")
    if objective.starts_from_run and preset is not None:
        raise Refusal(
            f"{preset} and --objective {name} exclude each other: the run that is tuned says what it is", "preset"
        )
    if idle := sorted(objective.idle & set(given)):
        raise Refusal(f"has no effect on --objective {name}; leave it out", idle[0])
