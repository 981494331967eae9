"""Disks that are full or read-only, names that are too long, counts and sizes without bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.config.parser import mendable
from tests.cli import small_disk
from tests.test_imports import ROOT
from tests.training import tiny

ROOMS = {
    "train": (0, 3, 300, 700, "read-only"),
    "resume": (0, 30, 900, "read-only"),
    "generate": (0, 20, 60, "read-only"),
    "evaluate": (0, "read-only"),
    "export": (0, 90, "read-only"),
}
FAST = ("train-300", "generate-20")  # of whoever writes over and over
NAMES = [f"{program}-{room}" for program, rooms in ROOMS.items() for room in rooms]
CASES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NAMES]


@pytest.fixture(scope="session")
def tried(request, tiny_run, tmp_path_factory) -> dict[str, dict]:
    """What programs did on the disks of the chosen tests."""
    chosen = [name for item in request.session.items for name in NAMES if item.name.endswith(f"[{name}]")]
    words = [sys.executable, small_disk.__file__, tiny_run, tmp_path_factory.mktemp("disks"), *chosen]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    if "skipped" in found[0]:
        pytest.skip(found[0]["skipped"])
    return {one["name"]: one for one in found}


@pytest.mark.parametrize("name", CASES)
def test_a_disk_that_cannot_be_written(tried, name):
    """One line with what, where and how to go on; nothing half-written, nothing lost; it goes on once there is room."""
    found = tried[name]
    assert found["trace"] == ""
    assert found["code"] == 2
    error = found["err"].splitlines()[-1]
    program = "train" if name.startswith("resume") else name.partition("-")[0]
    assert error.startswith(f"{program}.py: error: /")
    if name.endswith("read-only"):
        assert "Read-only file system; name a folder that can be written" in error
        assert found["after"] == found["before"]
        return
    assert "No space left on device; " in error
    assert "make room" in error
    if "python train.py --resume" in error:
        kept = any(path.endswith(".ckpt") for path in found["after"])
        assert ("then steps since the last checkpoint come again with" in error) == kept
        assert ("then it starts at step 0 with" in error) == (not kept)
    before, after, end = found["before"], found["after"], found["end"]
    lost = before.keys() - after.keys()
    assert not lost
    assert not [path for path in after if path.endswith((".tmp", ".lock"))]
    assert all(size > 0 for size in after.values())
    if name.startswith(("train", "resume")):
        assert all(after[path] == size for path, size in before.items() if path.endswith(".ckpt"))
        assert all(after[path] > size / 2 for path, size in before.items() if path.endswith("metrics.csv"))
    assert (found["again"]["code"], found["again"]["trace"]) == (0, ""), found["again"]["err"]
    assert not [path for path in end if path.endswith((".tmp", ".lock"))]
    if program == "train":
        assert {Path(path).name for path in end} >= {
            "model-final.pth",
            "ema_model-final.pth",
            "last.ckpt",
            "metrics.csv",
        }
    if program == "generate":
        assert sum("data_" in path for path in end) == 3


LONG = "a" * 300


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("train", tiny.command(wb_id=LONG, train_steps=2)),
        ("train", tiny.command(output_dir=LONG, train_steps=2)),
        ("train", tiny.command(output_dir="/".join([LONG[:200]] * 30), train_steps=2)),
        ("train", tiny.command(data_name="folder", data_dir=LONG)),
        ("train", tiny.command(plugin=f"{LONG}.py")),
        ("train", tiny.command(resume=LONG)),
        ("train", tiny.command(init_from=LONG, train_steps=2)),
        ("generate", tiny.command(run_id=LONG)),
        ("generate", tiny.command(run_id="tiny", version=LONG)),
        ("generate", tiny.command(run_id="tiny", n_samples=10**9)),
        ("generate", tiny.command(run_id="tiny", n_samples=10**30)),
        ("generate", tiny.command(run_id="tiny", seeds="0-99999999999")),
        ("generate", tiny.command(run_id="tiny", batch_size=10**30)),
        ("evaluate", tiny.command(run_id=LONG)),
        ("evaluate", tiny.command(run_id="tiny", samples=LONG)),
        ("train", tiny.command(batch_size=10**30)),
        ("train", tiny.command(train_steps=10**30)),
        ("train", tiny.command(image_size=10**9)),
        ("train", tiny.command(model_channels=10**12, train_steps=2)),
        ("train", tiny.command(model_name="uvit", embed_dim=10**12, train_steps=2)),
        ("train", tiny.command(model_name="uvit", embed_dim=10**8, train_steps=2)),
        ("train", tiny.command(model_name="uvit", depth=10**9, train_steps=2)),
        ("train", tiny.command(model_name="inr", width=10**9, train_steps=2)),
        ("train", tiny.command(num_res_blocks=10**9, train_steps=2)),
        ("train", tiny.command(num_aug=10**9, train_steps=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(word[:24] for word in value),
)
def test_names_and_numbers_without_bounds(cli, run, program, words):
    result = cli(program, *words)
    assert result.code == 2, result.err[-2000:]
    assert len(result.err.splitlines()) == 1
    assert not result.written


def test_memory_that_is_not_there_is_one_line():
    import torch

    with pytest.raises(RuntimeError) as error:
        torch.empty(2**46)
    line = mendable(error.value)
    assert line is not None
    assert line.startswith("not enough memory (281,475 GB at once): lower --batch_size")
    assert (
        mendable(MemoryError()) == "not enough memory: lower --batch_size, or take a smaller network or smaller samples"
    )
    assert mendable(RuntimeError("another")) is None
    assert mendable(OSError(5, "Input/output error", "x")) is None
