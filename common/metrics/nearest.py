"""Does a model copy its training set? Distance to the nearest training image, generated against held-out real ones."""

import torch
from torch import Tensor
from torchmetrics import Metric

CHUNK = 256  # images compared at a time


class NearestRatio(Metric):
    """Mean distance of generated images to their nearest training image, over that of held-out real images.

    Near 1: as far from the training set as fresh data are. Near 0: copies.

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

    def _nearest(self, images: Tensor) -> Tensor:
        parts = images.flatten(1).float().split(CHUNK)
        return torch.cat([torch.cdist(part, self._train).amin(1).double() for part in parts])

    def update(self, images: Tensor) -> None:
        """Add generated images (N, C, *S)."""
        self.distance += self._nearest(images.cpu()).sum()
        self.total += len(images)

    def compute(self) -> Tensor:
        """The ratio, at least 0."""
        return self.distance / self.total / self.reference
