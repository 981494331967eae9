"""Metrics that compare samples themselves with real ones, not features of them."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from common.metrics.base import Evidence, Metric
from common.metrics.compared import HIGH, LOW, REACH, REAL, Figures, between, spread_of
from common.metrics.drawn import Drawn

LEAST = 8  # samples on either side
MOST, NUMBERS = 2000, 2**25  # as many generated samples, and numbers in them, are looked at


@dataclass(frozen=True, eq=False)
class Trial:
    """As many generated as fresh real samples, both to be compared with the same other real ones.

    Attributes:
        drawn: (N, C, *S) generated samples.
        fresh: (N, C, *S) real samples: held-out ones first, then some to learn from.
        real: (M, C, *S) other real samples to learn from, M at least N.
        levels: whether values are those of images.
    """

    drawn: Tensor
    fresh: Tensor
    real: Tensor
    levels: bool

    @classmethod
    @lru_cache(maxsize=1)  # several metrics ask, and samples are read from files
    def of(cls, evidence: Evidence) -> "Trial":
        """Parts of the evidence, drawn by lot, since classes may take turns in the order of samples."""
        most = min(MOST, max(LEAST, NUMBERS // math.prod(evidence.spec.shape)))
        real = torch.cat([shuffled(evidence.held_out.x, most), shuffled(evidence.train.x, 2 * most)])
        count = min(len(evidence.drawn), len(real) // 2, most)
        return cls(some_of(evidence.drawn, count), real[:count], real[count:], evidence.spec.is_image)

    @property
    def problem(self) -> str:
        """Why nothing can be compared; empty if it can."""
        if len(self.drawn) < LEAST:
            return f"it needs {LEAST} samples, and {2 * LEAST} real ones"
        if self.drawn[0, 0].numel() < 2:
            return "a sample has a single point"
        if bool((self.real == self.real[0]).all()):
            return "all real samples are the same"
        return ""


def shuffled(samples: Tensor, limit: int) -> Tensor:
    """Samples (N, ..) in an order drawn by lot, the same always; at most so many."""
    return samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:limit]]


def some_of(drawn: Drawn, count: int) -> Tensor:
    """As many of the drawn samples, by lot, the same always; the others are not kept in memory."""
    chosen = torch.zeros(len(drawn), dtype=torch.bool)
    chosen[shuffled(torch.arange(len(drawn)), count)] = True
    found, start = [], 0
    for part in drawn.chunks():
        found.append(part[chosen[start : start + len(part)]])
        start += len(part)
    return torch.cat(found)


class OfValues(Metric):
    """Figures of samples against real ones.

    Every figure ``name`` comes with ``name_low`` and ``name_high``, an interval of 95 % for other samples of the same
    model, and with ``name_real``, the same figure of as many fresh real samples, which has an interval, too.

    Attributes:
        about: what each figure says, and what it cannot see, in a line.
    """

    better = -1
    about: ClassVar[tuple[str, ...]]

    @abstractmethod
    def compared(self, trial: Trial) -> dict[str, float]:
        """Figures by name, with their intervals and those of real samples."""

    def details(self, figures: dict[str, float]) -> tuple[str, ...]:
        """What is printed of further figures, for each name; empty for nothing."""
        return ("",) * len(self.names)

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        trial = Trial.of(evidence)
        return dict.fromkeys(self.names, math.nan) if trial.problem else self.compared(trial)

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        trial = Trial.of(evidence)
        if trial.problem:
            return [f"{', '.join(self.names)} undefined: {trial.problem}"]
        fresh = f"{len(trial.fresh):,} other real samples"
        if len(trial.drawn) < len(evidence.drawn):
            fresh += ", as many as are looked at,"
        lines = []
        for name, detail, about in zip(self.names, self.details(figures), self.about, strict=True):
            told = f"{name:<9} {figures[name]:.4g}{between(figures, name)}"
            lines.append(f"{told}; {fresh} {figures[name + REAL]:.4g}")
            lines += [f"          {text}" for text in (detail, about) if text]
        return lines


def with_spread(figures: Callable[[Tensor], Figures], drawn: Tensor, fresh: Tensor) -> dict[str, float]:
    """Figures of drawn samples and of fresh real ones, all with their intervals.

    Args:
        figures: figures by name of numbers (.., K) of samples.
        drawn: (N, K) numbers of generated samples.
        fresh: (N, K) numbers of fresh real samples.
    """
    result: dict[str, float] = {}
    for rows, of_what in ((drawn, ""), (fresh, REAL)):
        deviations = spread_of(figures, rows)
        for name, value in figures(rows).items():
            reach, told = REACH * deviations[name], name + of_what
            result |= {told: value, told + LOW: value - reach, told + HIGH: value + reach}
    return result
