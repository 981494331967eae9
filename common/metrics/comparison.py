"""Sets of samples side by side: which of their figures may be compared, and which differences are decided."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from common.metrics import METRICS, Compared, Metric
from common.metrics.compared import AMONG
from common.metrics.verdict import Figure, apart, differ, figure_in
from common.refusal import Refusal

ABOUT = "about"
COUNT = "samples"
COUNTED = (COUNT, "not_finite")  # numbers in a file of figures that are none
# what samples are drawn by, and where a file of figures says it
DRAWN_BY = {
    "version": ("samples", "version"),
    "weights": ("samples", "settings", "weights"),
    "solver": ("samples", "settings", "solver"),
    "steps": ("samples", "settings", "steps"),
    "guidance": ("samples", "settings", "guidance"),
    "guidance_arguments": ("samples", "settings", "guidance_arguments"),
    "process": ("samples", "settings", "process", "name"),
    "of_process": ("samples", "settings", "process", "arguments"),
    "nfe": ("samples", "evaluations"),
}


@dataclass(frozen=True)
class Entry:
    """One set of samples: a row of the table.

    Attributes:
        name: what it is called.
        figures: what metrics.json holds: figures by name and, under ``about``, what they rest on.
    """

    name: str
    figures: Mapping[str, object]

    def about(self, *keys: str) -> object:
        """What stands under these keys, one inside the other, of what the figures rest on; None if nothing does."""
        found = self.figures.get(ABOUT)
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return " ".join(found.split()) if isinstance(found, str) else found  # in one line: a file may be anybody's

    def value(self, name: str) -> float | None:
        """A figure; None if there is none of that name, or it is undefined."""
        found = self.figures.get(name)
        plain = isinstance(found, int | float) and not isinstance(found, bool)
        return float(found) if plain and math.isfinite(found) else None  # type: ignore[arg-type]  # a number then

    @property
    def count(self) -> str:
        """How many samples there are."""
        return str(self.figures.get(COUNT, ""))

    def drawn_by(self, name: str) -> str:
        """One of :data:`DRAWN_BY` in words; empty if nothing says it."""
        found = self.about(*DRAWN_BY[name])
        if isinstance(found, Mapping):
            return ", ".join(f"{key}={value}" for key, value in found.items())
        return "" if found is None else str(found)


class Column(NamedTuple):
    """A figure that several sets have.

    Attributes:
        name: its name, with that of features if it has one.
        metric: what computes it; None if that is not known here.
    """

    name: str
    metric: type[Metric] | None

    @classmethod
    def of(cls, name: str) -> "Column":
        """The column of a figure."""
        return cls(name, owners().get(name.partition(AMONG)[0]))

    @property
    def better(self) -> int:
        """1 if more is better, -1 if less is; 0 if neither, or that is not known."""
        return self.metric.better if self.metric else 0

    @property
    def judges(self) -> bool:
        """Whether a verdict may rest on it."""
        return self.metric is not None and self.metric.judges and self.name.partition(AMONG)[0] in self.metric.names[:1]

    @property
    def place(self) -> int:
        """Its place among others: that of its metric in the register."""
        kinds = list(METRICS.values())
        return kinds.index(self.metric) if self.metric in kinds else len(kinds)

    def figure(self, entry: Entry) -> Figure | None:
        """The figure of a set with its interval; None if either is not there."""
        plain, among, features = self.name.partition(AMONG)
        return figure_in(entry.figures, plain, among + features)

    def basis(self, entry: Entry) -> dict[str, str]:
        """What the figure of a set rests on, in words: equal ones may be compared. Empty if it does not say."""
        found = {COUNT: entry.count, "real data": real_data(entry)}
        if self.metric is not None and issubclass(self.metric, Compared):
            asked = self.name.partition(AMONG)[2] or str(entry.about("default_features"))
            found["features"] = str(entry.about("features", asked, "identity") or "")
        return found


def real_data(entry: Entry) -> str:
    """The real data that a set is compared with, in words; empty if nothing says it."""
    about = {key: entry.about("real", key) for key in ("part", "count", "of", "shape", "sha256")}
    if not isinstance(about["sha256"], str):
        return ""
    told = str(about["part"])
    if about["count"] is not None:
        told += f", {about['count']} of {about['of']}, shape {about['shape']}"
    return f"{told} ({about['sha256'][:12]})"


@dataclass(frozen=True)
class Verdict:
    """What a figure says of two sets.

    Attributes:
        figure: its name.
        one: name of a set.
        other: name of another one.
        better: name of the better one; None if that is undecided.
        hindrance: why they may not be compared; empty if they may.
    """

    figure: str
    one: str
    other: str
    better: str | None = None
    hindrance: str = ""

    def __str__(self) -> str:
        if self.hindrance:
            return f"{self.one} and {self.other} not comparable by {self.figure}: {self.hindrance}"
        if self.better is None:
            return f"{self.one} and {self.other} undecided by {self.figure}"
        worse = self.other if self.better == self.one else self.one
        return f"{self.better} better than {worse} by {self.figure}"


def hindrance(column: Column, one: Entry, other: Entry) -> str:
    """Why a figure of two sets may not be compared; empty if it may."""
    for entry in (one, other):
        if column.figure(entry) is None:
            return f"{entry.name} has no {column.name} with an interval"
    bases = zip(column.basis(one).items(), column.basis(other).values(), strict=True)
    return "; ".join(
        f"{what} {mine or 'unknown'} against {its or 'unknown'}"
        for (what, mine), its in bases
        if not mine or mine != its
    )


def verdicts(column: Column, entries: Sequence[Entry]) -> list[Verdict]:
    """What a figure says of every pair, in the order of the entries.

    Figures are taken for independent, each with its own samples and the same real data; of samples that share seeds
    that is on the safe side, since what they share cancels. Chance decides any pair in at most 5 of 100 cases: Holm
    (1979), the pairs in the order of their differences, each held to the level of Bonferroni among those that are left.
    """
    found: dict[tuple[str, str], Verdict] = {}
    pairs: list[tuple[float, Entry, Figure, Entry, Figure]] = []
    for one, other in combinations(entries, 2):
        why = hindrance(column, one, other)
        found[one.name, other.name] = Verdict(column.name, one.name, other.name, hindrance=why)
        mine, its = column.figure(one), column.figure(other)
        if not why and mine and its:
            pairs.append((apart(mine, its), one, mine, other, its))
    pairs.sort(key=lambda pair: -pair[0])
    for rank, (_, one, mine, other, its) in enumerate(pairs):
        if not differ(mine, its, among=len(pairs) - rank):
            break
        better = one if (mine.value > its.value) == (column.better > 0) else other
        found[one.name, other.name] = Verdict(column.name, one.name, other.name, better.name)
    return list(found.values())


@dataclass(frozen=True)
class Comparison:
    """Several sets of samples side by side.

    Attributes:
        entries: the sets, at least two, of different names.

    Raises:
        Refusal: if no two of them have a figure in common.
    """

    entries: Sequence[Entry]

    def __post_init__(self) -> None:
        if not self.columns:
            names = "; ".join(f"{entry.name}: {', '.join(figures_of(entry)) or 'none'}" for entry in self.entries)
            raise Refusal(f"no two of them have a figure in common ({names}); compute the same --metrics", "compare")

    @cached_property
    def columns(self) -> list[Column]:
        """Figures that at least two sets have, in the order of the register; those of single classes are left out."""
        names = [name for entry in self.entries for name in figures_of(entry)]
        shared = [Column.of(name) for name in dict.fromkeys(names) if names.count(name) > 1]
        return sorted(shared, key=lambda column: column.place)

    @cached_property
    def drawn_by(self) -> list[str]:
        """What the samples are drawn by that is not the same for all."""
        return [name for name in DRAWN_BY if len({entry.drawn_by(name) for entry in self.entries}) > 1]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What every figure that judges says of every pair."""
        return [one for column in self.columns if column.judges for one in verdicts(column, self.entries)]

    def beaten(self, entry: Entry, column: Column) -> list[str]:
        """Names of the sets that a set is better than, by a figure that judges."""
        return [
            one.other if one.better == one.one else one.one
            for one in self.verdicts
            if one.figure == column.name and one.better == entry.name
        ]

    def is_best(self, entry: Entry, column: Column) -> bool:
        """Whether a set is better than every other one that has the figure, and that is decided."""
        rivals = [one.name for one in self.entries if one is not entry and one.value(column.name) is not None]
        return bool(rivals) and set(rivals) == set(self.beaten(entry, column))

    @property
    def remarks(self) -> list[str]:
        """What a reader of the table must know: what figures rest on, which may not be compared, how it is decided."""
        told: dict[tuple[str, str], list[str]] = {}  # what is said, and of which columns
        for column in self.columns:
            for what, bases in self._bases(column).items():
                if len(bases) > 1 or "" in bases:
                    whose = "; ".join(f"{basis or 'unknown'} ({', '.join(names)})" for basis, names in bases.items())
                    whose += " (give each the same --n_samples)" * (what == COUNT)
                    told.setdefault((f"not comparable, {what}", whose), []).append(column.name)
                elif what != COUNT:  # which stands in the table
                    told.setdefault((what, next(iter(bases))), []).append(column.name)
        everything = [column.name for column in self.columns]
        lines = [
            f"{what}: {text}" + ("" if names == everything else f", of {', '.join(names)}")
            for (what, text), names in told.items()
        ]
        return [*lines, *self._how_decided()]

    def _bases(self, column: Column) -> dict[str, dict[str, list[str]]]:
        """What a figure rests on: for every kind of it what it is, with the names of the sets it is that of."""
        found: dict[str, dict[str, list[str]]] = {}
        for entry in self.entries:
            if entry.value(column.name) is not None:
                for what, basis in column.basis(entry).items():
                    found.setdefault(what, {}).setdefault(basis, []).append(entry.name)
        return found

    def _how_decided(self) -> list[str]:
        if not self.verdicts:
            judges = ", ".join(kind.names[0] for kind in METRICS.values() if kind.judges)
            return [f"nothing is decided: that takes {judges} of two sets"]
        pairs = Counter(one.figure for one in self.verdicts if not one.hindrance)
        if max(pairs.values(), default=0) < 2:
            return []
        counted = ", ".join(f"{count} by {figure}" for figure, count in pairs.items())
        return [f"pairs compared: {counted}; chance decides any pair of a figure in 5 of 100 cases at most (Holm)"]


def owners() -> dict[str, type[Metric]]:
    """The names of figures, with the metrics that compute them."""
    found = dict(METRICS)
    for kind in METRICS.values():
        found |= dict.fromkeys(kind.names, kind)
    return found


def figures_of(entry: Entry) -> list[str]:
    """Names of the figures of a set that are defined, without those of single classes and what belongs to another.

    That is one whose name goes on from another's, as ends of intervals and figures of real samples do, unless it is
    the name of a figure itself.
    """
    plain = {name: name.partition(AMONG)[0] for name in entry.figures if not name.endswith("]")}
    known, starts = owners(), tuple(f"{name}_" for name in plain.values())
    return [
        name
        for name, text in plain.items()
        if entry.value(name) is not None and name not in COUNTED and (text in known or not text.startswith(starts))
    ]
