"""Several metrics of the same samples."""

import math
from collections.abc import Callable, Sequence

from common.metrics.base import Evidence, Metric
from common.metrics.compared import is_detail
from common.metrics.verdict import verdict
from common.refusal import Refusal
from common.table import table


def evaluate(
    evidence: Evidence, metrics: Sequence[Metric], *, per_class: bool = False, say: Callable[[str], object] = print
) -> dict[str, float | None]:
    """Run metrics and print what they say.

    A figure that is NaN or infinite is undefined, whoever gives it: None takes its place, since JSON knows neither.

    Args:
        evidence: the samples and the real data.
        metrics: the metrics, in this order.
        per_class: also of every class alone, by ``name[class]``.
        say: what takes every line that is printed.

    Returns:
        All figures by name, after the number of samples that they are about (``samples``) and, if there are any, of
        those that are left out (``not_finite``).

    Raises:
        Refusal: if the real data cannot be read, or features cannot be had.
    """
    drawn, found = evidence.drawn, dict[str, float]()
    figures: dict[str, float | None] = {"samples": len(drawn)}
    say(f"samples   {drawn.name}: {len(drawn)}")
    if drawn.not_finite:
        figures["not_finite"] = drawn.not_finite
        say(f"note      {drawn.not_finite} more hold NaN or infinite values; all figures are without them")
    told: set[str] = set()
    for metric in metrics:
        of_metric = metric(evidence)
        for name, features in evidence.features.items():
            if name not in told:
                say(f"features  {features.account}")
                told.add(name)
        for line in metric.lines(of_metric, evidence):
            say(line)
        found |= of_metric
    if per_class:
        found |= of_classes(evidence, metrics, say)
    figures |= {name: defined(value) for name, value in found.items()}
    if undefined := [name for name, figure in figures.items() if figure is None]:
        say(f"note      undefined, so null in the file of figures: {', '.join(undefined)}")
    if judged := verdict(found, metrics):
        say(f"verdict   {judged}")
    return figures


def of_classes(evidence: Evidence, metrics: Sequence[Metric], say: Callable[[str], object] = print) -> dict[str, float]:
    """Figures of every class that samples were drawn of, printed as a table.

    Raises:
        Refusal: for samples without labels.
    """
    classes, labels = evidence.spec.classes, evidence.labels
    if classes is None or labels is None:
        raise Refusal("needs samples that were drawn by class; leave it out", "per_class")
    found, rows = dict[str, float](), list[list[str]]()
    for label in labels.unique().tolist():
        figures = {name: value for metric in metrics for name, value in metric.of_class(label, evidence).items()}
        told = {name: value for name, value in figures.items() if not is_detail(name)}
        rows = rows or [["class", "samples", *told]]
        count = int((labels == label).sum())
        rows.append([classes[label], str(count), *(f"{value:.4g}" for value in told.values())])
        found |= {f"{name}[{classes[label]}]": value for name, value in figures.items()}
    say("\n".join(table(rows)))
    return found


def defined(figure: float) -> float | None:
    """A figure as a number that JSON knows, whatever kind of number it is; None if it is NaN or infinite."""
    if not math.isfinite(figure):
        return None
    return figure if isinstance(figure, int) else float(figure)
