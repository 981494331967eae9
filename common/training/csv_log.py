"""metrics.csv of a run folder: one line per logged step, kept across resumes."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from common.files import atomic_write, naming
from common.runs.log import read_metrics


class CsvLog(Logger):
    """Appends to ``metrics.csv``; a resumed run drops the lines past its checkpoint and goes on below the rest.

    (Lightning's own CSV logger deletes what an earlier part of the run has written.)

    Args:
        path: the file.
        resume_step: last step of the checkpoint that is resumed; 0 starts a new file.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["step"] <= resume_step] if resume_step else []
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """The file decides; there are no versions."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Settings are in config.json."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the line of a step."""
        row = {"step": float(step or 0), **{name: float(value) for name, value in metrics.items()}}
        row = {name: float(text) for name, text in _text(row).items()}  # as a resumed run will read it
        merged = bool(self.rows) and self.rows[-1]["step"] == row["step"]
        if merged:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        if merged or any(name not in self._columns for name in row):
            self._rewrite()
        else:
            with naming(self.path), self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(_text(row))

    def _rewrite(self) -> None:
        self._columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_text(row) for row in self.rows)
        atomic_write(self.path, text.getvalue().encode())


def keep_aside(path: Path, resume_step: int) -> Path | None:
    """Keep a copy of a log that is about to lose lines, e.g. as ``metrics-until-320.csv``.

    Args:
        path: ``metrics.csv``.
        resume_step: last step whose lines stay.

    Returns:
        The copy, None if no line will be lost.
    """
    last = max((int(row["step"]) for row in read_metrics(path)), default=0)
    if last <= resume_step:
        return None
    copy = path.with_name(f"{path.stem}-until-{last}{path.suffix}")
    atomic_write(copy, path.read_bytes())
    return copy


def _text(row: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.0f}" if name == "step" else f"{value:.8g}" for name, value in row.items()}
