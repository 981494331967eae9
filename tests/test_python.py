"""What a notebook does: drawing, judging and training from Python, under a notebook's conditions."""

import asyncio
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm.std import tqdm

import evaluate as judge
import generate as program
import train as trainer
from common import runs
from common.dynamics import Prior
from common.generation.arrays import Samples, evaluate, generate
from common.generation.blocks import read_samples
from common.metrics import Agreement
from common.progress import bar
from common.refusal import Refusal
from common.runs import Run
from common.samplers import SOLVERS
from common.training.module import DiffusionModule
from tests.documents import ROOT, blocks
from tests.training import tiny

SHORT = tiny.command(**tiny.FLAGS, train_steps=4, val_check_interval=2, log_every=1, batch_size=8, device="cpu")


@pytest.fixture
def own(tmp_path, monkeypatch, tmp_path_factory) -> Run:
    """A trained run in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    trained = tiny.trained(tmp_path_factory.getbasetemp())
    shutil.copytree(trained, tmp_path / "runs" / trained.name)
    return runs.load("tiny")


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def by_program(*words: str) -> tuple[np.ndarray, np.ndarray | None, Path]:
    """What generate.py writes."""
    assert program.main(["--run_id", "tiny", "--steps", "3", "--n_samples", "5", *words]) == 0
    (folder,) = Path().glob("runs/*/generated_data/*/*")
    return *read_samples(folder), folder


SAME = {
    "plain": ((), {}),
    "labels": (("--labels", "3,3,7", "--batch_size", "2"), {"labels": np.array([3, 3, 7]), "batch_size": np.int64(2)}),
    "published": (("--mode", "ode"), {"mode": "ode"}),
    "weights of a solver": (
        ("--solver", "pc", "--snr", "0.1", "--mode", "ode", "--denoise_last", "False", "--clip_x0", "False"),
        {"solver": "pc", "solver_arguments": {"snr": 0.1}, "mode": "ode", "denoise_last": False, "clip_x0": False},
    ),
    "seeds": (("--n_samples", "3", "--seeds", "7,1-2"), {"n_samples": None, "seeds": iter([7, 1, 2])}),
    "start": (("--prior", "zero", "--grid", "uniform"), {"prior": "zero", "grid": "uniform"}),
}


@pytest.mark.parametrize(("words", "arguments"), SAME.values(), ids=SAME)
@pytest.mark.filterwarnings("ignore:.*needs about")
def test_arrays_are_those_of_the_program(own, words, arguments):
    before = files()
    samples = generate(own, **{"n_samples": 5, "steps": 3, **arguments})
    assert files() == before  # nothing was written
    x, labels, folder = by_program(*words)
    assert samples.x.dtype == np.float32
    assert np.array_equal(samples.x, x)
    assert np.array_equal(samples.labels, labels)
    assert samples.folder is None
    assert samples.evaluations >= 3
    buffer = io.BytesIO()
    samples.picture().save(buffer, "PNG")
    with Image.open(folder / "grid.png") as grid:
        assert np.array_equal(np.asarray(grid), np.asarray(samples.picture()))


@pytest.mark.parametrize("first", ["program", "python"])
def test_either_finds_what_the_other_has_drawn(own, capsys, first):
    if first == "program":
        _, _, folder = by_program("--labels", "3,7")
    drawn = files()
    kept = generate(own, n_samples=5, steps=3, labels=["3", 7], save=True)
    if first == "program":
        assert kept.folder == folder
        assert {name for name, content in files().items() if drawn.get(name) != content} <= {"manifest.json"}
    else:
        capsys.readouterr()
        x, labels, folder = by_program("--labels", "3,7")
        assert "network   not needed: all samples were there" in capsys.readouterr().out
        assert np.array_equal(kept.x, x)
        assert np.array_equal(kept.labels, labels)
        assert kept.folder == folder


def test_evaluations_are_another_way_to_say_steps(own):
    """As --nfe: Heun's method takes two a step; an adaptive solver says afterwards what it took."""
    by_steps = generate(own, n_samples=3, steps=2, solver="heun")
    by_nfe = generate(own, n_samples=3, nfe=4, solver="heun")
    assert np.array_equal(by_nfe.x, by_steps.x)
    assert by_nfe.evaluations == by_steps.evaluations == 4
    assert generate(own, n_samples=3, solver="dopri5", solver_arguments={"rtol": 0.1}).evaluations > 30
    for arguments, told in (
        ({"nfe": 3, "solver": "heun"}, "^nfe 3: no number of steps takes just as many; give 2 or 4$"),
        ({"nfe": 4, "steps": 2}, "^nfe and steps exclude each other; leave one of them out$"),
        ({"steps": 2, "solver": "dopri5"}, "^steps has no effect on dopri5, .*; give rtol instead$"),
        ({"grid": "data", "solver": "dopri5"}, "^grid has no effect on dopri5, .*; give rtol instead$"),
    ):
        with pytest.raises(Refusal, match=told):
            generate(own, n_samples=3, **arguments)


def test_a_network_that_was_changed_is_not_kept_as_that_of_the_run(own):
    with torch.no_grad():
        next(own.denoiser.backbone.parameters()).add_(1)
    with pytest.raises(Refusal, match="save has no place for these samples: the network is not that of"):
        generate(own, n_samples=2, steps=2, save=True)
    assert len(generate(own, n_samples=2, steps=2).x) == 2


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


def test_a_run_stays_as_it_is_and_memory_does_not_grow(own):
    own.dynamics.prior = prior = Prior(own.dynamics, 0.5, 0.25)
    kept: list[weakref.ref] = []
    first = generate(own, n_samples=2, steps=2)
    for _ in range(3):
        samples = generate(own, n_samples=2, steps=2, prior="zero", clip_x0=True)
        kept.append(weakref.ref(samples))
        assert own.dynamics.prior is prior
    assert not np.array_equal(samples.x, first.x)
    assert np.array_equal(generate(own, n_samples=2, steps=2).x, first.x)
    count = tensors()
    for _ in range(3):
        samples = generate(own, n_samples=2, steps=2)
    assert tensors() <= count
    del samples
    assert [ref() for ref in kept] == [None] * 3


REFUSED = {
    "seeds must be a list of at least one": {"seeds": []},
    "seeds must be a list of at least one, got 3": {"seeds": 3},
    "seeds must be whole numbers from 0": {"seeds": [-1]},
    "seeds cannot be": {"seeds": "0-3"},
    "labels must be a list": {"labels": []},
    "labels 'cat' is no class; there are 0 to 9": {"labels": "cat"},
    "labels cannot be": {"labels": [0.5]},
    f"solver must be one of {', '.join(SOLVERS)}, got 'x'": {"solver": "x"},
    "grid must be one of": {"grid": "x"},
    "prior must be one of zero, data, got 'x'": {"prior": "x"},
    "device must be one of auto, cpu, cuda, got 'tpu'": {"device": "tpu"},
    "steps cannot be '3'": {"steps": "3"},
    "steps must be at least 1": {"steps": 0},
    "n_samples 3 contradicts seeds, which names 1; leave it out": {"n_samples": 3, "seeds": [1]},
    "mode and solver exclude each other: mode sde is solver em": {"mode": "sde", "solver": "em"},
    "solver_arguments snr cannot be 'x'": {"solver": "pc", "solver_arguments": {"snr": "x"}},
    "solver_arguments has no effect without solver": {"solver_arguments": {"snr": 0.1}},
    "solver_arguments stochastic: .* has no such argument; it takes predictor": {
        "solver": "pc", "solver_arguments": {"stochastic": True},
    },
    "solver_arguments x: Exponential2 has no such argument; it takes none": {
        "solver": "exp2", "solver_arguments": {"x": 1},
    },
    "snr has no effect on corrector none": {"solver": "pc", "solver_arguments": {"corrector": "none", "snr": 0.1}},
    "guidance_arguments run: ClassifierFree has no such argument; it takes scale": {"guidance_arguments": {"run": 1}},
    "guidance_scale 2: .* was trained without label_dropout": {"guidance_arguments": {"scale": 2}},
    "t_end must lie in": {"t_end": 1.0},
}  # fmt: skip


def test_refusals_name_arguments(own):
    for message, arguments in REFUSED.items():
        with pytest.raises(Refusal, match=message) as refused:
            generate(own, **arguments)
        assert "--" not in str(refused.value)
    samples = generate(own, n_samples=2, steps=2)
    with pytest.raises(Refusal, match="picture_scale"):
        samples.picture(0)
    with pytest.raises(Refusal, match="metrics 'x' is unknown; there are agreement, nearest"):
        evaluate(samples, ["x"])


def test_what_the_program_notes_is_a_warning(own):
    with pytest.warns(UserWarning, match=r"^em needs about \d+ steps or more; solver ab3 does with 10$") as warned:
        generate(own, n_samples=2, steps=2, solver="em")
    assert warned[0].filename == __file__
    with torch.no_grad():
        next(own.denoiser.backbone.parameters()).fill_(torch.nan)
    with pytest.warns(UserWarning, match="2 of 2 samples have NaN or infinite values"):
        generate(own, n_samples=2, steps=2, clip_x0=False)


def test_figures(own, capsys):
    samples = generate(own, n_samples=20, steps=4, save=True)
    assert judge.main(["--run_id", "tiny"]) == 0
    kept = capsys.readouterr().out
    found = evaluate(samples)
    assert found.keys() >= {"samples", "agreement", "nearest"}
    assert f"{found['agreement']:.1%} read as the class asked for" in kept
    assert evaluate(Samples(samples.x, samples.labels, own, 4), [Agreement()])["agreement"] == found["agreement"]
    assert capsys.readouterr().out.count("agreement") == 2


# -- training ----------------------------------------------------------------------------------------------------------


class Cell(io.StringIO):
    """The output of a cell: no file, no terminal."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def like_a_kernel(monkeypatch) -> Cell:
    """sys of a process in which a notebook runs."""
    cell = Cell()
    monkeypatch.setattr(sys, "stdout", cell)
    monkeypatch.setattr(sys, "stderr", cell)
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel-1.json"])
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return cell


def of_the_process() -> list[object]:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return [handlers, list(sys.argv), os.environ["MPLBACKEND"], Path.cwd()]


def trained(name: str) -> int:
    return trainer.train([*SHORT, "--wb_id", name, "--lr", 1e-3])


def test_training_in_a_notebook(tmp_path, monkeypatch):
    """A loop runs, output goes to a cell; in the main thread, in another, twice; nothing of the process is changed."""
    monkeypatch.chdir(tmp_path)
    cell = like_a_kernel(monkeypatch)
    before = of_the_process()

    async def cells() -> list[int]:
        return [trained("here"), await asyncio.to_thread(trained, "there"), trainer.train("--resume here")]

    assert asyncio.run(cells()) == [0, 0, 0]
    assert "already finished" in cell.getvalue()
    assert cell.getvalue().count("\r") < 20  # no bar for every step
    assert sys.stdout is cell
    assert of_the_process() == before
    here, there = (Path(f"runs/{name}_digits_H0.9_K2") for name in ("here", "there"))
    assert tiny.difference(here, there) == 0
    gc.collect()
    assert not any(issubclass(type(found), DiffusionModule) for found in gc.get_objects())
    assert list(here.glob("samples/*.png"))
    log = runs.load("here").log
    assert log["step"].tolist() == [1, 2, 3, 4]
    assert np.isnan(log["val/loss"]).tolist() == [True, False, True, False]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr x", "argument --lr: 'x' is no number .see --help."),
        (["--hurst", 2], "--hurst must lie in"),
        ("--preset nothing", "invalid choice: 'nothing'"),
        ("--no_such_flag 1", "unrecognized arguments: --no_such_flag 1"),
        ("--resume nothing", "nothing"),
        ("--devices 2 --dry_run", "--devices leads to 2 processes, which a notebook cannot start"),
    ],
)
def test_wrong_words_are_refused_without_an_exit(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    like_a_kernel(monkeypatch)
    with pytest.raises(Refusal, match=message):
        trainer.train(words)
    assert list(tmp_path.iterdir()) == []
    assert trainer.train("--help") == 0


def test_an_interrupted_kernel_stops_a_training_after_the_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = like_a_kernel(monkeypatch)

    def press(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("common.training.callbacks.SampleGrid.on_validation_end", press)
    assert trained("stopped") == 130
    assert "go on with: python train.py --resume stopped" in cell.getvalue()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert trainer.train("--resume stopped") == 0


def test_pyplot_keeps_the_backend_of_a_notebook(tmp_path):
    """What is imported after a training draws into the notebook, not into files."""
    code = "import train, os; train.train('--list_presets'); print(os.environ['MPLBACKEND'])"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines()[-1] == "module://matplotlib_inline.backend_inline"


# -- bars --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_screen", "lasting", "shown", "seldom"),
    [(True, True, True, False), (True, False, True, False), (False, True, True, True), (False, False, False, None)],
)
def test_bars_of_text(monkeypatch, on_screen, lasting, shown, seldom):
    stream = io.StringIO()
    stream.isatty = lambda: on_screen
    monkeypatch.setattr(sys, "stderr", stream)
    with bar(3, "work", "step", lasting=lasting) as progress:
        progress.update(3)
    assert bool(stream.getvalue()) == shown
    assert seldom is None or progress.mininterval == (15 if seldom else 0.2)


def test_bars_of_a_notebook(monkeypatch):
    """There tqdm.auto is a widget: shown, though the output is no terminal."""
    widget = type("tqdm", (tqdm,), {"__module__": "tqdm.notebook"})
    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=widget))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = bar(3, "work", "step")
    assert isinstance(progress, widget)
    assert (progress.disable, progress.mininterval, progress.leave) == (False, 0.2, False)
    progress.close()


def test_the_page(tmp_path, monkeypatch, capsys):
    """docs/python.md, block by block, in one session; trainings are cut short."""
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        path = tmp_path / "DIR" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50), (6 * i, 100, 200)).save(path)
    session = vars(ModuleType("session"))
    for block in blocks((ROOT / "docs" / "python.md").read_text(), "python"):
        short = block.replace("--wb_id first", f"--wb_id first {' '.join(SHORT)}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            exec(compile(short, "python.md", "exec"), session)
    assert capsys.readouterr().out.count("found     36 images to learn from, 4 held out") == 2  # and of --check_data
    assert Path("runs/check-folder.png").is_file()
    assert session["x"].shape == (36, 3, 32, 32)
    assert session["kept"].folder.is_dir()
