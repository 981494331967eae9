"""Several metrics of the same samples."""

from collections.abc import Sequence

from common.metrics.base import Evidence, Metric

__all__ = ["Evidence", "evaluate"]


def evaluate(evidence: Evidence, metrics: Sequence[Metric]) -> dict[str, float]:
    """Run metrics and print what they say.

    Args:
        evidence: the samples and the real data.
        metrics: the metrics, in this order.

    Returns:
        All figures by name, after the number of samples (``samples``).

    Raises:
        Refusal: if the real data cannot be read.
    """
    figures: dict[str, float] = {"samples": len(evidence.samples)}
    print(f"samples   {evidence.folder}: {len(evidence.samples)}")
    for metric in metrics:
        found = metric(evidence)
        for line in metric.lines(found, evidence):
            print(line)
        figures |= found
    return figures
