"""Sets of drawn samples: nothing damaged is used without a word, nothing is lost, and one program writes one set."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.plugins import named_plugins
from common.files import locked
from common.files.lock import LOCK
from common.files.writing import host_name
from common.generation import blocks as generation
from tests.cli.test_generate import arrays
from tests.marks import later
from tests.test_files import flip
from tests.test_imports import ROOT
from tests.training import tiny

DRAW = ("generate", "--run_id", "tiny", "--steps", 2, "--n_samples", 7, "--batch_size", 3)
LOOK = ("evaluate", "--run_id", "tiny", "--metrics", "nearest")
FILES = {
    "data": "data/data_000003.npy",
    "label": "label/label_000003.npy",
    "settings": "settings.json",
    "manifest": "manifest.json",
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def base(run: Path) -> Path:
    return run / "generated_data" / "model-final"


def drawn(out: str) -> Path:
    """The folder that generate.py names in its last line."""
    return Path(out.splitlines()[-1].split(maxsplit=1)[1]).parent


@pytest.fixture(scope="module")
def kept() -> dict[str, Path]:
    return {}


@pytest.fixture
def whole(cli, run, kept, tmp_path_factory) -> Path:
    """A whole set in the run; drawn once, with another one beside which it is compared."""
    if not kept:
        for name, more in (("whole", ()), ("other", ("--seeds", "100-105", "--batch_size", 4))):
            assert cli(*(DRAW if not more else DRAW[:5]), *more).code == 0
            kept[name] = tmp_path_factory.mktemp("sets") / name
            shutil.move(base(run) / "ab3-2-ema", kept[name])
    shutil.copytree(kept["whole"], base(run) / "ab3-2-ema")
    return base(run) / "ab3-2-ema"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def one_bit(path: Path) -> None:
    """What matters most: a value, a label, the number of steps, a check sum."""
    before = path.read_bytes()
    place = before.find(b'"steps": 2') + 9 if path.name == "settings.json" else len(before) - 8
    flip(path, place if path.suffix == ".npy" or path.name == "settings.json" else before.rindex(b'"sha256"') + 14)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another(path: Path, other: Path) -> None:
    files = {"data_000003.npy": "data/data_000004.npy", "label_000003.npy": "label/label_000004.npy"}
    shutil.copy(other / files.get(path.name, path.name), path)


DAMAGES: dict[str, Callable[..., object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "one bit": one_bit,
    "folder": folder,
    "of another set": of_another,
}


@pytest.mark.parametrize("damage", [name if name in ("missing", "one bit") else later(name) for name in DAMAGES])
@pytest.mark.parametrize("target", FILES)
def test_what_is_damaged_is_drawn_again_and_never_used_without_a_word(cli, run, whole, kept, target, damage):
    before, path = arrays(whole), whole / FILES[target]
    DAMAGES[damage](path, *([kept["other"]] if damage == "of another set" else []))
    left = content(whole)

    seen = cli(*LOOK)
    if (target, damage) == ("manifest", "missing"):  # as in sets of earlier versions
        assert seen.code == 0
        assert seen.out.startswith(f"note      7 files of {Path('runs') / whole.relative_to(run.parent)} have no check")
    else:
        assert (seen.code, seen.written, len(seen.err.splitlines())) == (2, [], 1)
        assert path.name in seen.err or target == "manifest"  # a changed check sum is told as another file
        if target == "settings":  # the same command draws into another folder
            assert f"remove {Path('runs') / whole.relative_to(run.parent)} and draw the samples anew" in seen.err

    again = cli(*DRAW)
    assert again.code == 0, again.err
    place = drawn(again.out)
    assert arrays(place) == before
    if place.name == whole.name:
        assert target != "settings"
        assert path.read_bytes() != left.get(FILES[target])
    else:
        assert place.name == "ab3-2-ema-2"
        assert target in ("settings", "manifest") or damage == "folder"
        assert "is left as it is" in again.out
        assert {name: value for name, value in content(whole).items() if name != "metrics.json"} == left
    assert not [path for path in Path("runs").rglob(".*") if path.is_file()]

    once_more = cli(*DRAW)
    assert "not needed: all samples were there" in once_more.out
    assert "note" not in once_more.out
    assert drawn(once_more.out) == place
    seen = cli(*LOOK, "--samples", place.name)
    assert (seen.code, "note" in seen.out) == (0, False)


def test_a_set_that_nothing_damaged_is_left_as_it_is(cli, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.suffix in (".npy", ".json")}
    result = cli(*DRAW)
    assert "not needed: all samples were there" in result.out
    assert "note" not in result.out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    listed = json.loads((whole / "manifest.json").read_text())["files"]
    assert set(listed) == {"settings.json", *arrays(whole)}


def test_what_is_not_there_is_told(cli, whole):
    """Without a manifest too: of an earlier version, or of a program that was killed."""
    (whole / "manifest.json").unlink()
    (whole / FILES["data"]).unlink()
    seen = cli(*LOOK)
    assert seen.code == 2
    assert "4 of 7 samples are there; go on with: python generate.py --run_id tiny_digits_H0.9_K2 " in seen.err
    assert cli(*DRAW).code == 0
    for lost in ([FILES["label"]], [f"label/label_00000{i}.npy" for i in (0, 3, 6)]):
        (whole / "manifest.json").unlink()
        for name in lost:
            (whole / name).unlink()
        seen = cli(*LOOK)
        assert (seen.code, "label" in seen.err, len(seen.err.splitlines())) == (2, True, 1)
        assert cli(*DRAW).code == 0
    (whole / "manifest.json").unlink()
    np.save(whole / FILES["label"], np.array([3, 4, 10]))
    seen = cli(*LOOK)
    assert "its labels are not all in 0 .. 9" in seen.err
    assert "note      1 drawn again, since damaged or without their labels: data_000003.npy" in cli(*DRAW).out
    assert cli(*LOOK).code == 0


@pytest.mark.parametrize("seeds", [["a"], [[0]], "0-" + "9" * 5000, "0-99999999", None, 3.5])
def test_settings_that_say_nonsense(cli, whole, seeds):
    """From somebody else: no traceback, and no memory for numbers that only stand there."""
    (whole / "manifest.json").unlink()
    settings = json.loads((whole / "settings.json").read_text())
    (whole / "settings.json").write_text(json.dumps({**settings, "seeds": seeds}))
    seen = cli(*LOOK)
    assert seen.code == (2 if seeds == "0-99999999" else 0)
    assert ("7 of 100000000 samples" in seen.err) == (seeds == "0-99999999")
    assert drawn(cli(*DRAW).out).name == "ab3-2-ema-2"


def test_arrays_of_others_do_not_count(cli, whole):
    shutil.copy(whole / "data" / "data_000006.npy", whole / "data" / "data_000007.npy")
    seen = cli(*LOOK)
    assert seen.err.strip().endswith("data_000007.npy is not of this set, by the numbers of its samples; move it away")
    result = cli(*DRAW)
    assert f"{whole.name} is left as it is" in result.out
    assert drawn(result.out).name == "ab3-2-ema-2"
    assert cli(*LOOK).code == 0  # the newest


# -- one writer -------------------------------------------------------------------------------------------------------


def test_two_at_once(cli, run, monkeypatch):
    """While one draws, the same settings are refused and others get a folder of their own."""
    draw, seen = generation.Job.draw, {}

    def meanwhile(self, indices, on_step):
        if not seen:
            seen["same"] = cli(*DRAW)
            seen["other"] = cli(*DRAW, "--t_end", 0.01)
            seen["early"] = cli(*LOOK, "--samples", "ab3-2-ema")
        return draw(self, indices, on_step)

    monkeypatch.setattr(generation.Job, "draw", meanwhile)
    assert cli(*DRAW).code == 0
    assert (seen["same"].code, seen["same"].written) == (2, [])
    told = f"ab3-2-ema is being written by generate.py (process {os.getpid()} on "
    assert told in seen["same"].err
    assert seen["other"].code == 0
    assert seen["early"].code == 2
    assert {path.name for path in base(run).iterdir()} == {"ab3-2-ema", "ab3-2-ema-2"}
    for name in ("ab3-2-ema", "ab3-2-ema-2"):
        assert cli(*LOOK, "--samples", name).code == 0


def test_a_refused_command_leaves_nothing(cli, run):
    (run / "real.safetensors").write_bytes(b"no tensors")
    assert cli(*DRAW).code == 2
    assert not (run / "generated_data").exists()


def start(*words: object) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "generate.py"), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_that_start_together(run):
    """Whoever comes first: two folders for two ways of drawing, and nobody draws what another one does."""
    other = (*DRAW[1:], "--t_end", 0.01)
    processes = [start(*words) for words in (DRAW[1:], DRAW[1:], other)]
    told = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[2] == 0, told
    assert sorted(codes[:2]) in ([0, 0], [0, 2]), told
    assert all("is being written by generate.py" in text for code, text in zip(codes, told, strict=True) if code)
    sets = {path.name: arrays(path) for path in base(run).iterdir()}
    assert sets.keys() == {"ab3-2-ema", "ab3-2-ema-2"}
    assert len({len(found) for found in sets.values()}) == 1
    assert not list(run.rglob(LOCK))


@pytest.mark.slow
def test_killed_between_blocks(cli, run, whole):
    """What was drawn is kept, what was half written goes, and the rest is the same as if nothing had happened."""
    words = ("--run_id", "tiny", "--mode", "sde", "--steps", 30, "--n_samples", 20, "--batch_size", 1)
    process = start(*words)
    data = base(run) / "sde30-ema" / "data"
    while process.poll() is None and len(list(data.glob("*.npy"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = len(list(data.glob("data_*.npy")))
    assert 3 <= there < 20
    listed = set(json.loads((data.parent / "manifest.json").read_text())["files"])
    assert listed >= {"settings.json", "data/data_000000.npy", "label/label_000000.npy"}
    (data / f".data_000009.npy.{host_name()}.{process.pid}.01234567.tmp").write_bytes(b"half")
    seen = cli(*LOOK)  # not the whole set that is there too: this one is newer
    assert f"sde30-ema: {there} of 20 samples are there; go on with: python generate.py " in seen.err
    one_bit(data / "data_000000.npy")
    result = cli("generate", *words)
    assert f"kept      {there - 1} samples are there already" in result.out
    assert "note      1 drawn again, since damaged or without their labels: data_000000.npy" in result.out
    unlisted = 2 * (there - 1) - len([name for name in listed if "00" in name and "000000" not in name])
    assert (f"note      {unlisted} files had no check sums yet" in result.out) == (unlisted > 0)
    assert not [path for path in run.rglob(".*") if path.is_file()]
    cut_off = arrays(data.parent)
    shutil.rmtree(data.parent)
    assert cli("generate", *words).code == 0
    assert arrays(data.parent) == cut_off


def test_stopped_between_blocks(cli, run, monkeypatch):
    """What was drawn by then has check sums."""
    draw = generation.Job.draw

    def stop(self, indices, on_step):
        if indices.start == 6:
            raise KeyboardInterrupt
        return draw(self, indices, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(generation.Job, "draw", stop)
        with pytest.raises(KeyboardInterrupt, match="6 of 7 samples are kept"):
            cli(*DRAW)
    one_bit(base(run) / "ab3-2-ema" / FILES["data"])
    result = cli(*DRAW)
    assert "note      1 drawn again, since damaged or without their labels: data_000003.npy" in result.out
    assert "kept      3 samples are there already" in result.out


@pytest.mark.parametrize("lost", ["manifest.json", "data"])
def test_another_set_is_not_taken_for_the_newest_without_a_word(cli, run, whole, lost):
    newest = drawn(cli(*DRAW, "--t_end", 0.01).out)
    shutil.rmtree(newest / lost) if lost == "data" else (newest / lost).unlink()
    seen = cli(*LOOK)
    if lost == "data":
        assert (seen.code, f"{newest / 'data' / 'data_000000.npy'} is missing" in seen.err) == (2, True)
    else:
        told = f"no manifest.json says when {newest.name} was drawn, so ab3-2-ema counts as the newest"
        assert (seen.code, f"note      {told}; --samples names another" in seen.out) == (0, True)
        assert told not in cli(*LOOK, "--samples", newest.name).out


def test_a_folder_that_was_claimed_and_no_more_is_taken_over(cli, run):
    place = base(run) / "ab3-2-ema"
    place.mkdir(parents=True)
    (place / LOCK).write_text('{"host": "here", "process": 1')  # it was killed
    assert drawn(cli(*DRAW).out).name == place.name
    for path in (place / "data", place / "label"):
        shutil.rmtree(path)
    (place / "settings.json").unlink()  # emptied by hand: the manifest lists what is gone
    result = cli(*DRAW, "--t_end", 0.01, "--batch_size", 7)
    assert drawn(result.out).name == place.name
    assert set(json.loads((place / "manifest.json").read_text())["files"]) == {"settings.json", *arrays(place)}
    assert cli(*LOOK).code == 0


def test_the_lock_of_a_set_is_told_to_who_reads_it(cli, whole):
    (whole / "manifest.json").unlink()
    (whole / FILES["data"]).unlink()
    with locked(whole, "generate.py"):
        seen = cli(*LOOK)
    assert "4 of 7 samples are there; generate.py (process " in seen.err
    assert seen.err.endswith(") draws the rest\n")


# -- nobody let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["", "model-final", "model-final/ab3-2-ema", "model-final/ab3-2-ema/data",
                                  "model-final/ab3-2-ema/data/data_000003.npy", "model-final/.lock"])  # fmt: skip
def test_links_lead_nowhere(cli, run, whole, tmp_path, link):
    """A run from somebody else does not make the program write somewhere else."""
    place, victim = run / "generated_data" / link, tmp_path / "victim"
    if place.exists():
        shutil.move(place, victim)
    else:
        victim.write_text("mine")
    place.symlink_to(victim)
    before = content(victim) if victim.is_dir() else victim.read_bytes()
    result = cli(*DRAW)
    assert (result.code, result.written, len(result.err.splitlines())) == (2, [], 1)
    assert "symbolic link" in result.err
    assert (content(victim) if victim.is_dir() else victim.read_bytes()) == before
    if link in ("", "model-final", "model-final/ab3-2-ema"):
        seen = cli(*LOOK)
        assert (seen.code, "symbolic link" in seen.err, seen.written) == (2, True, [])


def test_a_run_may_be_a_link_itself(cli, run, tmp_path):
    shutil.move(run, tmp_path / "elsewhere")
    run.symlink_to(tmp_path / "elsewhere")
    assert cli(*DRAW).code == 0
    assert cli(*LOOK).code == 0


# -- sampling that stopped early --------------------------------------------------------------------------------------

SEVERAL = [
    (True, ()),
    later(False, ("--mode", "ode")),
    later(True, ("--solver", "pc", "--mode", "ode", "--snr", 0.1)),
    (False, ("--labels", "3,7", "--t_end", 0.01, "--use_ema", False, "--clip_x0", False, "--prior", "zero")),
]


@pytest.mark.parametrize(("manifest", "how"), SEVERAL)
def test_a_set_that_was_stopped_early_is_no_set(cli, run, monkeypatch, how, manifest):
    """8 of 64 samples are there: no figure is about them, and the command that is named draws the others."""
    words = ("generate", "--run_id", "tiny", "--steps", 2, "--n_samples", 64, "--batch_size", 8, *how)
    draw = generation.Job.draw

    def stopped(self, indices, on_step):
        if indices.start:
            raise KeyboardInterrupt
        return draw(self, indices, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(generation.Job, "draw", stopped)
        with pytest.raises(KeyboardInterrupt, match="8 of 64 samples are kept"):
            cli(*words)
    (place,) = base(run).iterdir()
    if not manifest:
        (place / "manifest.json").unlink()
        settings = json.loads((place / "settings.json").read_text())
        (place / "settings.json").write_text(json.dumps({**settings, "seeds": list(range(64))}))
    seen = cli(*LOOK)
    assert (seen.code, seen.written, len(seen.err.splitlines())) == (2, [], 1)
    told, command = seen.err.strip().split("; go on with: python generate.py ")
    assert told.endswith(f"{place.name}: 8 of 64 samples are there")
    again = cli("generate", *shlex.split(command))
    assert again.code == 0, again.err
    assert "kept      8 samples are there already" in again.out
    assert "not needed" in cli(*words).out  # the same set
    assert cli(*LOOK).code == 0
    assert [path.name for path in base(run).iterdir()] == [place.name]
    assert json.loads((place / "metrics.json").read_text())["samples"] == 64


@pytest.mark.parametrize("solver", ["pc", ["pc"], "none"])
def test_settings_of_others_are_no_flags(cli, whole, solver):
    """The command that goes on is to be pasted; a value in a file does not become a flag of it."""
    settings = json.loads((whole / "settings.json").read_text())
    hostile = {"seeds": "0-9", "grid": "--plugin=evil.py", "labels": ["; rm -rf ~"], "clip_x0": "\x1b[2J"}
    hostile |= {"solver": solver, "solver_arguments": [1], "guidance": {}, "guidance_arguments": "--x"}
    (whole / "manifest.json").unlink()
    (whole / "settings.json").write_text(json.dumps({**settings, **hostile}))
    command = shlex.split(cli(*LOOK).err.partition("python generate.py ")[2].strip())
    assert {"--grid=--plugin=evil.py", "--labels=; rm -rf ~", r"--clip_x0=\x1b[2J"} <= {*command}
    assert named_plugins(command) == ()


def test_figures_of_two_images(cli):
    """One to learn from, one held out, of two classes: what is undefined is null, as JSON has it."""
    for name in "ab":
        path = Path("faces", name, "1.png")
        path.parent.mkdir(parents=True)
        Image.effect_noise((8, 8), 90).save(path)
    words = tiny.command("--data_name", "folder", "--data_dir", "faces", **tiny.FLAGS, train_steps=2, batch_size=2)
    assert cli("train", *words, "--wb_id", "two").code == 0
    assert cli("generate", "--run_id", "two", "--steps", 2, "--n_samples", 4).code == 0
    assert cli("evaluate", "--run_id", "two").code == 0
    (file,) = Path("runs").rglob("metrics.json")
    found = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert (found["agreement"], found["agreement_real"], found["nearest"] > 0) == (None, None, True)
