"""The way out of the noise: a picture with a column per time, and a film with a frame per time."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.files import atomic_write
from common.media.figures import SMALL, TINY, few_ticks, new_figure, outline
from common.media.grids import TEXT_GAP, block, displayable, magnified, titled, visible_scale, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

FRAME_TIME, LAST_FRAME_TIME = 150, 2000  # milliseconds
FILM_DPI = 80
NARROWEST = 200  # pixels of a film, so that every time and noise level fits


class Moment(NamedTuple):
    """States on the way out of the noise.

    Attributes:
        time: t.
        sigma: noise level of x at t.
        x: data components (N, C, *S) on the network's scale.
    """

    time: float
    sigma: float
    x: Tensor

    @property
    def head(self) -> str:
        """Time and noise level in two lines."""
        return f"t = {short(self.time)}\nσ = {short(self.sigma)}"


def short(value: float) -> str:
    """A positive number in few letters: 12.3, 0.528, 0.029, 5.3e-3."""
    if 0.01 <= value < 1000:
        return f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def on_own_scale(images: Tensor) -> Tensor:
    """Images (N, C, H, W), each from its smallest value (0) to its largest (1).

    Under variance exploding dynamics the first states are a thousand times the last, so no scale suits all.
    """
    shown = displayable(images.float().cpu()).nan_to_num()
    low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
    return (shown - low) / (high - low).clamp_min(1e-12)


def trajectory_picture(
    moments: Sequence[Moment], classes: Sequence[str] | None = None, scale: int | None = None
) -> "Picture":
    """Images: one row per sample, one column per time, every state on its own scale.

    Args:
        moments: states, times falling.
        classes: the name of the class of each sample, or None.
        scale: whole number by which images are magnified; None makes small ones visible.
    """
    height, width = moments[0].x.shape[-2:]
    if scale is None:  # wide enough for the heads, also where images are narrow
        widest = max(width_of(line) for moment in moments for line in moment.head.splitlines())
        scale = max(visible_scale(height, width), math.ceil(widest / width))
    tiles = torch.stack([magnified(on_own_scale(moment.x), scale) for moment in moments], 1).flatten(0, 1)
    margin = max(map(width_of, classes)) + 2 * TEXT_GAP if classes else 0
    return block(tiles, len(moments), [moment.head for moment in moments], classes or (), margin=margin)


def trajectory_figure(moments: Sequence[Moment], classes: Sequence[str] | None = None) -> "Figure":
    """Functions and sounds: one row per sample, one column per time, every state on its own scale."""
    count = len(moments[0].x)
    figure = new_figure(figsize=(1.3 * len(moments), 1.2 * count + 0.3))
    plots = figure.subplots(count, len(moments), squeeze=False)
    for column, moment in enumerate(moments):
        for row in range(count):
            plots[row, column].plot(*outline(moment.x[row].float().cpu()), linewidth=0.8)
            plots[row, column].set(xticks=[], yticks=[])
        plots[0, column].set_title(moment.head, fontsize=TINY)
    for row, name in enumerate(classes or ()):
        plots[row, 0].set_ylabel(name, fontsize=SMALL, parse_math=False)
    return figure


def save_film(
    path: Path, moments: Sequence[Moment], classes: Sequence[str] | None = None, scale: int | None = None
) -> None:
    """Write a GIF that loops: one frame per time, the samples side by side, the last frame longest.

    Greys are exact; colours are rounded to 256 in every frame, without dithering.

    Args:
        path: the file.
        moments: states, times falling, at least one.
        classes: the name of the class of each sample, or None.
        scale: whole number by which images are magnified; None makes small ones visible.
    """
    from PIL import Image

    is_image = moments[0].x.ndim == 4
    frames = [_frame(m, classes, scale) if is_image else _plotted(m, classes) for m in moments]
    if is_image and displayable(moments[0].x).shape[1] == 1:
        frames = [frame.convert("L") for frame in frames]
    else:
        frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_TIME] * (len(frames) - 1) + [LAST_FRAME_TIME],
        loop=0,
    )
    atomic_write(path, buffer.getvalue())


def _frame(moment: Moment, classes: Sequence[str] | None, scale: int | None) -> "Picture":
    tiles = magnified(on_own_scale(moment.x), scale)
    return titled(moment.head.replace("\n", "   "), block(tiles, len(tiles), classes or ()), least=NARROWEST)


def _plotted(moment: Moment, classes: Sequence[str] | None) -> "Picture":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    count = len(moment.x)
    figure = new_figure(figsize=(2.2 * count, 2.2), dpi=FILM_DPI)
    plots = figure.subplots(1, count, squeeze=False)[0]
    for plot, x in zip(plots, moment.x.float().cpu(), strict=True):
        plot.plot(*outline(x), linewidth=0.8)
        plot.tick_params(labelsize=TINY)
        few_ticks(plot.xaxis, 3)
        few_ticks(plot.yaxis, 3)
    for plot, name in zip(plots, classes or (), strict=False):
        plot.set_title(name, fontsize=SMALL, parse_math=False)
    figure.suptitle(moment.head.replace("\n", "   "), fontsize=SMALL)
    canvas: Any = FigureCanvasAgg(figure)  # untyped
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
