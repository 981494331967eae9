"""Share of conditional samples that a classifier, fitted on real data, reads as the class that was asked for."""

import math

import numpy as np
import torch
from torch import Tensor

from common.data.reading import spread
from common.data.source import DataSet
from common.metrics.base import Evidence, Metric
from common.progress import tell

FIT_LIMIT = 10000  # real samples the classifier learns from: all of a small set, seconds instead of minutes on MNIST,
FIT_NUMBERS = 8_000_000  # and numbers in them: 2,604 images of CIFAR-10


class Agreement(Metric):
    """Share of samples that :class:`PixelClassifier` reads as the class asked for, beside its share on real data."""

    def __init__(self) -> None:
        self._classifier: PixelClassifier | None = None
        self._data: DataSet | None = None  # what it was fitted on

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        from common.metrics.accumulated import ClassAgreement  # only here: torchmetrics takes a while to import

        if evidence.labels is None or (evidence.spec.num_classes or 0) < 2:
            return {}
        if len(_learned_labels(evidence).unique()) < 2:
            return dict.fromkeys(("agreement", "agreement_real"), math.nan)
        if self._classifier is None or self._data is not evidence.data:
            tell("classifier being fitted on training pixels ..")
            self._classifier, self._data = PixelClassifier(*evidence.train), evidence.data
        classifier = self._classifier
        real, drawn = ClassAgreement(classifier), ClassAgreement(classifier)
        real.update(*evidence.held_out)
        for part, labels in evidence.drawn.with_labels():
            drawn.update(part, labels)
        return {"agreement": float(drawn.compute()), "agreement_real": float(real.compute())}

    def of_class(self, label: int, evidence: Evidence) -> dict[str, float]:
        from common.metrics.accumulated import ClassAgreement

        if self._classifier is None or evidence.labels is None:
            return {}
        share = ClassAgreement(self._classifier)
        for part, labels in evidence.drawn.with_labels():
            share.update(part[labels == label], labels[labels == label])
        return {"agreement": float(share.compute())}

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        if not figures:
            drawn_without = evidence.labels is None
            why = "these samples were drawn without" if drawn_without else "the data has fewer than two classes"
            return [f"agreement needs labels; {why}"]
        if math.isnan(figures["agreement"]):
            return ["agreement undefined: the samples to learn from are all of one class, so nothing can be told apart"]
        found = f"agreement {figures['agreement']:.1%} read as the class asked for; "
        if math.isnan(figures["agreement_real"]):
            lines = [f"{found}how many real samples are is undefined, as nothing is held out"]
        else:
            lines = [
                f"{found}of {len(evidence.held_out.x):,} held-out real",
                f"          samples the same classifier reads {figures['agreement_real']:.1%} right",
            ]
        assert evidence.labels is not None  # or there would be no figures
        if unknown := int((~torch.isin(evidence.labels, _learned_labels(evidence))).sum()):
            lines.append(
                f"          ({unknown} samples were asked for of classes that it has not seen, and never reads)"
            )
        return lines


def _learned_labels(evidence: Evidence) -> Tensor:
    return evidence.train.labels[PixelClassifier.rows(evidence.train.x)]


class PixelClassifier:
    """A support vector machine on pixels (RBF kernel), fitted on real samples.

    Args:
        samples: (N, C, *S).
        labels: (N,) int64.
    """

    def __init__(self, samples: Tensor, labels: Tensor) -> None:
        from sklearn.svm import SVC  # only here: scikit-learn takes a while to import

        self._machine = SVC(C=10.0, gamma="scale")
        rows = self.rows(samples)
        self._machine.fit(self._features(samples[rows]), labels[rows].numpy())

    @staticmethod
    def rows(samples: Tensor) -> Tensor:
        """Which of the real samples (N, C, *S) it learns from: evenly spaced rows (M,) int64."""
        return spread(len(samples), max(1, min(FIT_LIMIT, FIT_NUMBERS // samples[0].numel())))

    @staticmethod
    def _features(samples: Tensor) -> np.ndarray:
        return samples.flatten(1).double().numpy()

    def __call__(self, samples: Tensor) -> Tensor:
        """Classes (N,) int64 of samples (N, C, *S)."""
        if not len(samples):  # which scikit-learn refuses
            return torch.empty(0, dtype=torch.int64)
        return torch.from_numpy(self._machine.predict(self._features(samples)))
