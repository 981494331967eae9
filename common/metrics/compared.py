"""Metrics that compare features of samples with those of real data, each figure with an interval."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from common.metrics.base import Evidence, Metric
from common.metrics.extraction import Extractor
from common.metrics.real import Points, Real
from common.metrics.stored import PointSet, some_points

SUBSETS = 20  # random parts of the samples from which the spread of a figure is told,
LARGEST = 1000  # of at most so many samples: the time does not grow with their number
CERTAIN = 1.96  # standard deviations of a normal law that hold 95 % of it,
REACH = 2.093  # and how many if they are known from 20 parts alone (Student's t with 19 degrees of freedom)
LOW, HIGH, REAL, AT = "_low", "_high", "_real", "_at"
AMONG = "@"  # between the name of a metric and that of the features that it compares
Figures = Mapping[str, float]


def by_lot(points: PointSet, count: int) -> PointSet:
    """So many of the points (N, D), the same ones always, in their order.

    The first ones are no fair choice: folders are sorted by class, and other sets by whoever wrote or spoke.
    """
    rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count].sort().values
    return some_points(points, rows)


def spread_of(figures: Callable[[Tensor], Figures], points: PointSet, subsets: int = SUBSETS) -> dict[str, float]:
    """Standard deviations of figures about samples: those over random parts of m, drawn without replacement.

    That is the delete-d jackknife, scaled to all n by sqrt(m / (n - m)) (Shao, Wu 1989); m is n / 2, where that is 1,
    but no more than 1,000. A bootstrap would count samples twice, which Frechet distances and nearest neighbours take
    for less variety.

    Args:
        figures: figures by name of points (M, D).
        points: (N, D), N at least 4.
        subsets: how many.
    """
    count, size = len(points), min(len(points) // 2, LARGEST)
    generator = torch.Generator().manual_seed(0)
    found = [figures(points[torch.randperm(count, generator=generator)[:size]]) for _ in range(subsets)]
    scale = math.sqrt(size / (count - size))
    return {
        name: scale * float(torch.tensor([one[name] for one in found], dtype=torch.float64).std()) for name in found[0]
    }


class Compared(Metric):
    """Figures of features of samples against those of real data.

    Every figure ``name`` comes with ``name_low`` and ``name_high``, an interval of 95 % for other samples of the same
    model, and with ``name_real``, the same figure of as many real samples that are not among those compared with: what
    a perfect model would get. If there are fewer such real samples than drawn ones, m, then ``name_at`` is the figure
    of m drawn samples, by lot, which may be held against it. A metric that ``judges`` has intervals of these two, too.

    Attributes:
        least: samples from which on it is defined.
        bounds: what a figure cannot pass, by name, nor can its interval; none of a figure that judges.
        about: what it says, and what it cannot see, in a line.
        features: name of the features that it compares; None takes those of ``--features``.
    """

    least = 4
    bounds: Mapping[str, tuple[float, float]] = {}  # read alone
    about = ""
    features: str | None = None

    @property
    def suffix(self) -> str:
        return f"{AMONG}{self.features}" if self.features else ""

    @abstractmethod
    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        """Figures by name.

        Args:
            drawn: (N, D) features of samples.
            real: those of real data.
        """

    def prepare(self, extractor: Extractor) -> None:
        extractor.features(self.features)

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        found = self.of_points(evidence.points(self.features))
        return {name + self.suffix: value for name, value in found.items()}

    def of_class(self, label: int, evidence: Evidence) -> dict[str, float]:
        found = self.of_points(evidence.points_of(label, self.features))
        return {name + self.suffix: value for name, value in found.items()}

    def of_points(self, points: Points) -> dict[str, float]:
        """All figures of features."""
        drawn, real, fresh = points.drawn, points.real, points.fresh
        if len(drawn) < self.least or not real.holds(self.least):
            return dict.fromkeys(self.names, math.nan)
        result = self._with_interval(drawn, real, "")
        count = min(len(drawn), len(fresh))
        if count >= self.least:
            judged = self._with_interval if self.judges else self._plain
            result |= judged(by_lot(fresh, count), real, REAL)
            if count < len(drawn):
                result |= judged(by_lot(drawn, count), real, AT)
        return result

    def _plain(self, drawn: PointSet, real: Real, suffix: str) -> dict[str, float]:
        return {name + suffix: value for name, value in self.figures(drawn, real).items()}

    def _with_interval(self, drawn: PointSet, real: Real, suffix: str) -> dict[str, float]:
        found = self._plain(drawn, real, suffix)
        result = dict(found)
        if len(drawn) >= 2 * self.least:
            for name, deviation in spread_of(lambda some: self._plain(some, real, suffix), drawn).items():
                reach = REACH * deviation
                least, most = self.bounds.get(name.removesuffix(suffix), (-math.inf, math.inf))
                result |= {
                    name + LOW: max(least, found[name] - reach),
                    name + HIGH: min(most, found[name] + reach),
                }
        return result

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        points = evidence.points(self.features)
        count = min(len(points.drawn), len(points.fresh))
        lines = []
        for plain in self.names:
            name, value = plain + self.suffix, figures[plain + self.suffix]
            if not math.isfinite(value):
                lines.append(f"{name:<9} undefined: it needs {self.least} samples, drawn and real")
                continue
            told = f"{name:<9} {value:.4g}{between(figures, plain, self.suffix)}"
            if plain + REAL + self.suffix in figures:
                of_real = figures[plain + REAL + self.suffix]
                told += f"; {count:,} other real samples {of_real:.4g}"
                if plain + AT + self.suffix in figures:
                    told += f", as many drawn ones {figures[plain + AT + self.suffix]:.4g}"
            lines.append(told)
        return [*lines, *([f"          {self.about}"] if self.about else [])]


def is_detail(name: str) -> bool:
    """Whether a figure belongs to another, as one end of its interval does."""
    return name.partition(AMONG)[0].endswith((LOW, HIGH, AT))


def is_of_samples(name: str) -> bool:
    """Whether a figure is one of all samples, and not of real ones or a detail of another."""
    return not is_detail(name) and not name.partition(AMONG)[0].endswith(REAL)


def beside_real(figures: Figures, name: str) -> str:
    """The figure of real samples beside one of drawn ones, in brackets; nothing if there is none.

    Args:
        figures: all figures.
        name: of the one of drawn samples, with that of its features.
    """
    plain, among, features = name.partition(AMONG)
    real = figures.get(plain + REAL + among + features)
    return "" if real is None else f" (real {real:.4g})"


def between(figures: Figures, name: str, suffix: str = "") -> str:
    """The interval of a figure in brackets; nothing if it has none.

    Args:
        figures: all figures.
        name: its name without that of features.
        suffix: the name of features.
    """
    low, high = figures.get(name + LOW + suffix), figures.get(name + HIGH + suffix)
    return "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
