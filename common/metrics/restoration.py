"""Figures about completions of inputs whose truth is known: how near they come, and how well they know how near.

They are of every input on its own, and their means have intervals over inputs. (The metrics of ``METRICS`` compare a
set of samples with real ones; they know no pairs.)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from common.metrics.calibration import covered, exact_coverage
from common.metrics.compared import HIGH, LOW, between
from common.metrics.lpips import LEAST, Lpips
from common.table import table

SINGLE, UNKNOWN, EXACT = "_single", "_unknown", "_exact"
OF_UNKNOWN = "  of unknown values"
WINDOW = 6  # pixels on the shorter side that the window of SSIM needs
HALF_LEVEL = 0.5 / 255  # of the levels in which images are stored
CERTAIN = 0.95


class Completed(NamedTuple):
    """One input and its completions, in the units of the data; images in [0, 1].

    Attributes:
        truth: (C, *S).
        drawn: (M, C, *S), finite.
        unknown: (C, *S) bool, the values that were not observed; None if values were not observed one by one.
        span: what the values span: 1 for images, else largest less smallest value of the data.
    """

    truth: Tensor
    drawn: Tensor
    unknown: Tensor | None = None
    span: float = 1.0

    @property
    def is_image(self) -> bool:
        """Whether a sample is (C, H, W)."""
        return self.truth.ndim == 3

    @property
    def mean(self) -> Tensor:
        """The mean of the completions, (C, *S)."""
        return self.drawn.mean(0)

    def parts(self) -> Iterable[tuple[str, "Completed"]]:
        """All values as one axis, and the unknown ones alone if some are known; each with what its figures end in."""
        yield "", self._replace(truth=self.truth.flatten(), drawn=self.drawn.flatten(1), unknown=None)
        if self.unknown is not None and self.unknown.any() and not self.unknown.all():
            truth, drawn = self.truth[self.unknown], self.drawn[:, self.unknown]
            yield UNKNOWN, self._replace(truth=truth, drawn=drawn, unknown=None)


class Restoration(ABC):
    """A figure about completions: one class, one line in ``RESTORATION``.

    Attributes:
        name: of the figure of the mean of completions.
        better: 1 if more is better, -1 if less is; 0 if neither.
        title: what it is called where it is told.
        bounds: what it cannot pass, nor can its interval.
    """

    name: ClassVar[str]
    better: ClassVar[int]
    title: ClassVar[str]
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def applies(self, one: Completed) -> bool:
        """Whether there is such a figure of such samples."""
        return True

    @abstractmethod
    def __call__(self, one: Completed) -> dict[str, float]:
        """Figures by name, of one input."""

    def rows(self, figures: Mapping[str, float]) -> list[list[str]]:
        """What is told of the means over inputs: a name, the figure of the mean of completions, that of single ones."""
        found = []
        for part, name in (("", self.title), (UNKNOWN, OF_UNKNOWN)):
            if f"{self.name}{part}" in figures:
                single = figures[f"{self.name}{SINGLE}{part}"]
                found.append([name, with_interval(figures, f"{self.name}{part}"), format(single, ".4g")])
        return found


class SignalToNoise(Restoration):
    """Peak signal-to-noise ratio: 10 log10(span^2 / mean squared error), in decibels; infinite of an exact one."""

    name, better, title, bounds = "psnr", 1, "psnr [dB]", (-math.inf, math.inf)

    def __call__(self, one: Completed) -> dict[str, float]:
        from torchmetrics.functional.image import peak_signal_noise_ratio  # only here: it takes a while to import

        found = dict[str, float]()
        for part, of in one.parts():
            pairs = torch.cat([of.mean.unsqueeze(0), of.drawn])
            ratios = peak_signal_noise_ratio(
                pairs, of.truth.expand_as(pairs), data_range=one.span, reduction="none", dim=1
            )
            found |= {f"{self.name}{part}": float(ratios[0]), f"{self.name}{SINGLE}{part}": float(ratios[1:].mean())}
        return found


class Similarity(Restoration):
    """Structural similarity (Wang et al. 2004), a Gaussian window of 11 pixels and deviation 1.5: 1 if equal."""

    name, better, title, bounds = "ssim", 1, "ssim (1: equal)", (-1.0, 1.0)

    def applies(self, one: Completed) -> bool:
        return one.is_image and min(one.truth.shape[1:]) >= WINDOW

    def __call__(self, one: Completed) -> dict[str, float]:
        from torchmetrics.functional.image import structural_similarity_index_measure

        images = torch.cat([one.mean.unsqueeze(0), one.drawn])
        found = structural_similarity_index_measure(
            images, one.truth.expand_as(images), data_range=one.span, reduction="none"
        )
        assert isinstance(found, Tensor)  # without the maps
        return {self.name: float(found[0]), f"{self.name}{SINGLE}": float(found[1:].mean())}


class Perceptual(Restoration):
    """LPIPS, if its weights are there.

    Args:
        distance: the network.
    """

    name, better, title = "lpips", -1, "lpips (0: equal)"

    def __init__(self, distance: Lpips) -> None:
        self.distance = distance

    def applies(self, one: Completed) -> bool:
        return one.is_image and min(one.truth.shape[1:]) >= LEAST

    def __call__(self, one: Completed) -> dict[str, float]:
        images = torch.cat([one.mean.unsqueeze(0), one.drawn]) * 2 - 1
        found = self.distance(images, (one.truth * 2 - 1).expand_as(images))
        return {self.name: float(found[0]), f"{self.name}{SINGLE}": float(found[1:].mean())}


class RelativeError(Restoration):
    """L2 norm of the error over that of the truth, in the units of the data."""

    name, better, title = "l2", -1, "l2, relative"

    def __call__(self, one: Completed) -> dict[str, float]:
        found = dict[str, float]()
        for part, of in one.parts():
            norm = of.truth.norm()
            singles = (of.drawn - of.truth).norm(dim=1) / norm
            mean = (of.mean - of.truth).norm() / norm
            found |= {f"{self.name}{part}": float(mean), f"{self.name}{SINGLE}{part}": float(singles.mean())}
        return found


class Coverage(Restoration):
    """Share of true values between the 5th and the 95th percentile of the completions, beside that of exact draws.

    Above it, completions differ more than they should; below it, less: they are too certain. A true value of an image
    is known to half a level of 8 bits, by which the band is widened.
    """

    name, better, title, bounds = "coverage", 0, "coverage", (0.0, 1.0)

    def __call__(self, one: Completed) -> dict[str, float]:
        slack = HALF_LEVEL if one.is_image else 0.0
        found = {
            f"{self.name}{part}": float(covered(of.truth, of.drawn, slack).double().mean()) for part, of in one.parts()
        }
        return {**found, f"{self.name}{EXACT}": exact_coverage(len(one.drawn))}

    def rows(self, figures: Mapping[str, float]) -> list[list[str]]:
        known = [(self.title, self.name), (OF_UNKNOWN, f"{self.name}{UNKNOWN}")]
        found = [[title, with_interval(figures, name), ""] for title, name in known if name in figures]
        return [*found, ["  exact draws", format(figures[f"{self.name}{EXACT}"], ".3f"), ""]]


RESTORATION: dict[str, type[Restoration]] = {
    kind.name: kind for kind in (SignalToNoise, Similarity, Perceptual, RelativeError, Coverage)
}


def with_interval(figures: Mapping[str, float], name: str) -> str:
    """A figure, and its interval in brackets if it has one."""
    return f"{figures[name]:.4g}{between(figures, name)}"


def told(figures: Mapping[str, float], metrics: Sequence[Restoration], completions: int) -> list[str]:
    """Figures as a table, line by line; of those that are not there nothing is told.

    Args:
        figures: as :func:`restoration_figures` gives them.
        metrics: whose they are.
        completions: how many there are of every input.
    """
    rows = [row for metric in metrics if metric.name in figures for row in metric.rows(figures)]
    heads = ["", "the only completion" if completions == 1 else f"mean of {completions} completions", "single ones"]
    return table([heads, *rows] if completions > 1 else [row[:2] for row in [heads, *rows]])


def restoration_figures(inputs: Iterable[Completed], metrics: Sequence[Restoration]) -> dict[str, float]:
    """Means of figures over inputs, each with ``_low`` and ``_high``, the interval for other inputs.

    Args:
        inputs: inputs with their completions, at least one; they are looked at one after the other.
        metrics: the figures; those that do not apply are left out.
    """
    rows: dict[str, list[float]] = {}
    bounds = dict[str, tuple[float, float]]()
    for one in inputs:
        exact = one._replace(truth=one.truth.double(), drawn=one.drawn.double())
        for metric in metrics:
            for name, value in (metric(exact) if metric.applies(one) else {}).items():
                rows.setdefault(name, []).append(value)
                bounds[name] = metric.bounds
    found = dict[str, float]()
    for name, values in rows.items():
        found[name] = sum(values) / len(values)
        found |= {} if name.endswith(EXACT) else interval(name, values, bounds[name])
    return found


def interval(name: str, values: Sequence[float], bounds: tuple[float, float]) -> dict[str, float]:
    """An interval of 95 % for the mean of a figure over other inputs; none of one input, or if one is not finite.

    The jackknife's deviation of a mean is the standard error, whose law is Student's.

    Args:
        name: of the figure.
        values: of every input.
        bounds: what a figure cannot pass.
    """
    from scipy.special import stdtrit

    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return {}
    row = torch.tensor(values, dtype=torch.float64)
    mean, reach = float(row.mean()), float(row.std()) / math.sqrt(count) * float(stdtrit(count - 1, (1 + CERTAIN) / 2))
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in (mean - reach, mean + reach))
    return {name + LOW: low, name + HIGH: high}
