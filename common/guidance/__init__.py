"""Denoiser wrappers that steer what is drawn, one method per file."""

from common.guidance.classifier_free import ClassifierFree

__all__ = ["ClassifierFree"]
