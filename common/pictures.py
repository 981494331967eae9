"""Pictures people look at: sample grids, the loss curve, the loss by noise level."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: runs on machines without a screen
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from common.checkpoints import atomic_write

MIN_SIDE = 32  # smaller images are enlarged, pixel by pixel, until they can be seen


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
    factor = max(1, MIN_SIDE // max(images.shape[-2:]))
    large = displayable(images).clamp(0, 1).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    buffer = io.BytesIO()
    grid = make_grid(large.float().cpu(), nrow=columns, padding=2, pad_value=0.5).mul(255).round().byte()
    to_pil_image(grid).save(buffer, format="PNG")
    atomic_write(path, buffer.getvalue())


def save_curves(path: Path, functions: Tensor, columns: int = 10) -> None:
    """Write 1-D functions as one PNG of small plots on one scale; one line per channel.

    Args:
        path: the file.
        functions: (N, C, L).
        columns: plots per row.
    """
    values = functions.float().cpu()
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.2 * rows))
    plots = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for plot, function in zip(plots, values, strict=False):
        plot.plot(function.T.numpy(), linewidth=0.8)
        plot.tick_params(labelsize=6)
    for plot in plots[len(values) :]:
        plot.axis("off")
    save_figure(path, figure)


def save_samples(path: Path, samples: Tensor, columns: int = 10) -> None:
    """Write samples as a picture people would look at: a grid of images, or of curves.

    Args:
        path: the file.
        samples: (N, C, H, W) in [0, 1], or 1-D functions (N, C, L).
        columns: samples per row.
    """
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
    figure = Figure(figsize=(1.3 * len(times), 1.4 * count))
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
                plot.plot(value.T.numpy(), linewidth=0.8)
            plot.set(xticks=[], yticks=[])
        plots[0, column].set_title(f"t = {time:.3g}", fontsize=7)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """Write a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    atomic_write(path, buffer.getvalue())


def loss_figure(rows: list[dict[str, float]], by_level: list[tuple[float, float]]) -> Figure:
    """Training and validation loss against the step, and the recent loss against the noise level.

    Args:
        rows: log lines with ``step`` and any of ``train/loss``, ``val/loss``.
        by_level: (log sigma, mean loss) pairs.
    """
    figure = Figure(figsize=(11, 4))
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
