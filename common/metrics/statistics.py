"""Statistics of features of real data in a file that other programs read too: pytorch-fid's ``mu`` and ``sigma``."""

import io
from pathlib import Path

import numpy as np
import torch

from common.files import UNREADABLE, atomic_write
from common.metrics.points import Moments
from common.refusal import Refusal

SUFFIX = ".npz"
MEAN, COVARIANCE = "mu", "sigma"


def write_statistics(path: Path, moments: Moments) -> None:
    """Write mean (D,) and covariance (D, D) in float64, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, mu=moments.mean.numpy(), sigma=moments.cov.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())


def holds_statistics(path: Path) -> bool:
    """Whether a file is one of statistics, by the names in it."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {MEAN, COVARIANCE} <= set(arrays.files)
    except UNREADABLE:
        return False  # whoever reads it says what is wrong with it


def read_statistics(path: Path) -> Moments:
    """Mean and covariance.

    Raises:
        Refusal: if the file is damaged, or they are of other shapes or not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, cov = (torch.from_numpy(arrays[name]).double() for name in (MEAN, COVARIANCE))
    except UNREADABLE as error:
        raise Refusal(f"{path} cannot be read ({error}); write it again with --save_statistics", "reference") from error
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not (mean.isfinite().all() and cov.isfinite().all()):
        raise Refusal(
            f"{path} holds {MEAN} of shape {tuple(mean.shape)} and {COVARIANCE} of {tuple(cov.shape)}; "
            "a vector and a square matrix of finite numbers are needed",
            "reference",
        )
    return Moments(mean, cov)
