"""Samples and real data as files of anybody: images, recordings or arrays, in folders or alone."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from common.config.build import load_data
from common.config.schema import DataConfig
from common.data.folder import source_of
from common.data.source import DataSet
from common.data.spec import UNIT
from common.metrics.drawn import Drawn
from common.metrics.extraction import Extractor
from common.metrics.judged import Judged
from common.metrics.statistics import holds_statistics
from common.refusal import Refusal

ImageSize = int | tuple[int, int] | None
BRIGHT = 0.5  # a pixel above which says that images in [0, 1] are levels, not numbers that happen to be small
FAR, FLAT = 2.0, 0.2  # on the scale [-1, 1] of real data: samples in its units reach no further, and are not as flat


def read_files(path: Path, flag: str, image_size: ImageSize, channels: int | None = None) -> DataSet:
    """What lies in a file or a folder, as a data set.

    Args:
        path: the file or folder.
        flag: which flag names it.
        image_size: sides to which images are cropped and resized; None takes them as they are.
        channels: to which images are brought; None takes what the source prefers.

    Raises:
        Refusal: if nothing there can be read.
    """
    if not path.exists():
        raise Refusal(f"{path}: there is no such file or folder", flag)
    source = source_of(path)
    try:
        data = load_data(DataConfig(data_name=source, data_dir=path, image_size=image_size, channels=channels))
    except Refusal as refusal:
        problem = str(refusal).removeprefix(f"--data_name {source}: ").removeprefix(f"{path}: ")  # not a flag of ours
        raise Refusal(f"{path}: {problem}", flag) from refusal
    low, high = data.value_range
    is_levels = data.is_image and low >= 0 and BRIGHT < high <= 1
    return replace(data, value_range=UNIT) if is_levels else data  # else its brightest pixel would count as white


def read_both(samples: Path, reference: Path, image_size: ImageSize) -> tuple[DataSet, DataSet]:
    """Samples and real data; images in files are taken in grey if the others, in an array, have one channel."""
    drawn, real = read_files(samples, "samples", image_size), read_files(reference, "reference", image_size)
    if drawn.spec.channels != real.spec.channels and drawn.is_image:
        with contextlib.suppress(Refusal):  # an array has the channels that it has
            return drawn, read_files(reference, "reference", image_size, drawn.spec.channels)
        with contextlib.suppress(Refusal):
            return read_files(samples, "samples", image_size, real.spec.channels), real
    return drawn, real


def of_one_kind(drawn: DataSet, real: DataSet, samples: Path, reference: Path) -> list[str]:
    """What a user should know of the units of samples and real data: that they do not look like the same ones.

    Raises:
        Refusal: if they certainly are not, or are of other shapes.
    """
    if drawn.shape != real.shape:
        mend = "--image_size brings both to one" if drawn.is_image and real.is_image else "name real data like them"
        raise Refusal(
            f"{samples} holds samples of shape {drawn.shape}, but --reference {reference} those of {real.shape}; "
            f"{mend}",
            "samples",
        )
    if drawn.sample_rate != real.sample_rate and None not in (drawn.sample_rate, real.sample_rate):
        raise Refusal(
            f"{samples} holds sounds of {drawn.sample_rate} Hz, {reference} real ones of {real.sample_rate} Hz; "
            "resample either",
            "samples",
        )
    (low, high), (least, most) = drawn.value_range, real.value_range
    is_bytes = [one.train.images.dtype == torch.uint8 for one in (drawn, real)]
    if is_bytes == [True, False] and real.value_range != UNIT:
        raise Refusal(
            f"{reference} holds numbers from {least:g} to {most:g}, {samples} levels from 0 to 255; write these "
            "numbers as uint8 levels too, or on the scale from 0 to 1",
            "reference",
        )
    start, end = real.to_unit_range(torch.tensor([low, high])).tolist()
    if is_bytes[0] or (max(-start, end) <= FAR and end - start >= FLAT):
        return []
    return [
        f"{samples} reaches from {low:g} to {high:g}, {reference} from {least:g} to {most:g}: "
        "if these are not the same units, no figure holds"
    ]


def of_files(
    samples: Path | None,
    reference: Path,
    image_size: ImageSize,
    count: int | None,
    figures: Path,
    extractor: Callable[[DataSet], Extractor],
) -> Judged:
    """Samples of another program against real data.

    Args:
        samples: file or folder with them; None takes the real data itself, of which only statistics are wanted.
        reference: file or folder with the real data.
        image_size: sides to which images of both are resized; None takes them as they are.
        count: how many samples, evenly spaced; None takes all.
        figures: the file for figures.
        extractor: gives what features of the real data are had from.

    Raises:
        Refusal: if either cannot be read, they are of other shapes or units, or there are not so many.
    """
    remarks: list[str] = []
    if holds_statistics(reference):
        assert samples is not None  # EvaluateConfig looks at it
        others = data = read_files(samples, "samples", image_size)
    elif samples is None:
        others = data = read_files(reference, "reference", image_size)
    else:
        others, data = read_both(samples, reference, image_size)
        remarks = of_one_kind(others, data, samples, reference)
    parts = [others.train, others.held_out]
    there = sum(len(part.labels) for part in parts)
    if count is not None and count > there:
        raise Refusal(f"{count}: there are {there} in {samples}", "n_samples")
    features = extractor(data)
    drawn = Drawn.of_parts(parts, data.spec, str(samples or reference), count)
    found = "mean and covariance alone" if holds_statistics(reference) else next(iter(data.found), "")
    lines = [f"real      {reference}: {found}"] if found else []
    return Judged(drawn, data, features, figures, remarks=remarks, lines=lines, origin={"reference": str(reference)})
