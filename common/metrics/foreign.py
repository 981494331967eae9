"""Samples and real data as files of anybody: images, recordings or arrays, in folders or alone."""

import contextlib
from pathlib import Path

from common.config.build import load_data
from common.config.schema import DataConfig
from common.data.folder import source_of
from common.data.source import DataSet
from common.metrics.drawn import Drawn
from common.metrics.judged import Judged
from common.metrics.statistics import holds_statistics
from common.refusal import Refusal

ImageSize = int | tuple[int, int] | None


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
    try:
        return load_data(DataConfig(data_name=source_of(path), data_dir=path, image_size=image_size, channels=channels))
    except Refusal as refusal:
        raise Refusal(f"{path}: {refusal}", flag) from refusal


def read_both(samples: Path, reference: Path, image_size: ImageSize) -> tuple[DataSet, DataSet]:
    """Samples and real data; images in files are taken in grey if the others, in an array, have one channel."""
    drawn, real = read_files(samples, "samples", image_size), read_files(reference, "reference", image_size)
    if drawn.spec.channels != real.spec.channels and drawn.is_image:
        with contextlib.suppress(Refusal):  # an array has the channels that it has
            return drawn, read_files(reference, "reference", image_size, drawn.spec.channels)
        with contextlib.suppress(Refusal):
            return read_files(samples, "samples", image_size, real.spec.channels), real
    return drawn, real


def of_files(samples: Path | None, reference: Path, image_size: ImageSize, count: int | None, figures: Path) -> Judged:
    """Samples of another program against real data.

    Args:
        samples: file or folder with them; None takes the real data itself, of which only statistics are wanted.
        reference: file or folder with the real data.
        image_size: sides to which images of both are resized; None takes them as they are.
        count: how many samples, evenly spaced; None takes all.
        figures: the file for figures.

    Raises:
        Refusal: if either cannot be read, or they are of other shapes.
    """
    if holds_statistics(reference):
        assert samples is not None  # EvaluateConfig looks at it
        others = data = read_files(samples, "samples", image_size)
    else:
        if samples is None:
            others = data = read_files(reference, "reference", image_size)
        else:
            others, data = read_both(samples, reference, image_size)
    if others.shape != data.shape:
        raise Refusal(
            f"{samples} holds samples of shape {others.shape}, {reference} real ones of {data.shape}; "
            "for images, --image_size brings both to one",
            "samples",
        )
    drawn = Drawn.of_parts([others.train, others.held_out], data.spec, str(samples or reference), count)
    lines = [f"real      {reference}: {data.found[0]}"] if data.found else []
    return Judged(drawn, data, figures, lines=lines, origin={"reference": str(reference)})
