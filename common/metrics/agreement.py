"""Share of conditional samples that a classifier, fitted on real data, reads as the class that was asked for."""

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor
from torchmetrics import Metric

from common.data.reading import spread

FIT_LIMIT = 10000  # real images the classifier learns from: all of a small set, seconds instead of minutes on MNIST,
FIT_NUMBERS = 8_000_000  # and pixels in them: 2,604 images of CIFAR-10


class PixelClassifier:
    """A support vector machine on pixels (RBF kernel), fitted on real images.

    Args:
        images: (N, C, *S).
        labels: (N,) int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._machine = SVC(C=10.0, gamma="scale")
        rows = spread(len(images), max(1, min(FIT_LIMIT, FIT_NUMBERS // images[0].numel())))
        self._machine.fit(self._features(images[rows]), labels[rows].numpy())

    @staticmethod
    def _features(images: Tensor) -> np.ndarray:
        return images.flatten(1).double().numpy()

    def __call__(self, images: Tensor) -> Tensor:
        """Classes (N,) int64 of images (N, C, *S)."""
        return torch.from_numpy(self._machine.predict(self._features(images)))


class ClassAgreement(Metric):
    """Share of images that a classifier reads as their label.

    Args:
        classifier: images (N, C, *S) to classes (N,).
    """

    right: Tensor
    total: Tensor

    def __init__(self, classifier: PixelClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Count images (N, C, *S) with labels (N,)."""
        self.right += (self.classifier(images.cpu()) == labels.cpu()).sum()
        self.total += len(labels)

    def compute(self) -> Tensor:
        """The share, in [0, 1]."""
        return self.right.double() / self.total
