"""What a task is done on: held-out samples of a run's data set, files or arrays of one's own, or measurements."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config.flags import as_ranges
from common.config.schema import DataConfig
from common.data import SOURCES
from common.data.damage import Unreadable
from common.data.levels import Levels
from common.data.npy import SUFFIXES
from common.data.one_file import SOURCE, problem_of, read_numbers, read_picture
from common.data.pictures import Form, Pictures
from common.data.pillow import endings
from common.data.pixels import MODES
from common.data.reading import gather
from common.data.sound_form import Recordings, SoundForm
from common.data.spec import DataSpec
from common.data.trees import Paths
from common.generation.sections import INPUTS, InputConfig
from common.guidance.operators import Mask, Operator
from common.guidance.tasks import Task
from common.labels import NULL_LABEL
from common.media.recordings import ENDINGS, read_sound
from common.metrics.reference import data_like
from common.natural import natural
from common.refusal import Refusal
from common.runs import Run
from common.runs.real import chosen_rows
from common.sides import Sides

FAR = 2.0  # on the network's scale: what reaches further than the range of the data on either side is of other units
DEVIATIONS = 6  # of the noise of measurements, which may lie that far outside
SHARED = {1: "grey", 3: "in colour"}


@dataclass(frozen=True)
class Inputs:
    """Clean samples.

    Attributes:
        truth: (N, C, *S) float32 on the network's scale.
        labels: (N,) int64, the null label where the class is not known.
        names: where each came from: its place among the held-out samples, its file, or its row of an array.
        flags: by which a command line names them again.
        remarks: what a user should know.
    """

    truth: Tensor
    labels: Tensor
    names: Sequence[str]
    flags: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @classmethod
    def unlabelled(cls, truth: Tensor, names: Sequence[str], **more: Any) -> "Inputs":
        """Samples whose class is not known."""
        return cls(truth, torch.full((len(truth),), NULL_LABEL), names, **more)


def clean_inputs(config: InputConfig, run: Run, data_dir: Path | None = None) -> Inputs:
    """The clean samples that are degraded.

    Args:
        config: which.
        run: what completes them.
        data_dir: where its data lies now; None takes the place where the run found it.

    Raises:
        Refusal: if they are not there, or not samples of this run.
    """
    if config.input is None:
        return of_data(config, run, data_dir)
    if isinstance(config.input, np.ndarray):
        return of_array(config.input, config.n_inputs, run.data, "the array")
    return of_files(config.input, config, run)


def of_data(config: InputConfig, run: Run, data_dir: Path | None) -> Inputs:
    """Held-out samples of the data set of a run.

    Raises:
        Refusal: if it is not there, has other samples, or not so many.
    """
    data, remarks = data_like(run.folder.name, run.config, data_dir)
    part, there = data.held_out, len(data.held_out.labels)
    if config.inputs is None:
        if (config.n_inputs or 0) > there:
            raise Refusal(f"{config.n_inputs}: {there} samples of {run.folder.name} are held out", "n_inputs")
        rows = chosen_rows(part.labels, data.num_classes, min(config.n_inputs or INPUTS, there))
    else:
        rows = torch.tensor(config.inputs)
        if int(rows.max()) >= there:
            raise Refusal(f"{int(rows.max())}: held-out samples of {run.folder.name} are 0 to {there - 1}", "inputs")
    x = part.images[rows] if isinstance(part.images, Tensor) else gather(part.images, rows, "reading inputs")
    labels = part.labels[rows] if data.num_classes is not None else torch.full_like(rows, NULL_LABEL)
    flags = {"inputs": as_ranges(rows.tolist()), **({"data_dir": data_dir} if data_dir else {})}
    names = [f"held-out {row} of {run.config.data.data_name}" for row in rows.tolist()]
    return Inputs(run.data.to_network(x), labels, names, flags, tuple(remarks))


def of_files(path: Path, config: InputConfig, run: Run) -> Inputs:
    """Samples in files, brought to the form of the data of a run.

    Raises:
        Refusal: if there are none, or they are none.
    """
    spec, flags = run.data, {"input": path.absolute()}
    if not path.exists():
        raise Refusal(f"{path}: there is no such file or folder", "input")
    if path.suffix.lower() in SUFFIXES and path.is_file():
        found = of_array(read_numbers(path, "input").numpy(), config.n_inputs, spec, str(path))
        return Inputs(found.truth, found.labels, found.names, {**flags, "n_inputs": len(found.names)})
    known = ENDINGS if spec.sample_rate else endings() if spec.is_image else frozenset(SUFFIXES)
    names = [path.name] if path.is_file() else _files_in(path, known)
    if not names:
        raise Refusal(f"{path}: there are no {spec.kind}s in it", "input")
    count = _count(config.n_inputs, len(names), path)
    if not (spec.is_image or spec.sample_rate):
        raise Refusal(f"{path}: functions are read from one array, as .npy", "input")
    files = Paths.of(path.parent if path.is_file() else path, names[:count])
    try:
        x = _samples(files, run)[torch.arange(count)]
    except Unreadable as error:
        raise Refusal(problem_of(error), "input") from error
    more = f"{path} holds {len(names)}, of which the first {count} are taken; --n_inputs takes others"
    return Inputs.unlabelled(
        spec.to_network(x),
        names[:count],
        flags={**flags, "n_inputs": count},
        remarks=(more,) if count < len(names) and config.n_inputs is None else (),
    )


def _files_in(folder: Path, known: frozenset[str]) -> list[str]:
    """Names of visible files of some endings in a folder, 2 before 10."""
    names = (file.name for file in folder.iterdir() if file.suffix.lower() in known and file.is_file())
    return sorted((name for name in names if not name.startswith(".")), key=natural)


def _count(wanted: int | None, there: int, what: object) -> int:
    """How many of those that are there are taken.

    Raises:
        Refusal: if they are fewer than are wanted.
    """
    if wanted is not None and wanted > there:
        raise Refusal(f"{wanted}: there are {there} in {what}", "n_inputs")
    return min(wanted or INPUTS, there)


def _samples(files: Paths, run: Run) -> Pictures | Recordings:
    """Files in the form of the data of a run: cropped and resized, or resampled, cut or padded, and normalised."""
    spec = run.data
    if spec.sample_rate:
        (length,) = spec.grid
        return Recordings(files, SoundForm(SOURCE, spec.channels, spec.sample_rate, length))
    if spec.channels not in MODES:
        raise Refusal(f"must be an array: samples of {run.folder.name} have {spec.channels} channels", "input")
    sides, data = Sides(*spec.grid), run.config.data
    published = SOURCES[data.data_name].center_crop if data.data_name in SOURCES else None
    return Pictures(files, Form(SOURCE, spec.channels, sides, data.center_crop or published, levels_of(data)), sides)


def levels_of(data: DataConfig) -> Levels | None:
    """Which levels of image files are black and white to a run; None takes all of 8 or 16 bits."""
    return None if data.levels is None else Levels.of(data.levels)


def of_array(array: np.ndarray, wanted: int | None, spec: DataSpec, name: str) -> Inputs:
    """Samples in an array: (N, *S, C), or one of them; channels may be missing if there is one.

    Args:
        array: uint8 levels of images, or numbers in the units of the data.
        wanted: how many, the first ones; None takes all.
        spec: what a sample is.
        name: what messages call it.

    Raises:
        Refusal: for another shape, values that are not finite, or that are of other units.
    """
    found = rows_of(array, spec.shape, name, "input")
    count = _count(wanted or len(found), len(found), name)
    x = found[:count]
    x = spec.to_network(x if x.dtype == torch.uint8 and spec.is_image else x.float())
    check_values(x, spec, 0.0, name, "input")
    return Inputs.unlabelled(x, [f"row {i} of {name}" for i in range(count)])


def rows_of(array: np.ndarray | Tensor, shape: Sequence[int], name: str, argument: str) -> Tensor:
    """Rows (N, *shape) with channels first, from an array that has them last, and N or not.

    Args:
        array: as it was read.
        shape: of one row, (C, ..).
        name: what messages call it.
        argument: what gives it.

    Raises:
        Refusal: for another shape.
    """
    if isinstance(array, np.ndarray) and array.dtype.kind not in "biuf":
        raise Refusal(f"{name} holds {array.dtype}, which are no real numbers", argument)
    plain = array.dtype == np.uint8 if isinstance(array, np.ndarray) else True
    x = torch.as_tensor(np.asarray(array) if plain else np.asarray(array, np.float32))
    last = (*shape[1:], shape[0])
    for own in [last, last[:-1]] if shape[0] == 1 else [last]:
        if x.shape[1:] == own and len(x):
            return x.reshape(len(x), *last).movedim(-1, 1)
        if x.shape == own:
            return x.reshape(1, *last).movedim(-1, 1)
    form = ", ".join(map(str, last))
    raise Refusal(f"{name} has shape {tuple(x.shape)}; it should be ({form}), or (N, {form})", argument)


def check_values(x: Tensor, spec: DataSpec, noise_std: float, name: str, argument: str) -> None:
    """Refuse values (.., on the network's scale) that are no numbers, or cannot be in the units of the data.

    Raises:
        Refusal: saying which.
    """
    if not bool(x.isfinite().all()):
        raise Refusal(f"{name} has NaN or infinite values", argument)
    if float(x.abs().max()) > FAR + DEVIATIONS * noise_std:
        (low, high), units = spec.value_range, spec.in_units(x)
        raise Refusal(
            f"{name} reaches from {float(units.min()):g} to {float(units.max()):g}; samples of this run lie in "
            f"{low:g} .. {high:g}, so it is of other units",
            argument,
        )


# -- measurements ------------------------------------------------------------------------------------------------------


def measured(
    source: Path | np.ndarray, limit: int | None, task: Task, spec: DataSpec, levels: Levels | None = None
) -> tuple[Tensor, Operator, str]:
    """Measurements as they are.

    Args:
        source: file or array.
        limit: how many of them, the first ones; None takes all.
        task: what was observed.
        spec: what a sample is.
        levels: those of an image file that are black and white; None takes all of 8 or 16 bits.

    Returns:
        (N, *observed) float32 in the units of the data, zero where a mask hides; the operator of so many; and what
        messages call them.

    Raises:
        Refusal: if they cannot be read, or are not what the task observes.
    """
    name = "the array" if isinstance(source, np.ndarray) else str(source)
    shape = task.operator(spec, 1).shape_of(spec.shape)
    read = source if isinstance(source, np.ndarray) else _read(source, shape, spec, levels)
    found = rows_of(read, shape, name, "observation")
    if found.dtype == torch.uint8 and spec.is_image:
        found = spec.in_units(spec.to_network(found))
    count = _count(limit or len(found), len(found), name)
    operator, y = task.operator(spec, count), found[:count].float()
    if isinstance(operator, Mask):
        y = torch.where(operator.mask.expand_as(y) > 0, y, 0.0)
    if not bool(y.isfinite().all()):
        where = "; --mask FILE tells where values are known" if isinstance(operator, Mask) else ""
        raise Refusal(f"{name} has NaN or infinite values where it should be known{where}", "observation")
    return y, operator, name


def _read(path: Path, shape: Sequence[int], spec: DataSpec, levels: Levels | None) -> np.ndarray:
    """A file of measurements, channels last."""
    if not path.is_file():
        raise Refusal(f"{path}: there is no such file", "observation")
    if path.suffix.lower() in SUFFIXES:
        return read_numbers(path, "observation").numpy()
    if path.suffix.lower() in ENDINGS:
        if spec.sample_rate is None:
            raise Refusal(f"{path} is a sound, and samples of this run are {spec.kind}s", "observation")
        try:
            sound, rate = read_sound(path)
        except Refusal as refusal:
            raise Refusal(str(refusal), "observation") from refusal
        if rate != spec.sample_rate:
            raise Refusal(
                f"{path} has {rate:,} points per second, the run {spec.sample_rate:,}; resample it", "observation"
            )
        return sound.T.numpy()
    if not spec.is_image or len(shape) != len(spec.shape) or shape[0] not in SHARED:
        raise Refusal(f"{path} is no .npy file, in which what this task observes would be read", "observation")
    picture = read_picture(path, shape[0], "observation", levels)
    if picture.shape[1:] != tuple(shape[1:]):
        sides = f"{picture.shape[1]}x{picture.shape[2]}"
        raise Refusal(f"{path} has {sides}, what the task observes {shape[1]}x{shape[2]}", "observation")
    return picture.movedim(0, -1).numpy()
