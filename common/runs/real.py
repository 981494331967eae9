"""A few real samples that a run keeps: pictures show them beside drawn ones, also where the data set is not at hand."""

from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from common.data.reading import gather, spread
from common.data.source import Split
from common.data.spec import DataSpec
from common.files import load_state, save_safetensors
from common.media.layout import Labelled
from common.refusal import Refusal
from common.runs.folder import RunFolder

COUNT, BYTES, LEAST = 100, 2 * 1024**2, 4  # samples at most; as many as take two megabytes, but no fewer than the last


def chosen_rows(labels: Tensor, num_classes: int | None, count: int) -> Tensor:
    """Which samples to keep: the first of each class in turn, as samples are drawn; evenly spaced ones without classes.

    Args:
        labels: (N,) int64.
        num_classes: number of classes; None if there are no labels.
        count: how many.

    Returns:
        At most ``count`` indices, int64.
    """
    if num_classes is None:
        return spread(len(labels), count)
    of_class = [torch.nonzero(labels == label).flatten()[:count].tolist() for label in range(num_classes)]
    in_turn = [row for rows in zip_longest(*of_class) for row in rows if row is not None]
    return torch.tensor(in_turn[:count], dtype=torch.int64)


def write_real(path: Path, part: Split, spec: DataSpec) -> None:
    """Keep a few samples as they are stored (at most 100, about two megabytes), with their labels, in one file.

    They are training samples: every class that is learned has some among them, which held-out parts do not promise.

    Args:
        path: the file.
        part: what to choose from.
        spec: what a sample is, without classes if the run learns without labels.

    Raises:
        DataUnavailable: if they cannot be read.
    """
    size = torch.Size(spec.shape).numel() * part.images.dtype.itemsize
    rows = chosen_rows(part.labels, spec.num_classes, min(COUNT, max(LEAST, BYTES // size)))
    samples = part.images[rows] if isinstance(part.images, Tensor) else gather(part.images, rows)
    save_safetensors(path, {"x": samples, "labels": part.labels[rows]}, {"format": "pt"})


def read_real(path: Path, spec: DataSpec) -> Labelled | None:
    """Real samples as pictures show them; None if the run kept none (earlier versions, released folders).

    Raises:
        Refusal: naming the file, if it is damaged or of another run.
    """
    if not path.is_file():
        return None
    RunFolder(path.parent).manifest.check(path)
    state = load_state(path)
    x, labels = state.get("x"), state.get("labels")
    if x is None or labels is None or not _are_samples(x, labels, spec):
        raise Refusal(f"{path} holds no samples {spec.shape} with labels; delete it to have pictures without real ones")
    return Labelled(spec.pictured(x), spec.names_of(labels))


def _are_samples(x: Tensor, labels: Tensor, spec: DataSpec) -> bool:
    """Whether tensors, perhaps of a foreign file, are samples of a run and their labels."""
    if tuple(x.shape[1:]) != spec.shape or tuple(labels.shape) != (len(x),) or labels.dtype != torch.int64:
        return False
    known = spec.num_classes is None or bool(((labels >= 0) & (labels < spec.num_classes)).all())
    return known and (x.dtype == torch.uint8 or x.is_floating_point())
