"""Many samples in fixed blocks, drawn and kept as arrays: any restart or split gives the same ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from torch import Tensor

from common.data.spec import NAMED, DataSpec
from common.denoiser import Clipped, Imposes, X0Denoiser
from common.dynamics import LinearDynamics
from common.files import open_array, read_array
from common.generation.conditional import Condition
from common.generation.config import SampleConfig
from common.generation.finer import Finer
from common.guidance import Conditioned
from common.refusal import Refusal
from common.runs import SampleFolder
from common.samplers import SOLVERS, Grid, Solver, default_solver, ending, sample

MOST_CLASSES = 1000  # samples whose classes are looked at for a message
StepCallback = Callable[[float, Tensor], None]


def blocks(count: int, size: int) -> Iterator[range]:
    """Consecutive sample indices in blocks of ``size``."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


class Kept(NamedTuple):
    """Samples on disk, of which only the sizes were looked at.

    Attributes:
        files: arrays (B, *S, C) float32 in the units of the data, in order of index.
        shape: (N, *S, C) of all of them together.
        labels: (N,) int64, or None if they have none.
    """

    files: list[Path]
    shape: tuple[int, ...]
    labels: np.ndarray | None


def kept_samples(folder: Path, limit: int | None = None) -> Kept:
    """The samples of a folder, without reading them.

    Args:
        folder: as generate.py left it.
        limit: no more files than hold so many.

    Raises:
        Refusal: if there are none, or an array is cut short, of another kind than the rest, or without its labels.
    """
    place = SampleFolder(folder)
    files = place.blocks()
    if not files:
        raise Refusal(f"no samples in {place.data}; draw some with generate.py")
    shape, counts = open_array(files[0]).shape[1:], list[int]()
    for file in files:
        counts.append(len(fitting(file, (None, *shape), np.float32)))
        if limit is not None and sum(counts) >= limit:
            break
    files = files[: len(counts)]
    names, labels = [place.labels_of(file) for file in files], None
    if any(name.exists() for name in names):
        of_blocks = [fitting(name, (count,), np.int64) for name, count in zip(names, counts, strict=True)]
        labels = np.concatenate(of_blocks)
    return Kept(files, (sum(counts), *shape), labels)


def read_samples(folder: Path, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples of a folder in order of index.

    Args:
        folder: as generate.py left it.
        limit: read no more than this many.

    Returns:
        (samples (N, *S, C) float32 in the units of the data, labels (N,) int64, or None if they have none).

    Raises:
        Refusal: if there are none, or an array is cut short, of another kind than the rest, or without its labels.
    """
    kept = kept_samples(folder, limit)
    images = np.concatenate([read_array(file) for file in kept.files])[:limit]
    return images, None if kept.labels is None else kept.labels[:limit]


def fitting(path: Path, shape: tuple[int | None, ...], kind: type[np.generic]) -> np.ndarray:
    """An array of a type and a shape (None: any length), which are looked at before it is read.

    Raises:
        Refusal: if it is cut short or another.
    """
    array = open_array(path)
    fits = len(shape) == array.ndim and all(n in (m, None) for m, n in zip(array.shape, shape, strict=True))
    if array.dtype != kind or not fits:
        raise Refusal(
            f"{path} holds {array.dtype} of shape {array.shape}, which does not fit; generate.py draws it again"
        )
    return array


def not_finite(folder: Path) -> list[int]:
    """Indices of samples in a folder, as generate.py left it, with NaN or infinite values."""
    found: list[int] = []
    for file in SampleFolder(folder).blocks():
        block = read_array(file)
        whole = np.isfinite(block.reshape(len(block), -1)).all(1)
        found += (SampleFolder.start_of(file) + np.flatnonzero(~whole)).tolist()
    return sorted(found)


@dataclass(frozen=True)
class Job:
    """What every block of samples is made with.

    Attributes:
        dynamics: what is reversed: a dynamics, or its scalar path.
        denoiser: (v, t, labels) to x0_hat; without an observation, and not clipped if there will be one.
        spec: what a sample is.
        solver: makes the solver; every block takes a fresh one.
        grid: time grid, or None for the solver's own.
        config: how samples are drawn, every default filled in.
        consistent: whether the network was tuned so that an answer is a sample.
        process: what is to be said of the process, if it is not that of the run.
        notes: what a user should know of it.
        condition: what is observed of the samples; None draws without.
        finer: gives samples on another grid than that of the run, which ``spec`` has; None draws on that of the run.
    """

    dynamics: LinearDynamics
    denoiser: X0Denoiser
    spec: DataSpec
    solver: Callable[[], Solver]
    grid: Grid | None
    config: SampleConfig
    consistent: bool = False
    process: str = ""
    notes: tuple[str, ...] = ()
    condition: Condition | None = None
    finer: Finer | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *S) of states: the grid of the run."""
        return self.finer.shape if self.finer else self.spec.shape

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per sample; every input has the same."""
        return (self.config.seeds or ()) * (self.condition.count if self.condition else 1)

    @property
    def steps(self) -> int | None:
        """Solver steps per block; None if the solver chooses them."""
        return self.config.steps

    def steps_of(self, wanted: Sequence[range]) -> int | None:
        """Solver steps of some blocks; None if the solver chooses them."""
        return None if self.steps is None else self.steps * len(wanted)

    @property
    def blocks(self) -> list[range]:
        """Indices of the samples of every block."""
        return list(blocks(len(self.seeds), self.config.batch_size))

    @property
    def evaluations(self) -> int | None:
        """Denoiser calls per block; None if the solver chooses its steps."""
        if self.steps is None:
            return None
        components, last = self.dynamics.num_components, bool(self.config.denoise_last or self.finer)
        return self.solver().calls(self.steps, components=components, denoise_last=last)

    @property
    def how(self) -> str:
        """The solver and its steps, or its tolerance if it chooses them, in words."""
        given = (f"{name} {value}" for name, value in self.config.solver_arguments.items())
        steps = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        return ", ".join([str(self.config.solver), *(given if self.steps is None else [steps])])

    @property
    def told_task(self) -> str:
        """The task, its method and the noise of measurements, in words."""
        given = [f"{name} {value}" for name, value in self.config.task_arguments.items() if value is not None]
        noise = f", noise of deviation {self.config.noise_std:g}" if self.config.noise_std else ""
        return f"{', '.join([str(self.config.task), *given])}; method {self.config.method}{noise}"

    @property
    def remarks(self) -> list[str]:
        """What a user should know before it starts: of process and network, and that a solver needs more steps."""
        fewest, name = self.solver().fewest_steps, self.config.solver
        other = default_solver(self.dynamics, consistent=self.consistent, conditional=self.condition is not None)
        if self.steps is None or self.steps >= fewest:
            return [*self.notes]
        better = "" if other == name else f"; --solver {other} does with {SOLVERS[other].default_steps}"
        return [*self.notes, f"{name} needs about {fewest} steps or more{better}"]

    @property
    def told_classes(self) -> str:
        """Which classes are asked for, in words; nothing without labels, or if their numbers are their names."""
        named = self.spec.names_of(self.labels(range(min(len(self.seeds), MOST_CLASSES)))) or ()
        names = [name for name in named if name]
        numbers = [str((self.spec.classes or ()).index(name)) for name in names]
        told = dict.fromkeys(
            f"{name} ({number})" for name, number in zip(names, numbers, strict=True) if name != number
        )
        return ", ".join([*list(told)[:NAMED], *([".."] if len(told) > NAMED else [])])

    def labels(self, indices: range) -> Tensor | None:
        """Classes (len(indices),) int64 to ask for; None if the network takes no labels."""
        if self.condition is not None:
            labels = self.condition.labels
            return None if labels is None else labels[self.condition.inputs_of(indices)]
        return self.spec.labels_for(indices, self.config.labels)

    def files(self, place: SampleFolder, wanted: Sequence[range]) -> list[Path]:
        """Where blocks and their labels go."""
        data = [place.block(block.start) for block in wanted]
        return data if self.spec.num_classes is None else [*data, *map(place.labels_of, data)]

    def kept(self, place: SampleFolder) -> set[Path]:
        """All files that its set has, and that a manifest lists."""
        of_task = self.condition.writers(place) if self.condition else ()
        return {place.settings, *of_task, *self.files(place, self.blocks)}

    def knowing(self, indices: Sequence[int]) -> tuple[X0Denoiser, Conditioned | None]:
        """The denoiser of some samples, and what it is conditioned by, if there is a task."""
        if self.condition is None:
            return self.denoiser, None
        found = self.condition.around(self.denoiser, self.dynamics, indices)
        denoiser = Clipped(found) if self.config.clip_x0 else found
        return denoiser, found

    def check(self) -> None:
        """Refuse classes that do not exist, a time grid that cannot be laid, and a method that does not apply."""
        self.labels(range(1))
        self.knowing(range(1))
        if self.config.t_end is not None:
            grid = self.grid or self.solver().default_grid(self.dynamics)
            grid(self.dynamics, self.config.t_end, self.steps or 1)

    def draw(self, indices: range, on_step: StepCallback) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Draw one block.

        Args:
            indices: consecutive sample indices.
            on_step: called once per solver step with the time reached and the data component (B, C, *S).

        Returns:
            Samples (B, *S, C) float32 in the units of the data, their labels or None, denoiser calls per sample.
        """
        labels, (denoiser, known) = self.labels(indices), self.knowing(indices)
        asked = None if labels is None else labels.to(self.dynamics.device)
        result = sample(
            self.dynamics,
            denoiser,
            (len(indices), *self.shape),
            solver=self.solver(),
            steps=self.steps or 1,
            seeds=[self.seeds[i] for i in indices],
            labels=asked,
            grid=self.grid,
            t_end=self.config.t_end,
            denoise_last=bool(self.config.denoise_last) and self.finer is None,
            observation=cast(Imposes, known) if known and known.imposes else None,
            callback=lambda _, time, __, x: on_step(time, x),
        )
        x, calls = known.finish(result.x) if known and not known.imposes else result.x, result.nfe
        if self.finer:
            x = self.finer(self.dynamics, result.z, ending(self.dynamics, self.config.t_end), asked)
            calls += 1
        samples = self.spec.from_network(x).movedim(1, -1).float().cpu().numpy()
        return samples, None if labels is None else labels.numpy(), calls
