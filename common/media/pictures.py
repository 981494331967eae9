"""Pictures people look at: grids of images, curves and sounds, the loss curve, the loss by noise level."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from common.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAME, GREY = 2, 0.5  # width and level of the lines between the images of a grid
MIN_SIDE = 32  # smaller images are enlarged, pixel by pixel, until they can be seen
MAX_POINTS = 1000  # of a curve; a longer one is drawn by what lies between its extremes
SOUNDS = 20  # of a picture
WINDOW = 0.032  # seconds of sound of which a spectrum is taken
DYNAMIC_RANGE = 70.0  # decibels below the loudest that are still told apart


def displayable(images: Tensor) -> Tensor:
    """Images (.., C, H, W) with 1 or 3 channels: the first of two, the first three of more."""
    channels = images.shape[-3]
    return images if channels in (1, 3) else images.narrow(-3, 0, 1 if channels == 2 else 3)


def save_grid(path: Path, images: Tensor, columns: int = 10) -> None:
    """Write images as one PNG.

    Args:
        path: the file.
        images: (N, C, H, W) in [0, 1].
        columns: images per row.
    """
    from PIL import Image  # only here: Pillow takes a while to import

    factor = max(1, MIN_SIDE // max(images.shape[-2:]))
    shown = displayable(images).clamp(0, 1).float().cpu()
    large = repeat(shown, "n c h w -> n c (h up) (w right)", up=factor, right=factor)
    levels = tiled(large, min(columns, len(large))).mul(255).round().byte()
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, format="PNG")
    atomic_write(path, buffer.getvalue())


def tiled(images: Tensor, columns: int) -> Tensor:
    """Images row by row in a grey frame; a single one has none.

    Args:
        images: (N, C, H, W) with 1 or 3 channels.
        columns: images per row, at most N.

    Returns:
        (height, width, 3).
    """
    if len(images) == 1:
        return repeat(images, "1 c h w -> h w (c rgb)", rgb=3 // images.shape[1])
    pad = torch.nn.functional.pad
    cells = pad(images, (FRAME, 0, FRAME, 0), value=GREY)  # above and to the left
    whole = pad(cells, (0,) * 7 + (-len(cells) % columns,), value=GREY)  # the last row is filled
    grid = rearrange(whole, "(row column) c h w -> (row h) (column w) c", column=columns)
    grid = pad(grid, (0, 0, 0, FRAME, 0, FRAME), value=GREY)
    return repeat(grid, "h w c -> h w (c rgb)", rgb=3 // images.shape[1])


def save_curves(path: Path, functions: Tensor, columns: int = 10) -> None:
    """Write 1-D functions as one PNG of small plots on one scale; one line per channel.

    Args:
        path: the file.
        functions: (N, C, L).
        columns: plots per row.
    """
    values = functions.float().cpu()
    rows = -(-len(values) // columns)
    figure = new_figure(figsize=(1.6 * columns, 1.2 * rows))
    plots = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for plot, function in zip(plots, values, strict=False):
        plot.plot(*outline(function), linewidth=0.8)
        plot.tick_params(labelsize=6)
    for plot in plots[len(values) :]:
        plot.axis("off")
    save_figure(path, figure)


def outline(function: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Points to draw a function with: all of few, else the smallest and largest value of every stretch.

    Args:
        function: (C, L).

    Returns:
        Positions (P,) from 0 to L - 1, and values (P, C) there.
    """
    length = function.shape[-1]
    stretch = -(-2 * length // MAX_POINTS)  # two points each
    if length <= MAX_POINTS:
        return np.arange(length), function.T.numpy()
    # the last value again until stretches are full
    full = torch.nn.functional.pad(function, (0, -length % stretch), "replicate").unflatten(-1, (-1, stretch))
    values = torch.stack(full.aminmax(dim=-1), -1).flatten(-2)
    return np.linspace(0, length - 1, values.shape[-1]), values.T.numpy()


def save_audio(path: Path, samples: Tensor, sample_rate: int, columns: int = 5) -> None:
    """Write sounds as one PNG: the wave of each, its spectrogram below, all on the same scales.

    Args:
        path: the file.
        samples: (N, C, L) in [-1, 1]; the first 20 are drawn. The spectrogram is that of the mean of the channels.
        sample_rate: points per second.
        columns: sounds per row.
    """
    waves = samples[:SOUNDS].float().cpu()
    seconds, columns = waves.shape[-1] / sample_rate, min(columns, len(waves))
    levels, top = spectrograms(waves.mean(1), sample_rate)
    rows = -(-len(waves) // columns)
    figure = new_figure(figsize=(1.2 + 1.9 * columns, 0.4 + 2.3 * rows), layout="constrained")
    plots = figure.subplots(2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=[1, 2] * rows)
    shown = None
    for i, (wave, level) in enumerate(zip(waves, levels, strict=True)):
        row, column = divmod(i, columns)
        upper, lower = plots[2 * row, column], plots[2 * row + 1, column]
        positions, values = outline(wave)
        upper.plot(positions / sample_rate, values, linewidth=0.5)
        upper.set(ylim=(-1.05, 1.05), xlim=(0, seconds))
        shown = lower.imshow(
            level.numpy(),
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, sample_rate / 2),
            vmin=top - DYNAMIC_RANGE,
            vmax=top,
            cmap="magma",
        )
        if i + columns >= len(waves):
            lower.set_xlabel("time [s]", fontsize=7)
            lower.tick_params(labelbottom=True)
    for plot in plots.ravel():
        plot.tick_params(labelsize=6)
    for row in range(rows):
        plots[2 * row, 0].set_ylabel("value", fontsize=7)
        plots[2 * row + 1, 0].set_ylabel("frequency [Hz]", fontsize=7)
    for i in range(len(waves), rows * columns):
        for plot in plots[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]:
            plot.axis("off")
    if shown is not None:
        bar = figure.colorbar(shown, ax=plots, fraction=0.02, pad=0.01)
        bar.set_label("level [dB]", fontsize=7)
        bar.ax.tick_params(labelsize=6)
    save_figure(path, figure)


def spectrograms(waves: Tensor, sample_rate: int) -> tuple[Tensor, float]:
    """Levels of short-time spectra under a Hann window.

    Args:
        waves: (N, L).
        sample_rate: points per second.

    Returns:
        Decibels (N, frequencies, times), in which a full-scale sine has the level 0, and the largest of them.
    """
    size = min(2 ** round(math.log2(WINDOW * sample_rate)), waves.shape[-1])
    window = torch.hann_window(size)
    spectra = torch.stft(
        waves, size, hop_length=max(1, size // 4), window=window, pad_mode="constant", return_complex=True
    )
    amplitudes = spectra.abs().nan_to_num(0, 0, 0) * (2 / window.sum())
    levels = 20 * amplitudes.clamp_min(1e-6).log10()
    return levels, float(levels.max())


def save_samples(path: Path, samples: Tensor, columns: int = 10, sample_rate: int | None = None) -> None:
    """Write samples as a picture people would look at: a grid of images, of curves, or of waves with spectrograms.

    Args:
        path: the file.
        samples: (N, C, H, W) in [0, 1], or 1-D functions (N, C, L); sounds are in [-1, 1].
        columns: samples per row.
        sample_rate: points per second, if samples are sounds.
    """
    if sample_rate is not None:
        save_audio(path, samples, sample_rate, columns)
    else:
        (save_grid if samples.ndim == 4 else save_curves)(path, samples, columns)


def save_trajectory(path: Path, times: Sequence[float], states: Sequence[Tensor]) -> None:
    """Write how samples come out of the noise: one row per sample, one column per time.

    Args:
        path: the file.
        times: times, falling.
        states: data components (N, C, *S) at those times, on the network's scale; each is shown on its own scale,
            because under variance exploding dynamics the first is a thousand times the last.
    """
    count = len(states[0])
    figure = new_figure(figsize=(1.3 * len(times), 1.4 * count))
    plots = figure.subplots(count, len(times), squeeze=False)
    for column, (time, state) in enumerate(zip(times, states, strict=True)):
        for row in range(count):
            plot, value = plots[row, column], state[row].float().cpu()
            if value.ndim == 3:
                value = displayable(value)
                low, high = value.amin(), value.amax()
                image = ((value - low) / (high - low).clamp_min(1e-12)).movedim(0, -1).squeeze(-1)
                plot.imshow(image.numpy(), cmap="gray" if image.ndim == 2 else None)
            else:
                plot.plot(*outline(value), linewidth=0.8)
            plot.set(xticks=[], yticks=[])
        plots[0, column].set_title(f"t = {time:.3g}", fontsize=7)
    save_figure(path, figure)


def new_figure(**options: Any) -> "Figure":
    """A figure for files only, which needs no screen; matplotlib is imported here, because it takes a while."""
    from matplotlib.figure import Figure

    return Figure(**options)


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    atomic_write(path, buffer.getvalue())


def loss_figure(rows: list[dict[str, float]], by_level: list[tuple[float, float]]) -> "Figure":
    """Training and validation loss against the step, and the recent loss against the noise level.

    Args:
        rows: log lines with ``step`` and any of ``train/loss``, ``val/loss``.
        by_level: (log sigma, mean loss) pairs.
    """
    figure = new_figure(figsize=(11, 4))
    curve, levels = figure.subplots(1, 2)
    for name, style in (("train/loss", "-"), ("val/loss", "o-")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            steps, values = torch.tensor(points, dtype=torch.float64).unbind(1)
            curve.plot(steps.tolist(), values.tolist(), style, label=name, linewidth=1, markersize=3)
    curve.set(xlabel="optimiser step", ylabel="loss", yscale="log", title="loss")
    if curve.get_legend_handles_labels()[0]:
        curve.legend()
    if by_level:
        level, value = zip(*by_level, strict=True)
        levels.plot([x / 2.302585092994046 for x in level], value, "o-", markersize=3)
    levels.set(xlabel="log10 of the noise level sigma", ylabel="recent training loss", title="loss by noise level")
    return figure
