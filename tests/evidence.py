"""Samples and real data as metrics are given them."""

from pathlib import Path

import numpy as np
import torch

from common.data import DataSet
from common.metrics import Evidence
from common.metrics.drawn import Drawn
from common.metrics.extraction import Extractor
from common.metrics.features import Wanted

NOWHERE = Path("x")


def evidence_of(
    samples: np.ndarray | torch.Tensor, labels: np.ndarray | None, data: DataSet, folder: Path = NOWHERE, **more: object
) -> Evidence:
    """Evidence with pixels as features.

    Args:
        samples: arrays (N, *S, C) in the units of the data, or a tensor (N, C, *S) on the network's scale.
        labels: (N,), or None.
        data: real data.
        folder: what messages call the samples.
        more: further attributes of Evidence.
    """
    if isinstance(samples, torch.Tensor):
        drawn = Drawn(
            lambda: iter(samples.split(100)), None if labels is None else torch.from_numpy(labels), str(folder)
        )
    else:
        drawn = Drawn.of(samples, labels, data.spec, str(folder))
    extractor = Extractor(Wanted(data, folder / "weights", folder / "cache"), "pixels")
    return Evidence(drawn, data, extractor, **more)
