"""Files of figures: those of runs by name, and others by path; what evaluate.py --compare reads."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from common.files import read_json
from common.metrics.comparison import Comparison, Entry
from common.metrics.config import CompareConfig
from common.metrics.tables import as_text, write_table
from common.refusal import Refusal
from common.runs import RunFolder, SampleFolder, find

PREFIX, SUFFIX = "metrics-", ".json"  # of figures about samples of another program
GENERATED = "generated_data"  # in a run, RUN/generated_data/VERSION/SET/metrics.json


class Found(NamedTuple):
    """A file of figures.

    Attributes:
        name: what its samples are called in a table.
        path: where it is.
        newer: name of newer samples of the same run, which have no figures; empty if there are none.
    """

    name: str
    path: Path
    newer: str = ""


def compared(config: CompareConfig) -> list[str]:
    """Hold sets of samples against each other; writes the table if a file is wanted, and returns lines to print.

    Raises:
        Refusal: if a run is unknown, figures are not there or damaged, or none is common to two sets.
    """
    found = [figures_at(word, config.output_dir) for word in config.compare or ()]
    if twice := [path for path, times in Counter(one.path.resolve() for one in found).items() if times > 1]:
        raise Refusal(f"names the figures in {twice[0]} twice", "compare")
    if len({one.name for one in found}) < len(found):
        found = [one._replace(name=str(one.path)) for one in found]
    comparison = Comparison([Entry(one.name, read_figures(one.path)) for one in found])
    lines = [f"figures   {one.name}: {one.path}" for one in found]
    lines += [f"note      {one.name}: newer samples, {one.newer}, have no figures yet" for one in found if one.newer]
    lines += as_text(comparison)
    if config.table is not None:
        write_table(config.table, comparison)
        lines.append(f"table     {config.table}")
    return lines


def figures_at(word: str, output_dir: Path) -> Found:
    """The file of figures that a word names: a path, a run or ``RUN:SET``.

    Raises:
        Refusal: if there is none, with the command that makes one.
    """
    if word.endswith(SUFFIX):
        path = Path(word)
        if not path.is_file():
            raise Refusal(f"{word}: there is no such file; evaluate.py writes one", "compare")
        return Found(name_of(path), path)
    named, colon, wanted = word.partition(":")
    run = find(named, output_dir, "compare")
    name = named if run.name.startswith(f"{named}_") else run.name  # not a path, nor ``latest``
    path, newest = newest_figures(run, wanted)
    return Found(name + colon + wanted, path, "" if path.parent == newest else newest.name)


def name_of(path: Path) -> str:
    """A name for a file of figures: ``RUN:SET`` of one in a run, NAME of ``metrics-NAME.json``, else its path."""
    place = path.resolve()
    if place.parent.parent.parent.name == GENERATED:
        return f"{place.parents[3].name}:{place.parent.name}"
    return path.stem.removeprefix(PREFIX) if path.name.startswith(PREFIX) else str(path)


def newest_figures(run: RunFolder, wanted: str = "") -> tuple[Path, Path]:
    """The figures of a run's newest samples that have some, and the folder of its newest samples.

    Args:
        run: the run.
        wanted: name of the samples, with or without that of the version: ``ab3-10-ema``, ``model-v1/ab3-10-ema``.

    Raises:
        Refusal: if there are none, with the command that computes them.
    """
    sets = {f"{folder.parent.name}/{folder.name}": folder for folder in run.sample_sets()}
    fitting = [folder for name, folder in sets.items() if wanted in ("", name, folder.name)]
    command = f"python evaluate.py {run.words('run_id')}"
    if not fitting:
        there = f"; there are: {', '.join(sets)}" if sets else f"; {command} --n_samples 1000 draws and judges some"
        raise Refusal(f"{run.name}: no samples{f' {wanted}' * bool(wanted)}{there}", "compare")
    newest, found = fitting[-1], [path for folder in fitting if (path := SampleFolder(folder).figures).is_file()]
    if not found:
        which = f" --version {SampleFolder(newest).version} --samples {newest.name}" if wanted else ""
        raise Refusal(f"{run.name}: no figures of its samples yet; {command}{which} computes them", "compare")
    return found[-1], newest


def read_figures(path: Path) -> Mapping[str, object]:
    """What a file of figures holds; it may be anybody's.

    Raises:
        Refusal: if it is damaged, or something else.
    """
    try:
        found = read_json(path)
    except ValueError as error:
        raise Refusal(f"{path} is no file of figures ({error}); evaluate.py writes it again", "compare") from error
    if not isinstance(found, dict) or type(found.get("samples")) is not int:
        raise Refusal(f"{path} is no file of figures: it does not say of how many samples", "compare")
    if any(isinstance(one, int) and abs(one) > sys.float_info.max for one in found.values()):
        raise Refusal(f"{path} is no file of figures: one is a whole number that is too large", "compare")
    return found
