"""What a sweep has found: a row of figures for every member, as text, as sweep.csv and as sweep.png."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.files import atomic_write
from common.media.figures import save_figure
from common.metrics import METRICS
from common.runs.log import read_metrics
from common.table import table
from common.training.module import EVALUATION, LOSS, VALIDATION
from common.training.sweep.order import SweepMember, SweepOrder
from common.training.sweep.picture import sweep_figure

TABLE, PICTURE = "sweep.csv", "sweep.png"
# columns of metrics.csv that are no results: the clock's are never the same again
NO_RESULTS = frozenset({"step", "train/images_per_s", "train/lr"})
FINISHED, STOPPED, FAILED, WAITING = "finished", "stopped", "failed", "not begun"


@dataclass(frozen=True)
class Row:
    """What is known of a member.

    Attributes:
        member: which.
        state: finished, stopped (or running elsewhere), failed, or not begun.
        step: of the last line of its log.
        figures: the last value of each figure in its log.
    """

    member: SweepMember
    state: str
    step: int
    figures: Mapping[str, float]


def rows_of(order: SweepOrder, failed: Mapping[str, str]) -> list[Row]:
    """A row for every member, from its run folder.

    Args:
        order: the sweep.
        failed: ids of members that have failed, with the reason.
    """
    rows = []
    for member in order.members:
        log = read_metrics(member.folder.metrics)
        figures = {name: value for line in log for name, value in line.items() if name not in NO_RESULTS}
        step = int(log[-1]["step"]) if log else 0
        begun = STOPPED if member.folder.config.is_file() else WAITING
        state = FINISHED if member.is_finished else FAILED if member.id in failed else begun
        rows.append(Row(member, state, step, figures))
    return rows


def better(metric: str) -> int:
    """1 if more of a figure is better, -1 if less is; 0 if neither, or nobody knows."""
    if not metric.startswith(EVALUATION):
        return -1
    name = metric.removeprefix(EVALUATION).partition("@")[0]
    return next((kind.better for kind in METRICS.values() if name in kind.names), 0)


def best_of(rows: Sequence[Row], metric: str) -> Row | None:
    """The finished member that is best by a figure; None if none has it, or it has no better and worse."""
    direction = better(metric)
    finished = [row for row in rows if row.state == FINISHED and math.isfinite(row.figures.get(metric, math.nan))]
    return max(finished, key=lambda row: direction * row.figures[metric]) if finished and direction else None


def as_text(order: SweepOrder, rows: Sequence[Row], failed: Mapping[str, str]) -> list[str]:
    """The table in lines, with what is best and what has failed below it."""
    metric = order.asked.sweep_metric
    names = list(dict.fromkeys((LOSS, VALIDATION, metric)))
    header = ["run", *(axis.flag for axis in order.axes), "state", "step", *names]
    cells = [
        [row.member.id, *row.member.values, row.state, f"{row.step:,}", *(number(row, name, ".4g") for name in names)]
        for row in rows
    ]
    lines = table([header, *cells])
    if best := best_of(rows, metric):
        lines.append(f"best      {best.member.id}, {metric} {best.figures[metric]:.4g}")
    there = list(dict.fromkeys(name for row in rows if row.state == FINISHED for name in row.figures))
    if there and metric not in there:
        lines.append(f"note      no training has {metric} in its log; there are {', '.join(there)}")
    return lines + [f"failed    {name}: {reason}" for name, reason in failed.items()]


def number(row: Row, name: str, form: str) -> str:
    """A figure of a member, or nothing."""
    return format(row.figures[name], form) if name in row.figures else ""


def as_csv(order: SweepOrder, rows: Sequence[Row]) -> str:
    """The table as CSV: all figures of the members' logs, values as they were logged; nothing depends on the clock."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    names.sort()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *(axis.flag for axis in order.axes), "state", "step", *names])
    for row in rows:
        figures = (number(row, name, ".8g") for name in names)
        writer.writerow([row.member.folder.name, *row.member.values, row.state, row.step, *figures])
    return text.getvalue()


def write_results(order: SweepOrder, failed: Mapping[str, str]) -> list[str]:
    """Write sweep.csv and, if there is something to draw, sweep.png; returns lines to print."""
    rows = rows_of(order, failed)
    atomic_write(order.folder / TABLE, as_csv(order, rows).encode())
    lines = [*as_text(order, rows, failed), f"table     {order.folder / TABLE}"]
    metric = order.asked.sweep_metric
    points = {row.member.values: row.figures[metric] for row in rows if row.state == FINISHED and metric in row.figures}
    if points:
        save_figure(order.folder / PICTURE, sweep_figure(order.axes, points, metric, better(metric)))
        lines.append(f"picture   {order.folder / PICTURE}")
    return lines
