"""What one process does for all before the first step."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import args
from common.cluster.place import LIGHTNING, TORCHRUN, Place
from common.config.plugins import class_of
from common.config.resolve import fit_to_data
from common.data.source import DataSet, Split
from common.runs import RunFolder
from common.training import once
from common.training.once import fetched, with_shared_statistics


class Nothing:
    """Samples that are there, and that nobody reads."""

    shape, dtype = (20, 1, 8, 8), torch.uint8

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        raise AssertionError("was read")


class Met:
    """A meeting of two processes, one after the other.

    Args:
        here: which this is.
        made: what the first one has made.
    """

    def __init__(self, here: Place, made: object = None) -> None:
        self.here, self.made = here, made
        self.agreed = 0

    def from_first(self, make):
        if self.here.is_first:
            self.made = make()
        return dict(self.made)

    def agree(self, *alike):
        self.agreed += 1


def place(rank: int, local_rank: int, launcher: str = TORCHRUN) -> Place:
    return Place(rank, 4, local_rank, 2, launcher)


@pytest.mark.parametrize("words", ["--prior data", "--dynamics heat --prior data", ""])
def test_figures_of_the_data_are_made_once(tmp_path, words):
    order = args.parse_train(words.split())
    assert order is not None
    assert order.config is not None
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Split(images, torch.zeros(20, dtype=torch.int64))
    data = DataSet(part, part)
    config = fit_to_data(order.config, data.spec, class_of(order.config.dynamics), class_of(order.config.network))
    first = Met(place(0, 0))
    expected, functions = with_shared_statistics(config, data, RunFolder(tmp_path), first)
    alone, plain = once.with_statistics(config, data, "prior.safetensors")
    assert expected == alone
    other = replace(data, train=replace(part, images=Nothing()))
    found, given = with_shared_statistics(config, other, RunFolder(tmp_path), Met(place(1, 1), first.made))
    assert found == expected
    assert (given is None) == (functions is None) == (plain is None) == ("heat" not in words)
    for name in plain or ():
        assert torch.equal(given[name], plain[name])
        assert torch.equal(functions[name], plain[name])


def test_processes_of_lightning_find_them_in_the_run_folder(tiny_run):
    stored = once.read_config(tiny_run)
    config = replace(stored, data_std=None)
    met = Met(place(1, 1, LIGHTNING))
    found, functions = with_shared_statistics(config, None, RunFolder(tiny_run), met)
    assert (found, functions) == (stored, None)


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (place(0, 0), ["loads and fetches", "agrees"]),
        (place(1, 1), ["agrees", "loads"]),
        (place(2, 0), ["loads and fetches", "agrees"]),
        (place(1, 1, LIGHTNING), ["loads and fetches"]),  # there is nothing left to fetch
        (Place(), ["loads and fetches"]),
    ],
)
def test_the_first_process_of_a_machine_fetches(monkeypatch, here, expected):
    done = []
    monkeypatch.setattr(once, "load_data", lambda c: done.append("loads and fetches" if c.download else "loads"))
    config = args.parse_train(["--download", "True", "--data_name", "mnist"]).config.data
    fetched(config, SimpleNamespace(here=here, agree=lambda: done.append("agrees")))
    assert done == expected
    done.clear()
    fetched(replace(config, download=False), SimpleNamespace(here=here))
    assert done == ["loads"]


def test_a_long_wait_is_told(monkeypatch, capsys):
    monkeypatch.setattr(once, "SOON", 0.01)
    with once.told("wait      for it", True):
        threads = [thread for thread in once.threading.enumerate() if isinstance(thread, once.threading.Timer)]
        for thread in threads:
            thread.join(5)
    with once.told("not this", False):
        pass
    assert capsys.readouterr().out == "wait      for it\n"
