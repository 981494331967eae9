"""A metric, and what it is given."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.data.source import DataSet, Split
from common.data.spec import DataSpec
from common.metrics.features.base import Features
from common.metrics.real import Real
from common.refusal import Refusal

TRAIN_LIMIT, HELD_OUT_LIMIT = 60_000, 2_000  # real samples read for comparison,
NUMBERS_LIMIT = 2**29  # and numbers in those of the training part (2 GiB)
REFERENCE = 10_000  # real samples whose features are compared with
AT_ONCE = 256  # samples whose features are computed together


class Labelled(NamedTuple):
    """Samples with labels.

    Attributes:
        x: (N, C, *S) float32 on the network's scale [-1, 1].
        labels: (N,) int64, zeros if the data has no labels.
    """

    x: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """Generated samples and the real data they are compared with, which is read when a metric first asks for it.

    Attributes:
        samples: (N, C, *S) float32 on the network's scale [-1, 1].
        labels: (N,) int64, the classes that were asked for; None if the samples were drawn without.
        data: the data set that the run has learned from.
        folder: where the samples lie.
        not_finite: number of samples that are left out, because they hold NaN or infinite values.
        features: what metrics of features compare; None if no such metric is asked for.
        reference: real samples whose features are compared with, at most, evenly spaced over the training part.
    """

    samples: Tensor
    labels: Tensor | None
    data: DataSet
    folder: Path
    not_finite: int = 0
    features: Features | None = None
    reference: int = REFERENCE

    def __post_init__(self) -> None:
        found, expected = tuple(self.samples.shape[1:]), self.spec.shape
        if found != expected:
            raise Refusal(
                f"leads to samples of shape {expected}, but those in {self.folder} are {found}; point it at the data "
                "that the run has learned from",
                "data_dir",
            )
        if not len(self.samples):
            raise Refusal(f"{self.folder}: no sample there is finite, so there is nothing to compare; draw others")

    @classmethod
    def of(
        cls,
        arrays: np.ndarray,
        labels: np.ndarray | None,
        data: DataSet,
        folder: Path,
        features: Features | None = None,
    ) -> "Evidence":
        """Samples as they lie on disk, without those that hold NaN or infinite values.

        Args:
            arrays: (N, *S, C) in the units of the data.
            labels: (N,) integers, or None.
            data: the data set that the run has learned from.
            folder: where the samples lie.
            features: what metrics of features compare.

        Raises:
            Refusal: if the samples are of another shape than the data, or none is finite.
        """
        samples = data.spec.to_network(torch.from_numpy(arrays).movedim(-1, 1))
        finite = samples.flatten(1).isfinite().all(1)
        kept = None if labels is None else torch.from_numpy(labels)[finite]
        return cls(samples[finite], kept, data, folder, not_finite=int((~finite).sum()), features=features)

    @property
    def spec(self) -> DataSpec:
        """What a sample is."""
        return self.data.spec

    @cached_property
    def train(self) -> Labelled:
        """Real samples to learn from, evenly spaced over the set, at most 60,000 and 2 GiB."""
        return self._read(self.data.train, min(TRAIN_LIMIT, max(1, NUMBERS_LIMIT // self.samples[0].numel())))

    @cached_property
    def held_out(self) -> Labelled:
        """Real samples that no model has learned from, evenly spaced over the part, at most 2,000."""
        return self._read(self.data.held_out, HELD_OUT_LIMIT)

    @cached_property
    def drawn_points(self) -> Tensor:
        """Features (N, D) of the samples."""
        return self._points(self.samples, "features of samples")

    @cached_property
    def real(self) -> Real:
        """Features of samples to learn from."""
        return Real(self._points(self._read(self.data.train, self.reference).x, "features of real samples"))

    @cached_property
    def held_out_points(self) -> Tensor:
        """Features (M, D) of held-out samples."""
        return self._points(self.held_out.x, "features of held-out samples")

    def _points(self, samples: Tensor, title: str) -> Tensor:
        if self.features is None:
            raise ValueError("no features were chosen")
        parts = tqdm(samples.split(AT_ONCE), desc=title, unit="block", leave=False, disable=None)
        return torch.cat([self.features(some) for some in parts])

    def _read(self, part: Split, limit: int) -> Labelled:
        x, labels = part.read(limit)
        return Labelled(self.spec.to_network(x), labels)


class Metric(ABC):
    """One or several figures about samples: one file, one class, one line in ``METRICS``.

    Arguments of the constructor are flags of evaluate.py, with the texts under ``Args:`` as their help.
    """

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
