"""Energy of samples per octave of the frequency, and per part of the grid, against that of real ones."""

import torch
from torch import Tensor

from common.metrics.of_values import OfValues, Trial, with_spread
from common.metrics.values import log_ratios, octave_edges, octaves, part_means

OCTAVE, PART = "spectrum_from_", "envelope_part_"


class Spectrum(OfValues):
    """Largest absolute log2 ratio of energies, over octaves (``spectrum``) and over parts of the grid (``envelope``).

    Beside them the ratio of generated to real energy in every octave (``spectrum_from_2``: from 2 to 4 cycles per
    longest side), without the mean of a sample, and in every part (``envelope_part_1``: the first eighth of a line, the
    first of 4 x 4 parts of an image in reading order), around the mean of real samples.
    """

    names = ("spectrum", "envelope")
    about = (
        "(1: a factor of 2 in some octave; it sees neither where in a sample energy is, nor copies)",
        "(1: a factor of 2 in some part; it sees no frequencies, nor copies)",
    )

    def compared(self, trial: Trial) -> dict[str, float]:
        edges, mean = octave_edges(trial.real.shape[2:]), trial.real.double().mean(0)

        def energies(samples: Tensor) -> Tensor:
            return torch.cat([octaves(samples), part_means((samples - mean).square())], 2).mean(1)

        def ratios(energy: Tensor) -> tuple[Tensor, Tensor]:
            """log2 for every octave and for every part."""
            count = len(edges)
            return log_ratios(energy[:, :count], real[:, :count]), log_ratios(energy[:, count:], real[:, count:])

        def figures(energy: Tensor) -> dict[str, float]:
            return {name: float(one.abs().max()) for name, one in zip(self.names, ratios(energy), strict=True)}

        real, drawn = energies(trial.real), energies(trial.drawn)
        of_octaves, of_parts = (one.exp2().tolist() for one in ratios(drawn))
        return {
            **with_spread(figures, drawn, energies(trial.fresh)),
            **{f"{OCTAVE}{edge:g}": ratio for edge, ratio in zip(edges, of_octaves, strict=True)},
            **{f"{PART}{i}": ratio for i, ratio in enumerate(of_parts, 1)},
        }

    def details(self, figures: dict[str, float]) -> tuple[str, ...]:
        edges = ", ".join(name.removeprefix(OCTAVE) for name in figures if name.startswith(OCTAVE))
        octaves_, parts = (
            " ".join(f"{ratio:.2g}" for name, ratio in figures.items() if name.startswith(start))
            for start in (OCTAVE, PART)
        )
        return (
            f"energy over that of real samples {octaves_}, in octaves from {edges} cycles a side",
            f"energy over that of real samples {parts}, in equal parts of the grid",
        )
