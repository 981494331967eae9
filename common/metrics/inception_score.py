"""Inception score: how sure a classifier of ImageNet is of each image, and how varied its answers are."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.metrics.base import Evidence
from common.metrics.compared import Compared
from common.metrics.extraction import Extractor
from common.metrics.features.base import Classifying
from common.metrics.points import ROWS
from common.metrics.real import Real
from common.metrics.stored import PointSet
from common.refusal import Refusal

SPLITS = 10  # parts of the samples over whose scores the mean is taken
SHUFFLE = 2020  # torch-fidelity's seed


class Rows(Protocol):
    """Numbers (N, K) that are had by rows; a tensor is such."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


class Answers:
    """Logits (N, K) of features (N, D), made when they are asked for: for many samples they take more than features.

    Args:
        points: (N, D).
        logits: of features (B, D), (B, K).
    """

    def __init__(self, points: PointSet, logits: Callable[[Tensor], Tensor]) -> None:
        self._points, self._logits = points, logits

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._logits(self._points[rows])


def inception_score(logits: Rows, splits: int = SPLITS) -> float:
    """exp E KL(p(y|x) || p(y)), from 1 to the number of classes (Salimans et al. 2016, section 4), as torch-fidelity.

    Args:
        logits: (N, K).
        splits: parts of the samples, in random order, over whose scores the mean is taken.
    """
    count = len(logits)
    order = torch.from_numpy(np.random.RandomState(SHUFFLE).permutation(count))
    scores = []
    for i in range(splits):
        part = order[i * count // splits : (i + 1) * count // splits]
        sums = [logs.logsumexp(0) for logs in _logs(logits, part)]
        marginal = torch.stack(sums).logsumexp(0) - math.log(len(part))
        own = [(logs.exp() * (logs - marginal)).nan_to_num(0).sum(1) for logs in _logs(logits, part)]
        scores.append(torch.cat(own).mean().exp())
    return float(torch.stack(scores).mean())


def _logs(logits: Rows, rows: Tensor) -> Iterator[Tensor]:
    """Logarithms of probabilities of some rows (M,), some at a time."""
    for some in rows.split(ROWS):
        yield logits[some].double().log_softmax(1)


class InceptionScore(Compared):
    """Inception score of samples, with that of real ones beside it; needs ``--features inception``."""

    names = ("is",)
    least = 2 * SPLITS
    better = 1
    about = "(1 to 1,008; it grows with the number of samples and sees no real data: compare with real ones)"

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        self._logits = self._answers(evidence)
        return super().__call__(evidence)

    def of_class(self, label: int, evidence: Evidence) -> dict[str, float]:
        self._logits = self._answers(evidence)
        return super().of_class(label, evidence)

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        return {"is": inception_score(Answers(drawn, self._logits))}

    def prepare(self, extractor: Extractor) -> None:
        self._classifier(extractor)

    def _answers(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        assert evidence.extractor is not None  # points are asked for, too
        return self._classifier(evidence.extractor).logits

    def _classifier(self, extractor: Extractor) -> Classifying:
        features = extractor.features(self.features)
        if not isinstance(features, Classifying):
            raise Refusal("is needs the answers of a classifier of ImageNet: give --features inception", "metrics")
        return features
