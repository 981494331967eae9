"""Several metrics of the same samples."""

import math
from collections.abc import Sequence

from common.metrics.base import Evidence, Metric


def evaluate(evidence: Evidence, metrics: Sequence[Metric]) -> dict[str, float | None]:
    """Run metrics and print what they say.

    A figure that is NaN or infinite is undefined, whoever gives it: None takes its place, since JSON knows neither.

    Args:
        evidence: the samples and the real data.
        metrics: the metrics, in this order.

    Returns:
        All figures by name, after the number of samples that they are about (``samples``) and, if there are any, of
        those that are left out (``not_finite``).

    Raises:
        Refusal: if the real data cannot be read.
    """
    figures: dict[str, float | None] = {"samples": len(evidence.samples)}
    print(f"samples   {evidence.folder}: {len(evidence.samples)}")
    if evidence.not_finite:
        figures["not_finite"] = evidence.not_finite
        print(f"note      {evidence.not_finite} more hold NaN or infinite values; all figures are without them")
    for metric in metrics:
        found = metric(evidence)
        for line in metric.lines(found, evidence):
            print(line)
        figures |= {name: defined(value) for name, value in found.items()}
    if undefined := [name for name, figure in figures.items() if figure is None]:
        print(f"note      undefined, so null in the file of figures: {', '.join(undefined)}")
    return figures


def defined(figure: float) -> float | None:
    """A figure as a number that JSON knows, whatever kind of number it is; None if it is NaN or infinite."""
    if not math.isfinite(figure):
        return None
    return figure if isinstance(figure, int) else float(figure)
