"""Metrics that compare features of samples with those of real data, each figure with an interval."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from common.metrics.base import Evidence, Metric
from common.metrics.real import Real

HALVES = 20  # random halves of the samples from which the spread of a figure is told
CERTAIN = 1.96  # standard deviations of a normal law that hold 95 % of it
LOW, HIGH, REAL = "_low", "_high", "_real"
Figures = Mapping[str, float]


def spread_of(figures: Callable[[Tensor], Figures], points: Tensor, halves: int = HALVES) -> dict[str, float]:
    """Standard deviations of figures about samples: those over random halves, without replacement.

    That is the delete-d jackknife with d = n / 2, whose factor (n - d) / d is 1 (Shao, Wu 1989). A bootstrap would
    count samples twice, which Frechet distances and nearest neighbours take for less variety.

    Args:
        figures: figures by name of points (M, D).
        points: (N, D), N at least 4.
        halves: how many.
    """
    generator = torch.Generator().manual_seed(0)
    found = [
        figures(points[torch.randperm(len(points), generator=generator)[: len(points) // 2]]) for _ in range(halves)
    ]
    return {name: float(torch.tensor([one[name] for one in found], dtype=torch.float64).std()) for name in found[0]}


class Compared(Metric):
    """Figures of features of samples against those of real data.

    Every figure ``name`` comes with ``name_low`` and ``name_high``, an interval of 95 % for other samples of the same
    model, and with ``name_real``, the same figure of as many held-out samples.

    Attributes:
        names: names of its figures.
        least: samples from which on it is defined.
        better: 1 if more is better, -1 if less is; 0 if neither.
        about: what it says, and what it cannot see, in a line.
    """

    names: tuple[str, ...]
    least = 4
    better = 0
    about = ""

    @abstractmethod
    def figures(self, drawn: Tensor, real: Real) -> dict[str, float]:
        """Figures by name.

        Args:
            drawn: (N, D) features of samples.
            real: those of real data.
        """

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        drawn, real, held_out = evidence.drawn_points, evidence.real, evidence.held_out_points
        if min(len(drawn), len(real.points)) < self.least:
            return dict.fromkeys(self.names, math.nan)
        found = self.figures(drawn, real)
        result = dict(found)
        if len(drawn) >= 2 * self.least:
            for name, deviation in spread_of(lambda some: self.figures(some, real), drawn).items():
                reach = CERTAIN * deviation
                result |= {name + LOW: found[name] - reach, name + HIGH: found[name] + reach}
        if len(held_out) >= self.least:
            of_real = self.figures(held_out[: len(drawn)], real)
            result |= {name + REAL: value for name, value in of_real.items()}
        return result

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        lines = []
        for name, value in figures.items():
            if name.endswith((LOW, HIGH, REAL)):
                continue
            if not math.isfinite(value):
                lines.append(f"{name:<9} undefined: it needs {self.least} samples")
                continue
            between = f" ({figures[name + LOW]:.4g} to {figures[name + HIGH]:.4g})" if name + LOW in figures else ""
            real = f"; of held-out real samples {figures[name + REAL]:.4g}" if name + REAL in figures else ""
            lines.append(f"{name:<9} {value:.4g}{between}{real}")
        return [*lines, *([f"          {self.about}"] if self.about else [])]
