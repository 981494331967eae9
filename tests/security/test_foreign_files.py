"""Foreign files in a run folder: nothing executes, links lead nowhere, sizes are known before memory is taken."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.files import load_state, refuse_links
from common.refusal import Refusal
from scripts import export
from tests.marks import later
from tests.security.conftest import refused

# -- weights -----------------------------------------------------------------------------------------------------------


class Evil:
    """What unpickling would run."""

    def __init__(self, call: Callable, *words: object) -> None:
        self.call, self.words = call, words

    def __reduce__(self) -> tuple:
        return self.call, self.words


def saved(content: object, path: Path, **how: object) -> None:
    torch.save(content, path, **how)


def executing(path: Path) -> None:
    saved({"w": Evil(os.system, f"touch {path.parent}/executed")}, path)


def executing_in_the_old_format(path: Path) -> None:
    saved({"w": Evil(os.system, f"touch {path.parent}/executed")}, path, _use_new_zipfile_serialization=False)


def a_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(os.system, f"touch {path.parent}/executed")))


def a_module(path: Path) -> None:
    saved(nn.Linear(2, 2), path)


def a_script(path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(path))


def one_number_many_times(path: Path) -> None:
    saved({"w": torch.zeros(1).expand(10**6, 10**6)}, path)


def sparse(path: Path) -> None:
    saved({"w": torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,))}, path)


def on_no_device(path: Path) -> None:
    saved({"w": torch.empty(10**12, device="meta")}, path)


def complex_numbers(path: Path) -> None:
    saved({"w": torch.zeros(2, dtype=torch.complex64)}, path)


def numbers_as_names(path: Path) -> None:
    saved({1: torch.zeros(2)}, path)


def a_list(path: Path) -> None:
    saved([torch.zeros(2)], path)


def more_than_there_is(path: Path) -> None:
    """A storage that says it has a million times more numbers than its entry in the file."""
    saved({"w": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as old:
        entries = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for entry, content in entries.items():
            if entry.endswith("data.pkl"):
                assert content.count(b"K\x04") >= 1
                content = content.replace(b"K\x04", b"J" + struct.pack("<i", 4 * 10**6))
            new.writestr(entry, content)


def a_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("archive/data.pkl", pickle.dumps({}))
        content.writestr("archive/data/0", bytes(10**7))


def a_way_out(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("../../../escaped", b"x")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def a_secret(path: Path) -> None:
    path.symlink_to("/etc/passwd")


PICKLED = [executing, executing_in_the_old_format, a_plain_pickle, a_module, a_script, one_number_many_times, sparse,
           on_no_device, complex_numbers, numbers_as_names, a_list, more_than_there_is, a_bomb, a_way_out, a_pipe,
           a_device, a_folder, a_link_to_nothing, a_secret]  # fmt: skip


def header(text: str, data: bytes = bytes(8), size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text.encode() + data


SAFETENSORS = {
    "a header of 2^60 bytes": header("{}", size=2**60),
    "a shape of 10^18": header('{"w":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,8]}}'),
    "beyond the end": header('{"w":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}'),
    "before the start": header('{"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}'),
    "the same bytes twice": header(
        '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "nested": header('{"w":' + "[" * 10_000 + "]" * 10_000 + "}"),
    "empty": b"",
    "a pickle": pickle.dumps(Evil(os.system, "touch executed")),
}


@pytest.mark.parametrize("plant", PICKLED)
def test_weights_are_plain_numbers_or_refused(plant, tmp_path):
    path = tmp_path / "model-final.pth"
    plant(path)
    with pytest.raises(Refusal, match="state dict"):
        load_state(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_are_whole_or_refused(content, tmp_path):
    path = tmp_path / "model-final.safetensors"
    path.write_bytes(content)
    with pytest.raises(Refusal, match="state dict"):
        load_state(path)


@pytest.mark.parametrize("plant", [executing, one_number_many_times, a_pipe, a_secret])
def test_programs_refuse_planted_weights(plant, cli, run):
    (run / "manifest.json").unlink()
    for path in (run / "model").iterdir():
        path.unlink()
    plant(run / "model" / "model-final.pth")
    line = refused(cli("generate", "--run_id", run.name))
    assert "model-final.pth" in line
    assert not list(run.rglob("executed"))


def test_names_in_a_file_of_weights_cannot_steer_a_terminal(cli, run):
    (run / "manifest.json").unlink()
    shutil.rmtree(run / "model")
    (run / "model").mkdir()
    saved({"\x1b[2J\n": torch.zeros(1)}, run / "model" / "model-\x1b[2J.pth")
    line = refused(cli("generate", "--run_id", run.name))
    assert r"\x1b[2J" in line


# -- real samples, the prior, arrays, logs -----------------------------------------------------------------------------

SAMPLES = (2, 1, 8, 8)
REAL = {
    "another shape": {"x": torch.zeros(2, 1, 9, 9), "labels": torch.zeros(2, dtype=torch.int64)},
    "unknown classes": {"x": torch.zeros(SAMPLES), "labels": torch.tensor([0, 10**6])},
    "classes below zero": {"x": torch.zeros(SAMPLES), "labels": torch.tensor([0, -5])},
    "classes in a square": {"x": torch.zeros(SAMPLES), "labels": torch.zeros(2, 2, dtype=torch.int64)},
    "classes with fractions": {"x": torch.zeros(SAMPLES), "labels": torch.zeros(2)},
    "whole numbers": {"x": torch.zeros(SAMPLES, dtype=torch.int64), "labels": torch.zeros(2, dtype=torch.int64)},
    "no labels": {"x": torch.zeros(SAMPLES)},
    "one number": {"x": torch.zeros(()), "labels": torch.zeros(())},
}


@pytest.mark.parametrize("content", REAL.values(), ids=REAL)
def test_foreign_real_samples_are_samples_or_refused(content, cli, run):
    (run / "manifest.json").unlink()
    save_file(content, run / "real.safetensors")
    line = refused(cli("generate", "--run_id", run.name, "--n_samples", 2, "--steps", 2))
    assert "real.safetensors holds no samples" in line


def test_arrays_are_not_unpickled(tmp_path):
    from common.files import read_array

    evil = np.array([Evil(os.system, f"touch {tmp_path}/executed")], dtype=object)
    np.save(tmp_path / "data_000000.npy", evil, allow_pickle=True)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)})
    (tmp_path / "huge.npy").write_bytes(huge.getvalue() + bytes(64))
    for name in ("data_000000.npy", "huge.npy"):
        with pytest.raises(Refusal, match="is no whole array"):
            read_array(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"step,train/loss\n1e400,1\nnan,1\n-1,1\n1e300,2\n", b'step,"' + b"x" * 200_000 + b'"\n1,2\n'],
)
def test_a_foreign_log_is_read_or_refused(content, cli, stopped):
    (stopped / "metrics.csv").write_bytes(content)
    result = cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s")
    assert result.code == 0 or "metrics.csv" in refused(result)
    assert "Traceback" not in result.err


def test_a_foreign_note_of_the_environment_stays_as_it_is(cli, stopped):
    noted = b"\xff\xfe\x1b[2J # no text\n"
    (stopped / "environment.txt").write_bytes(noted)
    assert cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s").code == 0
    assert (stopped / "environment.txt").read_bytes().startswith(noted)


# -- links -------------------------------------------------------------------------------------------------------------

PLACES = ["model", "checkpoints", "samples", "tensorboard", "wandb", "metrics.csv", "environment.txt", "loss.png",
          "real.safetensors", "manifest.json", "config.json", "samples/step-0000150.png", "model/model-final.pth",
          "checkpoints/last.ckpt", "tensorboard/events", ".lock"]  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, with files that are nobody else's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("S3cret")
    (folder / "step-0000001.ckpt").write_text("mine")
    (folder / f".secret.{os.uname().nodename}.999999999.0123abcd.tmp").write_text("mine too")
    return folder


def state(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def linked(folder: Path, place: str, outside: Path) -> None:
    """Put a link where a run has something, to a folder or a file of the user's."""
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside if place.isalpha() else outside / "secret")


@pytest.mark.parametrize("place", PLACES)
def test_training_writes_through_no_link(place, cli, stopped, outside):
    kept = (stopped / "config.json").read_text()
    linked(stopped, place, outside)
    if place == "config.json":  # one that can be read
        (outside / "secret").write_text(kept)
    before = state(outside)
    refused(cli("train", "--resume", stopped.name, "--device", "cpu"))
    assert state(outside) == before


@pytest.mark.parametrize(
    "place", ["metrics.csv", "loss.png", "samples", "samples/step-0000150.png", "real.safetensors"]
)
def test_an_export_copies_through_no_link(place, run, outside, capsys, tmp_path):
    (run / "manifest.json").unlink()
    linked(run, place, outside)
    if place == "samples":
        (outside / "step-0000009.png").write_text("S3cret")
    with pytest.raises(SystemExit):
        export.main(["--run_id", run.name, "--copy_to", str(tmp_path / "given")])
    assert "is a symbolic link" in capsys.readouterr().err
    copies = [path for path in (tmp_path / "given").rglob("*") if path.is_file()]
    assert not [path for path in copies if b"S3cret" in path.read_bytes()]


def test_an_export_writes_through_no_link(run, outside, capsys):
    (run / "manifest.json").unlink()
    shutil.move(run / "model", outside / "model")
    (run / "model").symlink_to(outside / "model")
    before = sorted((outside / "model").iterdir())
    with pytest.raises(SystemExit):
        export.main(["--run_id", run.name])
    assert "is a symbolic link" in capsys.readouterr().err
    assert sorted((outside / "model").iterdir()) == before


def test_a_run_folder_may_be_a_link_itself(cli, stopped, tmp_path):
    scratch = tmp_path / "scratch"
    shutil.move(stopped, scratch)
    stopped.symlink_to(scratch)
    assert cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s").code == 0
    refuse_links(stopped, stopped / "model", inside=True)


# -- checkpoints -------------------------------------------------------------------------------------------------------

STEPS = [None, True, -1, 10**30, 0.5, float("nan"), "x\x1b[2J", [], {}, torch.zeros(3), torch.tensor(10**9)]


MOMENTS = [
    {"step": torch.tensor(-1.0)},
    {"step": 10**30},
    {"exp_avg": 7},
    {"exp_avg": torch.zeros(3)},
    {"exp_avg_sq": torch.zeros(16, dtype=torch.int64)},
]


SETTINGS = [{"amsgrad": -1}, {"capturable": True}, {"eps": 10**30}, {"lr": 10**30}, {"betas": 7}, {"maximize": True}]
SCHEDULE = [{"last_epoch": 10**30}, {"last_epoch": 3}, {"_anneal_func_type": "x"}, {"total_steps": 10}, {"step": 7}]


def after_the_first(cases: list[Any]) -> list[Any]:
    """The first case; the others under the marker slow, since each trains."""
    return [cases[0], *map(later, cases[1:])]


@pytest.mark.parametrize("settings", after_the_first(SCHEDULE), ids=map(str, SCHEDULE))
def test_a_foreign_schedule_is_refused(settings, cli, stopped):
    path = stopped / "checkpoints" / "step-0000100.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["lr_schedulers"][0].update(settings)
    torch.save(checkpoint, path)
    assert "cannot be gone on from" in refused(cli("train", "--resume", stopped.name, "--device", "cpu"))


@pytest.mark.parametrize(
    ("moments", "settings"),
    [(MOMENTS[0], {}), *(later(m, {}) for m in MOMENTS[1:]), ({}, SETTINGS[0]), *(later({}, s) for s in SETTINGS[1:])],
    ids=map(str, MOMENTS + SETTINGS),
)
def test_a_foreign_state_of_an_optimiser_is_refused(moments, settings, cli, stopped):
    path = stopped / "checkpoints" / "step-0000100.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer_states"][0]["state"][0].update(moments)
    checkpoint["optimizer_states"][0]["param_groups"][0].update(settings)
    torch.save(checkpoint, path)
    assert "cannot be gone on from" in refused(cli("train", "--resume", stopped.name, "--device", "cpu"))


def replanted(folder: Path, **parts: object) -> None:
    path = folder / "checkpoints" / "step-0000100.ckpt"
    torch.save({**torch.load(path, weights_only=True), **parts}, path)


@pytest.mark.parametrize("step", after_the_first(STEPS), ids=map(repr, STEPS))
def test_a_foreign_step_is_refused(step, cli, stopped):
    replanted(stopped, global_step=step)
    refused(cli("train", "--resume", stopped.name, "--device", "cpu"))


PARTS = {
    "state_dict": [None, [], {"network.x": torch.zeros(1)}, {"x": 1}],
    "optimizer_states": [None, 7, [], [{}], [{"state": {}, "param_groups": []}], [7]],
    "lr_schedulers": [None, 7, [7], [{"_schedulers": 7}]],
    "loops": [None, [], {"fit_loop": 7}, {"fit_loop": {}}],
    "callbacks": [7, {"Checkpoints": {"best_model_path": "/etc/passwd", "dirpath": "/tmp"}}],
}
PLANTED = [
    (name, value) if value is values[-1] else later(name, value) for name, values in PARTS.items() for value in values
]


@pytest.mark.parametrize(("name", "value"), PLANTED)
def test_a_foreign_part_of_a_checkpoint_is_refused_or_means_nothing(name, value, cli, stopped, outside):
    replanted(stopped, **{name: value})
    before = state(outside)
    result = cli("train", "--resume", stopped.name, "--device", "cpu", "--max_time", "1s")
    assert result.code == 0 or refused(result)
    assert state(outside) == before


def test_a_checkpoint_of_classes_is_refused(cli, stopped):
    replanted(stopped, callbacks=Evil(os.system, f"touch {stopped}/executed"))
    refused(cli("train", "--resume", stopped.name, "--device", "cpu"))
    refused(cli("generate", "--run_id", stopped.name))
    assert not (stopped / "executed").exists()


def test_a_foreign_manifest_is_refused(cli, run):
    for content in (b"[" * 50_000, b"[]", json.dumps({"format": 1, "made": 7, "files": {}}).encode(), b"\xff"):
        (run / "manifest.json").write_bytes(content)
        refused(cli("generate", "--run_id", run.name))
