"""Figures with axes: curves, sounds with spectrograms, the loss curve, the loss by noise level."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from common.files import atomic_write
from common.media.layout import LONGEST_ROW, Labelled, columns_of, partners

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MAX_POINTS = 1000  # of a curve; a longer one is drawn by what lies between its extremes
SOUNDS = 20  # of a picture
WINDOW = 0.032  # seconds of sound of which a spectrum is taken
DYNAMIC_RANGE = 70.0  # decibels below the loudest that are still told apart
UNKNOWN = (0.40, 0.45, 0.75)  # what was not observed: a blue that neither grey images nor faces have
SMALL, TINY = 8, 7  # points of letters
ROUND = (1, 2, 2.5, 5, 10)  # steps between labels of an axis, times a power of ten
FEW = 20  # log lines that are marked one by one: a line of one point shows nothing
BEHIND, MOST_BEHIND = "0.65", 30  # the grey of real functions, and how many of them are in a plot
MOST_DRAWN = 8  # drawn functions in a plot: more hide the real ones


def new_figure(**options: Any) -> "Figure":
    """A figure for files only, which needs no screen; matplotlib is imported here, because it takes a while."""
    from matplotlib.figure import Figure

    return Figure(**{"layout": "constrained", **options})


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG, atomically."""
    atomic_write(path, png_of_figure(figure))


def png_of_figure(figure: "Figure") -> bytes:
    """A matplotlib figure as a file of PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # letters that the font lacks, as in Chinese names and emoji, are drawn as boxes
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    return buffer.getvalue()


def few_ticks(axis: "Axis", most: int) -> None:
    """Let an axis have at most so many intervals between its labels; a logarithmic one is labelled in plain numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(most, steps=ROUND))
        return
    low, high = sorted(axis.get_view_interval())
    if high > 5 * low:  # then three of 1, 2, 3, 5, 7, 10, .. lie in between
        subs = (1, 2, 3, 5, 7) if high < 30 * low else (1, 2, 5) if high < 1000 * low else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=most + 2))
    else:
        axis.set_major_locator(MaxNLocator(most, steps=ROUND))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FormatStrFormatter("%g"))


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


def curves_figure(drawn: Labelled, real: Labelled | None = None, columns: int | None = None) -> "Figure":
    """1-D functions on one scale, one line per channel, real ones in grey behind them.

    Functions of one class share a plot, with real ones of that class behind them (the first 20 classes are shown);
    without classes every function has its own. A plot has at most 8 drawn functions and 30 real ones; the picture says
    what is left out.

    Args:
        drawn: functions (N, C, L), at least one.
        real: real ones.
        columns: plots per row; None chooses.
    """
    values, behind = drawn.x.float().cpu(), None if real is None else real.x.float().cpu()
    groups: list[tuple[str, list[int]]] = [("", [i]) for i in range(len(values))]
    if drawn.classes:
        names = list(dict.fromkeys(drawn.classes))[:LONGEST_ROW]
        groups = [(name, [i for i, other in enumerate(drawn.classes) if other == name]) for name in names]
        columns = columns or min(5, len(groups))
    columns = min(columns or columns_of(None, len(groups)), len(groups))
    rows = -(-len(groups) // columns)
    side = 2.4 if drawn.classes else 1.6
    figure = new_figure(figsize=(side * columns + 0.4, 0.75 * side * rows + 0.4))
    plots = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for plot, (name, members) in zip(plots, groups, strict=False):
        if real is not None and behind is not None:
            wanted = [i for i in range(len(behind)) if not (name and real.classes) or real.classes[i] == name]
            for i in wanted[:MOST_BEHIND]:
                plot.plot(*outline(behind[i]), color=BEHIND, linewidth=0.6)
        for i in members[:MOST_DRAWN]:
            plot.set_prop_cycle(None)  # a channel has its colour
            plot.plot(*outline(values[i]), linewidth=0.8)
        plot.set_title(name, fontsize=SMALL, parse_math=False)
        plot.tick_params(labelsize=TINY)
        few_ticks(plot.xaxis, 3)
        few_ticks(plot.yaxis, 4)
    for plot in plots[len(groups) :]:
        plot.axis("off")
    notes = [] if real is None else ["grey: real"]
    if any(len(members) > MOST_DRAWN for _, members in groups):
        notes.append(f"coloured: the first {MOST_DRAWN} drawn of each class")
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=SMALL, color="0.5")
    return figure


def sounds_figure(
    drawn: Labelled, sample_rate: int, real: Labelled | None = None, columns: int | None = None
) -> "Figure":
    """The wave of every sound on its own range, its spectrogram below, those all on the same scale.

    Args:
        drawn: sounds (N, C, L) in [-1, 1]; the first 20 are drawn. The spectrogram is that of the mean of the channels.
        sample_rate: points per second.
        real: real sounds; a row of them stands first, of the classes of the row below.
        columns: sounds per row; None lets the classes decide.
    """
    waves, names = drawn.x[:SOUNDS].float().cpu(), drawn.classes[:SOUNDS] if drawn.classes else None
    columns = min(columns or columns_of(names, len(waves)), len(waves))
    cells: list[tuple[str, Tensor] | None] = []
    if real is not None:
        for i in partners(real, names, columns):
            cells.append(None if i is None else (_title(real.classes, i, " (real)"), real.x[i].float().cpu()))
    cells += [(_title(names, i), wave) for i, wave in enumerate(waves)]
    cells += [None] * (-len(cells) % columns)
    shown = [i for i, cell in enumerate(cells) if cell is not None]
    levels, top = spectrograms(torch.stack([cells[i][1].mean(0) for i in shown]), sample_rate)  # type: ignore[index]
    rows, seconds = len(cells) // columns, waves.shape[-1] / sample_rate
    figure = new_figure(figsize=(1.2 + 2.1 * columns, 0.4 + 2.5 * rows))
    plots = figure.subplots(2 * rows, columns, sharex=True, squeeze=False, height_ratios=[1, 2] * rows)
    for plot in plots.ravel():
        plot.tick_params(labelsize=TINY)
        plot.set_axis_off()
    for i, level in zip(shown, levels, strict=True):
        name, wave = cells[i]  # type: ignore[misc]
        row, column = divmod(i, columns)
        upper, lower = plots[2 * row, column], plots[2 * row + 1, column]
        _draw_wave(upper, wave, sample_rate)
        upper.set_title(name, fontsize=SMALL, parse_math=False)
        lower.imshow(
            level.numpy(),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, seconds, 0, sample_rate / 2),
            vmin=top - DYNAMIC_RANGE,
            vmax=top,
            cmap="magma",
        )
        lower.set_axis_on()
        lower.tick_params(labelleft=column == 0)
        few_ticks(lower.xaxis, 3)
        few_ticks(lower.yaxis, 4)
        if i + columns >= len(cells) or cells[i + columns] is None:
            lower.set_xlabel("time [s]", fontsize=TINY)
            lower.tick_params(labelbottom=True)
        if column == 0:
            upper.set_ylabel("value", fontsize=TINY)
            lower.set_ylabel("frequency [Hz]", fontsize=TINY)
    first = plots[2 * (shown[0] // columns) + 1, shown[0] % columns].images[0]  # all have the same scale
    bar = figure.colorbar(first, ax=plots, fraction=0.02, pad=0.01)
    bar.set_label("level [dB]", fontsize=TINY)
    bar.ax.tick_params(labelsize=TINY)
    return figure


def _title(classes: Sequence[str] | None, index: int, more: str = "") -> str:
    return ((classes[index] if classes else "") + more).strip()


def _draw_wave(plot: "Axes", wave: Tensor, sample_rate: int) -> None:
    """A wave (C, L) between its own extremes, which are the labels of its axis."""
    positions, values = outline(wave)
    low, high = (float(extreme) for extreme in wave.nan_to_num().aminmax())
    plot.set_axis_on()
    for start, end in stretches(wave.isnan().all(0)):  # unknown
        plot.axvspan(start / sample_rate, end / sample_rate, color=UNKNOWN, alpha=0.4, linewidth=0)
    plot.plot(positions / sample_rate, values, linewidth=0.5)
    plot.set(xlim=(0, wave.shape[-1] / sample_rate))
    if low < high:
        plot.set(ylim=(low, high))
        plot.set_yticks([low, high], [f"{low:.2g}", f"{high:.2g}"])


def stretches(marked: Tensor) -> list[tuple[int, int]]:
    """Where the longest stretches of a mask (L,) begin and end, at most 20."""
    edges = torch.nn.functional.pad(marked.int(), (1, 1)).diff().nonzero().flatten().reshape(-1, 2)
    longest = (edges[:, 1] - edges[:, 0]).argsort(descending=True, stable=True)[:FEW]
    return [(int(start), int(end)) for start, end in edges[longest].tolist()]


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


def loss_figure(
    rows: list[dict[str, float]],
    by_level: list[tuple[float, float]],
    averaged: bool = False,
    judged: str | None = None,
) -> "Figure":
    """Training and validation loss against the step, and the recent loss against the noise level.

    Args:
        rows: log lines with ``step`` and any of ``train/loss``, ``val/loss``.
        by_level: (log sigma, mean loss) pairs.
        averaged: whether validation is that of an average of the weights, which the legend then says.
        judged: name of a figure about samples, which gets a panel of its own; None if there is none.
    """
    panels = 2 if judged is None else 3
    figure = new_figure(figsize=(5.5 * panels, 4))
    curve, levels, *more = figure.subplots(1, panels)
    whose = (" (weights)", " (average of the weights)") if averaged else ("", "")
    for name, label, marked in (
        ("train/loss", f"training{whose[0]}", FEW),
        ("val/loss", f"validation{whose[1]}", math.inf),
    ):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            steps, values = torch.tensor(points, dtype=torch.float64).unbind(1)
            style = "o-" if len(points) <= marked else "-"
            curve.plot(steps.tolist(), values.tolist(), style, label=label, linewidth=1, markersize=3)
    curve.set(xlabel="optimiser step", ylabel="loss", yscale="log", title="loss")
    if curve.get_legend_handles_labels()[0]:
        curve.legend()
    if by_level:
        level, value = zip(*by_level, strict=True)
        levels.plot([x / math.log(10) for x in level], value, "o-", markersize=3)
    levels.set(xlabel="log10 of the noise level sigma", ylabel="recent training loss", title="loss by noise level")
    for plot in more:
        points = [(row["step"], row[judged]) for row in rows if judged in row]
        plot.plot(*zip(*points, strict=True), "o-", linewidth=1, markersize=3)
        plot.set(xlabel="optimiser step", ylabel=judged, title="samples")
    for plot in (curve, levels, *more):
        few_ticks(plot.xaxis, 6)
        few_ticks(plot.yaxis, 8)
    for plot in (curve, *more):
        plot.xaxis.set_major_formatter("{x:,.0f}")
    return figure
