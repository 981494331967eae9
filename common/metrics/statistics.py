"""Statistics of features of real data in a file that other programs read too: pytorch-fid's ``mu`` and ``sigma``."""

import io
from pathlib import Path

import numpy as np
import torch

from common.files import UNREADABLE, atomic_write
from common.metrics.points import Moments
from common.refusal import Refusal

SUFFIX = ".npz"
MEAN, COVARIANCE, FEATURES = "mu", "sigma", "features"


def write_statistics(path: Path, moments: Moments, features: str) -> None:
    """Write mean (D,) and covariance (D, D) in float64, and what they are of, atomically.

    Args:
        path: the file.
        moments: of real data.
        features: identity of the features; other programs leave it unread.

    Raises:
        Refusal: if they are those of fewer than two samples.
    """
    if not (len(moments.mean) and moments.cov.isfinite().all()):
        raise Refusal("needs two real samples; there are not so many in this --reference_part", "save_statistics")
    buffer = io.BytesIO()
    np.savez(buffer, mu=moments.mean.numpy(), sigma=moments.cov.numpy(), features=np.array(features))
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


def check_features(path: Path, features: str) -> None:
    """Refuse a file of statistics that says that it was made with other features.

    Args:
        path: the file, one of statistics.
        features: identity of the features of samples.

    Raises:
        Refusal: naming both.
    """
    with np.load(path, allow_pickle=False) as arrays:
        told = str(arrays[FEATURES]) if FEATURES in arrays.files else features  # other programs do not say it
    if told != features:
        raise Refusal(f"{path} was made with {told}, samples have {features}: name the same by --features", "reference")


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
