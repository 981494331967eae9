"""Observation, completions and truth beside each other: of images as tiles, of functions as curves with their band."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.media.figures import (
    BEHIND,
    SMALL,
    SOUNDS,
    TINY,
    UNKNOWN,
    few_ticks,
    new_figure,
    outline,
    save_figure,
    sounds_figure,
    stretches,
)  # fmt: skip
from common.media.grids import FRAME, LINE, TEXT_GAP, block, displayable, font, joined, magnified, picture_of, width_of
from common.media.layout import Labelled
from common.media.pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

ROWS, COMPLETIONS = 12, 4  # inputs and completions of each that a picture shows
SOUND_COMPLETIONS = 2
COMPARED, LARGE = 96, 256  # pixels that the longer side of a small image gets at least, in rows and alone
MAP = "magma"  # of deviations and errors: 0 is black
BAR = 160, 12  # pixels of the bar that says what colours mean
BAND, MEAN, OBSERVED, TRUTH = "#9ecae1", "#08519c", "#d94801", "black"
POINTS = 200  # observed values that are marked one by one


class Restored(NamedTuple):
    """Inputs with what is known of them, as pictures show them: images in [0, 1], all others in their own units.

    Attributes:
        observed: (N, C', *S'), NaN where nothing is known; C' and S' are those of the observation's picture.
        drawn: completions (N, M, C, *S).
        truth: (N, C, *S); None if it is not known.
        names: what the inputs are called.
    """

    observed: Tensor
    drawn: Tensor
    truth: Tensor | None = None
    names: tuple[str, ...] = ()

    def first(self, count: int) -> "Restored":
        """The first inputs."""
        truth = None if self.truth is None else self.truth[:count]
        return Restored(self.observed[:count], self.drawn[:count], truth, self.names[:count])

    def only(self, index: int) -> "Restored":
        """One input."""
        truth = None if self.truth is None else self.truth[index : index + 1]
        one = slice(index, index + 1)
        return Restored(self.observed[one], self.drawn[one], truth, self.names[one])

    @property
    def mean(self) -> Tensor:
        """Of the completions, (N, C, *S)."""
        return self.drawn.mean(1)

    @property
    def deviation(self) -> Tensor:
        """Of the completions, (N, C, *S); zero of a single one."""
        return self.drawn.std(1, correction=min(1, self.drawn.shape[1] - 1))


def save_comparison(path: Path, restored: Restored, sample_rate: int | None = None, scale: int | None = None) -> None:
    """Write the inputs, one a row (of functions one a plot), as PNG, atomically.

    Args:
        path: the file.
        restored: inputs, at least one; the first 12 images, or as many sounds as fit, are shown.
        sample_rate: points per second, if samples are sounds.
        scale: whole number by which images are magnified; None makes small ones 96 pixels high.
    """
    if restored.drawn.ndim == 5:
        save_picture(path, comparison_picture(restored, scale))
    elif sample_rate is not None:
        save_figure(path, comparison_of_sounds(restored, sample_rate))
    else:
        save_figure(path, comparison_of_functions(restored))


def save_posterior(path: Path, restored: Restored, sample_rate: int | None = None) -> None:
    """Write mean and deviation of the completions of one input, large, as PNG, atomically.

    Args:
        path: the file.
        restored: one input.
        sample_rate: points per second, if samples are sounds.
    """
    if restored.drawn.ndim == 5:
        save_picture(path, posterior_picture(restored))
    else:
        save_figure(path, posterior_of_functions(restored, sample_rate))


# -- images ------------------------------------------------------------------------------------------------------------


def enlarged(side: int, least: int) -> int:
    """By how much images are magnified so that a side has so many pixels at least."""
    return max(1, -(-least // side))


def comparison_picture(restored: Restored, scale: int | None = None) -> "Picture":
    """Images: observation, completions, mean, deviation, truth and error of the mean, one input a row."""
    shown = restored.first(ROWS)
    scale = scale or enlarged(max(shown.drawn.shape[-2:]), COMPARED)
    some = [
        (f"completion {i + 1}", magnified(shown.drawn[:, i], scale))
        for i in range(min(COMPLETIONS, shown.drawn.shape[1]))
    ]
    return _page(shown, some, scale)


def posterior_picture(restored: Restored) -> "Picture":
    """One image: observation, mean, deviation, truth and error of the mean, large."""
    return _page(restored, [], enlarged(max(restored.drawn.shape[-2:]), LARGE))


def _page(shown: Restored, some: list[tuple[str, Tensor]], scale: int) -> "Picture":
    """Columns of tiles with their heads, and below what the colours mean."""
    maps = {"deviation": _over_channels(shown.deviation)}
    if shown.truth is not None and shown.truth.shape == shown.mean.shape:
        maps["|mean - truth|"] = _over_channels(shown.mean - shown.truth)
    top = max(float(one.max()) for one in maps.values())
    coloured = {name: magnified(_coloured(one, top), scale) for name, one in maps.items()}
    sides = (shown.drawn.shape[-2] * scale, shown.drawn.shape[-1] * scale)
    columns = [("observed", _with_unknown(shown.observed, sides)), *some, ("mean", magnified(shown.mean, scale))]
    columns.append(("deviation", coloured.pop("deviation")))
    if shown.truth is not None:
        columns.append(("truth", magnified(shown.truth, scale) if shown.truth.shape[-2:] == shown.drawn.shape[-2:]
                        else _fitted(shown.truth, sides)))  # fmt: skip
    columns += coloured.items()
    heads, tiles = zip(*columns, strict=True)
    margin = max(map(width_of, shown.names)) + 2 * TEXT_GAP if shown.names else 0
    grid = block(torch.stack(tiles, 1).flatten(0, 1), len(columns), heads, shown.names, margin=margin)
    meaning = " and ".join(["deviation", *["error"] * (len(maps) - 1)])
    legend = _legend(f"{top:.2g}  {meaning}", is_unknown=bool(shown.observed.isnan().any()), left=margin)
    return joined([grid, legend], below=True)


def _over_channels(values: Tensor) -> Tensor:
    """Root mean square over channels, (N, H, W)."""
    return values.float().square().mean(1).sqrt()


def _coloured(values: Tensor, top: float) -> Tensor:
    """Values (N, H, W) from 0 to the largest as colours (N, 3, H, W)."""
    import matplotlib

    colours = matplotlib.colormaps[MAP](np.clip(values.nan_to_num().numpy() / (top or 1.0), 0, 1))
    return torch.from_numpy(colours[..., :3]).movedim(-1, 1).float()


def _with_unknown(observed: Tensor, sides: Sequence[int]) -> Tensor:
    """Observations (N, C, h, w) as colours (N, 3, *sides), unknown pixels in a colour of their own."""
    unknown = observed.isnan().all(1, keepdim=True)
    colours = displayable(observed).nan_to_num(0).expand(-1, 3, -1, -1)
    painted = torch.where(unknown, torch.tensor(UNKNOWN).reshape(3, 1, 1), colours.float())
    return _fitted(painted, sides)


def _fitted(images: Tensor, sides: Sequence[int]) -> Tensor:
    """Images (N, C, h, w) in [0, 1] on other sides (N, 3, *sides), every pixel as a rectangle of one colour."""
    colours = displayable(images).nan_to_num(0).clamp(0, 1).float().expand(-1, 3, -1, -1)
    return torch.nn.functional.interpolate(colours, tuple(sides), mode="nearest-exact")


def _legend(most: str, *, is_unknown: bool, left: int) -> "Picture":
    """The bar of the colour map from 0 to the largest value, which a text names, and the colour of what is unknown."""
    from PIL import Image, ImageDraw

    width, height = BAR
    zero, words = "0", "unknown"
    places = [left + FRAME, left + FRAME + width_of(zero) + TEXT_GAP]
    after = places[1] + width + TEXT_GAP
    unknown_at = after + width_of(most) + 4 * TEXT_GAP
    page = Image.new("RGB", (unknown_at + height + TEXT_GAP + width_of(words) + FRAME, LINE), "white")
    bar = _coloured(torch.linspace(0, 1, width).expand(1, height, width), 1.0)[0]
    page.paste(picture_of(bar.movedim(0, -1)), (places[1], (LINE - height) // 2))
    pen, middle = ImageDraw.Draw(page), LINE / 2
    pen.text((places[0], middle), zero, "black", font(), anchor="lm")
    pen.text((after, middle), most, "black", font(), anchor="lm")
    if is_unknown:
        square = torch.tensor(UNKNOWN).expand(height, height, 3)
        page.paste(picture_of(square), (unknown_at, (LINE - height) // 2))
        pen.text((unknown_at + height + TEXT_GAP, middle), words, "black", font(), anchor="lm")
    return page


# -- functions ---------------------------------------------------------------------------------------------------------


def comparison_of_functions(restored: Restored) -> "Figure":
    """Functions: completions with their mean and the band from the 5th to the 95th percentile, what was observed, and
    the truth; a plot for every input, and for every channel."""
    shown = restored.first(ROWS)
    count, _, channels, length = shown.drawn.shape
    across = channels if channels > 1 else min(3, count)
    down = -(-count * channels // across)
    figure = new_figure(figsize=(0.4 + 4.2 * across, 0.7 + 2.3 * down))
    plots = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for place, plot in enumerate(plots):
        if place >= count * channels:
            plot.axis("off")
            continue
        index, channel = divmod(place, channels)
        _draw_functions(plot, shown.only(index), channel, np.arange(length, dtype=float))
        name = shown.names[index] if shown.names else ""
        plot.set_title(f"{name}{f', channel {channel}' if channels > 1 else ''}", fontsize=SMALL, parse_math=False)
        if place + across >= count * channels:
            plot.tick_params(labelbottom=True)
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=SMALL, frameon=False)
    return figure


def posterior_of_functions(restored: Restored, sample_rate: int | None = None) -> "Figure":
    """One function or sound, large: what :func:`comparison_of_functions` shows, below it deviation and error.

    Of a sound the longest stretch that was not observed is shown, with half as much on either side.
    """
    start, restored = about_gap(restored) if sample_rate else (0, restored)
    length, channels = restored.drawn.shape[-1], restored.drawn.shape[2]
    positions = (start + np.arange(length, dtype=float)) / (sample_rate or 1)
    figure = new_figure(figsize=(9, 0.8 + 4.2 * channels))
    plots = figure.subplots(2 * channels, 1, squeeze=False, sharex=True, height_ratios=[2, 1] * channels).ravel()
    for channel in range(channels):
        upper, lower = plots[2 * channel : 2 * channel + 2]
        _draw_functions(upper, restored, channel, positions)
        upper.legend(fontsize=SMALL, frameon=False, loc="best")
        _draw(lower, restored.deviation[0, channel], positions, color=MEAN, linewidth=1.2, label="deviation")
        if restored.truth is not None and restored.truth.shape[-1] == length:
            error = (restored.mean - restored.truth).abs()[0, channel]
            _draw(lower, error, positions, color=OBSERVED, linewidth=0.8, label="|mean - truth|")
        lower.legend(fontsize=SMALL, frameon=False, loc="best")
        lower.set_ylim(bottom=0)
        for plot in (upper, lower):
            plot.tick_params(labelsize=TINY)
            few_ticks(plot.yaxis, 5)
    plots[-1].set_xlabel("time [s]" if sample_rate else "point", fontsize=SMALL)
    if restored.names:
        plots[0].set_title(restored.names[0], fontsize=SMALL, parse_math=False)
    return figure


def about_gap(one: Restored) -> tuple[int, Restored]:
    """The longest stretch of a sound that was not observed and its surroundings, and where they begin.

    All of it if there is no such stretch, or if what is shown has not as many points everywhere.
    """
    length = one.drawn.shape[-1]
    gaps = stretches(one.observed[0].isnan().all(0))
    if not gaps or one.observed.shape[-1] != length or (one.truth is not None and one.truth.shape[-1] != length):
        return 0, one
    (first, last), *_ = gaps
    around = (last - first) // 2
    shown = slice(max(0, first - around), last + around)
    truth = None if one.truth is None else one.truth[..., shown]
    return shown.start, one._replace(observed=one.observed[..., shown], drawn=one.drawn[..., shown], truth=truth)


def _draw(plot: "Axes", values: Tensor, positions: np.ndarray, **style: Any) -> None:
    """A line through values (L,) at evenly spaced positions (P,), L may be another number than P."""
    places, heights = outline(values.float().unsqueeze(0))
    along = centres(len(values), len(positions))[0] + places * centres(len(values), len(positions))[1]
    plot.plot(np.interp(along, np.arange(len(positions)), positions), heights[:, 0], **style)


def centres(count: int, length: int) -> tuple[float, float]:
    """Where on a line of ``length`` points the first of ``count`` equal cells has its centre, and their distance."""
    step = length / count
    return step / 2 - 0.5, step


def _draw_functions(plot: "Axes", one: Restored, channel: int, positions: np.ndarray) -> None:
    drawn = one.drawn[0, :, channel].float()
    rising = torch.quantile(drawn, torch.tensor([0.05, 0.95]), dim=0)
    low, high = (outline(end.unsqueeze(0)) for end in rising)
    if len(drawn) > 1:
        along = np.interp(low[0], np.arange(len(positions)), positions)
        plot.fill_between(along, low[1][:, 0], high[1][:, 0], color=BAND, linewidth=0, label="percentiles 5 to 95")
    for i, completion in enumerate(drawn[:COMPLETIONS]):
        _draw(plot, completion, positions, color=BEHIND, linewidth=0.6, label=None if i else "completions")
    if one.truth is not None:
        _draw(plot, one.truth[0, channel], positions, color=TRUTH, linewidth=1, linestyle="--", label="truth")
    _draw(plot, drawn.mean(0), positions, color=MEAN, linewidth=1.2, label="mean")
    seen = one.observed[0, min(channel, one.observed.shape[1] - 1)].float()
    known = seen.isfinite()
    if 0 < int(known.sum()) <= POINTS:
        first, step = centres(len(seen), len(positions))
        at = np.interp(first + step * known.nonzero().squeeze(1).numpy(), np.arange(len(positions)), positions)
        plot.plot(at, seen[known].numpy(), ".", color=OBSERVED, markersize=5, label="observed")
    elif known.any():
        _draw(plot, seen, positions, color=OBSERVED, linewidth=1, label="observed")
    plot.tick_params(labelsize=TINY)
    few_ticks(plot.xaxis, 6)
    few_ticks(plot.yaxis, 4)


# -- sounds ------------------------------------------------------------------------------------------------------------


def comparison_of_sounds(restored: Restored, sample_rate: int) -> "Figure":
    """Sounds: waves and spectrograms of observation, completions and truth, one input a row."""
    length, completions = restored.drawn.shape[-1], min(SOUND_COMPLETIONS, restored.drawn.shape[1])
    columns = 1 + completions + (restored.truth is not None)
    shown = restored.first(SOUNDS // columns)
    waves, titles = [], []
    for index in range(len(shown.drawn)):
        name = f"{shown.names[index]}: " if shown.names else ""
        # an observation at fewer points is held from one to the next, a mix of fewer channels shown in all
        known = torch.nn.functional.interpolate(shown.observed[index : index + 1].float(), length, mode="nearest-exact")
        waves += [known[0].expand(shown.drawn.shape[2], -1), *shown.drawn[index, :completions]]
        titles += [f"{name}observed", *(f"completion {i + 1}" for i in range(completions))]
        if shown.truth is not None:
            waves.append(shown.truth[index] if shown.truth.shape[-1] == length else
                         torch.nn.functional.interpolate(shown.truth[index : index + 1], length)[0])  # fmt: skip
            titles.append("truth")
    return sounds_figure(Labelled(torch.stack(waves), tuple(titles)), sample_rate, columns=columns)
