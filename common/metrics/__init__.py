"""Figures about generated samples, one metric per file."""

from common.metrics.agreement import Agreement
from common.metrics.base import Evidence, Labelled, Metric
from common.metrics.evaluation import evaluate
from common.metrics.nearest import Nearest

METRICS: dict[str, type[Metric]] = {"agreement": Agreement, "nearest": Nearest}

__all__ = ["METRICS", "Evidence", "Labelled", "Metric", "evaluate"]
