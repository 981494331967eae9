"""What is looked at and listened to after generation: grid, trajectory, sounds, and a word on samples gone wrong."""

from pathlib import Path

import torch
from torch import Tensor

from common.data.spec import DataSpec
from common.generation.blocks import grid_columns, not_finite, read_samples
from common.media.audio import write_wav
from common.media.pictures import save_samples, save_trajectory
from common.runs import SampleFolder

GRID_IMAGES = 100
AUDIO_FILES = 20  # sounds that are also written as .wav
TRAJECTORY_ROWS, TRAJECTORY_COLUMNS = 4, 10
NAMED_SEEDS = 10


class Trajectory:
    """States of the first samples at evenly spaced steps of the first block.

    Args:
        steps: solver steps.
    """

    def __init__(self, steps: int) -> None:
        self.wanted = {round(i * (steps - 1) / (TRAJECTORY_COLUMNS - 1)) for i in range(TRAJECTORY_COLUMNS)}
        self.steps, self.seen = steps, 0
        self.times: list[float] = []
        self.states: list[Tensor] = []

    def add(self, time: float, x: Tensor) -> None:
        """Keep the state (B, C, *S) reached at a time, if it is one of the wanted ones."""
        if self.seen in self.wanted:
            self.times.append(time)
            self.states.append(x[:TRAJECTORY_ROWS].cpu())
        self.seen += 1

    def save(self, path: Path) -> bool:
        """Write the picture; False if there is nothing to show."""
        if self.times:
            save_trajectory(path, self.times, self.states)
        return bool(self.times)


def show(folder: Path, spec: DataSpec) -> list[str]:
    """Write the grid and, for sounds, .wav files; returns what to say about them.

    Args:
        folder: samples, as :func:`~common.generation.blocks.generate` left them.
        spec: what a sample is.
    """
    lines, place = [], SampleFolder(folder)
    first = torch.from_numpy(read_samples(folder, GRID_IMAGES)[0]).movedim(-1, 1).nan_to_num()
    if spec.is_image:
        first = (spec.to_network(first) + 1) / 2
    if spec.sample_rate:
        first = first[:AUDIO_FILES]
        for i, sound in enumerate(first):
            write_wav(place.audio / f"audio_{i:06d}.wav", sound, spec.sample_rate)
        lines.append(f"audio     {place.audio}")
    save_samples(place.grid, first, grid_columns(spec.num_classes, len(first)), spec.sample_rate)
    return [*lines, f"arrays    {place.data}", f"grid      {place.grid}"]


def complaint(folder: Path, seeds: tuple[int, ...]) -> tuple[int, str]:
    """How many samples of a folder have NaN or infinite values, and what to say of them."""
    broken = not_finite(folder)
    which = ", ".join(str(seeds[i]) for i in broken[:NAMED_SEEDS]) + (", .." if len(broken) > NAMED_SEEDS else "")
    return len(broken), (
        f"{len(broken)} of {len(seeds)} samples have NaN or infinite values (seeds {which}); the network is not "
        "trained enough, or its inner steps diverge"
    )
