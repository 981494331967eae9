"""A picture of data as a network will see it: samples with their classes underneath, and how values are spread."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.media.figures import SMALL, TINY, few_ticks, new_figure, outline
from common.media.grids import displayable
from common.media.layout import Labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 10


def looks_figure(samples: Labelled, levels: Tensor, title: str) -> "Figure":
    """Samples in rows of ten, each with its class underneath, and a histogram below them.

    Args:
        samples: images (N, C, H, W) in [0, 1], or functions or sounds (N, C, L) in their own units; at least one.
        levels: (B,) how many values lie in each of B equal intervals of [-1, 1].
        title: what stands above.
    """
    count = len(samples.x)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = new_figure(figsize=(max(5.0, 1.1 * columns), 1.25 * rows + 2.2))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.25 * rows, 2.0]).ravel()
    figure.suptitle(title, fontsize=SMALL)
    for i, plot in enumerate(above.subplots(rows, columns, squeeze=False).ravel()):
        plot.set(xticks=[], yticks=[])
        if i >= count:
            plot.axis("off")
            continue
        if samples.x.ndim == 4:
            image = displayable(samples.x[i : i + 1])[0].float().cpu().clamp(0, 1)
            levels_of = image.mul(255).round().byte().movedim(0, -1).numpy()
            plot.imshow(
                levels_of.squeeze(-1) if len(image) == 1 else levels_of,
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
        else:
            plot.plot(*outline(samples.x[i].float().cpu()), linewidth=0.7)
        if samples.classes:
            plot.set_xlabel(samples.classes[i], fontsize=TINY, parse_math=False)  # a class may be called $5
    histogram = below.subplots()
    edges = torch.linspace(-1, 1, len(levels) + 1)
    histogram.stairs((levels / levels.sum()).tolist(), edges.tolist(), fill=True)
    histogram.set(xlim=(-1.02, 1.02))
    histogram.set_xlabel("value on the scale of the network", fontsize=SMALL)
    histogram.set_ylabel("share", fontsize=SMALL)
    histogram.tick_params(labelsize=TINY)
    few_ticks(histogram.xaxis, 8)
    few_ticks(histogram.yaxis, 4)
    return figure
