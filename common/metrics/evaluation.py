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
        Refusal: if the real data cannot be read, or features cannot be had; if samples without labels are to be told
            apart by class.
    """
    drawn, found = evidence.drawn, dict[str, float]()
    if per_class and (evidence.spec.classes is None or evidence.labels is None):
        raise Refusal("needs samples that were drawn by class; leave it out", "per_class")
    figures: dict[str, float | None] = {"samples": len(drawn)}
    say(f"samples   {drawn.name}: {len(drawn)}")
    if drawn.not_finite:
        figures["not_finite"] = drawn.not_finite
        say(f"note      {drawn.not_finite} more hold NaN or infinite values; all figures are without them")
    if few := few_classes(evidence):
        say(f"note      {few}")
    told: set[str] = set()
    tell_features(evidence, told, say)  # those that were made sure of before samples were drawn
    for metric in metrics:
        of_metric = metric(evidence)
        tell_features(evidence, told, say)
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


def few_classes(evidence: Evidence) -> str:
    """That samples were drawn of some classes alone, in words; empty if they are not, or are too few for all."""
    classes, labels = evidence.spec.classes, evidence.labels
    if classes is None or labels is None or len(labels) < len(classes):
        return ""
    drawn = len(labels.unique())
    if drawn == len(classes):
        return ""
    return (
        f"samples are of {drawn} of {len(classes)} classes, real ones of all: that alone makes figures worse, but for "
        "agreement and nearest; --per_class True compares each class with its own"
    )


def tell_features(evidence: Evidence, told: set[str], say: Callable[[str], object]) -> None:
    """Say what a user should know of features that are in use, unless that was told."""
    for features in evidence.features.values():
        if features.identity not in told:
            say(f"features  {features.account}")
            told.add(features.identity)


def of_classes(evidence: Evidence, metrics: Sequence[Metric], say: Callable[[str], object] = print) -> dict[str, float]:
    """Figures of every class that samples were drawn of, told as a table; ``-`` for one that it has too few for."""
    classes, labels = evidence.spec.classes, evidence.labels
    assert classes is not None  # looked at before
    assert labels is not None
    found, rows, counts = dict[str, float](), dict[str, dict[str, float]](), list[str]()
    for label in labels.unique().tolist():
        figures = {name: value for metric in metrics for name, value in metric.of_class(label, evidence).items()}
        rows[classes[label]] = {name: value for name, value in figures.items() if not is_detail(name)}
        counts.append(str(int((labels == label).sum())))
        found |= {f"{name}[{classes[label]}]": value for name, value in figures.items()}
    # of a class with few real samples some figures are missing: the names come from the one that has most
    names = list(dict.fromkeys(name for row in sorted(rows.values(), key=len, reverse=True) for name in row))
    cells = [[in_cell(row.get(name, math.nan)) for name in names] for row in rows.values()]
    lines = [[name, count, *row] for name, count, row in zip(rows, counts, cells, strict=True)]
    say("\n".join(table([["class", "samples", *names], *lines])))
    return found


def in_cell(figure: float) -> str:
    """A figure in a table."""
    return f"{figure:.4g}" if math.isfinite(figure) else "-"


def defined(figure: float) -> float | None:
    """A figure as a number that JSON knows, whatever kind of number it is; None if it is NaN or infinite."""
    if not math.isfinite(figure):
        return None
    return figure if isinstance(figure, int) else float(figure)
