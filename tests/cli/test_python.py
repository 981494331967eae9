"""Samples from Python: the bits of generate.py, nothing written, what a notebook does to a program."""

import asyncio
import io
import signal
import sys
import threading

import numpy as np
import pytest

import generate as program
import train
from common import runs
from common.generation.arrays import generate
from common.refusal import Refusal
from tests.training import tiny

SETTINGS = {"steps": 3, "seeds": range(5, 12), "labels": (3, "7"), "batch_size": 4}


def written(folder, *words: str) -> tuple[np.ndarray, np.ndarray]:
    before = set(folder.glob("generated_data/*/*"))
    flags = ["--steps", "3", "--seeds", "5-11", "--labels", "3,7", "--batch_size", "4", *words]
    assert program.main(["--run_id", folder.name, "--output_dir", str(folder.parent), *flags]) == 0
    (new,) = set(folder.glob("generated_data/*/*")) - before
    return tuple(np.concatenate([np.load(f) for f in sorted((new / part).iterdir())]) for part in ("data", "label"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ()),
        ({"solver": "exp1"}, ("--solver", "exp1")),
        ({"mode": "sde"}, ("--mode", "sde")),
        ({"solver": "pc", "solver_arguments": {"snr": 0.1}}, ("--solver", "pc", "--snr", "0.1")),
        ({"prior": "zero", "clip_x0": False}, ("--prior", "zero", "--clip_x0", "False")),
    ],
)
def test_the_bits_are_those_of_the_program(run, settings, words):
    model = runs.load("tiny", output_dir=run.parent)
    start = model.dynamics.prior
    before = sorted(run.rglob("*"))
    found = generate(model, progress=False, **{**SETTINGS, **settings})
    assert sorted(run.rglob("*")) == before
    x, labels = written(run, *words)
    assert np.array_equal(found.x, x)
    assert np.array_equal(found.labels, labels)
    assert found.classes == ("3", "7", "3", "7", "3", "7", "3")
    assert found.evaluations >= 3
    assert model.dynamics.prior is start  # another one holds for one call
    again = generate(model, progress=False, **{**SETTINGS, **settings})
    assert np.array_equal(again.x, x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "best"}, "solver 'best' is unknown; there are em, "),
        ({"grid": "best"}, "grid 'best' is unknown"),
        ({"guidance": "best"}, "guidance 'best' is unknown"),
        ({"mode": "best"}, "mode 'best' is unknown"),
        ({"labels": ["cat"]}, "labels 'cat' is no class"),
        ({"n_samples": 3, "seeds": [1]}, "n_samples"),
        ({"seeds": [-1]}, "seeds must be whole numbers from 0"),
        ({"steps": 0}, "steps"),
        ({"guidance": "classifier_free", "guidance_arguments": {"scale": 2.0}}, "without --label_dropout"),
    ],
)
def test_what_cannot_be_is_refused_by_name(run, settings, message):
    with pytest.raises(Refusal, match=message):
        generate(runs.load("tiny", output_dir=run.parent), **settings)


class CellOutput(io.StringIO):
    """What a notebook has for a standard output."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_training_in_a_notebook(tmp_path, monkeypatch, in_thread):
    """The main thread runs a loop of events, or a server works in another one; signals and output stay as they were."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(sys, "stdout", CellOutput())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    codes = []

    def work(name: str) -> None:
        flags = {**tiny.FLAGS, "train_steps": 2, "val_check_interval": 2}
        codes.append(train.main(tiny.command(wb_id=name, output_dir=tmp_path, **flags)))

    async def cell() -> None:
        for name in ("a", "b"):
            thread = threading.Thread(target=work, args=(name,))
            thread.start() if in_thread else work(name)
            thread.join() if in_thread else None

    asyncio.run(cell())
    assert codes == [0, 0]
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert "next      python generate.py" in sys.stdout.getvalue()
