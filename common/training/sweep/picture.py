"""The picture of a sweep: a figure over the values of a flag, or two flags as a map."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.media.figures import SMALL, TINY, few_ticks, new_figure
from common.training.sweep.flags import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = "seed"  # whose values are repetitions: points of one line, drawn through their mean
MAP_FROM = 4  # values of each of two flags from which on a map reads better than lines
WIDE = 20.0  # largest over smallest value, both positive, from which on an axis is logarithmic
MOST_IN_LEGEND = 20
LONG = 8  # letters of a label
Points = Mapping[tuple[str, ...], float]


def numbers_of(axis: Axis) -> list[float] | None:
    """Values of a flag as numbers; None if one is none."""
    try:
        found = [float(value) for value in axis.values]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


def sweep_figure(axes: Sequence[Axis], points: Points, metric: str, better: int) -> "Figure":
    """A figure of the members over the flag with most values, one line for each combination of the others.

    Two flags of numbers or words with at least four values each are drawn as a map. Values of ``seed`` are repetitions
    of one another: dots, the line goes through their mean, and a map shows that.

    Args:
        axes: the swept flags.
        points: the figure of each member that has one, by its values in the order of ``axes``.
        metric: its name.
        better: 1 if more is better, -1 if less is, 0 if neither; what is best gets a ring.
    """
    kept = [i for i, axis in enumerate(axes) if axis.flag != SEED or len(axes) == 1]
    groups: dict[tuple[str, ...], list[float]] = {}
    for values, found in points.items():
        groups.setdefault(tuple(values[i] for i in kept), []).append(found)
    own = [axes[i] for i in kept]
    if len(own) == 2 and min(len(axis.values) for axis in own) >= MAP_FROM:
        figure = new_figure(figsize=(1.6 + 0.7 * len(own[1].values), 1.4 + 0.5 * len(own[0].values)))
        draw_map(figure, own, groups, metric, better)
    else:
        figure = new_figure(figsize=(6.5, 4.2))
        draw_lines(figure.subplots(), own, groups, metric, better)
    return figure


def slant(labels: Sequence[str]) -> int:
    """Degrees by which labels below an axis are turned, so that long ones do not run into each other."""
    return 20 if max(map(len, labels)) > LONG else 0


def best_group(groups: Mapping[tuple[str, ...], Sequence[float]], better: int) -> tuple[str, ...] | None:
    """The values whose mean is best; None if there is no better and worse, or nothing to choose from."""
    means = {values: float(np.mean(found)) for values, found in groups.items() if np.isfinite(found).all()}
    return max(means, key=lambda values: better * means[values]) if better and len(means) > 1 else None


def draw_lines(
    plot: "Axes", axes: Sequence[Axis], groups: Mapping[tuple[str, ...], Sequence[float]], metric: str, better: int
) -> None:
    """Lines over the flag with most values, of numbers before words."""
    along = max(range(len(axes)), key=lambda i: (numbers_of(axes[i]) is not None, len(axes[i].values)))
    axis, numbers = axes[along], numbers_of(axes[along])
    places = dict(zip(axis.values, numbers or map(float, range(len(axis.values))), strict=True))
    lines: dict[tuple[str, ...], list[tuple[float, Sequence[float]]]] = {}
    for values, found in groups.items():
        others = values[:along] + values[along + 1 :]
        lines.setdefault(others, []).append((places[values[along]], found))
    names = [other.flag for i, other in enumerate(axes) if i != along]
    style = "o:" if numbers is None else "o-"  # words have no order, so nothing lies between two of them
    for others, line in lines.items():
        line.sort(key=lambda point: point[0])
        label = ", ".join(f"{name} {value}" for name, value in zip(names, others, strict=True))
        (drawn,) = plot.plot(
            [x for x, _ in line], [float(np.mean(y)) for _, y in line], style, label=label, markersize=4
        )
        for x, y in line:
            if len(y) > 1:
                plot.plot([x] * len(y), list(y), ".", color=drawn.get_color(), markersize=4, alpha=0.5)
    if best := best_group(groups, better):
        plot.plot(places[best[along]], float(np.mean(groups[best])), "o", color="0.2", markersize=12, fillstyle="none")
    plot.set(xlabel=axis.flag, ylabel=metric)
    if numbers is None:
        plot.set_xticks(list(places.values()), list(places), rotation=slant(axis.values))
    elif min(numbers) > 0 and max(numbers) >= WIDE * min(numbers):
        plot.set_xscale("log")
    elif len(numbers) <= 8:
        plot.set_xticks(numbers, axis.values)
    drawn_values = [value for found in groups.values() for value in found if math.isfinite(value)]
    if drawn_values and min(drawn_values) > 0 and max(drawn_values) >= WIDE * min(drawn_values):
        plot.set_yscale("log")
    few_ticks(plot.yaxis, 7)
    plot.grid(alpha=0.25)
    if names and len(lines) <= MOST_IN_LEGEND:
        plot.legend(fontsize=SMALL)


def draw_map(
    figure: "Figure", axes: Sequence[Axis], groups: Mapping[tuple[str, ...], Sequence[float]], metric: str, better: int
) -> None:
    """A map of two flags, the figure written into every field."""
    rows, columns = axes
    plot = figure.subplots()
    field = np.full((len(rows.values), len(columns.values)), np.nan)
    for (row, column), found in groups.items():
        field[rows.values.index(row), columns.values.index(column)] = np.mean(found)
    shown = plot.imshow(field, aspect="auto", cmap="viridis_r" if better < 0 else "viridis")
    figure.colorbar(shown, label=metric)
    plot.set_xticks(range(len(columns.values)), columns.values, rotation=slant(columns.values))
    plot.set_yticks(range(len(rows.values)), rows.values)
    plot.set(xlabel=columns.flag, ylabel=rows.flag)
    for (i, j), value in np.ndenumerate(field):
        if math.isfinite(value):
            red, green, blue, _ = shown.to_rgba(value)
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            plot.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=TINY, color="w" if dark else "k")
    if best := best_group(groups, better):
        at = rows.values.index(best[0]), columns.values.index(best[1])
        plot.plot(at[1], at[0], "s", color="r", markersize=26, fillstyle="none")
