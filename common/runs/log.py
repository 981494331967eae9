"""The log of a run, ``metrics.csv``, read back."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.refusal import Refusal

MOST_STEPS = 2.0**53  # from here on a float does not tell steps apart


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines of a ``metrics.csv`` with their numbers; a last line cut short by a crash is left out.

    Raises:
        Refusal: if it has a line that is far too long for one of a log.
    """
    if not path.exists():
        return []
    text = path.read_text(errors="replace")  # a line that is no text is no line of numbers either, and left out
    whole = text[: text.rfind("\n") + 1]  # what follows the last line end was cut short
    rows = []
    if max(map(len, whole.splitlines()), default=0) > csv.field_size_limit():
        raise Refusal(
            f"{path} has a line of more than {csv.field_size_limit():,} characters: it is no log; move it away"
        )
    for line in csv.DictReader(io.StringIO(whole, newline="")):
        try:
            row = {name: float(value) for name, value in line.items() if name and value}
        except ValueError:
            continue
        if 0 <= row.get("step", -1.0) < MOST_STEPS and None not in line.values():
            rows.append(row)
    return rows


def columns(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Lines of a log as one array (lines,) float64 for each name, NaN where a line has no such number."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
