"""Features of many samples: in blocks of any size, in any number of processes, kept, and gone on with."""

import contextlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cluster.place import Place
from common.data import DataSet, Split
from common.files.writing import host_name
from common.metrics import METRICS, Evidence, evaluate
from common.metrics.drawn import Drawn, labels_over, read_over, spread_over
from common.metrics.extraction import Extractor
from common.metrics.features import FEATURES, Features, Wanted
from common.metrics.points import frechet, moments
from common.metrics.statistics import holds_statistics, read_statistics, write_statistics
from common.metrics.verdict import verdict
from common.refusal import Refusal

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (700, 1, 4, 4), generator=GENERATOR, dtype=torch.uint8)
DATA = DataSet(Split(IMAGES[:500], torch.arange(500) % 3), Split(IMAGES[500:], torch.arange(200) % 3), num_classes=3)
SAMPLES = DATA.spec.to_network(torch.randint(0, 256, (600, 1, 4, 4), generator=GENERATOR, dtype=torch.uint8))


class Squares(Features):
    """Sixteen features that are counted when they are computed."""

    name = "squares"
    made = 0

    @classmethod
    def unfit(cls, wanted: Wanted) -> str:
        return ""

    def __init__(self, wanted: Wanted) -> None: ...

    @property
    def identity(self) -> str:
        return "squares 1"

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        Squares.made += len(samples)
        return samples.flatten(1) ** 2


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    monkeypatch.setitem(FEATURES, "squares", Squares)
    monkeypatch.setattr(Squares, "made", 0)


def extractor(tmp_path: Path, processes: int = 1, name: str = "squares", place: Place | None = None) -> Extractor:
    return Extractor(Wanted(DATA, tmp_path / "weights", tmp_path / "cache"), name, processes, place=place)


def points(which: Extractor, size: int = 256, samples: torch.Tensor = SAMPLES, folder: Path | None = None):
    return which.points(None, lambda: samples.split(size), len(samples), "features", folder)[:]


def test_features_do_not_depend_on_blocks_and_are_computed_once(tmp_path):
    first = points(extractor(tmp_path))
    assert torch.equal(first, SAMPLES.flatten(1) ** 2)
    assert Squares.made == 600
    for size in (256, 600, 17, 1):
        assert torch.equal(points(extractor(tmp_path), size), first)
    made = Squares.made
    for size in (256, 600, 17):
        points(extractor(tmp_path), size)
    assert Squares.made == made


def test_work_that_was_cut_off_goes_on(tmp_path):
    def until_it_is_stopped():
        yield from SAMPLES[:300].split(100)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extractor(tmp_path).points(None, until_it_is_stopped, 600, "features", tmp_path / "set")
    assert Squares.made == 300
    points(extractor(tmp_path), 100, folder=tmp_path / "set")
    assert Squares.made == 600
    assert len(list((tmp_path / "set").rglob("*.npz"))) == 6


@pytest.mark.parametrize("count", [2, 3])
def test_each_of_several_processes_computes_its_share_and_what_is_missing(tmp_path, count):
    expected, made, read = points(extractor(tmp_path / "alone"), 50), [], []

    def begun(rank: int, stop: int) -> None:
        """One that is killed after so many parts, or goes on to the end."""

        def parts():
            for i, part in enumerate(SAMPLES.split(50)):
                if Squares.made >= stop:
                    raise KeyboardInterrupt
                read.append(i)
                yield part

        Squares.made = 0
        which = extractor(tmp_path, place=Place(rank, count, rank, count, "torchrun"))
        with contextlib.suppress(KeyboardInterrupt):
            found = which.points(None, parts, 600, "features", tmp_path / "set")
            assert len(found) == (0 if rank else 600)
            if not rank:
                assert torch.equal(found[:], expected)
        made.append(Squares.made)

    share = 600 // count
    begun(1, 100)  # two parts of its share, and no more
    assert made == [100]
    begun(0, 10**6)  # alone with the rest
    assert made == [100, 500]
    begun(1, 10**6)  # started again: nothing is left
    assert made[2:] == [0]
    assert len(list((tmp_path / "set").rglob("*.npz"))) == 12
    for rank in range(1, count):  # from the beginning: the first one finds all of it
        Squares.made = 0
        extractor(tmp_path, place=Place(rank, count, rank, count, "srun")).points(
            None, lambda: SAMPLES.split(50), share, "features", tmp_path / "again"
        )
        assert Squares.made == (600 if rank == 1 else 0)
    begun(0, 10**6)
    assert made[3:] == [0]


def test_shares_do_not_overlap_while_all_are_at_work(tmp_path):
    """In turns of one part each: whoever has done its share begins elsewhere than those who have not."""
    computed = []

    class Turns(Squares):
        def __call__(self, samples):
            computed.append((self.rank, float(samples.sum())))
            turn = switch.wait  # the others go on meanwhile
            turn(20)
            return super().__call__(samples)

    switch, found = threading.Barrier(2), []

    def one(rank: int) -> None:
        which = extractor(tmp_path, place=Place(rank, 2, rank, 2, "srun"))
        which._chosen["squares"] = features = Turns(which._wanted)
        features.rank = rank
        found.append((rank, which.points(None, lambda: SAMPLES.split(50), 600, "features")))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(computed) == len(set(computed)) == len({of for _, of in computed}) == 12
    assert torch.equal(dict(found)[0][:], SAMPLES.flatten(1) ** 2)


def test_a_folder_that_cannot_be_written_is_told_and_another_one_taken(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "features").touch()  # where a folder would be made; root may write anywhere else
    which = extractor(tmp_path)
    for _ in range(2):
        assert torch.equal(points(which, 100, folder=tmp_path / "set"), SAMPLES.flatten(1) ** 2)
    assert Squares.made == 600
    assert capsys.readouterr().out.count("features are not kept in") == 1
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cache").touch()
    nowhere = extractor(tmp_path / "other", place=Place(1, 2, 1, 2, "srun"))
    points(nowhere, 100, folder=tmp_path / "set")
    assert Squares.made == 700  # nobody would see it: one part was enough to know
    alone = extractor(tmp_path / "other")
    assert torch.equal(points(alone, 100, folder=tmp_path / "set"), SAMPLES.flatten(1) ** 2)


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-9], lambda whole: b"x" + whole[1:], None])
def test_damaged_features_are_computed_again(tmp_path, damage):
    found = points(extractor(tmp_path), 600)
    (kept,) = tmp_path.rglob("*.npz")
    if damage:
        kept.write_bytes(damage(kept.read_bytes()))
    else:
        np.savez(kept, points=np.zeros((3, 16), np.float32))  # of other samples
    assert torch.equal(points(extractor(tmp_path), 600), found)
    assert Squares.made == 1200
    with np.load(kept) as again:
        assert np.array_equal(again["points"], found)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_figures_do_not_depend_on_the_number_of_processes(tmp_path, processes):
    """With features of the package's own, which other processes know."""
    from common.metrics.features import classifier

    assert classifier.STEPS == 10
    alone = extractor(tmp_path, name="classifier")
    alone_points = points(alone, 100)
    shared = extractor(tmp_path, processes, name="classifier")  # the same weights, from the cache
    found = points(shared, 100, folder=tmp_path / "elsewhere")
    assert torch.allclose(found, alone_points, atol=1e-6)
    assert len(list((tmp_path / "elsewhere").rglob("*.npz"))) == 6


def test_samples_are_read_in_parts_and_only_finite_ones_count(tmp_path):
    arrays = np.random.default_rng(0).random((600, 4, 4, 1)).astype(np.float32)
    arrays[[3, 599]] = np.nan
    labels = np.arange(600) % 3
    whole = Drawn.of(arrays, labels, DATA.spec, "x")
    files = [tmp_path / f"{start}.npy" for start in (0, 250, 500)]
    for path, part in zip(files, np.split(arrays, [250, 500]), strict=True):
        np.save(path, part)
    kept = Drawn.in_files(files, torch.from_numpy(labels), DATA.spec, "x", 600)
    assert (
        (len(whole), whole.not_finite, whole.shape) == (len(kept), kept.not_finite, kept.shape) == (598, 2, (1, 4, 4))
    )
    assert torch.equal(whole.all, kept.all)
    assert torch.equal(whole.labels, kept.labels)
    first = Drawn.in_files(files, torch.from_numpy(labels), DATA.spec, "x", 300)
    assert torch.equal(first.all, whole.all[:299])
    assert max(len(part) for part in whole.chunks()) <= 256
    with pytest.raises(Refusal, match="no sample there is finite"):
        Drawn.of(arrays[3:4], None, DATA.spec, "x")


@pytest.mark.parametrize("limit", [None, 1, 7, 350, 700, 900])
def test_several_parts_are_read_as_one(limit):
    rows = spread_over([DATA.train, DATA.held_out], limit)
    assert sum(map(len, rows)) == min(limit or 700, 700)
    together = torch.cat([IMAGES[:500][rows[0]], IMAGES[500:][rows[1]]])
    found = torch.cat(list(read_over([DATA.train, DATA.held_out], DATA.spec, limit)))
    assert torch.equal(found, DATA.spec.to_network(together))
    labels = torch.cat([(torch.arange(500) % 3)[rows[0]], (torch.arange(200) % 3)[rows[1]]])
    assert torch.equal(labels_over([DATA.train, DATA.held_out], limit), labels)


def test_every_class_alone_is_as_if_there_were_no_other(tmp_path):
    labels = torch.arange(600) % 3
    drawn = Drawn(lambda: iter(SAMPLES.split(100)), labels, "x")
    evidence = Evidence(drawn, DATA, extractor(tmp_path, name="pixels"))
    found = METRICS["sw"]().of_class(1, evidence)
    train = Split(IMAGES[:500][DATA.train.labels == 1], torch.zeros(167, dtype=torch.int64))
    held_out = Split(IMAGES[500:][DATA.held_out.labels == 1], torch.zeros(67, dtype=torch.int64))
    one_class = Drawn(lambda: iter([SAMPLES[labels == 1]]), None, "x")
    alone = Evidence(one_class, DataSet(train, held_out), extractor(tmp_path, name="pixels"))
    assert found == pytest.approx(METRICS["sw"]()(alone))


def test_statistics_are_those_of_numpy_and_take_the_place_of_real_data(tmp_path):
    evidence = Evidence(Drawn(lambda: iter([SAMPLES]), None, "x"), DATA, extractor(tmp_path, name="pixels"), part="all")
    path = tmp_path / "of" / "real.npz"
    assert not holds_statistics(path)
    write_statistics(path, evidence.real().moments, "pixels 1x4x4")
    assert holds_statistics(path)
    pixels = DATA.spec.to_network(IMAGES).flatten(1).double().numpy()
    with np.load(path) as arrays:  # as pytorch-fid reads it
        assert np.allclose(arrays["mu"], pixels.mean(0), atol=1e-6)
        assert np.allclose(arrays["sigma"], np.cov(pixels, rowvar=False), atol=1e-6)
    drawn = Drawn(lambda: iter([SAMPLES]), None, "x")
    known = Evidence(drawn, DATA, extractor(tmp_path, name="pixels"), statistics=read_statistics(path))
    figures = METRICS["fid"]()(known)
    assert set(figures) == {"fid", "fid_low", "fid_high"}
    assert figures["fid"] == pytest.approx(frechet(moments(SAMPLES.flatten(1)), read_statistics(path)), rel=1e-6)
    json.dumps(figures)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 2))}, "a vector and a square matrix"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "finite numbers"),
        ({"mu": np.zeros(3), "sigma": np.array(["a"])}, "cannot be read"),
        ({"mu": np.zeros(3)}, "cannot be read"),
    ],
    ids=["shape", "nan", "text", "no sigma"],
)
def test_statistics_that_are_none_are_refused(tmp_path, arrays, told):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(Refusal, match=told):
        read_statistics(tmp_path / "a.npz")


def test_samples_of_other_sides_with_the_same_numbers_are_not_taken_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(Squares, "__call__", lambda self, samples: samples[..., 0].flatten(1))
    black = torch.zeros(10, 1, 4, 4)
    assert points(extractor(tmp_path), samples=black).shape == (10, 4)
    assert points(extractor(tmp_path), samples=black.reshape(10, 1, 2, 8)).shape == (10, 2)


def test_parts_without_a_finite_sample_are_left_out():
    arrays = np.random.default_rng(0).random((600, 4, 4, 1)).astype(np.float32)
    arrays[:300] = np.nan
    sizes = [len(part) for part in Drawn.of(arrays, None, DATA.spec, "x").chunks()]
    assert sizes == [212, 88]


def test_figures_at_equal_numbers_are_of_samples_by_lot(tmp_path):
    """Sorted by class, as folders are: the first ones are all of one class, and the verdict would be 'worse'."""
    order = torch.cat([(DATA.train.labels == label).nonzero()[:, 0] for label in range(3)])
    images = torch.cat([IMAGES[:500], IMAGES[500:]]).float() / 4
    images += 60.0 * torch.cat([DATA.train.labels, DATA.held_out.labels]).reshape(-1, 1, 1, 1)
    data = DataSet(
        Split(images[:500].byte(), DATA.train.labels), Split(images[500:560].byte(), DATA.held_out.labels[:60]), 3
    )
    drawn = Drawn(lambda: iter([data.spec.to_network(data.train.images[order])]), None, "x")
    evidence = Evidence(drawn, data, Extractor(Wanted(data, tmp_path, tmp_path), "pixels"))
    metric = METRICS["sw"]()
    found = metric(evidence)
    assert found["sw_at"] < 0.05  # 0.3 of the first ones
    assert "worse" not in verdict(found, [metric])


def test_what_a_killed_process_left_is_removed(tmp_path):
    points(extractor(tmp_path), folder=tmp_path / "set")
    (place,) = (tmp_path / "set" / "features").iterdir()
    left = [folder / f".a.npz.{host_name()}.{2**22 + 1}.0123abcd.tmp" for folder in (place, tmp_path / "cache")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    points(extractor(tmp_path), folder=tmp_path / "set")
    assert not [path for path in left if path.exists()]


def test_features_that_auto_took_are_not_made_again_by_their_name(tmp_path, capsys):
    drawn = Drawn(lambda: iter([SAMPLES[:20]]), None, "x")
    evidence = Evidence(drawn, DATA, extractor(tmp_path, name="auto"))
    name = evidence.extractor.features().name
    assert evidence.extractor.features(name) is evidence.extractor.features()
    evaluate(evidence, [METRICS["rke"]()])
    assert capsys.readouterr().out.count("features ") == 1
