"""Classifier two-sample test: how well generated samples can be told from real ones."""

import math

import torch
from torch import Tensor

from common.metrics.compared import CERTAIN, HIGH, LOW, REAL
from common.metrics.of_values import OfValues, Trial
from common.metrics.values import description

LEVELS = 255  # of images: what is between two of them is not seen on a screen
TREES, LEAVES, LEAST = 60, 8, 10  # trees, leaves of each, and samples in each


class TwoSample(OfValues):
    """Share of samples that a classifier puts on the right side, generated or real (Lopez-Paz, Oquab 2017).

    Gradient boosted trees on :func:`common.metrics.values.description`. Those that were fitted on one half of the
    samples judge the other. Errors of one half are independent; of the other they may be the same, so the interval is
    the binomial one of half of the samples. Images are rounded to 256 levels before.
    """

    names = ("c2st",)
    judges = True
    about = ("(0.5: cannot be told from real samples, nor can copies; 1: always, though perhaps by a small fault)",)

    def compared(self, trial: Trial) -> dict[str, float]:
        count = len(trial.drawn)
        drawn, fresh, real = (
            description(rounded(some) if trial.levels else some)
            for some in (trial.drawn, trial.fresh, trial.real[:count])
        )
        result = {}
        for rows, name in ((drawn, "c2st"), (fresh, "c2st" + REAL)):
            result[name] = told_apart(rows, real)
            result[name + LOW], result[name + HIGH] = wilson(result[name], count)
        return result


def rounded(images: Tensor) -> Tensor:
    """Images on the scale [-1, 1] with 256 levels."""
    return ((images.clamp(-1, 1) + 1) / 2 * LEVELS).round() / LEVELS * 2 - 1


def told_apart(points: Tensor, others: Tensor) -> float:
    """Share in [0, 1] of two sets that a classifier puts into the right one.

    Args:
        points: (N, D), N at least 2.
        others: (N, D).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # only here: scikit-learn takes a while to import
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    sets = torch.cat([torch.zeros(len(points)), torch.ones(len(others))]).numpy()
    trees = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, min_samples_leaf=LEAST, early_stopping=False, random_state=0
    )
    halves = StratifiedKFold(2, shuffle=True, random_state=0)
    found = cross_val_predict(trees, torch.cat([points, others]).numpy(), sets, cv=halves)
    return float((found == sets).mean())


def wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of 95 % for a probability, of which a share was found in so many trials (Wilson 1927)."""
    square = CERTAIN**2 / count
    middle = (share + square / 2) / (1 + square)
    reach = CERTAIN / (1 + square) * math.sqrt(share * (1 - share) / count + square / count / 4)
    return max(0.0, middle - reach), min(1.0, middle + reach)
