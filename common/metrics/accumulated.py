"""Figures that add up over parts of the samples and over processes, as torchmetrics has them.

They are imported by the metrics that use them when these are called: torchmetrics takes a while to import.
"""

from collections.abc import Callable

import torch
import torchmetrics
from torch import Tensor

CHUNK = 256  # samples compared at a time


class ClassAgreement(torchmetrics.Metric):
    """Share of samples that a classifier reads as their label.

    Args:
        classifier: samples (N, C, *S) to classes (N,).
    """

    right: Tensor
    total: Tensor

    def __init__(self, classifier: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.classifier = classifier
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, samples: Tensor, labels: Tensor) -> None:
        """Count samples (N, C, *S) with labels (N,)."""
        self.right += (self.classifier(samples.cpu()) == labels.cpu()).sum()
        self.total += len(labels)

    def compute(self) -> Tensor:
        """The share, in [0, 1]; NaN of no samples."""
        return self.right.double() / self.total


class NearestRatio(torchmetrics.Metric):
    """Mean distance of generated samples to their nearest training sample, over that of held-out real samples.

    Near 1: as far from the training set as fresh data are. Near 0: copies. Undefined (NaN) if nothing is held out, or
    all of that is in the training set too.

    Args:
        train: (N, C, *S).
        held_out: (M, C, *S).
    """

    distance: Tensor
    total: Tensor

    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        super().__init__()
        self._train = train.flatten(1).float()
        self.reference = self._nearest(held_out).mean()
        self.add_state("distance", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def _nearest(self, samples: Tensor) -> Tensor:
        parts = samples.flatten(1).float().split(CHUNK)
        nearest = [self._train[torch.cdist(part, self._train).argmin(1)] for part in parts]
        # not what cdist gives, whose rounding makes a copy as far away as a thousandth of its length
        return torch.cat([(part - found).double().norm(dim=1) for part, found in zip(parts, nearest, strict=True)])

    def update(self, samples: Tensor) -> None:
        """Add generated samples (N, C, *S)."""
        self.distance += self._nearest(samples.cpu()).sum()
        self.total += len(samples)

    def compute(self) -> Tensor:
        """The ratio, at least 0; NaN if it is undefined."""
        ratio = self.distance / self.total / self.reference
        return ratio.where(self.reference > 0, torch.nan)
