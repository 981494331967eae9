"""What a training starts from: ``--init_from`` names a file of weights, or a run by id, name or folder.

An objective may tune what was trained before: the run that it starts from then says what is trained.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from common.config.flags import at_home
from common.config.schema import RunConfig
from common.config.stored import read_config
from common.config.tuned import kept_flags
from common.refusal import Refusal
from common.runs import RunFolder, find
from common.training.objective import Objective

FLAG = "init_from"


def start_folder(source: str, output_dir: Path) -> RunFolder | None:
    """The folder of the run that is started from; None if a file of weights is.

    Args:
        source: what ``--init_from`` says.
        output_dir: folder that holds the runs.

    Raises:
        RunNotFound: if there is no such run.
    """
    place = Path(source)
    if place.is_file():
        return None
    if place.is_dir() and RunFolder(place).is_ours:  # anywhere
        return RunFolder(place)
    return find(source, output_dir, flag=FLAG)


def start_config(source: str, output_dir: Path) -> RunConfig | None:
    """What the run is that is started from; None of a file of weights, or a folder of the published code.

    Raises:
        Refusal: if there is no such run, or its configuration is damaged.
    """
    folder = start_folder(source, output_dir)
    return None if folder is None or folder.is_released else read_config(folder.path)


def values_for(objective: type[Objective], source: str | None, output_dir: str) -> dict[str, Any]:
    """Values of flags for an objective that tunes a run: what that run is, and how it is tuned; else nothing.

    Args:
        objective: the objective.
        source: what ``--init_from`` says.
        output_dir: folder that holds the runs.

    Raises:
        Refusal: if there is no such run, or it cannot be read.
    """
    if not (objective.starts_from_run and source):
        return {}
    start = start_config(at_home(source), Path(at_home(output_dir)))
    return {**(kept_flags(start) if start else {}), **objective.suited(start)}


def check_objective(
    config: RunConfig | None, objective: type[Objective], given: Collection[str], preset: str | None
) -> None:
    """Refuse an objective without what it starts from, and flags that have no effect on it.

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
    if objective.starts_from_run and preset is not None:
        raise Refusal(
            f"{preset} and --objective {name} exclude each other: the run that is tuned says what it is", "preset"
        )
    if idle := sorted(objective.idle & set(given)):
        raise Refusal(f"has no effect on --objective {name}; leave it out", idle[0])
