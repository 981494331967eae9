"""Real samples that a run keeps: which, how many, and back."""

import pytest
import torch

from common.data import DataSpec, Split
from common.refusal import Refusal
from common.runs.real import chosen_rows, read_real, write_real


class Read:
    """Samples that are read by index and are not in memory."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self.shape, self.dtype = images, tuple(images.shape), images.dtype

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.images[rows]


@pytest.mark.parametrize(
    ("labels", "num_classes", "count", "rows"),
    [
        ([2, 0, 0, 2, 1, 2, 0], 3, 5, [1, 4, 0, 2, 3]),  # a class in turn, as long as it has some
        ([2, 0, 0, 2, 1, 2, 0], 3, 100, [1, 4, 0, 2, 3, 6, 5]),
        ([0, 0], 3, 5, [0, 1]),
        ([0] * 10, None, 5, [0, 2, 4, 6, 8]),
        ([0] * 3, None, 5, [0, 1, 2]),
    ],
)
def test_classes_in_turn_or_evenly_spaced(labels, num_classes, count, rows):
    assert chosen_rows(torch.tensor(labels), num_classes, count).tolist() == rows


@pytest.mark.parametrize(
    ("shape", "dtype", "kept"),
    [
        ((1, 8, 8), torch.uint8, 100),
        ((3, 256, 200), torch.uint8, 13),
        ((1, 8000), torch.float32, 65),
        ((3, 1024, 1024), torch.uint8, 4),
    ],
)
@pytest.mark.parametrize("kind", [lambda images: images, Read])
def test_what_is_kept_is_small_and_comes_back(tmp_path, shape, dtype, kept, kind):
    images = (torch.arange(120).reshape(-1, *[1] * len(shape)) * 2).to(dtype).expand(120, *shape)
    spec = DataSpec("image" if len(shape) == 3 else "function", shape, (0.0, 240.0), classes=("a", "b"))
    write_real(tmp_path / "real.safetensors", Split(kind(images), torch.arange(120) % 2), spec)
    assert [file.name for file in tmp_path.iterdir()] == ["real.safetensors"]
    assert (tmp_path / "real.safetensors").stat().st_size < max(2.1e6, 4.1 * torch.Size(shape).numel())
    real = read_real(tmp_path / "real.safetensors", spec)
    assert real.x.shape == (kept, *shape)
    assert real.classes == tuple("ab"[i % 2] for i in range(kept))
    whole = images[:kept].float() / (255 if dtype == torch.uint8 else 1)  # functions keep their own units
    assert torch.allclose(real.x, whole, rtol=1e-6, atol=1e-5)


def test_runs_without_or_with_damaged_real_samples(tmp_path):
    path, spec = tmp_path / "real.safetensors", DataSpec("image", (1, 8, 8))
    assert read_real(path, spec) is None
    write_real(path, Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)), spec)
    assert read_real(path, spec).classes is None
    with pytest.raises(Refusal, match=r"real\.safetensors holds no samples \(1, 9, 8\)"):
        read_real(path, DataSpec("image", (1, 9, 8)))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(Refusal, match=r"real\.safetensors is no readable"):
        read_real(path, spec)
