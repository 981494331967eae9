"""Damage is noticed, left-overs go, and a folder has one writer."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from common.files import (
    UNREADABLE,
    Manifest,
    load_checkpoint,
    load_state,
    locked,
    owner_of,
    read_array,
    refuse_links,
    remove_leftovers,
    save,
    save_safetensors,
)  # fmt: skip
from common.files.lock import LOCK
from common.files.writing import host_name
from common.refusal import Refusal
from tests.test_imports import ROOT

STATE = {"weight": torch.arange(2000.0), "bias": torch.zeros(3)}


def flip(path: Path, position: int) -> None:
    """Another bit in one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# -- check sums -------------------------------------------------------------------------------------------------------


def test_no_bit_of_a_checkpoint_changes_unnoticed(tmp_path):
    """Every 41st byte: either it is refused, or what is read is the same (padding, dates)."""
    path, size = tmp_path / "a.ckpt", 0
    save(path, {"state_dict": STATE, "global_step": 7})
    whole, refused = path.read_bytes(), 0
    for size in range(0, len(whole), 41):
        path.write_bytes(whole)
        flip(path, size)
        try:
            content = load_checkpoint(path)
        except UNREADABLE:
            refused += 1
        else:
            assert content["global_step"] == 7
            assert torch.equal(content["state_dict"]["weight"], STATE["weight"])
    assert refused > 0.85 * len(range(0, len(whole), 41))  # the tensors are most of it
    path.write_bytes(whole)
    assert load_checkpoint(path, mmap=True)["global_step"] == 7


def test_a_flipped_bit_in_a_state_dict_is_refused(tmp_path):
    path = tmp_path / "model-final.pth"
    save(path, STATE)
    flip(path, path.read_bytes().index(np.float32(1234.0).tobytes()))
    assert torch.load(path, weights_only=True)["weight"].shape == (2000,)  # torch itself does not look
    with pytest.raises(Refusal, match="damaged"):
        load_state(path)


def test_a_manifest_notices(tmp_path):
    path, other = tmp_path / "model" / "a.safetensors", tmp_path / "b.json"
    manifest = Manifest(tmp_path)
    assert not manifest.check(path)  # no manifest: nothing is known
    with manifest.renewing(path, other):
        save_safetensors(path, STATE, {"format": "pt"})
        other.write_text("{}")
    assert manifest.check(path)
    assert manifest.check(other)
    assert not manifest.check(tmp_path / "c")
    made = manifest.made
    assert len(made) == 32
    whole = path.read_bytes()
    flip(path, len(whole) - 1)
    with pytest.raises(Refusal, match="is damaged, or another file"):
        manifest.check(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(Refusal, match="is damaged"):
        manifest.check(path)
    path.unlink()
    with pytest.raises(Refusal, match="is missing"):
        manifest.check(path)
    with manifest.renewing(path):
        path.write_bytes(b"new")
        assert not manifest.check(path)  # a kill here leaves no false entry
        assert manifest.check(other)
    assert manifest.check(path)
    assert manifest.made == made
    with manifest.renewing(path, other) as note:
        note([path])
        assert manifest.files == {path}  # of many files, those that are written already
    assert manifest.files == {path, other}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"format": 2}', '{"format": 1, "made": "", "files": {"a": 1}}', "[" * 10**5,
     '{"format": 1, "made": 3, "files": {}}', '{"format": 1, "made": "", "files": {"a": {"size": "1", "sha256": ""}}}',
     '{"format": 1, "made": "", "files": {"../a": {"size": 1, "sha256": ""}}}',
     '{"format": 1, "made": "", "files": {"/etc/a": {"size": 1, "sha256": ""}}}'],
)  # fmt: skip
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    Manifest(tmp_path).path.write_text(content)
    with pytest.raises(Refusal, match=r"manifest\.json cannot be read \(.*remove it to go on without") as refused:
        Manifest(tmp_path).check(tmp_path / "a")
    assert "Error" not in str(refused.value)  # names of Python's own say nothing to a user


def test_an_array_takes_no_more_memory_than_its_file(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(8.0))
    content = (tmp_path / "a.npy").read_bytes()
    for damaged in (content.replace(b"(8,), }" + b" " * 12, b"(8000000000000,), }"), content.replace(b"}", b"(")):
        (tmp_path / "a.npy").write_bytes(damaged)
        with pytest.raises(Refusal, match="no whole array"):
            read_array(tmp_path / "a.npy")


# -- left-overs -------------------------------------------------------------------------------------------------------


def test_left_overs_of_dead_processes_go(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, theirs = f".a.json.{host_name()}.{os.getpid()}.01234567.tmp", f".a.json.{host_name()}.{dead.pid}.01234567.tmp"
    young, old = ".a.json.elsewhere.7.01234567.tmp", ".b.json.elsewhere.7.01234567.tmp"
    kept = [mine, young, "a.json", ".mine.tmp", "x.json.here.7.01234567.tmp"]
    for name in (*kept, theirs, old):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    remove_leftovers(tmp_path, tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


# -- one writer -------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from common.files import locked
with locked(Path(sys.argv[1]), "train.py"):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "locked\n"
    return process


def test_the_second_writer_is_told_who_the_first_is(tmp_path):
    process = hold(tmp_path)
    try:
        owner = owner_of(tmp_path)
        assert owner is not None
        assert (owner.host, owner.process, owner.program) == (host_name(), process.pid, "train.py")
        with pytest.raises(Refusal, match=rf"is being written by train\.py \(process {process.pid} on "):
            locked(tmp_path, "generate.py").__enter__()
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK).exists()
    assert owner_of(tmp_path) is None  # a dead one counts for nothing
    with locked(tmp_path, "generate.py"):
        owner = owner_of(tmp_path)
        assert owner is not None
        assert owner.process == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_the_same_process_does_not_write_twice(tmp_path):
    with (
        locked(tmp_path / "new", "train.py"),
        pytest.raises(Refusal, match="is being written"),
        locked(tmp_path / "new", "train.py"),
    ):
        pass
    assert not (tmp_path / "new").exists()  # nothing was written into it


def test_a_lock_is_waited_for(tmp_path):
    """Also if whoever had it takes its empty folder away meanwhile."""
    first, folder = ExitStack(), tmp_path / "new"
    first.enter_context(locked(folder, "generate.py"))
    threading.Timer(0.3, first.close).start()
    with pytest.raises(Refusal, match="is being written"), locked(folder, "generate.py"):
        pass
    with locked(folder, "generate.py", wait=10):
        assert (folder / LOCK).exists()


def test_no_link_on_the_way_or_inside(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (elsewhere / "run" / "model").mkdir(parents=True)
    run.symlink_to(elsewhere / "run")
    refuse_links(run, run / "model" / "not there")  # what the user named may be one
    (run / "model" / "a").symlink_to(elsewhere)
    refuse_links(run, run / "model")
    for path, inside in ((run / "model" / "a" / "b", False), (run / "model", True)):
        with pytest.raises(Refusal, match=r"model/a is a symbolic link"):
            refuse_links(run, path, inside=inside)


def sleep() -> None:
    time.sleep(60)


def test_readers_do_not_hold_the_lock_of_a_dead_parent(tmp_path):
    with locked(tmp_path, "train.py"):
        child = multiprocessing.get_context("fork").Process(target=sleep)
        child.start()
    try:
        time.sleep(0.2)
        assert owner_of(tmp_path) is None
        with locked(tmp_path, "train.py"):
            pass
    finally:
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """The file decides: of a dead process of this machine it counts for nothing, of another machine it does."""

    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("common.files.lock.fcntl.flock", none)
    with locked(tmp_path, "train.py"), pytest.raises(Refusal, match="is being written"):
        locked(tmp_path, "train.py").__enter__()
    owner = {"host": host_name(), "process": 2**22 + 1, "since": "2026-01-01", "program": "train.py"}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with locked(tmp_path, "train.py"):
        pass
    (tmp_path / LOCK).write_text(json.dumps({**owner, "host": "elsewhere"}))
    with pytest.raises(Refusal, match=r"on elsewhere.*if that is dead, remove"):
        locked(tmp_path, "train.py").__enter__()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        locked(tmp_path / "run", "train.py").__enter__()
    assert victim.read_text() == "mine"
    shutil.rmtree(tmp_path / "run")
