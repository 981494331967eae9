"""What is written and told of completed inputs: from arrays on disk, whatever their blocks."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.spec import DataSpec
from common.files import write_array, write_json
from common.generation.restored import by_input, names_of, report
from common.media.recordings import read_sound
from common.metrics.restoration import Completed, RelativeError, SignalToNoise, restoration_figures
from common.runs import SampleFolder

INPUTS, COMPLETIONS = 3, 4


@dataclass
class Known:
    """Inputs of a task, without what draws their completions."""

    truth: np.ndarray | None
    picture: np.ndarray
    mask: np.ndarray | None
    names: tuple[str, ...] = tuple(f"held-out {i} of digits" for i in range(INPUTS))
    labels: torch.Tensor | None = None
    count: int = INPUTS
    completions: int = COMPLETIONS
    identity: dict = field(default_factory=lambda: {"inputs": INPUTS, "sha256": "a"})


def completed(folder, spec: DataSpec, block: int = 5, truth: bool = True) -> tuple[Known, np.ndarray, np.ndarray]:
    """A set of samples in blocks that do not end where inputs do; the inputs, truth and completions."""
    rng = np.random.default_rng(0)
    known = rng.uniform(0.2, 0.8, (INPUTS, *spec.grid, spec.channels)).astype(np.float32)
    noise = 0.1 * rng.standard_normal((INPUTS, COMPLETIONS, *known.shape[1:]))
    drawn = (known[:, None] + noise).clip(0, 1).astype(np.float32)
    mask = np.ones((INPUTS, *spec.grid, 1), np.uint8)
    mask[:, : spec.grid[0] // 2] = 0
    place, rows = SampleFolder(folder), drawn.reshape(-1, *known.shape[1:])
    for start in range(0, len(rows), block):
        write_array(place.block(start), rows[start : start + block])
    write_json(place.settings, {"solver": "ab3", "steps": 4})
    picture = np.where(mask, known, np.nan).astype(np.float32)
    return Known(known if truth else None, picture, mask), known, drawn


IMAGE, FUNCTION = DataSpec("image", (1, 8, 8)), DataSpec("function", (1, 40), (-2.0, 2.0))
SOUND = DataSpec("sound", (1, 400), (-1.0, 1.0), sample_rate=8000)


@pytest.mark.parametrize("spec", [IMAGE, DataSpec("image", (3, 8, 8)), FUNCTION], ids=["grey", "colour", "function"])
def test_figures_pictures_and_arrays_are_of_every_input(tmp_path, spec):
    condition, truth, drawn = completed(tmp_path, spec)
    lines = report(tmp_path, spec, condition)
    place = SampleFolder(tmp_path)
    assert np.array_equal(np.stack(list(by_input(tmp_path, COMPLETIONS))), drawn)
    assert np.allclose(np.load(place.mean), drawn.mean(1), atol=1e-6)
    assert np.allclose(np.load(place.deviation), drawn.std(1, ddof=1), atol=1e-6)
    figures = json.loads(place.figures.read_text())
    span = 1.0 if spec.is_image else 4.0
    pairs = zip(torch.from_numpy(truth).movedim(-1, 1), torch.from_numpy(drawn).movedim(-1, 2), strict=True)
    unknown = torch.zeros(spec.shape, dtype=torch.bool)
    unknown[:, : spec.grid[0] // 2] = True
    inputs = [Completed(x, y, unknown, span) for x, y in pairs]
    for name, value in restoration_figures(inputs, [SignalToNoise(), RelativeError()]).items():
        assert figures[name] == pytest.approx(value, rel=1e-5), name
    assert (figures["samples"], figures["inputs"], figures["completions"]) == (12, 3, 4)
    assert ("ssim" in figures) == spec.is_image
    assert figures["about"]["real"]["part"] == "truths"
    assert figures["about"]["samples"]["evaluations"] == 4
    assert [line for line in lines if line.startswith("psnr")]
    for path in (place.comparison, place.posterior):
        with Image.open(path) as image:
            assert image.format == "PNG"
    before = place.figures.read_bytes()
    assert report(tmp_path, spec, condition) == lines
    assert place.figures.read_bytes() == before


def test_figures_of_evaluate_are_left_as_they_are(tmp_path):
    condition, _, _ = completed(tmp_path, IMAGE)
    place = SampleFolder(tmp_path)
    write_json(place.figures, {"samples": 12, "about": {"real": {"part": "train"}}})
    lines = report(tmp_path, IMAGE, condition)
    assert json.loads(place.figures.read_text()) == {"samples": 12, "about": {"real": {"part": "train"}}}
    assert f"figures   {tmp_path / 'restoration.json'}" in lines
    assert "psnr" in json.loads((tmp_path / "restoration.json").read_text())


def test_without_a_truth_there_are_pictures_alone(tmp_path):
    condition, _, _ = completed(tmp_path, IMAGE, truth=False)
    lines = report(tmp_path, IMAGE, condition)
    assert [line.split()[0] for line in lines] == ["mean", "compared"]
    assert not SampleFolder(tmp_path).figures.exists()


def test_completions_on_another_grid_have_no_figures(tmp_path):
    fine = DataSpec("image", (1, 16, 16))
    condition, _, _ = completed(tmp_path, fine)
    condition.truth = condition.truth[:, ::2, ::2]
    lines = report(tmp_path, fine, condition)
    assert lines[0] == "figures   none: completions are on a grid of (16, 16), the truth is known on (8, 8)"


def test_an_input_with_a_broken_completion_is_left_out(tmp_path):
    condition, _, drawn = completed(tmp_path, IMAGE)
    rows = drawn.reshape(-1, *drawn.shape[2:]).copy()
    rows[6, 0, 0, 0] = np.nan  # of the second input
    write_array(SampleFolder(tmp_path).block(5), rows[5:10])
    lines = report(tmp_path, IMAGE, condition)
    assert "1 left out, which have completions that are not finite" in lines[0]
    assert json.loads(SampleFolder(tmp_path).figures.read_text())["inputs"] == 2


def test_sounds_are_written_as_they_are_heard(tmp_path):
    condition, truth, drawn = completed(tmp_path, SOUND)
    condition.picture = condition.picture[:, ::2]  # measured at half the rate
    report(tmp_path, SOUND, condition)
    for name, expected in (("truth", truth[1]), ("completion_1", drawn[1, 1])):
        wave, rate = read_sound(tmp_path / "audio" / f"input_001_{name}.wav")
        assert rate == 8000
        assert np.allclose(wave.T.numpy(), expected, atol=1e-4)
    seen, rate = read_sound(tmp_path / "audio" / "input_001_observation.wav")
    assert (rate, seen.shape) == (4000, (1, 200))
    assert not seen[:, :100].any()  # silent where nothing is known


def test_names_are_short_and_have_classes(tmp_path):
    condition, _, _ = completed(tmp_path, IMAGE)
    condition.names, condition.labels = (
        ("held-out 4 of digits", "/home/u/a.png", "row 2 of x.npy"),
        torch.tensor([1, 0, -1]),
    )
    spec = DataSpec("image", (1, 8, 8), classes=("cat", "dog"))
    assert names_of(spec, condition) == ("held-out 4 (dog)", "a.png (cat)", "row 2")


def test_weights_of_another_content_are_refused_and_missing_ones_told(tmp_path):
    spec = DataSpec("image", (1, 32, 32))
    condition, _, _ = completed(tmp_path / "set", spec)
    lines = report(tmp_path / "set", spec, condition, weights_dir=tmp_path / "weights")
    (told,) = [line for line in lines if "lpips" in line]
    assert "no lpips without alexnet-owt-7be5be79.pth in" in told
    assert "https://" in told
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "alexnet-owt-7be5be79.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged, or another file under that name"):
        report(tmp_path / "set", spec, condition, weights_dir=tmp_path / "weights")
