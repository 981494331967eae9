"""Inception score: how sure a classifier of ImageNet is of each image, and how varied its answers are."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common.metrics.base import Evidence
from common.metrics.compared import Compared
from common.metrics.extraction import Extractor
from common.metrics.features.base import Classifying
from common.metrics.real import Real
from common.refusal import Refusal

SPLITS = 10  # parts of the samples over whose scores the mean is taken
SHUFFLE = 2020  # torch-fidelity's seed


def inception_score(logits: Tensor, splits: int = SPLITS) -> float:
    """exp E KL(p(y|x) || p(y)), from 1 to the number of classes (Salimans et al. 2016, section 4), as torch-fidelity.

    Args:
        logits: (N, K).
        splits: parts of the samples, in random order, over whose scores the mean is taken.
    """
    count = len(logits)
    order = np.random.RandomState(SHUFFLE).permutation(count)
    logs = logits[torch.from_numpy(order)].double().log_softmax(1)
    scores = []
    for i in range(splits):
        part = logs[i * count // splits : (i + 1) * count // splits]
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).nan_to_num(0).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


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

    def figures(self, drawn: Tensor, real: Real) -> dict[str, float]:
        return {"is": inception_score(self._logits(drawn))}

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
