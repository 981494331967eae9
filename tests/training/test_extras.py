"""What a training run may add: other starting weights, a time limit, a compiled network, several averages, workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evaluate
import generate
import train
from common.config.build import load_data
from common.config.schema import DataConfig
from common.runs import RunFolder, export_safetensors, load
from common.training import callbacks, checkpoints, fitting, session
from common.training.build import build_data, build_module, build_trainer
from tests.cli.test_flags import fitted
from tests.training import interrupted, tiny
from tests.training.test_resume import assert_same

FLAGS = {
    **tiny.FLAGS,
    "train_steps": 12,
    "batch_size": 8,
    "dropout": 0.1,
    "ema_every": 2,
    "log_every": 4,
    "val_check_interval": 6,
    "checkpoint_every": 5,
    "log_model_every_n": 6,
}
NAME = "x_digits_H0.9_K2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


def run(folder: Path, *words: str, **flags) -> Path:
    assert train.main(tiny.command(*words, **{**FLAGS, "wb_id": "x", "output_dir": folder, **flags})) == 0
    return folder / NAME


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[..., Path]:
    """Runs that nothing stopped, trained once for all tests; to be read, never written."""
    made: dict[str, Path] = {}

    def of(**flags) -> Path:
        if str(flags) not in made:
            made[str(flags)] = run(tmp_path_factory.mktemp("whole"), **flags)
        return made[str(flags)]

    return of


class Clock:
    """A clock on which a step takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def tick(monkeypatch) -> None:
    """Let training run on such a clock."""
    clock = Clock()
    monkeypatch.setattr(checkpoints, "time", clock)
    monkeypatch.setattr(fitting, "time", clock)


# -- starting weights -------------------------------------------------------------------------------------------------


def first_weights(monkeypatch, source: object, folder: Path) -> dict[str, torch.Tensor]:
    """The network's weights at the moment training starts."""
    seen = {}

    def look(trainer, module, *_):
        seen.update({name: value.clone() for name, value in module.network.state_dict().items()})
        assert all(torch.equal(value, module.averages[0].module.state_dict()[name]) for name, value in seen.items())
        return 0

    monkeypatch.setattr(fitting, "fit", look)
    run(folder, init_from=source)
    return seen


@pytest.mark.parametrize("kind", ["id", "folder", "model file", "safetensors"])
def test_training_starts_from_the_weights_of_a_run(tmp_path, tiny_run, monkeypatch, kind):
    (tmp_path / tiny_run.name).symlink_to(tiny_run)
    source, file = {
        "id": ("tiny", "ema_model-final.pth"),
        "folder": (tiny_run.name, "ema_model-final.pth"),
        "model file": (tiny_run / "model" / "model-v0.pth", "model-v0.pth"),
        "safetensors": (tmp_path / "a.safetensors", "model-v1.pth"),
    }[kind]
    if kind == "safetensors":
        export_safetensors(load("tiny", "v1", tmp_path, averaged=False), tmp_path / "a.safetensors")
    found = first_weights(monkeypatch, source, tmp_path)
    expected = torch.load(tiny_run / "model" / file, weights_only=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_resumed_run_does_not_start_again(tmp_path, tiny_run, monkeypatch):
    """--init_from is where a run began, not where it goes on."""
    whole = run(tmp_path / "whole", init_from=tiny_run / "model" / "model-v0.pth")
    tick(monkeypatch)
    cut = run(tmp_path / "cut", init_from=tiny_run / "model" / "model-v0.pth", max_time="6s")
    assert tiny.step_of(cut / "checkpoints" / "last.ckpt") < 12
    monkeypatch.undo()
    interrupted.make_quick(monkeypatch.setattr)
    assert train.main(tiny.command(resume="x", output_dir=tmp_path / "cut")) == 0
    assert_same(cut, whole)


# -- a time limit, with everything that must resume -------------------------------------------------------------------

VARIANTS = {
    "labels": {"label_dropout": 0.3, "time_sampling": "lognormal", "loss_weight": "min_snr", "prediction": "v"},
    "averages": {"ema_decay": "0.9,0.5,0.99"},
    "accumulation": {"accumulate_grad_batches": 2, "flip": True, "label_dropout": 0.3},
    "all": {"accumulate_grad_batches": 2, "flip": True, "ema_decay": "0.9,0.5,0.99"},
}
VARIANTS["all"] |= VARIANTS["labels"]


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name == "all" else pytest.mark.slow) for name in VARIANTS]
)
def test_time_that_is_up_is_a_stop_that_resumes(tmp_path, monkeypatch, capsys, variant):
    whole = run(tmp_path / "whole", **VARIANTS[variant])
    tick(monkeypatch)
    cut = run(tmp_path / "cut", max_time="8s", **VARIANTS[variant])
    out = capsys.readouterr().out
    assert "time is up, stopped at step" in out
    assert "go on with: python train.py --resume" in out
    assert 0 < tiny.step_of(cut / "checkpoints" / "last.ckpt") < 12
    monkeypatch.undo()
    interrupted.make_quick(monkeypatch.setattr)
    assert train.main(tiny.command(resume="x", output_dir=tmp_path / "cut")) == 0
    assert_same(cut, whole)


def test_a_streamed_folder_resumes(tmp_path, monkeypatch):
    """Images read by workers: the order after a stop is that of a run without one."""
    write_pictures(tmp_path / "pictures")
    data = {"data_name": "folder", "data_dir": tmp_path / "pictures", "image_size": 8, "flip": True, "num_workers": 2}
    data["label_dropout"] = 0.2
    resident = run(tmp_path / "resident", **{**data, "num_workers": 0}).with_name("x_folder_H0.9_K2")
    for module in ("folder", "module", "reading"):
        monkeypatch.setattr(f"common.data.{module}.RESIDENT_LIMIT", 100, raising=False)
    whole = run(tmp_path / "whole", **data).with_name("x_folder_H0.9_K2")
    with monkeypatch.context() as patch:
        tick(patch)
        cut = run(tmp_path / "cut", max_time="8s", **data).with_name("x_folder_H0.9_K2")
    assert train.main(tiny.command(resume="x", output_dir=tmp_path / "cut")) == 0
    assert_same(cut, whole)
    assert_same(resident, whole)


# -- several averages, a compiled network -----------------------------------------------------------------------------


def test_several_averages_are_each_that_of_their_decay(tmp_path):
    several = run(tmp_path / "several", ema_decay="0.9,0.5")
    alone = {decay: run(tmp_path / decay, ema_decay=decay) for decay in ("0.9", "0.5")}
    kept = {path.name for path in (several / "model").iterdir()}
    assert {"model-final.pth", "ema_model-final.pth", "ema0.5_model-final.pth", "ema0.5_model-v0.pth"} <= kept
    for decay, name in (("0.9", "ema_model-final.pth"), ("0.5", "ema0.5_model-final.pth")):
        found = torch.load(several / "model" / name, weights_only=True)
        expected = torch.load(alone[decay] / "model" / "ema_model-final.pth", weights_only=True)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        chosen = load("x", output_dir=tmp_path / "several", decay=float(decay)).denoiser.backbone.state_dict()
        assert all(torch.equal(chosen[key], expected[key]) for key in expected)


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_files(tmp_path, monkeypatch):
    """Compiled in place: names, files and (with a backend that only traces) numbers are those of the plain run."""
    small = {"dropout": 0, "channel_mult": "1", "attn_resolutions": "1"}  # tracing takes the time
    plain = run(tmp_path / "plain", **small)
    compile_, calls = nn.Module.compile, []

    def traced(self, *arguments, **options):
        calls.append(type(self).__name__)
        compile_(self, *arguments, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", traced)
    compiled = run(tmp_path / "compiled", "--compile", **small)
    assert calls == ["UNet"]
    assert tiny.difference(compiled, plain) < 1e-5
    assert load("x", output_dir=tmp_path / "compiled").config.hardware.compile is True


def test_every_visible_gpu_is_used_unless_told_otherwise(monkeypatch):
    asked = []
    monkeypatch.setattr("lightning.pytorch.Trainer", lambda **settings: asked.append(settings["devices"]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    data = load_data(DataConfig())
    for device, devices in (("cuda", None), ("cuda", 2), ("cpu", None)):
        config = fitted(*tiny.command(**FLAGS), *([] if devices is None else ["--devices", str(devices)]))
        module = build_module(config, None, None)
        assert build_data(config, data).batch_size == FLAGS["batch_size"]
        build_trainer(config, RunFolder(Path("nowhere")), torch.device(device), module, 0, None)
    assert asked == [3, 2, 1]
    assert not Path("nowhere").exists()


def test_a_sanity_check_leaves_no_trace(tmp_path, whole):
    assert_same(run(tmp_path / "checked", num_sanity_val_steps=2), whole())


# -- what must not be lost --------------------------------------------------------------------------------------------


def write_pictures(folder: Path, count: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    return folder


STREAMED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import train
from common.data import folder, module, reading
for place in (folder, module, reading):
    if hasattr(place, "RESIDENT_LIMIT"):
        place.RESIDENT_LIMIT = 100
raise SystemExit(train.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_leaves_the_readers_alive(tmp_path, number):
    """What Ctrl-C in a terminal and a scheduler do: the workers get the signal too."""
    pictures = write_pictures(tmp_path / "pictures")
    flags = {**FLAGS, "train_steps": 100000, "val_check_interval": 100000, "checkpoint_every": 100000}
    flags |= {"data_name": "folder", "data_dir": pictures, "image_size": 8, "num_workers": 2, "wb_id": "x"}
    words = tiny.command(**flags, accumulate_grad_batches=4, output_dir=tmp_path)
    root = str(Path(train.__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", STREAMED, root, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "x_folder_H0.9_K2" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "go on with" in out
    assert (metrics.parent / "checkpoints" / "last.ckpt").exists()


def test_a_run_that_is_validated_at_every_step_stops_too(tmp_path, monkeypatch):
    flags = {"val_check_interval": 1, "train_steps": 6, "checkpoint_every": 6, "log_every": 1}
    whole = run(tmp_path / "whole", **flags)
    with monkeypatch.context() as patch:
        tick(patch)
        cut = run(tmp_path / "cut", max_time="4s", **flags)
    assert tiny.step_of(cut / "checkpoints" / "last.ckpt") < 6
    assert train.main(tiny.command(resume="x", output_dir=tmp_path / "cut")) == 0
    assert_same(cut, whole)


def test_a_run_cut_off_in_its_last_validation_gets_its_weights(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:

        def killed(self, trainer, module):
            if trainer.global_step == 12:
                raise KeyboardInterrupt
            draw(self, trainer, module)

        draw = callbacks.SampleGrid.on_validation_end
        patch.setattr(callbacks.SampleGrid, "on_validation_end", killed)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            run(tmp_path / "cut", checkpoint_every=6)
    cut = tmp_path / "cut" / NAME
    assert tiny.step_of(cut / "checkpoints" / "last.ckpt") == 6  # a checkpoint is the last thing of its step
    assert not (cut / "model" / "model-final.pth").exists()
    assert train.main(tiny.command(resume="x", output_dir=tmp_path / "cut")) == 0
    assert_same(cut, whole(checkpoint_every=6))
    assert (cut / "samples" / "step-0000012.png").exists()


LATER = [pytest.param(count, marks=pytest.mark.slow) for count in (0, 2)]


@pytest.mark.parametrize("whole_files", [1, *LATER])
def test_final_weights_are_made_up_if_any_is_missing(tmp_path, monkeypatch, capsys, whole, whole_files):
    count = len(list((whole(ema_decay="0.9,0.8") / "model").glob("*final*")))
    assert count == 3
    with monkeypatch.context() as patch:
        save, written = callbacks.save, []

        def killed(path, state):
            if "final" in path.name:
                written.append(path)
            if len(written) > whole_files:
                raise KeyboardInterrupt
            save(path, state)

        patch.setattr(callbacks, "save", killed)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            run(tmp_path / "cut", ema_decay="0.9,0.8")
    cut = tmp_path / "cut" / NAME
    assert len(list((cut / "model").glob("*final*"))) == whole_files
    assert train.main(tiny.command(resume="x", output_dir=tmp_path / "cut")) == 0
    assert "already finished at step 12" in capsys.readouterr().out
    assert tiny.difference(cut, whole(ema_decay="0.9,0.8")) == 0


@pytest.mark.parametrize("change", ["count", "size", "range"])
def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch, capsys, change):
    values = np.random.default_rng(0).uniform(size=(30, 8, 8, 1)).astype(np.float32)
    np.savez("a.npz", x=values)
    flags = {"data_name": "arrays", "data_dir": "a.npz"}
    with monkeypatch.context() as patch:
        tick(patch)
        run(tmp_path, max_time="6s", **flags)
    np.savez("b.npz", x={"count": values[:20], "size": values[:, :6, :6], "range": values * 3}[change])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train.main(tiny.command(resume="x", output_dir=tmp_path, data_dir="b.npz"))
    assert stopped.value.code == 2
    assert re.search(r"--data_dir does not hold what x_arrays.* was trained on", capsys.readouterr().err)
    assert train.main(tiny.command(resume="x", output_dir=tmp_path)) == 0


def test_the_start_of_a_run_is_looked_up_once(tmp_path, tiny_run, monkeypatch):
    """--init_from latest must not find the new run itself when it is resumed."""
    (tmp_path / tiny_run.name).symlink_to(tiny_run)
    with monkeypatch.context() as patch:
        tick(patch)
        cut = run(tmp_path, init_from="latest", max_time="6s")
    stored = json.loads((cut / "config.json").read_text())["recipe"]["init_from"]
    assert Path(stored) == (tiny_run / "model" / "ema_model-final.pth").resolve()
    (tmp_path / tiny_run.name).unlink()  # nor is it needed any more
    assert train.main(tiny.command(resume="x", output_dir=tmp_path, init_from="latest")) == 0


def test_weights_of_another_prediction_are_refused(tmp_path, tiny_run, capsys):
    (tmp_path / tiny_run.name).symlink_to(tiny_run)
    with pytest.raises(SystemExit):
        run(tmp_path, init_from="tiny", prediction="eps")
    assert "--init_from tiny: its network predicts v; add --prediction v" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_cannot_be_read_ends_in_one_line(tmp_path, monkeypatch, capsys, workers):
    pictures = write_pictures(tmp_path / "pictures")
    for path in pictures.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])  # whole heads, so that they count as pictures
    monkeypatch.setattr("common.data.source.DataSet.deviation", lambda self: 0.5)  # it would tell before the first step
    for module in ("folder", "module", "reading"):
        monkeypatch.setattr(f"common.data.{module}.RESIDENT_LIMIT", 100, raising=False)
    flags = {"data_name": "folder", "data_dir": pictures, "image_size": 8, "num_workers": workers, "wb_id": "x"}
    code = train.main(tiny.command(**{**FLAGS, **flags, "output_dir": tmp_path}))
    assert code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"train\.py: error: .*pictures/class[01]/\d+\.png.*go on with: python train\.py --resume", line)


def test_more_processes_than_held_out_samples_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, val_samples=1, devices=2, strategy="ddp")
    assert stopped.value.code == 2
    assert re.search(r"--val_samples leaves 1 held-out .* 2 processes", capsys.readouterr().err)
    assert not (tmp_path / NAME).exists()


def test_processes_from_outside_need_an_id(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "is_first_process", lambda: False)
    with pytest.raises(ValueError, match="wb_id is needed"):
        session.fresh_id(tmp_path)


def test_an_id_that_is_taken_is_not_drawn(monkeypatch, tmp_path):
    drawn = iter([5, 5, 7])
    monkeypatch.setattr(session.secrets, "randbelow", lambda _: next(drawn))
    monkeypatch.setenv(session.RUN_ID_VARIABLE, "")
    (tmp_path / "100005_digits_H0.9_K2").mkdir()
    assert session.fresh_id(tmp_path) == "100007"


def test_a_run_of_a_folder_that_has_changed(tmp_path, monkeypatch, capsys):
    """ultralytics#13936 and its like: classes that are lost or renamed shift the numbers of the others."""
    levels = np.random.default_rng(0).integers(0, 256, (12, 4, 8, 8), dtype=np.uint8)
    for name, of_class in enumerate(levels):
        (tmp_path / "mine" / str(name)).mkdir(parents=True)
        for i, image in enumerate(of_class):
            Image.fromarray(image).save(tmp_path / "mine" / str(name) / f"{i}.png")
    flags = {"data_name": "folder", "data_dir": tmp_path / "mine"}
    with monkeypatch.context() as patch:
        tick(patch)
        run(tmp_path, max_time="6s", **flags)
    go_on = tiny.command(resume="x", output_dir=tmp_path)

    def refused() -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            train.main(go_on)
        return capsys.readouterr().err

    (tmp_path / "mine" / "11").rename(tmp_path / "mine" / "eleven")
    assert "was trained on: 12 classes instead of 12, without 11 and with eleven\n" in refused()
    (tmp_path / "mine" / "eleven").rename(tmp_path / "mine" / "11")
    (tmp_path / "mine" / "3" / "0.png").rename(tmp_path / "mine" / "4" / "z.png")
    assert re.search(r"was trained on: \d samples of class 3 to learn from, there were \d\n", refused())
    (tmp_path / "mine" / "4" / "z.png").rename(tmp_path / "mine" / "3" / "0.png")
    assert train.main(go_on) == 0
    assert generate.main(["--run_id", "x", "--output_dir", str(tmp_path), "--n_samples", "12", "--steps", "1"]) == 0
    (tmp_path / "mine" / "3" / "new.png").write_bytes((tmp_path / "mine" / "3" / "0.png").read_bytes())
    capsys.readouterr()
    assert evaluate.main(["--run_id", "x", "--output_dir", str(tmp_path)]) == 0
    assert "there are 45 samples to learn from, x_folder" in capsys.readouterr().out
