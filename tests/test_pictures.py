"""Pictures: a grid is exact to the pixel, curves are drawn from what there is."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageChops

from common.data.spec import DataSpec
from common.media.figures import BEHIND, curves_figure, loss_figure, save_figure, sounds_figure
from common.media.grids import GAP, LINE, TEXT_GAP, grid_picture, width_of
from common.media.layout import Labelled, columns_of, heads_of, partners
from common.media.looks import looks_figure
from common.media.pictures import save_samples, save_trajectory
from common.media.trajectories import FRAME_TIME, LAST_FRAME_TIME, Moment, save_film, trajectory_figure

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
    ("count", "channels", "grid", "columns", "factor"),
    [
        (6, 1, (8, 8), 3, 8),
        (5, 1, (5, 8), 3, 8),
        (4, 3, (8, 8), 2, 8),
        (2, 1, (28, 20), 10, 2),
        (3, 3, (40, 64), 2, 1),
        (1, 1, (16, 8), 5, 4),
        (2, 3, (70, 9), 2, 1),
    ],
)
@pytest.mark.parametrize("scale", [None, 1, 3])
def test_grid_is_exact_to_the_pixel(tmp_path, count, channels, grid, columns, factor, scale):
    """By default images are magnified to at most 64 pixels, and larger ones not at all."""
    height, width = grid
    levels = torch.arange(count * channels * height * width) * 7 % 256
    images, factor = levels.reshape(count, channels, height, width), scale or factor
    save_samples(tmp_path / "grid.png", Labelled(images / 255), columns=columns, scale=scale)
    if count == 1:  # alone it has no frame
        tile = np.kron(images[0, 0].numpy(), np.ones((factor, factor), int))
        assert np.array_equal(read(tmp_path / "grid.png")[..., 0], tile)
        return
    expected, found = expected_grid(images, columns, factor), read(tmp_path / "grid.png")
    assert found.shape == expected.shape
    inside = expected >= 0
    assert np.array_equal(found[inside], expected[inside])
    assert set(np.unique(found[~inside])) <= set(GREY)


def test_real_images_come_out_as_they_went_in(tmp_path):
    """Bytes to [0, 1], as they are shown, to bytes: every level comes back."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    save_samples(tmp_path / "grid.png", Labelled(DataSpec("image", (1, 8, 8)).pictured(levels)), columns=2)
    expected = expected_grid(levels.long(), 2, 8)
    assert np.array_equal(read(tmp_path / "grid.png")[expected >= 0], expected[expected >= 0])


def test_values_out_of_range_are_clipped(tmp_path):
    images = torch.tensor([-3.0, 0.0, 1.0, 9.0]).reshape(4, 1, 1, 1).expand(4, 1, 32, 32)
    save_samples(tmp_path / "grid.png", Labelled(images), columns=4, scale=1)
    found = read(tmp_path / "grid.png")[:, :, 0]
    assert [found[10, 5 + 34 * i] for i in range(4)] == [0, 0, 255, 255]


def test_pictures_overwrite_and_make_folders(tmp_path):
    path = tmp_path / "a" / "b.png"
    save_samples(path, Labelled(torch.zeros(2, 1, 8, 8)))
    first = path.read_bytes()
    save_samples(path, Labelled(torch.ones(2, 1, 8, 8)))
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
    assert found["training"] == [(2, 0.5), (4, 0.25)]
    assert found["validation"] == [(4, 0.75)]
    assert set(curves(loss_figure(rows, [], averaged=True))) == {
        "training (weights)",
        "validation (average of the weights)",
        "levels",
    }
    assert found["levels"] == [pytest.approx((0, 0.5)), pytest.approx((1, 0.25))]  # against log10 sigma
    save_figure(tmp_path / "loss.png", figure)
    assert read(tmp_path / "loss.png").shape[0] > 200


def test_figures_about_samples_have_a_panel():
    rows = [{"step": 5, "train/loss": 0.5}, {"step": 6, "eval/sw": 3.0}, {"step": 12, "eval/sw": 2.0}]
    _, _, panel = loss_figure(rows, [], judged="eval/sw").axes
    assert panel.get_ylabel() == "eval/sw"
    assert [line.get_xydata().tolist() for line in panel.get_lines()] == [[[6, 3], [12, 2]]]


@pytest.mark.parametrize(("lines", "marked"), [(1, True), (20, True), (21, False)])
def test_few_log_lines_are_marked(lines, marked):
    """A line through one point shows nothing."""
    rows = [{"step": step, "train/loss": 0.5, "val/loss": 0.6} for step in range(1, lines + 1)]
    training, validation = loss_figure(rows, []).axes[0].get_lines()
    assert (training.get_marker() != "None") == marked
    assert validation.get_marker() == "o"


def test_a_run_without_lines_has_a_picture_too(tmp_path):
    save_figure(tmp_path / "loss.png", loss_figure([], []))
    assert read(tmp_path / "loss.png").size


def test_letters_that_the_font_lacks_are_boxes_without_a_word(tmp_path, recwarn):
    samples = Labelled(torch.rand(2, 1, 4, 4), ("🐸 Frösche", "鳥"))
    save_figure(tmp_path / "looks.png", looks_figure(samples, torch.ones(8), "title"))
    assert read(tmp_path / "looks.png").size
    assert not list(recwarn)


@pytest.mark.parametrize(("channels", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2]), (5, [0, 1, 2])])
def test_other_numbers_of_channels_are_shown_as_far_as_they_go(tmp_path, channels, shown):
    images = torch.linspace(0, 1, channels).reshape(1, -1, 1, 1).expand(1, channels, 32, 32)
    save_samples(tmp_path / "a.png", Labelled(images))
    values = (torch.linspace(0, 1, channels) * 255).round().int().tolist()
    assert read(tmp_path / "a.png")[10, 10].tolist() == [values[i] for i in shown]


# -- names and real samples -------------------------------------------------------------------------------------------


def text_at(picture: np.ndarray) -> np.ndarray:
    """Where a piece of a white page has ink."""
    return (picture < 128).any(-1)


def levels_of(images: torch.Tensor, factor: int) -> np.ndarray:
    return np.kron(images.mul(255).round().numpy().transpose(1, 2, 0), np.ones((factor, factor, 1), int))


def test_classes_come_above_their_columns_and_real_images_above_drawn_ones():
    drawn = Labelled(torch.rand(7, 3, 8, 6), tuple("0120120"))
    real = Labelled(torch.rand(9, 3, 8, 6), tuple("210210012"))
    bare = np.asarray(grid_picture(Labelled(drawn.x, None), columns=3))
    page = np.asarray(grid_picture(drawn, real, columns=3))
    margin, step, height = width_of("drawn") + 2 * TEXT_GAP, 6 * 8 + PAD, 8 * 8 + PAD
    top = LINE + height + PAD + GAP
    assert page.shape == (top + len(bare), margin + bare.shape[1], 3)
    assert np.array_equal(page[top:, margin:], bare)  # what was drawn is as it was
    for column, row in enumerate((2, 1, 0)):  # the first real ones of classes 0, 1, 2
        left = margin + PAD + column * step
        assert np.array_equal(page[LINE + PAD : LINE + height, left : left + 48], levels_of(real.x[row], 8))
        ink = np.nonzero(text_at(page[:LINE, left : left + 48]).any(0))[0]
        assert 12 < ink.min() < ink.max() < 36  # above the middle of its column
    for start, rows in ((LINE, height), (top, height)):
        assert text_at(page[start : start + rows, :margin]).any()  # "real", "drawn"


def test_different_names_are_different_heads():
    pages = [grid_picture(Labelled(torch.zeros(2, 1, 8, 8), names)) for names in (("a", "b"), ("a", "c"))]
    left, _, _, bottom = ImageChops.difference(*pages).getbbox()
    assert left > PAD + 64 + PAD
    assert bottom <= LINE


def test_wide_names_stand_beside_their_rows():
    names = ("automobile and more", "cat")
    drawn, real = Labelled(torch.rand(5, 1, 8, 8), (*names, *names, names[0])), torch.rand(2, 1, 8, 8)
    page = np.asarray(grid_picture(drawn, Labelled(real, names)))
    margin, step = width_of(names[0]) + 2 * TEXT_GAP, 64 + PAD
    for row in range(2):
        top = LINE + PAD + row * step
        assert text_at(page[top : top + 64, : margin - 1]).any()
        assert np.array_equal(page[top : top + 64, margin + PAD : margin + step, :1], levels_of(real[row], 8))
        for round_ in range(3):
            left = margin + step + PAD + GAP + PAD + round_ * step
            tile = page[top : top + 64, left : left + 64, :1]
            expected = levels_of(drawn.x[2 * round_ + row], 8) if 2 * round_ + row < 5 else np.full_like(tile, GREY[1])
            assert np.array_equal(tile, expected)


def test_every_image_is_named_if_columns_hold_several_classes():
    drawn = Labelled(torch.rand(30, 1, 8, 8), tuple(map(str, range(30))))
    page = np.asarray(grid_picture(drawn))
    for i in range(30):
        top, left = PAD + i // 6 * (64 + LINE + PAD), PAD + i % 6 * (64 + PAD)
        assert text_at(page[top : top + LINE, left : left + 64]).any()
        assert np.array_equal(page[top + LINE : top + LINE + 64, left : left + 64, :1], levels_of(drawn.x[i], 8))


@pytest.mark.parametrize(
    ("classes", "count", "columns"),
    [
        ("0123456789" * 10, 100, 10),
        ("012" * 20, 60, 9),
        ("01" * 50, 100, 10),
        ("337" * 20, 60, 9),
        ("5" * 8, 8, 8),
        ("01234", 5, 5),
        (None, 100, 10),
        (None, 20, 5),
        (None, 1, 1),
        ([str(i) for i in range(40)], 40, 7),
        ([str(i % 20) for i in range(60)], 60, 20),
    ],
)
def test_rows_are_whole_rounds_of_the_classes(classes, count, columns):
    assert columns_of(classes, count) == columns
    heads = heads_of(classes, columns)
    assert heads == (() if classes is None or len(set(classes)) > 20 else tuple(classes[:columns]))


def test_real_samples_stand_beside_drawn_ones_of_their_class():
    real = Labelled(torch.zeros(5, 1, 2, 2), tuple("01012"))
    assert partners(real, "0120123", 7) == [0, 1, 4, 2, 3, None, None]
    assert partners(real, None, 7) == [0, 1, 2, 3, 4, None, None]


# -- labels of axes ---------------------------------------------------------------------------------------------------


def overlapping(figure) -> list[tuple[str, str]]:
    """Texts of a figure that lie on each other, from where they are on the page."""
    FigureCanvasAgg(figure).draw()
    boxes = []
    for plot in figure.axes:
        if plot.axison:
            axes = [(axis, axis.get_ticklabels(which="both")) for axis in (plot.xaxis, plot.yaxis)]
            ticks = [(axis, label) for axis, labels in axes for label in labels if label.get_visible()]
            inside = [label for axis, label in ticks if _is_seen(axis, label)]
            boxes += [text for text in (*inside, plot.title, plot.xaxis.label, plot.yaxis.label) if text.get_text()]
    placed = [(text.get_text(), text.get_window_extent()) for text in boxes]
    return [(one, other) for i, (one, box) in enumerate(placed) for other, second in placed[:i] if box.overlaps(second)]


def _is_seen(axis, label) -> bool:
    low, high = sorted(axis.get_view_interval())
    at = label.get_position()[0 if axis.axis_name == "x" else 1]
    return low <= at <= high


@pytest.mark.parametrize(
    ("first", "last"), [(0.7, 0.3), (1, 0.12), (3, 0.02), (1e5, 1e-4), (0.5012, 0.5011), (1e-7, 9e-8)]
)
def test_labels_of_the_loss_do_not_overlap(first, last):
    steps = 1_000_000
    rows = [{"step": steps * (i + 1) // 50, "train/loss": first * (last / first) ** (i / 49)} for i in range(50)]
    figure = loss_figure(rows, [(i / 3 - 12, first * i + last) for i in range(50)])
    assert not overlapping(figure)
    for axis in (plot.yaxis for plot in figure.axes):
        seen = [label.get_text() for label in axis.get_ticklabels(which="both") if _is_seen(axis, label)]
        assert len([text for text in seen if text]) >= 2


FUNCTIONS, SOUNDS = torch.linspace(-9, 9, 960).reshape(12, 2, 40).sin() * 1000, torch.arange(9600.0).sin() / 40
SOUNDS, NAMES = SOUNDS.reshape(12, 1, 800), tuple(f"class number {i % 3}" for i in range(12))
FIGURES = {
    "curves": lambda: curves_figure(Labelled(FUNCTIONS)),
    "curves by class": lambda: curves_figure(Labelled(FUNCTIONS, NAMES), Labelled(FUNCTIONS / 3, NAMES)),
    "sounds": lambda: sounds_figure(Labelled(SOUNDS), 8000),
    "sounds by class": lambda: sounds_figure(Labelled(SOUNDS, NAMES), 8000, Labelled(SOUNDS * 30, NAMES)),
    "trajectory": lambda: trajectory_figure([Moment(10**-i, 3.0 ** (5 - 2 * i), FUNCTIONS[:4]) for i in range(10)]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_labels_do_not_overlap(name):
    assert not overlapping(FIGURES[name]())


# -- functions --------------------------------------------------------------------------------------------------------


def values(line) -> list[float]:
    return list(line.get_ydata())


def test_functions_are_drawn_as_curves():
    functions = torch.randn(7, 2, 30)
    figure = curves_figure(Labelled(functions), columns=3)
    plots = [plot for plot in figure.axes if plot.lines]
    assert len(plots) == 7
    for plot, function in zip(plots, functions, strict=True):
        assert [values(line) for line in plot.lines] == [channel.tolist() for channel in function]


def test_functions_of_a_class_share_a_plot_with_real_ones_in_grey_behind():
    drawn = Labelled(torch.randn(25, 2, 30), ("up", "down") * 2 + ("up",) * 21)
    real = Labelled(torch.randn(40, 2, 30), ("down",) * 35 + ("up",) * 5)
    figure = curves_figure(drawn, real)
    assert [plot.get_title() for plot in figure.axes] == ["up", "down"]
    for plot, rows, behind in zip(
        figure.axes, ([0, 2, *range(4, 10)], [1, 3]), (range(35, 40), range(30)), strict=True
    ):
        grey, coloured = plot.lines[: 2 * len(behind)], plot.lines[2 * len(behind) :]  # drawn in this order
        assert [values(line) for line in grey] == [channel.tolist() for i in behind for channel in real.x[i]]
        assert {line.get_color() for line in grey} == {BEHIND}
        assert [values(line) for line in coloured] == [channel.tolist() for i in rows for channel in drawn.x[i]]
        assert [line.get_color() for line in coloured[:2]] == [line.get_color() for line in coloured[2:4]]
        assert BEHIND not in {line.get_color() for line in coloured}
    assert figure.get_supxlabel() == "grey: real; coloured: the first 8 drawn of each class"
    few = Labelled(drawn.x[:5], drawn.classes[:5])
    assert curves_figure(few, real).get_supxlabel() == "grey: real"
    assert curves_figure(few).get_supxlabel() == ""


# -- the way out of the noise -----------------------------------------------------------------------------------------


def moments(shape: tuple[int, ...], count: int = 3) -> list[Moment]:
    return [Moment(0.9 - 0.02 * i, 10.0 ** (1 - i / 4), torch.randn(2, *shape) * 10**i) for i in range(count)]


def test_a_trajectory_of_functions_has_a_row_per_sample_and_a_column_per_time():
    found = [Moment(t, sigma, torch.randn(2, 2, 20)) for t, sigma in ((0.9, 1234.5), (0.5, 1.0), (1e-3, 2.5e-4))]
    figure = trajectory_figure(found, ("up", "down"))
    assert len(figure.axes) == 6
    assert [plot.get_title() for plot in figure.axes[:3]] == [
        "t = 0.9\nσ = 1.2e3", "t = 0.5\nσ = 1", "t = 1e-3\nσ = 2.5e-4"
    ]  # fmt: skip
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["up", "down"]
    for i, plot in enumerate(figure.axes):
        assert [values(line) for line in plot.lines] == found[i % 3].x[i // 3].tolist()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 9), (2, 8, 8), (4, 8, 8)])
def test_a_trajectory_of_images_is_exact_on_its_own_scales(tmp_path, shape):
    found = moments(shape)
    save_trajectory(tmp_path / "a.png", found, scale=9)
    page, shown = read(tmp_path / "a.png"), 3 if shape[0] > 2 else 1
    height, width = 9 * shape[1], 9 * shape[2]
    assert page.shape == (2 * LINE + 2 * (height + PAD) + PAD, 3 * (width + PAD) + PAD, 3)
    for row in range(2):
        for column in range(3):
            top, left = 2 * LINE + PAD + row * (height + PAD), PAD + column * (width + PAD)
            x = found[column].x[row, :shown]
            expected = levels_of((x - x.min()) / (x.max() - x.min()), 9)
            tile = page[top : top + height, left : left + width]
            assert abs(tile - expected).max() <= 1  # of 255
            assert text_at(page[: 2 * LINE, left : left + width]).any()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 9), (1, 50)])
def test_a_film_has_a_frame_per_time_and_loops(tmp_path, shape):
    found = moments(shape, 9)
    save_film(tmp_path / "a.gif", found, ("one", "two"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 9, 0)
        times = []
        for i, moment in enumerate(found):
            film.seek(i)
            times.append(film.info["duration"])
            if shape[0] == 1 and len(shape) == 3:  # greys are exact
                frame, x = np.asarray(film.convert("L")).astype(int), moment.x[1, 0]
                tile = frame[-64 - PAD : -PAD, PAD + 64 + PAD : PAD + 64 + PAD + 64]
                expected = np.kron(((x - x.min()) / (x.max() - x.min()) * 255).numpy(), np.ones((8, 8)))
                assert abs(tile - expected).max() <= 0.51
        assert times == [FRAME_TIME] * 8 + [LAST_FRAME_TIME]


# -- long functions and sounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1001, 8000, 12345])
def test_a_long_function_is_drawn_between_its_extremes(length):
    functions = torch.randn(2, 3, length)
    functions[0, 0, 777] = 50  # one point of many is seen
    for plot, function in zip(curves_figure(Labelled(functions)).axes, functions, strict=False):
        assert len(plot.lines) == 3
        for line, channel in zip(plot.lines, function.numpy(), strict=True):
            x, y = line.get_data()
            assert len(x) == len(y) <= 1000
            assert (x[0], x[-1]) == (0, length - 1)
            pieces = np.split(channel, np.arange(0, length, -(-2 * length // 1000))[1:])
            assert np.array_equal(y[::2], [piece.min() for piece in pieces])
            assert np.array_equal(y[1::2], [piece.max() for piece in pieces])


def test_a_tone_is_bright_where_it_sounds():
    rate = 8000
    time = torch.arange(rate) / rate
    tones = torch.stack([torch.sin(2 * np.pi * frequency * time) for frequency in (500, 2000)]).unsqueeze(1)
    tones[1, :, rate // 2 :] = 0
    figure = sounds_figure(Labelled(tones), rate, columns=2)
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
def test_sounds_are_drawn_up_to_twenty(count, channels, columns, shown):
    figure = sounds_figure(Labelled(torch.randn(count, channels, 300)), 100, columns=columns)
    assert sum(len(plot.lines) == channels for plot in figure.axes) == shown
    assert sum(len(plot.images) == 1 for plot in figure.axes) == shown


def test_waves_have_their_own_range_and_real_ones_come_first():
    drawn = Labelled(torch.randn(4, 1, 300) / 50, tuple("abab"))
    real = Labelled(torch.randn(3, 1, 300), tuple("bba"))
    figure = sounds_figure(drawn, 100, real, columns=2)
    waves = [plot for plot in figure.axes if plot.lines]
    assert [plot.get_title() for plot in waves] == ["a (real)", "b (real)", "a", "b", "a", "b"]
    for plot, wave in zip(waves, (real.x[2], real.x[0], *drawn.x), strict=True):
        assert values(plot.lines[0]) == wave[0].tolist()
        extremes = (float(wave.min()), float(wave.max()))
        assert plot.get_ylim() == pytest.approx(extremes)
        assert [label.get_text() for label in plot.get_yticklabels()] == [f"{value:.2g}" for value in extremes]


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e30])
def test_silence_and_failures_have_a_picture_too(tmp_path, value):
    save_samples(tmp_path / "a.png", Labelled(torch.full((2, 1, 500), value)), sample_rate=8000)
    assert read(tmp_path / "a.png").size
