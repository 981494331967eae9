"""Files that are either whole or not there, and are never unpickled."""

import errno
import json
import os
import pickle
import stat
from pathlib import Path

import pytest
import safetensors
import torch

from common.config.resolve import is_plain
from common.files import atomic_write, load_state, save, save_safetensors, write_json
from common.training.trainer import AtomicCheckpointIO

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file.bin"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # mkstemp alone would leave it unreadable to a group
    before = os.umask(0o077)
    try:
        atomic_write(path, b"private")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    """Other readers refuse such files; a default that is one stays with its class."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": [value]})
    assert not list(tmp_path.iterdir())
    assert not is_plain(value)


def test_json_is_plain_text(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None, "x"]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": [1, 2.5, None, "x"]}
    assert text.endswith("}\n")


@pytest.mark.parametrize("fails", ["write", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("write", [atomic_write, save], ids=lambda write: write.__name__)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails, error, write):
    path = tmp_path / "file.bin"
    write(path, b"old")
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise error

    if fails == "write":
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda path, mode: _Failing(real(path, mode), error))
    elif fails == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, fails, fail)
    with pytest.raises(type(error)) as caught:
        write(path, b"new content")
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert names(tmp_path) == ["file.bin"]


class _Failing:
    """A file that takes half of what it is given, then raises."""

    def __init__(self, file, error: BaseException) -> None:
        self.file, self.error = file, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise self.error


def test_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1])
    atomic_write(tmp_path / "file", b"content")
    assert order[:2] == ["fsync", "rename"]


def test_lightning_checkpoints_are_atomic(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    saver = AtomicCheckpointIO()
    saver.save_checkpoint({"global_step": 1, "state_dict": STATE}, path)
    assert torch.load(path, weights_only=True)["global_step"] == 1

    def half(content, file, **_kwargs):
        file.write(b"half a checkpoint")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        saver.save_checkpoint({"global_step": 2}, path)
    monkeypatch.undo()
    loaded = saver.load_checkpoint(path, weights_only=True)
    assert loaded["global_step"] == 1
    assert torch.equal(loaded["state_dict"]["weight"], STATE["weight"])
    assert names(tmp_path) == ["last.ckpt"]


def test_the_checkpoint_of_a_string_path(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"a": 1}, str(tmp_path / "a.ckpt"))
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == {"a": 1}


def test_state_round_trip(tmp_path):
    save(tmp_path / "a.pth", STATE)
    loaded = load_state(tmp_path / "a.pth")
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy torch"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, form):
    proof, path = tmp_path / "executed", tmp_path / "model.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"weight": Malicious(proof)}))
    else:
        torch.save({"weight": Malicious(proof)}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"model\.pth") as caught:
        load_state(path)
    assert not proof.exists()
    assert "\n" not in str(caught.value), "the message must be one line"
    assert "weights_only" not in str(caught.value), "no advice to switch the protection off"
    # the test can fail: unpickled, it does write
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    state = {**STATE, "turned": STATE["weight"].T, "learned": torch.ones(2, requires_grad=True)}
    save_safetensors(path, state, {"config": '{"a": 1}'})
    loaded = load_state(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"config": '{"a": 1}'}
    assert names(tmp_path) == ["a.safetensors"]


def test_safetensors_are_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_safetensors(path, STATE, {})
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_safetensors(path, {"other": torch.ones(1)}, {})
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("length", [0, 7, 10, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, name, length):
    path = tmp_path / name
    save_safetensors(path, STATE, {}) if path.suffix == ".safetensors" else save(path, STATE)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{name}.*truncated") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ours", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("content", ["the other", "pickle", "text", "zeros", "ones", "json"])
def test_a_file_of_another_kind_is_refused(tmp_path, ours, content):
    path, other = tmp_path / ours, tmp_path / "other"
    if content == "the other":
        save(other, STATE) if path.suffix == ".safetensors" else save_safetensors(other, STATE, {})
        path.write_bytes(other.read_bytes())
    else:
        bytes_of = {
            "pickle": pickle.dumps({"weight": Malicious(tmp_path / "executed")}),
            "text": b"<!DOCTYPE html><html></html>",
            "zeros": bytes(100),
            "ones": b"\xff" * 100,
            "json": (2).to_bytes(8, "little") + b"[]",
        }
        path.write_bytes(bytes_of[content])
    with pytest.raises(ValueError, match=ours) as caught:
        load_state(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        [STATE["weight"]],
        STATE["weight"],
        {"state_dict": STATE},
        {"weight": 3.0},
        {**STATE, "step": 4},
        {0: STATE["bias"]},
    ],
    ids=["list", "tensor", "nested", "number", "mixed", "no name"],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth"):
        load_state(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        load_state(tmp_path / name)
