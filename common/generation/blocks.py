"""Draw many samples in fixed blocks and keep them as arrays: any restart or split gives the same files."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.files import atomic_write
from common.refusal import Refusal
from common.samplers import Grid, Solver, sample

StepCallback = Callable[[float, Tensor], None]


def blocks(count: int, size: int) -> Iterator[range]:
    """Consecutive sample indices in blocks of ``size``."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def labels_for(indices: Sequence[int], wanted: Sequence[int] | None, num_classes: int | None) -> Tensor | None:
    """Classes of samples: the wanted ones in turn, else all classes in turn.

    Args:
        indices: sample indices.
        wanted: classes to ask for, or None for all.
        num_classes: number of classes; None where the network takes no labels.

    Returns:
        (len(indices),) int64, or None where the network takes no labels.

    Raises:
        ValueError: for classes that do not exist, or any classes where the network takes none.
    """
    if num_classes is None:
        if wanted:
            raise Refusal("this run was trained without labels (--conditioning False)", "labels")
        return None
    cycle = tuple(wanted) if wanted else tuple(range(num_classes))
    bad = [label for label in cycle if not 0 <= label < num_classes]
    if bad:
        raise Refusal(f"must lie in 0 .. {num_classes - 1}, got {bad[0]}", "labels")
    return torch.tensor([cycle[i % len(cycle)] for i in indices], dtype=torch.int64)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic_write(path, buffer.getvalue())


def read_array(path: Path) -> np.ndarray:
    """Read a .npy file of plain numbers.

    Raises:
        ValueError: naming the file where it is cut short or of another kind.
    """
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Refusal(f"{path} is no whole array ({error}); generate.py draws it again") from error
    return array


def is_whole(path: Path, count: int) -> bool:
    """Whether a block of samples is there with all its samples."""
    if not path.exists():
        return False
    try:
        return len(read_array(path)) == count
    except ValueError:
        return False


def read_samples(folder: Path, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples of a folder in order of index.

    Args:
        folder: as :func:`generate` left it.
        limit: read no more than this many.

    Returns:
        (samples (N, *S, C) float32 in the units of the data, labels (N,) or None).

    Raises:
        ValueError: where there are none.
    """
    files = sorted((folder / "data").glob("data_*.npy"), key=lambda file: int(file.stem.removeprefix("data_")))
    if not files:
        raise Refusal(f"no samples in {folder / 'data'}; draw some with generate.py")
    arrays: list[np.ndarray] = []
    for file in files:
        arrays.append(read_array(file))
        if limit is not None and sum(map(len, arrays)) >= limit:
            break
    images = np.concatenate(arrays)[:limit]
    names = [folder / "label" / file.name.replace("data_", "label_") for file in files[: len(arrays)]]
    if not all(name.exists() for name in names):
        return images, None
    return images, np.concatenate([read_array(name) for name in names])[:limit]


def not_finite(folder: Path) -> list[int]:
    """Indices of samples in a folder, as :func:`generate` left it, with NaN or infinite values."""
    found: list[int] = []
    for file in (folder / "data").glob("data_*.npy"):
        block = read_array(file)
        whole = np.isfinite(block.reshape(len(block), -1)).all(1)
        found += (int(file.stem.removeprefix("data_")) + np.flatnonzero(~whole)).tolist()
    return sorted(found)


def generate(
    folder: Path,
    dynamics: LinearDynamics,
    denoiser: X0Denoiser,
    shape: tuple[int, ...],
    *,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    num_classes: int | None,
    block: int,
    value_range: tuple[float, float],
    solver: Callable[[], Solver],
    steps: int,
    grid: Grid | None,
    t_end: float,
    denoise_last: bool = False,
    on_step: StepCallback,
    on_kept: Callable[[], None],
    redraw: bool = False,
) -> int:
    """Draw samples and write ``data/data_*.npy`` and ``label/label_*.npy``, one pair per block.

    Blocks that are there already are kept, so a run that was cut off goes on where it stood.

    Args:
        folder: where the arrays go.
        dynamics: what is reversed.
        denoiser: (v, t, labels) to x0_hat.
        shape: shape (C, *S) of one sample.
        seeds: one per sample.
        labels: classes to ask for in turn, or None for all in turn.
        num_classes: number of classes; None where the network takes no labels.
        block: samples per block, computed together.
        value_range: what -1 and 1 stand for in the arrays; images are clipped to it, functions are not.
        solver: makes the solver; every block takes a fresh one.
        steps: its steps.
        grid: time grid, or None for the solver's own.
        t_end: time at which sampling ends.
        denoise_last: give the denoiser's x0_hat at t_end, not the state there.
        on_step: called once per solver step with the time reached and the data component (B, C, *S) of its block.
        on_kept: called for every block that is kept.
        redraw: draw the first block also where it is there (the result is the same; ``on_step`` sees it again).

    Returns:
        Denoiser calls per sample; 0 where every block was there already.
    """
    nfe = 0
    for indices in blocks(len(seeds), block):
        data = folder / "data" / f"data_{indices.start:06d}.npy"
        wanted = labels_for(indices, labels, num_classes)
        if is_whole(data, len(indices)) and not (redraw and indices.start == 0):
            on_kept()
            continue
        result = sample(
            dynamics,
            denoiser,
            (len(indices), *shape),
            solver=solver(),
            steps=steps,
            seeds=[seeds[i] for i in indices],
            labels=None if wanted is None else wanted.to(dynamics.device),
            grid=grid,
            t_end=t_end,
            denoise_last=denoise_last,
            callback=lambda _, time, __, x: on_step(time, x),
        )
        nfe = result.nfe
        if wanted is not None:
            write_array(folder / "label" / data.name.replace("data_", "label_"), wanted.numpy())
        share = (result.x + 1) / 2
        if len(shape) == 3:
            share = share.clamp(0, 1)
        low, high = value_range
        samples = (low + (high - low) * share).movedim(1, -1).float().cpu().numpy()
        write_array(data, samples)  # after its labels: a block with data is whole
    return nfe


def grid_columns(num_classes: int | None, count: int) -> int:
    """Columns of a sample grid: whole rounds of the classes where there are few, else a square."""
    if num_classes and num_classes <= 20:
        return num_classes * max(1, 10 // num_classes)
    return math.ceil(math.sqrt(count))
