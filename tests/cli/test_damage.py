"""Files of a run that are missing, cut, changed or of another run; second writers; the list of runs that tells."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.files import locked
from common.runs import RunFolder
from common.runs.__main__ import main as list_main
from tests.test_files import flip
from tests.test_imports import ROOT
from tests.training import tiny

DRAW = ("--n_samples", 4, "--steps", 2)
HEAT = {
    "data_name": "arrays", "dynamics": "heat", "model_name": "uvit", "embed_dim": 16, "depth": 1, "num_heads": 2,
    "patch_size": 4, "batch_size": 4, "train_steps": 2, "val_samples": 4,
}  # fmt: skip
OTHER = {**tiny.TRAINED, "wb_id": "other", "seed": 5, "train_steps": 4, "checkpoint_every": 2, "log_model_every_n": 2}


@pytest.fixture(scope="session")
def other_run(tmp_path_factory) -> Path:
    """A run of the same kind, with another seed."""
    import train

    root = tmp_path_factory.getbasetemp() / "other_runs"
    if not root.exists():
        assert train.main(tiny.command(**OTHER, output_dir=root)) == 0
    return root / "other_digits_H0.9_K2"


def one_bit(path: Path, other: Path) -> None:
    """In the middle: in tensors, where torch and safetensors do not look."""
    flip(path, path.stat().st_size // 2)


def folder_in_its_place(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit": one_bit,
    "of another run": lambda path, other: shutil.copy(other, path),
    "a folder": folder_in_its_place,
}


def cases(*fast: str) -> list[object]:
    """Every damage, but for these under the marker slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in DAMAGES]


@pytest.fixture
def whole(tiny_run, tmp_path) -> Path:
    """All of the trained run, with its checkpoints."""
    folder = tmp_path / "runs" / tiny_run.name
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("samples", "*-v*"))
    return folder


def same_weights(folder: Path, reference: Path) -> bool:
    """Whether the final weights are, to the bit, those of another folder."""
    names = ("model-final.pth", "ema_model-final.pth")
    states = [[torch.load(f / "model" / name, weights_only=True) for name in names] for f in (folder, reference)]
    return all(torch.equal(a[key], b[key]) for a, b in zip(*states, strict=True) for key in b)


@pytest.mark.parametrize("damage", cases("one bit", "a folder"))
def test_a_damaged_last_checkpoint_falls_back(cli, whole, tiny_run, other_run, damage):
    """The newest numbered one that is whole takes its place, and one line says so; the end is the same to the bit."""
    checkpoints = whole / "checkpoints"
    (checkpoints / "step-0000150.ckpt").unlink()
    DAMAGES[damage](checkpoints / "last.ckpt", other_run / "checkpoints" / "last.ckpt")
    if damage == "a folder":
        refused = cli("train", "--resume", "tiny")
        assert (refused.code, refused.written) == (2, [])
        assert "last.ckpt is a folder, where a file is to be written; move it away" in refused.err
        return
    log = (whole / "metrics.csv").read_bytes()
    result = cli("train", "--resume", "tiny")
    assert result.code == 0, result.err
    broken = "is missing" if damage == "missing" else "cannot be read (cut short, damaged, or of another run)"
    assert f"last.ckpt {broken}; step-0000100.ckpt is taken\n" in result.out
    assert "note      the log goes back to step 100, since later ones are gone; all of it is kept in " in result.out
    assert ", goes on at step 100 (" in result.out
    assert (whole / "metrics-until-150.csv").read_bytes() == log
    assert same_weights(whole, tiny_run)
    assert tiny.lines(whole) == tiny.lines(tiny_run)


def test_no_whole_checkpoint_is_no_start_at_zero(cli, whole):
    for path in (whole / "checkpoints").iterdir():
        flip(path, path.stat().st_size // 2)
    log = (whole / "metrics.csv").read_bytes()
    for words in (("--resume", "tiny"), tiny.command("--resume", "auto", **tiny.TRAINED)):
        result = cli("train", *words)
        assert (result.code, result.written) == (2, [])
        assert "none of its checkpoints is readable (last.ckpt, step-0000150.ckpt, step-0000100.ckpt)" in result.err
    assert (whole / "metrics.csv").read_bytes() == log
    named = whole / "checkpoints" / "step-0000100.ckpt"
    assert f"{named.resolve()} is no readable checkpoint" in cli("train", "--resume", named).err


FAST = {
    ("one bit", "model/ema_model-final.pth"),
    ("a folder", "model/model-final.pth"),
    ("of another run", "model/model-final.pth"),
    ("missing", "real.safetensors"),
    ("of another run", "real.safetensors"),
}


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        pytest.param(damage, name, marks=[] if (damage, name) in FAST else pytest.mark.slow)
        for name in ("model/ema_model-final.pth", "model/model-final.pth", "real.safetensors")
        for damage in DAMAGES
    ],
)
def test_what_is_damaged_is_refused_and_resume_makes_it_again(cli, whole, tiny_run, other_run, damage, name):
    DAMAGES[damage](whole / name, other_run / name)
    plain = ("--use_ema", "False") if name == "model/model-final.pth" else ()
    result = cli("generate", "--run_id", "tiny", *DRAW, *plain)
    if name == "real.safetensors" and damage in ("missing", "a folder", "of another run"):
        assert result.code == 0  # pictures have no row of real samples; another run has the same ones
    else:
        assert (result.code, result.written) == (2, []), result.out
        assert name.rpartition("/")[2] in result.err
        assert f"python train.py --resume {whole.name} " in result.err
    assert "Traceback" not in result.err
    result = cli("train", "--resume", "tiny")
    if damage == "a folder":
        assert (result.code, "Traceback" in result.err) == (2, False)
        return
    assert result.code == 0
    told = f"note      runs/{whole.name}/{name} was {'missing' if damage == 'missing' else 'damaged'}; it is made again"
    same = (name, damage) == ("real.safetensors", "of another run")  # which has the same ones
    assert (told in result.out.splitlines()) == (not same)
    assert same_weights(whole, tiny_run)
    assert cli("generate", "--run_id", "tiny", *DRAW, *plain).code == 0


@pytest.mark.parametrize("damage", cases("missing", "one bit"))
@pytest.mark.parametrize("name", ["config.json", "manifest.json", "metrics.csv", "environment.txt"])
@pytest.mark.parametrize("words", [("train", "--resume", "tiny"), ("generate", "--run_id", "tiny", *DRAW)], ids=str)
def test_texts_of_a_run(cli, whole, other_run, damage, name, words):
    """One line, or no harm: never a traceback, never another model without a word."""
    DAMAGES[damage](whole / name, other_run / name)
    result = cli(*words)
    assert "Traceback" not in result.err
    if name == "config.json":
        assert (result.code, result.written) == (2, [])
        assert re.search(r"config\.json is .*; put a copy of it back", result.err)
    elif name in ("metrics.csv", "environment.txt"):
        if damage == "a folder" and words[0] == "train":
            assert "is a folder, where a file is to be written; move it away" in result.err
        else:
            assert result.code == 0, result.err
    elif name == "manifest.json" and damage == "missing":
        assert result.code == 0
        assert words[0] == "train" or "cannot be checked for damage" in result.out
    elif name == "manifest.json" and damage == "one bit" and result.code == 0:
        pass  # the check sum of what nobody reads now
    else:
        assert (result.code, result.written) == (2, [])
        assert "manifest.json" in result.err or "is damaged" in result.err


# -- second writers ----------------------------------------------------------------------------------------------------


def test_a_run_is_trained_once_at_a_time(cli, whole):
    """Also one that is just being started, and has no config.json yet."""
    with locked(whole, "train.py"):
        for words in (("--resume", "tiny"), tiny.command("--resume", "auto", **tiny.TRAINED)):
            result = cli("train", *words)
            assert (result.code, result.written) == (2, [])
            assert f"{whole.relative_to(Path.cwd())} is being written by train.py (process " in result.err
        assert cli("generate", "--run_id", "tiny", *DRAW).code == 0  # reading is free
    new = Path("runs/new_digits_H0.9_K2")
    flags = {**tiny.FLAGS, "wb_id": "new", "train_steps": 2, "batch_size": 4}
    with locked(new, "train.py"):
        result = cli("train", *tiny.command(**flags))
        assert (result.code, result.written) == (2, [])
        assert "take another id" in result.err
    assert cli("train", *tiny.command(**flags)).code == 0
    assert not (new / ".lock").exists()


def test_a_refused_start_leaves_nothing(cli):
    assert cli("train", *tiny.command(**tiny.FLAGS, data_name="arrays", data_dir="nowhere.npz")).code == 2
    assert not Path("runs").exists()


def test_left_overs_are_removed_on_the_next_start(cli, whole):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    from common.files.writing import host_name

    rest = [whole / name / f".x.{host_name()}.{dead.pid}.01234567.tmp" for name in ("", "checkpoints", "model")]
    for path in rest:
        path.touch()
    assert cli("train", "--resume", "tiny").code == 0
    assert not any(path.exists() for path in rest)


# -- a copied run, and the list ----------------------------------------------------------------------------------------


def test_a_copied_run_goes_on_with_its_data_elsewhere(cli, tmp_path):
    """Unzipped on another machine: every file has another time, the data lies elsewhere."""
    Path("here").mkdir()
    np.savez("here/a.npz", x=np.random.default_rng(0).random((40, 8, 8, 1), np.float32))
    flags = {**tiny.FLAGS, "val_samples": 4, "batch_size": 4, "train_steps": 6, "checkpoint_every": 2}
    words = tiny.command(**flags, wb_id="c", data_name="arrays", data_dir="here/a.npz")
    assert cli("train", *words, "--max_time", "0.001s").code == 0
    (run,) = Path("runs").glob("c_*")
    Path("there").mkdir()
    shutil.copy("here/a.npz", "there/b.npz")
    shutil.copytree(run, tmp_path / "moved" / run.name, copy_function=shutil.copyfile)
    shutil.rmtree("here")
    words = ("--resume", "c", "--output_dir", "moved")
    refused = cli("train", *words)
    assert refused.code == 2
    assert "data_dir" in refused.err
    assert cli("train", *words, "--data_dir", "there/b.npz").code == 0
    assert cli("generate", "--run_id", "latest", "--output_dir", "moved", *DRAW).code == 0


def test_the_list_of_runs(cli, whole, tiny_run, other_run, capsys, tmp_path):
    (tmp_path / "runs" / "README.md").write_text("no run")
    assert list_main(["--output_dir", str(tmp_path / "runs")]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "data", "process", "network"]
    assert row.split()[:7] == ["tiny_digits_H0.9_K2", "digits", "fvp(H=0.9,", "K=2)", "unet", "150", "finished"]
    shutil.copytree(other_run, tmp_path / "runs" / other_run.name, ignore=shutil.ignore_patterns("*final*"))
    assert cli("generate", "--run_id", "tiny", *DRAW).code == 0

    def state(name: str, *words: str, code: int = 0) -> str:
        assert list_main(["--output_dir", str(tmp_path / "runs"), *words]) == code
        lines = capsys.readouterr().out.splitlines()
        (found,) = (line for line in lines[1:3] if line.startswith(name))
        return found

    assert state("tiny").endswith("model-final/ab3-2-ema")
    with locked(whole, "train.py"):
        assert " running here " in state("tiny")
    assert " damaged " in state("other")  # its final weights are gone
    weights = whole / "model" / "model-final.pth"
    flip(weights, weights.stat().st_size // 2)
    assert " finished " in state("tiny")  # a glance does not read files
    assert " damaged " in state("tiny", "--check", "True", code=1)
    assert RunFolder(whole).begun < RunFolder(tmp_path / "runs" / other_run.name).begun


def test_every_damage_has_a_way_out(cli, run, tiny_run, capsys):
    """The list names it, and what it says makes the run whole again."""

    def listed(code: int) -> str:
        assert list_main(["--check", "True"]) == code
        return capsys.readouterr().out

    checkpoints, weights, again = run / "checkpoints", run / "model" / "model-v0.pth", f"train.py --resume {run.name} "
    shutil.copy(tiny_run / "checkpoints" / "step-0000150.ckpt", checkpoints)
    assert " finished " in listed(0)
    one_bit(checkpoints / "last.ckpt", run)
    broken = "last.ckpt cannot be read (cut short, damaged, or something else)"
    assert f"{broken}; python {again}writes it again" in listed(1)
    result = cli("train", "--resume", "tiny")
    assert "last.ckpt is now a copy of step-0000150.ckpt" in result.out
    assert " finished " in listed(0)
    for path in (weights, checkpoints / "step-0000150.ckpt"):
        one_bit(path, run)
        (line,) = (line for line in listed(1).splitlines() if path.name in line)
        assert "; put a copy of it back, or remove it and do without" in line
        path.unlink()
        assert " finished " in listed(0)
    (run / "manifest.json").write_text('{"format": 1, "made": "", "files": {}}')
    assert "has no check sums of config.json, ema_model-final.pth, " in listed(0)


def test_final_weights_that_are_gone_are_told(cli, run):
    for path in (run / "model").glob("*-final.pth"):
        path.unlink()
    told = "ema_model-final.pth is missing, though it was written; python train.py --resume"
    for lost, taken in (("none", "v2, average of"), ("*", "checkpoint of step 150, average of")):
        for path in (run / "model").glob(lost):
            path.unlink()
        first, second = cli("generate", "--run_id", "tiny", *DRAW).out.splitlines()[:2]
        assert told in first
        assert second.startswith(f"weights   {taken}")


@pytest.mark.parametrize("program", ["train", "generate", "evaluate"])
def test_places_without_runs_are_told(cli, run, program, capsys, tmp_path):
    Path("file").touch()
    (tmp_path / "runs" / "README.md").touch()
    shutil.copytree(run, tmp_path / "else" / "moved")
    flag = "resume" if program == "train" else "run_id"
    for words, told in (
        ((f"--{flag}", "no"), f"--{flag} no: no such run under runs. Runs there: {run.name}\n"),
        ((f"--{flag}", "no", "--output_dir", run), f"no: no such run under {run}. Runs there: none\n"),
        ((f"--{flag}", tmp_path / "else" / "moved"), f"give --{flag} moved --output_dir {tmp_path / 'else'}\n"),
        ((f"--{flag}", "no", "--output_dir", "file"), "file is a file, not a folder"),
        ((f"--{flag}", "no", "--output_dir", "gone"), f"--{flag} no: gone is not there; --output_dir names the folder"),
    ):
        result = cli(program, *words)
        assert (result.code, told in result.err) == (2, True), result.err
    for place, told in (("file", "file is a file, not a folder"), ("gone", "gone is not there")):
        with pytest.raises(SystemExit):
            list_main(["--output_dir", place])
        assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_list_of_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "common.runs"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "digits-demo_digits_H0.9_K2" in done.stdout


# -- what sampling starts from under heat ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def heat_runs(tmp_path_factory) -> Path:
    """Two runs of two steps, of other data each, whose priors are functions."""
    import train

    root = tmp_path_factory.getbasetemp() / "heat_runs"
    if not root.exists():
        for name, level in (("h", 0), ("other", 3)):
            images = np.random.default_rng(level).random((40, 8, 8, 1), np.float32)
            root.mkdir(exist_ok=True)
            np.savez(root / f"{name}.npz", x=images)
            words = tiny.command(**HEAT, wb_id=name, data_dir=root / f"{name}.npz", output_dir=root)
            assert train.main(words) == 0
    return root


@pytest.mark.parametrize("damage", cases("missing", "a folder"))
def test_a_damaged_prior_is_refused_and_made_again(cli, heat_runs, damage):
    run, other = (Path("runs") / f"{name}_arrays_heat_uvit" for name in ("h", "other"))
    for folder in (run, other):
        shutil.copytree(heat_runs / folder.name, folder)
    prior = run / "prior.safetensors"
    before = prior.read_bytes()
    DAMAGES[damage](prior, other / prior.name)
    result = cli("generate", "--run_id", "h", *DRAW)
    assert (result.code, result.written) == (2, [])
    assert "prior.safetensors" in result.err
    result = cli("train", "--resume", "h")
    assert "Traceback" not in result.err
    if damage == "a folder":
        assert (result.code, "prior.safetensors" in result.err) == (2, True)
        return
    assert result.code == 0, result.err
    assert f"note      {prior} was {'missing' if damage == 'missing' else 'damaged'}; it is made again\n" in result.out
    assert prior.read_bytes() == before
    assert cli("generate", "--run_id", "h", *DRAW).code == 0
