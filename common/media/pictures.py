"""Pictures people look at, written as PNG: samples of any kind, and how they come out of the noise."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import atomic_write
from common.media.figures import curves_figure, png_of_figure, save_figure, sounds_figure
from common.media.grids import grid_picture
from common.media.layout import Labelled
from common.media.trajectories import Moment, trajectory_figure, trajectory_picture

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def save_picture(path: Path, picture: "Picture") -> None:
    """Write a picture as PNG, atomically."""
    atomic_write(path, png_of_picture(picture))


def png_of_picture(picture: "Picture") -> bytes:
    """A picture as a file of PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def png_of_samples(
    drawn: Labelled,
    real: Labelled | None = None,
    *,
    columns: int | None = None,
    sample_rate: int | None = None,
    scale: int | None = None,
) -> bytes:
    """Samples as a picture, a file of PNG: a grid of images, curves, or waves with spectrograms.

    Args:
        drawn: samples, at least one; sounds are in [-1, 1].
        real: real samples to show beside them.
        columns: samples per row; None lets the classes decide.
        sample_rate: points per second, if samples are sounds.
        scale: whole number by which images are magnified; None makes small ones visible.
    """
    if sample_rate is not None:
        return png_of_figure(sounds_figure(drawn, sample_rate, real, columns))
    if drawn.x.ndim == 3:
        return png_of_figure(curves_figure(drawn, real, columns))
    return png_of_picture(grid_picture(drawn, real, columns, scale))


def save_samples(
    path: Path,
    drawn: Labelled,
    real: Labelled | None = None,
    *,
    columns: int | None = None,
    sample_rate: int | None = None,
    scale: int | None = None,
) -> None:
    """Write what :func:`png_of_samples` makes of samples, atomically."""
    atomic_write(path, png_of_samples(drawn, real, columns=columns, sample_rate=sample_rate, scale=scale))


def save_trajectory(
    path: Path, moments: Sequence[Moment], classes: Sequence[str] | None = None, scale: int | None = None
) -> None:
    """Write how samples come out of the noise: one row per sample, one column per time.

    Args:
        path: the file.
        moments: states, times falling, at least one.
        classes: the name of the class of each sample, or None.
        scale: whole number by which images are magnified; None makes small ones visible.
    """
    if moments[0].x.ndim == 4:
        save_picture(path, trajectory_picture(moments, classes, scale))
    else:
        save_figure(path, trajectory_figure(moments, classes))
