"""Better, worse or undecided: what the interval of a figure says of two sets of samples."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.metrics.base import Metric
from common.metrics.compared import AT, HIGH, LOW, REAL, Compared


class Figure(NamedTuple):
    """A figure with its interval of 95 %."""

    value: float
    low: float
    high: float

    @property
    def reach(self) -> float:
        """Half of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def figure_in(figures: Mapping[str, object], name: str, suffix: str = "") -> Figure | None:
    """A figure with its interval; None if it or its interval is not there.

    Args:
        figures: all figures by name.
        name: its name without that of features.
        suffix: that of the features.
    """
    found = [figures.get(name + part + suffix) for part in ("", LOW, HIGH)]
    numbers = [float(one) for one in found if isinstance(one, int | float) and math.isfinite(one)]
    return Figure(*numbers) if len(numbers) == 3 else None


def differ(one: Figure, other: Figure) -> bool:
    """Whether two independent figures differ by more than chance would make them in 95 of 100 cases."""
    return abs(one.value - other.value) > math.hypot(one.reach, other.reach)


def verdict(figures: Mapping[str, float], metrics: Sequence[Metric]) -> str:
    """Whether samples are worse than real ones, by the first metric that judges, in a line; empty without any.

    Args:
        figures: what all metrics gave.
        metrics: the metrics.
    """
    judge = next((metric for metric in metrics if isinstance(metric, Compared) and metric.judges), None)
    if judge is None:
        return ""
    name, suffix = judge.names[0], judge.suffix
    drawn, real = figure_in(figures, name + AT, suffix), figure_in(figures, name + REAL, suffix)
    drawn = drawn or figure_in(figures, name, suffix)
    if name + REAL + suffix not in figures:
        return f"none by {name}{suffix}: no real samples are left that the drawn ones could be held against"
    if drawn is None or real is None:
        return f"undecided by {name}{suffix}: too few samples, drawn or held out, for an interval"
    if not differ(drawn, real):
        return f"undecided by {name}{suffix}: {drawn}, of as many other real samples {real}"
    is_better = (drawn.value > real.value) == (judge.better > 0)
    how = "closer to the real samples than others are: look for copies" if is_better else "worse than real samples"
    return f"{how}, by {name}{suffix}: {drawn}, of as many other real samples {real}"
