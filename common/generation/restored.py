"""What is shown and told of completed inputs: pictures, mean and deviation as arrays, figures, sounds to listen to."""

import itertools
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.spec import DataSpec
from common.files import open_array, write_array, write_json
from common.generation.blocks import kept_samples
from common.generation.conditional import Condition
from common.generation.identity import evaluations_of
from common.media.audio import write_wav
from common.media.restorations import ROWS, Restored, save_comparison, save_posterior
from common.metrics.evaluation import defined
from common.metrics.judged import PACKAGES, TRUTHS, part_of, together
from common.metrics.lpips import BACKBONE, LEAST, Lpips
from common.metrics.restoration import (
    RESTORATION,
    Completed,
    Coverage,
    Perceptual,
    Restoration,
    restoration_figures,
    told,
)  # fmt: skip
from common.runs import SampleFolder

WEIGHTS = Path("weights")  # where evaluate.py looks for files of weights, too
HEARD, HEARD_COMPLETIONS = 5, 2  # inputs and completions of each that are written as .wav


def report(
    folder: Path, spec: DataSpec, condition: Condition, *, scale: int | None = None, weights_dir: Path = WEIGHTS
) -> list[str]:
    """Write what is to be seen of completed inputs; returns what to say about it.

    Files: ``comparison.png`` and ``posterior.png``, ``mean.npy`` and ``deviation.npy`` (N, *S, C) in the units of the
    data, ``metrics.json`` if the truth is known, and of sounds .wav files of observation, completions and truth.

    Args:
        folder: completions of every input, whole, as generate.py left them.
        spec: what a completion is.
        condition: the inputs.
        scale: whole number by which images are magnified; None makes small ones visible.
        weights_dir: where the weights of LPIPS are, if they are.

    Raises:
        Refusal: if completions are damaged, or weights are there but other ones.
    """
    place, lines = SampleFolder(folder), list[str]()
    if condition.truth is not None:
        lines += judged(place, spec, condition, weights_dir)
    write_moments(place, condition.completions)
    shown = pictured(place, spec, condition)
    save_comparison(place.comparison, shown, spec.sample_rate, scale)
    save_posterior(place.posterior, shown.only(0), spec.sample_rate)
    if spec.sample_rate:
        lines.append(f"audio     {write_sounds(place, spec, shown)}")
    return [
        *lines,
        f"mean      {place.mean}, {place.deviation.name}",
        f"compared  {place.comparison}, {place.posterior.name}",
    ]


def by_input(folder: Path, completions: int) -> Iterator[np.ndarray]:
    """Completions (M, *S, C) of one input after the other, read as they are needed."""
    rows = itertools.chain.from_iterable(open_array(file) for file in kept_samples(folder).files)
    while some := list(itertools.islice(rows, completions)):
        yield np.stack(some)


# -- figures -----------------------------------------------------------------------------------------------------------


def judged(place: SampleFolder, spec: DataSpec, condition: Condition, weights_dir: Path) -> list[str]:
    """Write figures of completions against the truth; returns them in words, or why there are none."""
    assert condition.truth is not None  # whoever asks has looked
    if (known := condition.truth.shape[1:-1]) != spec.grid:
        return [f"figures   none: completions are on a grid of {spec.grid}, the truth is known on {known}"]
    metrics, missing = metrics_for(spec, condition.completions, weights_dir)
    inputs = [one for one in completed(place.path, spec, condition) if one.drawn.isfinite().all()]
    if not inputs:
        return ["figures   none: every input has completions that are not finite"]
    found = restoration_figures(inputs, metrics)
    about = basis(place, condition, len(inputs), [metric for metric in metrics if metric.name in found])
    path = file_for(place)
    figures = {
        "samples": len(inputs) * condition.completions,
        "inputs": len(inputs),
        "completions": condition.completions,
        **{name: defined(value) for name, value in found.items()},
    }
    write_json(path, together(path, figures, about))
    several, left = len(inputs) > 1, condition.count - len(inputs)
    return [
        f"truth     known: means over {len(inputs)} input{'s' * several}"
        + ", in brackets the interval of 95 % for other inputs" * several
        + (f"; {left} left out, which have completions that are not finite" if left else ""),
        *told(found, metrics, condition.completions),
        *missing,
        f"figures   {path}",
    ]


def metrics_for(spec: DataSpec, completions: int, weights_dir: Path) -> tuple[list[Restoration], list[str]]:
    """The figures of such samples, and what to say of LPIPS if its weights are not there.

    Raises:
        Refusal: if weights are there, but other ones than the published.
    """
    kinds = [kind for kind in RESTORATION.values() if kind is not Perceptual]
    found = [kind() for kind in kinds if completions > 1 or kind is not Coverage]
    if not (spec.is_image and min(spec.grid) >= LEAST):
        return found, []
    if (distance := Lpips.found_in(weights_dir)) is None:
        return found, [f"note      no lpips without {BACKBONE.name} in {weights_dir}; fetch it from {BACKBONE.url}"]
    return [*found, Perceptual(distance)], []


def completed(folder: Path, spec: DataSpec, condition: Condition) -> Iterator[Completed]:
    """Every input with its completions and what was not observed of it."""
    truths, mask = condition.truth, condition.mask
    assert truths is not None
    span = 1.0 if spec.is_image else spec.value_range[1] - spec.value_range[0]
    for index, drawn in enumerate(by_input(folder, condition.completions)):
        truth = first(torch.from_numpy(truths[index]))
        unknown = None if mask is None else (first(torch.from_numpy(mask[index])) == 0).expand_as(truth)
        if spec.is_image:  # in [0, 1], whatever their range is
            truth, rows = spec.pictured(truth), spec.pictured(channels_first(drawn))
        else:
            rows = channels_first(drawn)
        yield Completed(truth, rows, unknown, span)


def basis(place: SampleFolder, condition: Condition, count: int, metrics: Sequence[Restoration]) -> dict[str, Any]:
    """What figures rest on, in the form that those of evaluate.py have.

    Args:
        place: the completions.
        condition: the inputs.
        count: how many inputs the figures are of.
        metrics: the figures.
    """
    settings = place.kept() or {}
    network = {"name": Perceptual.name, "identity": f"alexnet {BACKBONE.sha256[:12]}", "source": BACKBONE.url}
    return {
        "samples": {
            "from": str(place.path),
            "count": count * condition.completions,
            "run": place.path.parents[2].name,
            "version": place.version,
            "settings": settings,
            "evaluations": evaluations_of(settings),
        },
        "real": {"part": TRUTHS, "count": count, "of": condition.count, **condition.identity},
        "features": {metric.name: network for metric in metrics if isinstance(metric, Perceptual)},
        "default_features": None,
        "versions": {"python": python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def file_for(place: SampleFolder) -> Path:
    """``metrics.json``, or ``restoration.json`` if evaluate.py has left figures about something else in that."""
    return place.figures if part_of(place.figures) in (None, TRUTHS) else place.path / "restoration.json"


# -- arrays, pictures and sounds ---------------------------------------------------------------------------------------


def write_moments(place: SampleFolder, completions: int) -> None:
    """Write mean and deviation of the completions of every input; the deviation of a single one is 0."""
    means, deviations = [], []
    for drawn in by_input(place.path, completions):
        rows = drawn.astype(np.float64)
        means.append(rows.mean(0).astype(np.float32))
        deviations.append(rows.std(0, ddof=min(1, completions - 1)).astype(np.float32))
    write_array(place.mean, np.stack(means))
    write_array(place.deviation, np.stack(deviations))


def pictured(place: SampleFolder, spec: DataSpec, condition: Condition) -> Restored:
    """The first inputs as pictures show them."""
    drawn = list(itertools.islice(by_input(place.path, condition.completions), ROWS))
    count = len(drawn)
    truth = None if condition.truth is None else spec.pictured(channels_first(condition.truth[:count]))
    return Restored(
        spec.pictured(channels_first(condition.picture[:count])),
        torch.stack([spec.pictured(channels_first(one).nan_to_num()) for one in drawn]),
        truth,
        names_of(spec, condition)[:count],
    )


def names_of(spec: DataSpec, condition: Condition) -> tuple[str, ...]:
    """What inputs are called in a picture: their place or file, and their class if it is asked for."""
    classes = spec.names_of(condition.labels) or ("",) * condition.count
    return tuple(
        f"{name.partition(' of ')[0].rpartition('/')[2]}{f' ({of})' if of else ''}"
        for name, of in zip(condition.names, classes, strict=True)
    )


def write_sounds(place: SampleFolder, spec: DataSpec, shown: Restored) -> str:
    """Write observation, completions and truth of the first inputs as .wav; where they are, for a line.

    What was not observed is silent; what was observed at fewer points is written at a lower rate.
    """
    rate = spec.sample_rate or 0
    for index in range(min(HEARD, len(shown.drawn))):
        sounds = {"observation": shown.observed[index].nan_to_num()}
        sounds |= {f"completion_{i}": one for i, one in enumerate(shown.drawn[index, :HEARD_COMPLETIONS])}
        sounds |= {} if shown.truth is None else {"truth": shown.truth[index]}
        for name, sound in sounds.items():
            own = max(1, round(rate * sound.shape[-1] / spec.grid[0]))
            write_wav(place.audio / f"input_{index:03d}_{name}.wav", sound, own)
    return str(place.audio / "input_*.wav")


def first(array: Tensor) -> Tensor:
    """One sample (*S, C) with its channels first, (C, *S)."""
    return array.movedim(-1, 0)


def channels_first(arrays: np.ndarray) -> Tensor:
    """Samples (N, *S, C) with their channels first, (N, C, *S)."""
    return torch.from_numpy(np.ascontiguousarray(arrays)).movedim(-1, 1)
