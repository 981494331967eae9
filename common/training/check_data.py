"""``--check_data``: the data as a network will see it, in words and in a picture; nothing is trained."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.config.schema import RunConfig
from common.data.reading import chunks, spread
from common.data.source import DataSet, Split
from common.data.spec import DataSpec
from common.media.figures import save_figure
from common.media.layout import Labelled
from common.media.looks import looks_figure
from common.runs.real import chosen_rows
from common.training.data_told import paragraph, table_of_classes
from common.training.session import say

SHOWN = 50  # samples of the picture
LOOKED_AT, NUMBERS = 20_000, 2**28  # samples of a part, and numbers in them, that are looked at
BINS = 256
FAR = 0.02  # share of values at one end from which on it is told
NAMED = 3  # duplicates that a line names


@dataclass(frozen=True)
class Look:
    """What was seen of a part.

    Attributes:
        rows: (M,) which samples were looked at.
        digests: (M) SHA-256 of the values of each.
        flat: (M,) whether all values of a sample are the same.
        levels: (BINS,) how many values lie in each of equal intervals of the network's scale [-1, 1].
        beyond: values outside of that.
    """

    rows: Tensor
    digests: list[bytes]
    flat: Tensor
    levels: Tensor
    beyond: int


def check_data(config: RunConfig, dataset: DataSet) -> int:
    """Say what data is, and write a picture of it; returns the exit code.

    Args:
        config: what a run would make of it.
        dataset: the data.

    Raises:
        DataUnavailable: for samples that cannot be read.
    """
    for line in (*paragraph(dataset, config), *table_of_classes(dataset)[1:]):
        say(line)
    train, held_out = (
        look(dataset.train, dataset.spec, "to learn from"),
        look(dataset.held_out, dataset.spec, "held out"),
    )
    for line in (*levels_told(dataset.train, train), *twins_told(dataset, train, held_out)):
        say(line)
    path = picture_of(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = dataset.spec
    rows = chosen_rows(dataset.train.labels, spec.num_classes, min(SHOWN, len(dataset.train.labels)))
    images = dataset.train.images[rows]
    samples = Labelled(spec.pictured(images), spec.names_of(dataset.train.labels[rows]))
    title = f"{config.data.data_name}: {'x'.join(map(str, spec.shape))}, on the scale of the network"
    save_figure(path, looks_figure(samples, train.levels, title))
    say(f"picture   {path}")
    return 0


def look(part: Split, spec: DataSpec, title: str) -> Look:
    """See samples of a part, evenly spaced if there are many.

    Args:
        part: the samples.
        spec: what a sample is.
        title: what the progress bar says.
    """
    size = torch.Size(spec.shape).numel()
    rows = spread(len(part.labels), max(1, min(LOOKED_AT, NUMBERS // size)))
    digests: list[bytes] = []
    flat, levels, beyond = [], torch.zeros(BINS, dtype=torch.int64), 0
    for samples in chunks(part.images, rows, f"data {title}"):
        digests += [hashlib.sha256(sample.contiguous().numpy()).digest() for sample in samples]
        values = spec.to_network(samples).flatten(1)
        flat.append(values.amin(1) == values.amax(1))
        inside = (values.abs() <= 1 + 1e-6).flatten()
        beyond += int((~inside).sum())
        places = ((values.flatten()[inside] + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        levels += places.bincount(minlength=BINS)
    return Look(rows, digests, torch.cat(flat), levels, beyond)


def levels_told(part: Split, seen: Look) -> list[str]:
    """How the values are spread on the network's scale, in words."""
    counts = seen.levels.double()
    total = float(counts.sum())
    middles = (torch.arange(BINS) + 0.5) / BINS * 2 - 1
    mean = float(counts @ middles.double()) / total
    ends = [
        f"{float(count) / total:.0%} at {end}"
        for count, end in ((counts[0], -1), (counts[-1], 1))
        if count > FAR * total
    ]
    lowest, highest = (float(middles[i]) for i in (counts.nonzero()[0, 0], counts.nonzero()[-1, 0]))
    found = [
        f"levels    {lowest:.2f} to {highest:.2f}, mean {mean:.2f} of -1 to 1{''.join(f', {end}' for end in ends)}"
    ]
    if int(seen.flat.sum()):
        first = part.name(int(seen.rows[seen.flat.nonzero()[0, 0]]))
        found.append(f"warning   {int(seen.flat.sum()):,} samples have one value everywhere, first {first}")
    if highest - lowest < 0.25:
        found.append("warning   the values fill less than an eighth of the scale: their range may be another one")
    return found


def twins_told(dataset: DataSet, train: Look, held_out: Look) -> list[str]:
    """Samples that are there twice, in words: in both parts, in the training part, and there in two classes."""
    first: dict[bytes, int] = {}
    twice, torn = [], []
    labels = dataset.train.labels
    for row, digest in zip(train.rows.tolist(), train.digests, strict=True):
        other = first.setdefault(digest, row)
        if other != row:
            twice.append((other, row))
            if labels[other] != labels[row]:
                torn.append((other, row))
    shared = [
        (first[digest], row)
        for row, digest in zip(held_out.rows.tolist(), held_out.digests, strict=True)
        if digest in first
    ]
    some = len(train.rows) < len(labels) or len(held_out.rows) < len(dataset.held_out.labels)
    among = f" ({len(train.rows):,} and {len(held_out.rows):,} were looked at)" if some else ""
    if not (twice or shared):
        return [f"twins     no sample is there twice{among}"]
    found = []
    for pairs, what, parts in (
        (shared, "of the held-out samples are learned from too", (dataset.train, dataset.held_out)),
        (torn, "samples to learn from stand in two classes", (dataset.train, dataset.train)),
        (twice, "samples are to be learned from twice", (dataset.train, dataset.train)),
    ):
        if pairs:
            named = "; ".join(
                " and ".join(part.name(i) for part, i in zip(parts, pair, strict=True)) for pair in pairs[:NAMED]
            )
            found.append(f"warning   {len(pairs):,} {what}{among}: {named}{'; ..' if len(pairs) > NAMED else ''}")
    return found


def picture_of(config: RunConfig) -> Path:
    """Where the picture goes."""
    return config.keeping.output_dir / f"check-{config.data.data_name}.png"
