"""A comparison of sets of samples as a table: on the terminal, as CSV, LaTeX and Markdown."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.files import atomic_write
from common.metrics.comparison import Column, Comparison, Entry
from common.table import table

MISSING = "-"
LEGEND = "bold: better than all others, and that is decided; {} half of an interval of 95 %"
MIDDLE = 0.02  # of half of an interval: a figure so near to its middle is taken to be there
FEWEST, MOST = 1e-4, 1e6  # between these a number is written without an exponent
LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {char: f"\\{char}" for char in "&%$#_{}"}
)


class Told(NamedTuple):
    """A figure as it is written: with as many digits as its interval leaves certain.

    Attributes:
        value: the figure.
        reach: half of its interval; empty if that is not known, or the figure is not its middle.
        ends: both ends of the interval, if the figure is not its middle.
    """

    value: str
    reach: str = ""
    ends: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Entry, column: Column) -> "Told | None":
        """The figure of a set; None if it is not there."""
        value, figure = entry.value(column.name), column.figure(entry)
        if value is None:
            return None
        if figure is None:
            return cls(f"{value:.4g}")
        told = [rounded(number, figure.reach) for number in figure]
        if abs(figure.low + figure.high - 2 * figure.value) > MIDDLE * figure.reach:
            return cls(told[0], ends=(told[1], told[2]))
        return cls(told[0], rounded(figure.reach, figure.reach))

    def joined(self, sign: str, between: str = "({} to {})") -> str:
        """In one: with a sign before half of the interval, or both ends in a text."""
        if self.ends:
            return f"{self.value} {between.format(*self.ends)}"
        return f"{self.value} {sign} {self.reach}" if self.reach else self.value


def rounded(number: float, reach: float) -> str:
    """A number to two digits of what it is certain to."""
    if not FEWEST <= reach < MOST:
        return f"{number:.4g}"
    return f"{number:.{max(0, 1 - math.floor(math.log10(reach)))}f}"


def rows_of(comparison: Comparison, cell: Callable[[Told, bool], str], missing: str) -> list[list[str]]:
    """A row for every set: its name, number of samples, what it was drawn by, and its figures.

    Args:
        comparison: the sets.
        cell: writes a figure, and whether it is the best and that is decided.
        missing: stands for what is not there.
    """
    rows = []
    for entry in comparison.entries:
        told = [(Told.of(entry, column), comparison.is_best(entry, column)) for column in comparison.columns]
        cells = [missing if figure is None else cell(figure, best) for figure, best in told]
        drawn_by = [entry.drawn_by(name) or missing for name in comparison.drawn_by]
        rows.append([entry.name, entry.count, *drawn_by, *cells])
    return rows


def header(comparison: Comparison) -> list[str]:
    """Names of the columns before those of figures."""
    return ["samples of", "n", *comparison.drawn_by]


def remarks_of(comparison: Comparison) -> list[str]:
    """What a reader of a file must know, and the verdicts, each in one line."""
    return [" ".join(str(one).split()) for one in (*comparison.remarks, *comparison.verdicts)]


def as_text(comparison: Comparison) -> list[str]:
    """Lines for a terminal."""
    rows = rows_of(comparison, lambda figure, best: figure.joined("+-") + " *" * best, MISSING)
    lines = table([[*header(comparison), *(column.name for column in comparison.columns)], *rows])
    if any(comparison.is_best(entry, column) for entry in comparison.entries for column in comparison.columns):
        lines.append("* better than all others, and that is decided")
    lines += ["+- half of an interval of 95 %", *(f"note      {remark}" for remark in comparison.remarks)]
    return lines + [f"verdict   {one}" for one in comparison.verdicts]


def as_csv(comparison: Comparison) -> str:
    """All digits; a figure with both ends of its interval and, if it judges, the sets that this one is better than."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = header(comparison)
    for column in comparison.columns:
        names += [column.name, f"{column.name} low", f"{column.name} high"]
        names += [f"{column.name} better than"] * column.judges
    writer.writerow(names)
    for entry in comparison.entries:
        row: list[object] = [entry.name, entry.count, *(entry.drawn_by(name) for name in comparison.drawn_by)]
        for column in comparison.columns:
            figure = column.figure(entry)
            row += [entry.value(column.name), *((figure.low, figure.high) if figure else (None, None))]
            row += ["; ".join(comparison.beaten(entry, column))] * column.judges
        writer.writerow(row)
    return buffer.getvalue()


def as_latex(comparison: Comparison) -> str:
    """A ``tabular`` for the package booktabs; what a reader must know stands above it as comments."""

    def cell(figure: Told, best: bool) -> str:
        joined = figure.joined(r"\pm", "[{}, {}]")
        return rf"$\mathbf{{{joined}}}$" if best else f"${joined}$"

    arrows = {-1: r" $\downarrow$", 1: r" $\uparrow$", 0: ""}
    plain = len(header(comparison))
    names = [escaped(name) for name in header(comparison)]
    names += [escaped(column.name) + arrows[column.better] for column in comparison.columns]
    figures = rows_of(comparison, cell, "--")
    rows = [[*map(escaped, row[:plain]), *row[plain:]] for row in figures]
    return "\n".join(
        [
            r"% \usepackage{booktabs}; " + LEGEND.format(r"\pm"),
            *(f"% {remark}" for remark in remarks_of(comparison)),
            rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
            r"\toprule",
            " & ".join(names) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """A text in which LaTeX reads every character as itself, in one line."""
    return " ".join(text.split()).translate(LATEX)


def as_markdown(comparison: Comparison) -> str:
    """A table with its remarks as a list below it."""

    def line(cells: list[str]) -> str:
        one_line = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
        return f"| {' | '.join(one_line)} |"

    def cell(figure: Told, best: bool) -> str:
        return f"**{figure.joined('±')}**" if best else figure.joined("±")

    arrows = {-1: " ↓", 1: " ↑", 0: ""}
    names = [*header(comparison), *(column.name + arrows[column.better] for column in comparison.columns)]
    rows = rows_of(comparison, cell, MISSING)
    below = [f"- {remark}" for remark in (LEGEND.format("±"), *remarks_of(comparison))]
    return "\n".join([line(names), line(["---"] + ["---:"] * (len(names) - 1)), *map(line, rows), "", *below, ""])


FORMATS: dict[str, Callable[[Comparison], str]] = {".csv": as_csv, ".tex": as_latex, ".md": as_markdown}


def write_table(path: Path, comparison: Comparison) -> None:
    """Write a comparison to a file, atomically; its suffix, one of :data:`FORMATS`, says how."""
    atomic_write(path, FORMATS[path.suffix](comparison).encode(errors="backslashreplace"))
