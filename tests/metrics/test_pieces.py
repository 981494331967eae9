"""Features and samples that are read in pieces: the same figures as of tensors, in memory that does not grow."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.metrics import DEFAULTS
from common.metrics import points as p
from common.metrics.compared import by_lot, spread_of
from common.metrics.fid import Frechet
from common.metrics.inception_score import Answers, inception_score
from common.metrics.kid import Kernel
from common.metrics.prdc import Prdc
from common.metrics.real import Points, Real
from common.metrics.stored import IN_MEMORY, Stored
from common.metrics.variety import Rke, Vendi


def normal(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def stored(points: torch.Tensor, folder: Path | None = None, size: int = 97) -> Stored:
    """Written in another order than they are read."""
    found = Stored(folder)
    for start in reversed(range(0, len(points), size)):
        found.put(start, points[start : start + size])
    return found


def test_points_on_disk_are_those_that_were_written(tmp_path):
    points = normal(1000, 300)
    assert points.numel() * 4 > IN_MEMORY
    for found in (stored(points, tmp_path), stored(points[:9], tmp_path), stored(points, tmp_path / "not" / "there")):
        count = len(found)
        assert found.shape == (count, 300)
        assert torch.equal(found[:], points[:count])
        assert torch.equal(found[3:7], points[3:7])
        assert torch.equal(torch.cat(list(found.split(64))), points[:count])
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(1))[:50]
        assert torch.equal(found[rows], points[rows])
        assert torch.equal(found.some(rows)[:], points[rows])
        assert found.some(rows[:0]).shape == (0, 300)
    assert not list(tmp_path.rglob("*"))  # the file has no name
    assert stored(torch.empty(0, 3)).shape == (0, 0)


def test_a_folder_that_is_not_there_gives_way_to_the_one_around_it(tmp_path):
    assert stored(normal(9, 9), tmp_path / "a" / "b")._folder == tmp_path


@pytest.mark.parametrize("kind", [Frechet, Kernel, Prdc, Vendi, Rke])
def test_figures_of_points_on_disk_are_the_same_bits(kind, monkeypatch):
    monkeypatch.setattr(p, "ROWS", 64)
    monkeypatch.setattr("common.metrics.compared.SUBSETS", 2)
    drawn, real, fresh = normal(150, 12), normal(100, 12, 1) * 1.1, normal(70, 12, 2)
    found = kind().of_points(Points(stored(drawn), Real(stored(real)), stored(fresh)))
    assert found == kind().of_points(Points(drawn, Real(real), fresh))
    assert torch.equal(by_lot(stored(drawn), 70)[:], by_lot(drawn, 70))
    assert spread_of(lambda some: {"a": float(some.sum())}, stored(drawn)) == spread_of(
        lambda some: {"a": float(some.sum())}, drawn
    )


def test_projections_a_few_directions_at_a_time_are_those_of_all(monkeypatch):
    points = normal(500, 12)
    together = p.slices(points, 20, size=37)
    assert torch.equal(p.slices(stored(points), 20, size=37), together)
    monkeypatch.setattr(p, "PROJECTED", 1500)  # three directions at a time
    assert torch.allclose(p.slices(points, 20, size=37), together, rtol=0, atol=1e-12)


def test_neighbours_by_tiles_are_those_of_whole_rows(monkeypatch):
    drawn, real = normal(230, 5), normal(170, 5, 1) + 0.5
    distances = torch.cdist(drawn.double(), drawn.double())
    together = p.manifolds(drawn, real, 3)
    expected = distances.kthvalue(4).values
    assert torch.allclose(p.radii(drawn, 3), expected, rtol=1e-12)
    monkeypatch.setattr(p, "ROWS", 50)
    assert torch.allclose(p.radii(drawn, 3), expected, rtol=1e-12)
    assert p.manifolds(drawn, real, 3) == pytest.approx(together, abs=1e-12)


def test_answers_are_made_some_at_a_time(monkeypatch):
    monkeypatch.setattr("common.metrics.inception_score.ROWS", 7)
    points, matrix, asked = normal(210, 6), normal(6, 30, 1), []

    def logits(some: torch.Tensor) -> torch.Tensor:
        asked.append(len(some))
        return some @ matrix

    found = inception_score(Answers(stored(points), logits))
    assert max(asked) == 7
    monkeypatch.setattr("common.metrics.inception_score.ROWS", 10**6)
    assert found == pytest.approx(inception_score(points @ matrix), rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    """From 2,100 to 10,100 samples of 2 kB: less than half of what they hold themselves, 16 MB.

    The first number comes twice: to do anything again costs a process some MB, whatever it is.
    """
    root = Path(__file__).parents[2]
    names = ",".join([*DEFAULTS, "fid", "rke", "vendi", "moments", "sw_values"])
    words = [sys.executable, root / "tests" / "metrics" / "growth.py", tmp_path, names, "2100", "2100", "10100"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
    _, before, after = (float(line) for line in done.stdout.splitlines() if line[0].isdigit())
    assert after - before <= 8
