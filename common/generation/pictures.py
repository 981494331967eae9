"""What is looked at and listened to after generation: grid, trajectory, sounds, and a word on samples gone wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.spec import DataSpec
from common.dynamics import LinearDynamics
from common.generation.blocks import Job, not_finite, read_samples
from common.media.audio import write_wav
from common.media.grids import visible_scale
from common.media.layout import Labelled
from common.media.pictures import save_samples, save_trajectory
from common.media.trajectories import Moment, save_film
from common.runs import RunFolder, SampleFolder
from common.runs.real import read_real

GRID_IMAGES = 100
AUDIO_FILES = 20  # sounds that are also written as .wav
ROWS, COLUMNS = 4, 10  # samples and times of the picture of the way out of the noise
FRAMES, MOST_FILMED, FILM_WIDTH = 24, 10, 700  # times and images of the film, which is to stay small; pixels
NAMED_SEEDS = 10


class Trajectory:
    """States of the first samples at evenly spaced steps of the first block.

    Args:
        job: what the block is made with.
    """

    def __init__(self, job: Job) -> None:
        self.dynamics, self.scale = job.dynamics, job.config.picture_scale
        self.wanted = None if job.steps is None else set(evenly(job.steps, FRAMES))
        self.begin()
        spec = job.spec
        count = ROWS
        if spec.is_image:
            height, width = spec.grid
            count = max(ROWS, min(MOST_FILMED, FILM_WIDTH // (width * (self.scale or visible_scale(height, width)))))
        filmed = range(min(count, len(job.seeds), job.config.batch_size))
        self.count, self.classes = len(filmed), spec.names_of(job.labels(filmed))

    def begin(self) -> None:
        """Forget what was seen: the first block is drawn from its beginning."""
        self.moments, self.seen = list[Moment](), 0

    def alone(self, todo: Sequence[range]) -> list[range]:
        """Samples to draw for the picture alone: its own few, unless their block is among those to draw anyway.

        In a smaller block they are the same but for rounding.
        """
        return [] if any(0 in block for block in todo) else [range(self.count)]

    def add(self, time: float, x: Tensor) -> None:
        """Keep the state (B, C, *S) reached at a time: of all steps of the first block, or of the wanted ones."""
        if self.moments and time >= self.moments[-1].time:
            return  # the next block, whose times fall again
        if self.wanted is None or self.seen in self.wanted:
            self.moments.append(Moment(time, shown_level(self.dynamics, time), x[: self.count].cpu()))
        self.seen += 1

    def save(self, place: SampleFolder) -> list[str]:
        """Write the film, and some of its moments as one picture; returns what to say about them."""
        filmed = [self.moments[i] for i in evenly(len(self.moments), FRAMES)]
        columns = [self.moments[i] for i in evenly(len(self.moments), COLUMNS)]
        classes = self.classes[:ROWS] if self.classes else None
        save_trajectory(
            place.trajectory, [moment._replace(x=moment.x[:ROWS]) for moment in columns], classes, self.scale
        )
        save_film(place.film, filmed, self.classes, self.scale)
        return [f"path      {place.trajectory}", f"film      {place.film}"]


def shown_level(dynamics: LinearDynamics, time: float) -> float:
    """Noise level of the data component, which is what is shown; that of v = w . z is lower if there are others."""
    t = torch.tensor([time], dtype=torch.float64, device=dynamics.device)
    if dynamics.num_components == 1:
        return float(dynamics.log_sigma(t).exp())
    law = dynamics.moments(t)
    return float(dynamics.representative(law.cov[:, 0, 0].sqrt() / law.scale))


def evenly(count: int, wanted: int) -> list[int]:
    """Indices of at most so many of ``count`` things, evenly spaced from the first to the last."""
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def show(folder: Path, spec: DataSpec, real: Labelled | None = None, scale: int | None = None) -> list[str]:
    """Write the grid and, for sounds, .wav files; returns what to say about them.

    Args:
        folder: samples, as generate.py left them.
        spec: what a sample is.
        real: real samples to show beside them.
        scale: whole number by which images are magnified; None makes small ones visible.
    """
    lines, place = [], SampleFolder(folder)
    arrays, labels = read_samples(folder, pictured_count(spec))
    if spec.sample_rate:
        for i, sound in enumerate(channels_first(arrays)):
            write_wav(place.audio / f"audio_{i:06d}.wav", sound, spec.sample_rate)
        lines.append(f"audio     {place.audio}")
    save_samples(place.grid, pictured(arrays, labels, spec), real, sample_rate=spec.sample_rate, scale=scale)
    return [*lines, f"arrays    {place.data}", f"grid      {place.grid}"]


def real_beside(run: RunFolder, job: Job) -> Labelled | None:
    """Real samples to show beside those of a job; None if there are none, or those of the job are on another grid.

    Raises:
        Refusal: naming the file, if it is damaged or of another run.
    """
    return None if job.finer else read_real(run.real, job.spec)


def pictured_count(spec: DataSpec) -> int:
    """How many samples a picture shows at most."""
    return AUDIO_FILES if spec.sample_rate else GRID_IMAGES


def channels_first(arrays: np.ndarray) -> Tensor:
    """Generated arrays (N, *S, C) as samples (N, C, *S) that can be shown: zero where they are NaN."""
    return torch.from_numpy(arrays).movedim(-1, 1).nan_to_num()


def pictured(arrays: np.ndarray, labels: np.ndarray | None, spec: DataSpec) -> Labelled:
    """Generated arrays (N, *S, C) and their labels (N,), if there are any, as pictures show them."""
    classes = None if labels is None else spec.names_of(torch.from_numpy(labels))
    return Labelled(spec.pictured(channels_first(arrays)), classes)


def complaint(folder: Path, seeds: tuple[int, ...]) -> tuple[int, str]:
    """How many samples of a folder have NaN or infinite values, and what to say of them."""
    broken = not_finite(folder)
    which = ", ".join(str(seeds[i]) for i in broken[:NAMED_SEEDS]) + (", .." if len(broken) > NAMED_SEEDS else "")
    return len(broken), (
        f"{len(broken)} of {len(seeds)} samples have NaN or infinite values (seeds {which}); the network is not "
        "trained enough, or its inner steps diverge"
    )
