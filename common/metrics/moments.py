"""Law of single values of samples, their correlations over distance, and their range, against real ones."""

import torch
from torch import Tensor

from common.metrics.of_values import OfValues, Trial, with_spread
from common.metrics.points import quantiles
from common.metrics.values import RESOLUTION, correlations, lagged, shape_of

NUMBERS = 2**20  # values of real samples that are looked at
ENDS = 0.001  # share of the values beyond either end of the range
BESIDE = ("moments_mean", "moments_deviation", "moments_skewness", "moments_kurtosis")
BEYOND = ("range_below", "range_above")


class Moments(OfValues):
    """W2 distance of single values (``moments``), largest difference of lag correlations (``lags``), and of the
    quantiles 0.001 and 0.999 (``range``); the first and the last in units of the standard deviation of real values.

    Beside them: how much larger the mean is, in these units, the standard deviation over that of real values, by how
    much skewness and excess kurtosis are larger; and how far the smallest and the largest value are beyond the real
    ones.
    """

    names = ("moments", "lags", "range")
    about = (
        "(distance of the law of single values, in real standard deviations; it sees no order of values)",
        "(0 to 2: largest difference of correlations at distances 1, 2, 4, ..; it sees no place and no scale)",
        "(shift of the quantiles 0.001 and 0.999, in real standard deviations)",
    )

    def compared(self, trial: Trial) -> dict[str, float]:
        size = trial.real[0].numel()
        places = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        places = places[: max(1, NUMBERS // len(trial.real))]

        def numbers(samples: Tensor) -> Tensor:
            off = samples - samples.double().mean()
            return torch.cat([samples.flatten(1)[:, places].double(), lagged(off).mean(1)], 1)

        def figures(drawn: Tensor) -> dict[str, float]:
            values, products = drawn[:, : len(places)], drawn[:, len(places) :]
            law = quantiles(values.reshape(1, -1))[0]
            return {
                "moments": float((law - real_law).square().mean().sqrt() / deviation),
                "lags": float((correlations(products.mean(0)) - real_correlations).abs().max()),
                "range": float((ends(law) - ends(real_law)).abs().max() / deviation),
            }

        real = numbers(trial.real)
        real_values = real[:, : len(places)]
        real_law = quantiles(real_values.reshape(1, -1))[0]
        real_correlations = correlations(real[:, len(places) :].mean(0))
        expected = shape_of(real_values.flatten())
        deviation = expected[1].clamp_min(RESOLUTION)
        drawn = numbers(trial.drawn)
        found = shape_of(drawn[:, : len(places)].flatten())
        mean, _, skewness, kurtosis = (found - expected).tolist()
        below = trial.fresh.min() - trial.drawn.min()
        above = trial.drawn.max() - trial.fresh.max()
        beside = (mean / float(deviation), float(found[1] / deviation), skewness, kurtosis)
        return {
            **with_spread(figures, drawn, numbers(trial.fresh)),
            **dict(zip(BESIDE, beside, strict=True)),
            **dict(zip(BEYOND, (float(below / deviation), float(above / deviation)), strict=True)),
        }

    def details(self, figures: dict[str, float]) -> tuple[str, ...]:
        mean, deviation, skewness, kurtosis = (figures[name] for name in BESIDE)
        below, above = (figures[name] for name in BEYOND)
        return (
            f"mean {mean:+.3g}, deviation x {deviation:.3g}, skewness {skewness:+.3g}, kurtosis {kurtosis:+.3g}",
            "",
            f"extremes reach {below:+.3g} and {above:+.3g} beyond those of as many real samples",
        )


def ends(law: Tensor) -> Tensor:
    """The quantiles near either end of a law, of which (Q,) are given."""
    return law[[int(ENDS * len(law)), int((1 - ENDS) * len(law))]]
