"""Pictures: a grid is exact to the pixel, curves are drawn from what there is."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.spec import DataSpec
from common.media.pictures import loss_figure, save_figure, save_grid, save_samples, save_trajectory

PAD, GREY = 2, (127, 128)  # frame of two pixels in middle grey


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def expected_grid(images: torch.Tensor, columns: int, factor: int) -> np.ndarray:
    """Every image enlarged, with a frame, row by row; -1 stands for the frame."""
    count, _, height, width = images.shape
    h, w = height * factor + PAD, width * factor + PAD
    rows, columns = -(-count // columns), min(columns, count)
    canvas = np.full((rows * h + PAD, columns * w + PAD, 3), -1)
    for i in range(rows * columns):
        top, left = i // columns * h + PAD, i % columns * w + PAD
        if i < count:
            tile = np.kron(images[i].numpy().transpose(1, 2, 0), np.ones((factor, factor, 1), int))
            canvas[top : top + h - PAD, left : left + w - PAD] = np.broadcast_to(tile, (*tile.shape[:2], 3))
    return canvas


@pytest.mark.parametrize(
    ("count", "channels", "side", "columns", "factor"),
    [(6, 1, 8, 3, 4), (5, 1, 8, 3, 4), (4, 3, 8, 2, 4), (2, 1, 28, 10, 1), (3, 3, 40, 2, 1), (1, 1, 16, 5, 2)],
)
def test_grid_is_exact_to_the_pixel(tmp_path, count, channels, side, columns, factor):
    levels = torch.arange(count * channels * side * side) * 7 % 256
    images = levels.reshape(count, channels, side, side)
    save_grid(tmp_path / "grid.png", images / 255, columns)
    if count == 1:  # torchvision puts no frame around a single image
        tile = np.kron(images[0, 0].numpy(), np.ones((factor, factor), int))
        assert np.array_equal(read(tmp_path / "grid.png")[..., 0], tile)
        return
    expected, found = expected_grid(images, columns, factor), read(tmp_path / "grid.png")
    assert found.shape == expected.shape
    inside = expected >= 0
    assert np.array_equal(found[inside], expected[inside])
    assert set(np.unique(found[~inside])) <= set(GREY)


def test_real_images_come_out_as_they_went_in(tmp_path):
    """Bytes to [-1, 1], as data, to [0, 1], as samples are drawn, to bytes: every level comes back."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    save_grid(tmp_path / "grid.png", (DataSpec("image", (1, 8, 8)).to_network(levels) + 1) / 2, 2)
    expected = expected_grid(levels.long(), 2, 4)
    assert np.array_equal(read(tmp_path / "grid.png")[expected >= 0], expected[expected >= 0])


def test_values_out_of_range_are_clipped(tmp_path):
    images = torch.tensor([-3.0, 0.0, 1.0, 9.0]).reshape(4, 1, 1, 1).expand(4, 1, 32, 32)
    save_grid(tmp_path / "grid.png", images, 4)
    found = read(tmp_path / "grid.png")[:, :, 0]
    assert [found[10, 5 + 34 * i] for i in range(4)] == [0, 0, 255, 255]


def test_pictures_overwrite_and_make_folders(tmp_path):
    path = tmp_path / "a" / "b.png"
    save_grid(path, torch.zeros(2, 1, 8, 8))
    first = path.read_bytes()
    save_grid(path, torch.ones(2, 1, 8, 8))
    assert path.read_bytes() != first
    assert [file.name for file in path.parent.iterdir()] == ["b.png"]


def curves(figure) -> dict[str, list[tuple[float, float]]]:
    left, right = figure.axes
    found = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in left.get_lines()}
    return {**found, "levels": [tuple(p) for line in right.get_lines() for p in zip(*line.get_data(), strict=True)]}


def test_curves_are_the_log_lines(tmp_path):
    rows = [{"step": 2, "train/loss": 0.5}, {"step": 4, "train/loss": 0.25, "val/loss": 0.75}, {"step": 6, "other": 1}]
    figure = loss_figure(rows, [(0.0, 0.5), (np.log(10), 0.25)])
    found = curves(figure)
    assert found["train/loss"] == [(2, 0.5), (4, 0.25)]
    assert found["val/loss"] == [(4, 0.75)]
    assert found["levels"] == [pytest.approx((0, 0.5)), pytest.approx((1, 0.25))]  # against log10 sigma
    save_figure(tmp_path / "loss.png", figure)
    assert read(tmp_path / "loss.png").shape[0] > 200


def test_a_run_without_lines_has_a_picture_too(tmp_path):
    save_figure(tmp_path / "loss.png", loss_figure([], []))
    assert read(tmp_path / "loss.png").size


@pytest.mark.parametrize(("channels", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2]), (5, [0, 1, 2])])
def test_other_numbers_of_channels_are_shown_as_far_as_they_go(tmp_path, channels, shown):
    images = torch.linspace(0, 1, channels).reshape(1, -1, 1, 1).expand(1, channels, 32, 32)
    save_grid(tmp_path / "a.png", images)
    values = (torch.linspace(0, 1, channels) * 255).round().int().tolist()
    assert read(tmp_path / "a.png")[10, 10].tolist() == [values[i] for i in shown]


def test_functions_are_drawn_as_curves(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.media.pictures.save_figure", lambda path, figure: drawn.append(figure))
    functions = torch.randn(7, 2, 30)
    save_samples(tmp_path / "a.png", functions, columns=3)
    plots = [plot for plot in drawn[0].axes if plot.lines]
    assert len(plots) == 7
    for plot, function in zip(plots, functions, strict=True):
        assert [list(line.get_ydata()) for line in plot.lines] == [channel.tolist() for channel in function]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 8, 8), (4, 8, 8), (2, 20)])
def test_a_trajectory_has_a_row_per_sample_and_a_column_per_time(tmp_path, monkeypatch, shape):
    drawn = []
    monkeypatch.setattr("common.media.pictures.save_figure", lambda path, figure: drawn.append(figure))
    save_trajectory(tmp_path / "a.png", [0.9, 0.5, 0.1], [torch.randn(2, *shape) * 10**i for i in range(3)])
    (figure,) = drawn
    assert len(figure.axes) == 6
    assert [plot.get_title() for plot in figure.axes[:3]] == ["t = 0.9", "t = 0.5", "t = 0.1"]
    for plot in figure.axes:
        assert plot.images or plot.lines
        if plot.images:  # on its own scale
            assert plot.images[0].get_array().min() == pytest.approx(0, abs=1e-6)
            assert plot.images[0].get_array().max() == pytest.approx(1, abs=1e-6)


# -- long functions and sounds ----------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch) -> list:
    figures: list = []
    monkeypatch.setattr("common.media.pictures.save_figure", lambda path, figure: figures.append(figure))
    return figures


@pytest.mark.parametrize("length", [1001, 8000, 12345])
def test_a_long_function_is_drawn_between_its_extremes(tmp_path, drawn, length):
    functions = torch.randn(2, 3, length)
    functions[0, 0, 777] = 50  # one point of many is seen
    save_samples(tmp_path / "a.png", functions)
    for plot, function in zip(drawn[0].axes, functions, strict=False):
        assert len(plot.lines) == 3
        for line, channel in zip(plot.lines, function.numpy(), strict=True):
            x, y = line.get_data()
            assert len(x) == len(y) <= 1000
            assert (x[0], x[-1]) == (0, length - 1)
            pieces = np.split(channel, np.arange(0, length, -(-2 * length // 1000))[1:])
            assert np.array_equal(y[::2], [piece.min() for piece in pieces])
            assert np.array_equal(y[1::2], [piece.max() for piece in pieces])


def test_a_tone_is_bright_where_it_sounds(tmp_path, drawn):
    rate = 8000
    time = torch.arange(rate) / rate
    tones = torch.stack([torch.sin(2 * np.pi * frequency * time) for frequency in (500, 2000)]).unsqueeze(1)
    tones[1, :, rate // 2 :] = 0
    save_samples(tmp_path / "a.png", tones, columns=2, sample_rate=rate)
    (figure,) = drawn
    waves, spectra = [plot for plot in figure.axes if plot.lines], [plot for plot in figure.axes if plot.images]
    assert (len(waves), len(spectra)) == (2, 2)
    assert waves[0].lines[0].get_xdata()[-1] == pytest.approx(1, abs=1e-3)  # seconds
    for plot, frequency, end in zip(spectra, (500, 2000), (1, 0.5), strict=True):
        (image,) = plot.images
        left, right, bottom, top = image.get_extent()
        assert (left, right, bottom, top) == (0, 1, 0, rate / 2)
        levels = np.asarray(image.get_array())
        frequencies, times = np.linspace(bottom, top, len(levels)), np.linspace(left, right, levels.shape[1])
        inside = levels[:, (times > 0.05) & (times < end - 0.05)]
        assert (abs(frequencies[inside.argmax(0)] - frequency) < 20).all()
        assert inside.max() == pytest.approx(0, abs=0.1)  # a full-scale sine: 0 dB
        assert (levels[:, times > end + 0.05] < -100).all()
        assert image.get_clim()[1] - image.get_clim()[0] == pytest.approx(70)
    assert spectra[0].images[0].get_clim() == spectra[1].images[0].get_clim()
    assert spectra[0].get_ylabel() == "frequency [Hz]"
    assert spectra[1].get_xlabel() == "time [s]"


@pytest.mark.parametrize(("count", "channels", "columns", "shown"), [(1, 1, 10, 1), (7, 2, 3, 7), (25, 1, 10, 20)])
def test_sounds_are_drawn_up_to_twenty(tmp_path, drawn, count, channels, columns, shown):
    save_samples(tmp_path / "a.png", torch.randn(count, channels, 300), columns, sample_rate=100)
    assert sum(len(plot.lines) == channels for plot in drawn[0].axes) == shown
    assert sum(len(plot.images) == 1 for plot in drawn[0].axes) == shown


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e30])
def test_silence_and_failures_have_a_picture_too(tmp_path, value):
    save_samples(tmp_path / "a.png", torch.full((2, 1, 500), value), sample_rate=8000)
    assert read(tmp_path / "a.png").size
