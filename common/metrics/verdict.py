"""Better, worse or undecided: what the interval of a figure says of two sets of samples."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from statistics import NormalDist
from typing import NamedTuple

from common.metrics.base import Metric
from common.metrics.compared import AT, HIGH, LOW, REAL

FALSE = 0.05  # share of cases in which chance may be taken for a difference


class Outcome(Enum):
    """What a metric says of samples against as many other real samples, from the worst on, in words."""

    WORSE = "worse than real samples"
    CLOSER = "closer to the real samples than others are (copies?)"
    UNDECIDED = "undecided"
    UNKNOWN = "unknown, for want of samples, drawn or real,"


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


def differ(one: Figure, other: Figure, among: int = 1) -> bool:
    """Whether two independent figures differ by more than chance would make them in 95 of 100 cases.

    Args:
        one: a figure.
        other: another one.
        among: of so many pairs together: none of them differs by more in 95 of 100 cases (Bonferroni).
    """
    wider = NormalDist().inv_cdf(1 - FALSE / 2 / among) / NormalDist().inv_cdf(1 - FALSE / 2)
    return apart(one, other) > wider


def apart(one: Figure, other: Figure) -> float:
    """By how many times half of the interval of their difference two independent figures differ."""
    difference, reach = abs(one.value - other.value), math.hypot(one.reach, other.reach)
    if not reach:
        return math.inf if difference else 0.0
    return difference / reach


def verdict(figures: Mapping[str, float], metrics: Sequence[Metric]) -> str:
    """Whether samples are worse than real ones, by every metric that judges, in a line; empty without any.

    They are, if one says so: each sees faults that others do not.

    Args:
        figures: what all metrics gave.
        metrics: the metrics.
    """
    judges = [metric for metric in metrics if metric.judges]
    told: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for judge in judges:
        outcome, pair = against_real(figures, judge)
        told[outcome].append(f"{judge.names[0]}{judge.suffix}{pair}")
    words = [f"{outcome.value} by {', '.join(names)}" for outcome, names in told.items() if names]
    return "; ".join(words)


def against_real(figures: Mapping[str, float], judge: Metric) -> tuple[Outcome, str]:
    """What one metric says of samples against as many real ones, and both figures in brackets.

    Args:
        figures: what all metrics gave.
        judge: the metric.
    """
    name, suffix = judge.names[0], judge.suffix
    real = figure_in(figures, name + REAL, suffix)
    drawn = figure_in(figures, name + AT, suffix) or figure_in(figures, name, suffix)
    if drawn is None or real is None:
        return Outcome.UNKNOWN, ""
    pair = f" ({drawn.value:.3g}, real {real.value:.3g})"
    if not differ(drawn, real):
        return Outcome.UNDECIDED, pair
    return (Outcome.CLOSER if (drawn.value > real.value) == (judge.better > 0) else Outcome.WORSE), pair
