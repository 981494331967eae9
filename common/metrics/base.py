"""A metric, and what it is given."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.data.source import DataSet, Split
from common.data.spec import DataSpec
from common.metrics.drawn import Drawn, labels_over, read_over
from common.metrics.extraction import Extractor
from common.metrics.features import Features
from common.metrics.points import Moments
from common.metrics.real import OfMoments, Points, Real
from common.metrics.stored import PointSet, some_points
from common.refusal import Refusal

TRAIN_LIMIT, HELD_OUT_LIMIT = 60_000, 2_000  # real samples read for comparison,
NUMBERS_LIMIT = 2**29  # and numbers in those of the training part (2 GiB)
REFERENCE = 5_000  # real samples whose features are compared with


class Labelled(NamedTuple):
    """Samples with labels.

    Attributes:
        x: (N, C, *S) float32 on the network's scale [-1, 1].
        labels: (N,) int64, zeros if the data has no labels.
    """

    x: Tensor
    labels: Tensor


class Parts(NamedTuple):
    """Parts of the real data, by their attributes of a data set: those that are compared with, and the others."""

    compared: tuple[str, ...]
    others: tuple[str, ...]


PARTS = {
    "train": Parts(("train",), ("held_out",)),
    "held_out": Parts(("held_out",), ("train",)),
    "all": Parts(("train", "held_out"), ()),
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """Generated samples and the real data they are compared with, which is read when a metric first asks for it.

    Attributes:
        drawn: the samples.
        data: the data set that the run has learned from.
        extractor: gives the features that metrics compare; None if no such metric is asked for.
        reference: real samples whose features are compared with, at most, evenly spaced over their part; None for all.
        part: which part of the real data features are compared with, a name in :data:`PARTS`.
        beside: folder of the samples, where their features are kept; None if they are not one's own.
        statistics: moments of features that are compared with in place of the real data's.
        is_passing: whether the samples are looked at once, so that their features are not kept.
        known: what was read and computed of the real data; evidence of other samples may share it.
    """

    drawn: Drawn
    data: DataSet
    extractor: Extractor | None = None
    reference: int | None = REFERENCE
    part: str = "train"
    beside: Path | None = None
    statistics: Moments | None = None
    is_passing: bool = False
    known: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.drawn.shape != self.spec.shape:
            raise Refusal(
                f"leads to samples of shape {self.spec.shape}, but those in {self.drawn.name} are {self.drawn.shape}; "
                "point it at the data that the run has learned from",
                "data_dir",
            )

    @property
    def spec(self) -> DataSpec:
        """What a sample is."""
        return self.data.spec

    @property
    def samples(self) -> Tensor:
        """All samples (N, C, *S) in memory, float32 on the network's scale [-1, 1]; ``drawn.chunks()`` reads some at a
        time."""
        return self.drawn.all

    @property
    def labels(self) -> Tensor | None:
        """Classes (N,) int64 that were asked for; None if the samples were drawn without."""
        return self.drawn.labels

    @property
    def train(self) -> Labelled:
        """Real samples to learn from, evenly spaced over the set, at most 60,000 and 2 GiB."""
        found: Labelled = self._once("train", lambda: self._read(self.data.train, TRAIN_LIMIT))
        return found

    @property
    def held_out(self) -> Labelled:
        """Real samples that no model has learned from, evenly spaced over the part, at most 2,000."""
        found: Labelled = self._once("held out", lambda: self._read(self.data.held_out, HELD_OUT_LIMIT))
        return found

    @property
    def features(self) -> dict[str, Features]:
        """The features that were compared so far, by the name that they were asked by."""
        return {} if self.extractor is None else self.extractor.used

    @property
    def compared(self) -> list[Split]:
        """The real data whose features are compared with."""
        return [getattr(self.data, name) for name in PARTS[self.part].compared]

    @property
    def count(self) -> int:
        """How many real samples features are compared with."""
        there = sum(len(part.labels) for part in self.compared)
        return there if self.reference is None else min(self.reference, there)

    @property
    def others(self) -> list[Split]:
        """The real data that is not."""
        return [getattr(self.data, name) for name in PARTS[self.part].others]

    @property
    def most_others(self) -> int:
        """How many other real samples there are features of, at most: as many as drawn ones."""
        return len(self.drawn) if self.reference is None else min(len(self.drawn), self.reference)

    def points(self, name: str | None = None) -> Points:
        """Features of the samples and of real ones, computed when they are first asked for.

        Args:
            name: of the features; None takes those of ``--features``.
        """
        if self.extractor is None:
            raise ValueError("no features were chosen")
        if name not in self._points:
            drawn = self.extractor.points(
                name,
                self.drawn.chunks,
                len(self.drawn),
                "features of samples",
                folder=self.beside,
                keep=not self.is_passing,
            )
            if self.statistics is not None:
                if len(self.statistics.mean) != drawn.shape[1]:
                    kind = self.extractor.features(name).name
                    raise Refusal(
                        f"holds moments of {len(self.statistics.mean)} numbers, but {kind} gives {drawn.shape[1]}; "
                        "name the features that it was made with by --features",
                        "reference",
                    )
                self._points[name] = Points(drawn, OfMoments(self.statistics), torch.empty(0, drawn.shape[1]))
            else:
                self._points[name] = Points(drawn, self.real(name), self._fresh(name))
        return self._points[name]

    def share(self, *, real_alone: bool = False) -> None:
        """Compute this process's share of all features that cost something, for the first one, which makes figures.

        Args:
            real_alone: those of the real data alone.
        """
        for name in [asked for asked, features in self.features.items() if features.costs]:
            (self.real if real_alone else self.points)(name)

    def points_of(self, label: int, name: str | None = None) -> Points:
        """:meth:`points` of one class alone; of samples with labels.

        Args:
            label: number of the class.
            name: of the features; None takes those of ``--features``.
        """
        assert self.labels is not None  # whoever asks has looked
        points = self.points(name)

        def own(some: PointSet, labels: Tensor) -> PointSet:
            return some_points(some, (labels == label).nonzero().flatten())

        drawn = own(points.drawn, self.labels)
        if self.statistics is not None:
            return Points(drawn, points.real, points.fresh)
        real = own(points.real.points, labels_over(self.compared, self.reference))
        return Points(drawn, Real(real), own(points.fresh, labels_over(self.others, self.most_others)))

    def real(self, name: str | None = None) -> Real:
        """Features of the real samples that are compared with.

        Args:
            name: of the features; None takes those of ``--features``.
        """
        found: Real = self._once(
            ("real", name, self.part, self.reference),
            lambda: Real(self._features(name, self.compared, self.reference, "features of real samples")),
        )
        return found

    def _fresh(self, name: str | None) -> PointSet:
        found: PointSet = self._once(
            ("others", name, self.part, self.most_others),
            lambda: self._features(name, self.others, self.most_others, "features of other real samples"),
        )
        return found

    def _once(self, what: Hashable, make: Callable[[], Any]) -> Any:
        if what not in self.known:
            self.known[what] = make()
        return self.known[what]

    @cached_property
    def _points(self) -> dict[str | None, Points]:
        return {}

    def _features(self, name: str | None, parts: list[Split], limit: int | None, title: str) -> PointSet:
        assert self.extractor is not None  # looked at before
        count = len(labels_over(parts, limit))
        return self.extractor.points(name, lambda: read_over(parts, self.spec, limit), count, title)

    def _read(self, part: Split, limit: int) -> Labelled:
        x, labels = part.read(min(limit, max(1, NUMBERS_LIMIT // math.prod(self.spec.shape))))
        return Labelled(self.spec.to_network(x), labels)


class Metric(ABC):
    """One or several figures about samples: one file, one class, one line in ``METRICS``.

    Arguments of the constructor are flags of evaluate.py, with the texts under ``Args:`` as their help.

    Attributes:
        names: names of its main figures.
        better: 1 if more is better, -1 if less is; 0 if neither.
        judges: whether a verdict may rest on the first of them: it is nearly without bias, and has an interval.
    """

    names: tuple[str, ...] = ()
    better: int = 0
    judges: bool = False

    @property
    def suffix(self) -> str:
        """What its figures are told by from the same ones of other features."""
        return ""

    def prepare(self, extractor: Extractor) -> None:  # noqa: B027 - most metrics have nothing to prepare
        """Make sure of the features that it compares, before samples are drawn for it; nothing unless it has some.

        Args:
            extractor: has them.

        Raises:
            Refusal: if they cannot be had, or are none that it can use.
        """

    def of_class(self, label: int, evidence: Evidence) -> dict[str, float]:
        """The figures of one class alone, after those of all samples were computed; none unless it has such.

        Args:
            label: number of the class.
            evidence: the samples, which have labels, and the real data.
        """
        return {}

    @abstractmethod
    def __call__(self, evidence: Evidence) -> dict[str, float]:
        """Figures by name; none if the metric does not apply to such samples, NaN for one that is undefined.

        Args:
            evidence: the samples and the real data.
        """

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        """What is printed.

        Args:
            figures: what the metric gave; if there are none, the lines say why.
            evidence: what the metric was given.
        """
        if not figures:
            return [f"{type(self).__name__.lower()} does not apply to these samples"]
        return [
            f"{name:<9} {format(value, '.4g') if math.isfinite(value) else 'undefined'}"
            for name, value in figures.items()
        ]
