"""Figures about generated samples, one metric per file."""

from common.metrics.agreement import ClassAgreement, PixelClassifier
from common.metrics.nearest import NearestRatio

__all__ = ["ClassAgreement", "NearestRatio", "PixelClassifier"]
