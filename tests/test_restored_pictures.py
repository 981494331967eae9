"""Pictures of completions: tiles exact to the pixel, curves and bands drawn from what there is."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from common.media.figures import UNKNOWN, stretches
from common.media.grids import FRAME, LINE, width_of
from common.media.restorations import (
    MAP,
    Restored,
    about_gap,
    centres,
    comparison_of_functions,
    comparison_of_sounds,
    comparison_picture,
    posterior_of_functions,
    posterior_picture,
    save_comparison,
    save_posterior,
)  # fmt: skip


def restored(shape=(1, 4, 5), count=3, draws=6, names=True) -> Restored:
    """Inputs whose left column (the first two points of a function) is known."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(count, *shape, generator=generator)
    drawn = torch.rand(count, draws, *shape, generator=generator)
    observed = torch.full_like(truth, torch.nan)
    observed[..., :2] = truth[..., :2]
    return Restored(observed, drawn, truth, tuple(f"test {i}" for i in range(count)) if names else ())


def tiles_of(picture: Image.Image, rows: int, columns: int, sides: tuple[int, int], margin: int) -> np.ndarray:
    """Tiles (rows, columns, h, w, 3) of a page of which the position of the first is known."""
    page, (h, w) = np.asarray(picture), sides
    found = np.empty((rows, columns, h, w, 3), page.dtype)
    for row in range(rows):
        for column in range(columns):
            top, left = LINE + FRAME + row * (h + FRAME), margin + FRAME + column * (w + FRAME)
            found[row, column] = page[top : top + h, left : left + w]
    return found


def enlarged(images: torch.Tensor, scale: int) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] as levels (N, h, w, 3), a square for every pixel."""
    levels = np.kron(images.movedim(1, -1).numpy(), np.ones((1, scale, scale, 1)))
    return np.broadcast_to(levels, (*levels.shape[:3], 3)) * 255


@pytest.mark.parametrize("channels", [1, 3])
def test_a_comparison_is_exact_to_the_pixel(channels):
    shown = restored((channels, 4, 5))
    scale = 20  # the first number by which five pixels are 96 or more
    margin = width_of("test 0") + 8
    found = tiles_of(comparison_picture(shown), 3, 9, (4 * scale, 5 * scale), margin).astype(float)
    mean, deviation = shown.drawn.mean(1), shown.drawn.std(1)
    unknown = shown.observed.isnan()
    painted = torch.where(unknown, torch.tensor(UNKNOWN).reshape(3, 1, 1), shown.observed.expand(-1, 3, -1, -1))
    maps = [x.square().mean(1).sqrt().numpy() for x in (deviation, mean - shown.truth)]
    top = max(one.max() for one in maps)
    coloured = [torch.from_numpy(matplotlib.colormaps[MAP](one / top)[..., :3]).movedim(-1, 1) for one in maps]
    columns = [painted, *shown.drawn[:, :4].unbind(1), mean, coloured[0], shown.truth, coloured[1]]
    for column, images in enumerate(columns):
        assert np.abs(found[:, column] - enlarged(images, scale)).max() <= 1, column


def test_without_a_truth_there_is_neither_truth_nor_error():
    shown = restored(names=False)._replace(truth=None)
    assert comparison_picture(shown, scale=20).width == 7 * (100 + FRAME) + FRAME
    assert comparison_picture(restored(names=False), scale=20).width == 9 * (100 + FRAME) + FRAME
    few, many = (comparison_picture(restored(count=count, names=False), 4).height for count in (12, 20))
    assert few == many


def test_an_observation_on_another_grid_is_fitted():
    shown = restored((1, 4, 6), names=False)
    coarse = shown.truth[..., ::2, ::2]
    found = tiles_of(comparison_picture(shown._replace(observed=coarse), 4), 3, 9, (16, 24), 0)
    assert np.abs(found[:, 0] - enlarged(coarse, 8)).max() <= 1


def test_one_posterior_is_large_and_zero_deviation_is_black():
    one = restored(draws=1, names=False).only(1)
    picture = posterior_picture(one)
    scale = 52  # 5 pixels are 256 or more
    found = tiles_of(picture, 1, 5, (4 * scale, 5 * scale), 0)
    assert found[0, 2].reshape(-1, 3).max() <= 4  # the lowest colour of the map
    assert np.abs(found[0, 1].astype(float) - enlarged(one.drawn[:, 0], scale)[0]).max() <= 1


def test_functions_are_curves_with_a_band():
    shown = restored((2, 30), count=2, draws=40)
    figure = comparison_of_functions(shown)
    assert len(figure.axes) == 4  # two channels of two inputs
    plot = figure.axes[3]
    lines = {line.get_label(): line for line in plot.lines}
    assert np.allclose(lines["mean"].get_ydata(), shown.drawn[1, :, 1].mean(0))
    assert np.allclose(lines["truth"].get_ydata(), shown.truth[1, 1])
    assert np.allclose(lines["observed"].get_xdata(), [0, 1])
    assert np.allclose(lines["observed"].get_ydata(), shown.truth[1, 1, :2])
    (band,) = plot.collections
    edge = band.get_paths()[0].vertices
    low, high = np.quantile(shown.drawn[1, :, 1].numpy(), [0.05, 0.95], axis=0)
    at = edge[:, 0] == 7
    assert sorted(set(edge[at, 1].round(5))) == pytest.approx([low[7], high[7]], abs=1e-5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "percentiles 5 to 95", "completions", "truth", "mean", "observed"
    ]  # fmt: skip


def test_fewer_points_lie_at_the_centres_of_their_cells():
    first, step = centres(4, 8)
    assert [first + step * i for i in range(4)] == [0.5, 2.5, 4.5, 6.5]
    shown = restored((1, 8), count=1)
    coarse = shown.truth.unflatten(-1, (4, 2)).mean(-1)
    figure = comparison_of_functions(shown._replace(observed=coarse))
    line = next(line for line in figure.axes[0].lines if line.get_label() == "observed")
    assert np.allclose(line.get_xdata(), [0.5, 2.5, 4.5, 6.5])


def test_the_posterior_of_a_function_has_deviation_and_error():
    one = restored((1, 30), count=1)
    _, lower = posterior_of_functions(one).axes
    lines = {line.get_label(): line.get_ydata() for line in lower.lines}
    assert np.allclose(lines["deviation"], one.drawn[0, :, 0].std(0))
    assert np.allclose(lines["|mean - truth|"], (one.drawn[0, :, 0].mean(0) - one.truth[0, 0]).abs())


def test_stretches_are_found_the_longest_first():
    marked = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1], dtype=torch.bool)
    assert stretches(marked) == [(6, 9), (2, 4), (0, 1)]
    assert stretches(torch.zeros(3, dtype=torch.bool)) == []


def test_sounds_stand_beside_each_other_and_a_gap_is_marked():
    shown = restored((1, 800), count=2, draws=3)
    shown.observed[..., :] = shown.truth
    shown.observed[..., 200:300] = torch.nan
    figure = comparison_of_sounds(shown, 8000)
    titles = [plot.get_title() for plot in figure.axes if plot.get_title()]
    assert titles == ["test 0: observed", "completion 1", "completion 2", "truth", "test 1: observed", *titles[1:4]]
    gap = figure.axes[0].patches[0]
    assert (gap.get_x(), gap.get_x() + gap.get_width()) == pytest.approx((200 / 8000, 300 / 8000))
    start, near = about_gap(shown.only(0))
    assert (start, near.drawn.shape[-1]) == (150, 200)
    upper, _ = posterior_of_functions(shown.only(0), 8000).axes
    assert upper.lines[0].get_xdata()[0] == pytest.approx(150 / 8000)
    assert about_gap(restored((1, 8))._replace(observed=shown.truth[..., :8]))[0] == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 8, 8), (1, 30), (1, 1500)])
def test_every_kind_is_written_as_png(tmp_path, shape):
    rate = 8000 if shape[-1] > 1000 else None
    save_comparison(tmp_path / "a.png", restored(shape), rate)
    save_posterior(tmp_path / "b.png", restored(shape).only(0), rate)
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            assert image.width > 100
