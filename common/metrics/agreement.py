"""Share of conditional samples that a classifier, fitted on real data, reads as the class that was asked for."""

import numpy as np
import torch
from torch import Tensor

from common.data.reading import spread
from common.metrics.base import Evidence, Metric

FIT_LIMIT = 10000  # real samples the classifier learns from: all of a small set, seconds instead of minutes on MNIST,
FIT_NUMBERS = 8_000_000  # and numbers in them: 2,604 images of CIFAR-10


class Agreement(Metric):
    """Share of samples that :class:`PixelClassifier` reads as the class asked for, beside its share on real data."""

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        from common.metrics.accumulated import ClassAgreement  # only here: torchmetrics takes a while to import

        if evidence.labels is None or (evidence.spec.num_classes or 0) < 2:
            return {}
        print("classifier being fitted on training pixels ..", flush=True)
        classifier = PixelClassifier(*evidence.train)
        real, drawn = ClassAgreement(classifier), ClassAgreement(classifier)
        real.update(*evidence.held_out)
        drawn.update(evidence.samples, evidence.labels)
        return {"agreement": float(drawn.compute()), "agreement_real": float(real.compute())}

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        if not figures:
            drawn_without = evidence.labels is None
            why = "these samples were drawn without" if drawn_without else "the data has fewer than two classes"
            return [f"agreement needs labels; {why}"]
        return [
            f"agreement {figures['agreement']:.1%} read as the class asked for; of {len(evidence.held_out.x):,} "
            "held-out real",
            f"          samples the same classifier reads {figures['agreement_real']:.1%} right",
        ]


class PixelClassifier:
    """A support vector machine on pixels (RBF kernel), fitted on real samples.

    Args:
        samples: (N, C, *S).
        labels: (N,) int64.
    """

    def __init__(self, samples: Tensor, labels: Tensor) -> None:
        from sklearn.svm import SVC  # only here: scikit-learn takes a while to import

        self._machine = SVC(C=10.0, gamma="scale")
        rows = spread(len(samples), max(1, min(FIT_LIMIT, FIT_NUMBERS // samples[0].numel())))
        self._machine.fit(self._features(samples[rows]), labels[rows].numpy())

    @staticmethod
    def _features(samples: Tensor) -> np.ndarray:
        return samples.flatten(1).double().numpy()

    def __call__(self, samples: Tensor) -> Tensor:
        """Classes (N,) int64 of samples (N, C, *S)."""
        return torch.from_numpy(self._machine.predict(self._features(samples)))
