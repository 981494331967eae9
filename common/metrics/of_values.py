"""Metrics that compare samples themselves with real ones, not features of them."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.metrics.base import Evidence, Metric
from common.metrics.compared import CERTAIN, HIGH, LOW, REAL, Figures, spread_of

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
    def of(cls, evidence: Evidence) -> "Trial":
        """Parts of the evidence, drawn by lot, since classes may take turns in the order of samples."""
        most = min(MOST, max(LEAST, NUMBERS // evidence.samples[0].numel()))
        real = torch.cat([shuffled(evidence.held_out.x, most), shuffled(evidence.train.x, 2 * most)])
        count = min(len(evidence.samples), len(real) // 2, most)
        return cls(shuffled(evidence.samples, count), real[:count], real[count:], evidence.spec.is_image)

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


class OfValues(Metric):
    """Figures of samples against real ones.

    Every figure ``name`` comes with ``name_low`` and ``name_high``, an interval of 95 % for other samples of the same
    model, and with ``name_real``, the same figure of as many fresh real samples.

    Attributes:
        names: names of its figures.
        better: 1 if more is better, -1 if less is; 0 if neither.
        about: what each figure says, and what it cannot see, in a line.
    """

    names: ClassVar[tuple[str, ...]]
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
        if math.isnan(figures[self.names[0]]):
            return [f"{', '.join(self.names)} undefined: {Trial.of(evidence).problem}"]
        lines = []
        for name, detail, about in zip(self.names, self.details(figures), self.about, strict=True):
            between = f"{figures[name + LOW]:.4g} to {figures[name + HIGH]:.4g}"
            fresh = f"of fresh real samples {figures[name + REAL]:.4g}"
            lines += [f"{name:<9} {figures[name]:.4g} ({between}); {fresh}"]
            lines += [f"          {text}" for text in (detail, about) if text]
        return lines


def with_spread(figures: Callable[[Tensor], Figures], drawn: Tensor, fresh: Tensor) -> dict[str, float]:
    """Figures of drawn samples with their intervals, and those of fresh real samples.

    Args:
        figures: figures by name of numbers (.., K) of samples.
        drawn: (N, K) numbers of generated samples.
        fresh: (N, K) numbers of fresh real samples.
    """
    result: dict[str, float] = {}
    found, of_real, deviations = figures(drawn), figures(fresh), spread_of(figures, drawn)
    for name, value in found.items():
        reach = CERTAIN * deviations[name]
        result |= {name: value, name + LOW: value - reach, name + HIGH: value + reach, name + REAL: of_real[name]}
    return result
