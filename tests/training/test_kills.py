"""Hard kills between two changes of the disk: what goes on afterwards is what would have been, bit for bit.

A fast selection; ``python -m benchmarks.kills`` does the same with real starts, at random times, and in every place.
"""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training import killed, tiny
from tests.training.wholeness import broken, differences, step_of

RUN = "k_digits_H0.9_K2"
FLAGS = {
    **tiny.FLAGS,
    "wb_id": "k",
    "resume": "auto",
    "train_steps": 12,
    "batch_size": 8,
    "accumulate_grad_batches": 2,
    "dropout": 0.1,
    "ema_decay": "0.9,0.5",
    "ema_every": 2,
    "log_every": 1,
    "val_check_interval": 4,
    "log_model_every_n": 4,
    "checkpoint_every": 2,
}
COMMANDS = {
    "train": tiny.command(**FLAGS),
    "generate": tiny.command(run_id="k", n_samples=12, batch_size=3, steps=4),
    "evaluate": tiny.command(run_id="k", metrics="agreement,nearest"),
}
BEFORE = {"generate": "train", "evaluate": "generate"}

# kills of one run, one after the other; each start goes on from the last checkpoint
IN_A_ROW = [
    ("train", ["folder .", "half config.json", "rename config.json", "make environment.txt", "half real.safetensors"]),
    ("train", ["torn metrics.csv", "make checkpoints/last.ckpt", "make model/ema_model-v#.pth", "validation"]),
    ("train", ["half checkpoints/step-#.ckpt", "rename checkpoints/last.ckpt", "remove checkpoints/step-#.ckpt"]),
    ("train", ["denoise", "renamed samples/step-#.png", "rename metrics.csv", "make model/ema#.#_model-final.pth"]),
    (
        "generate",
        [
            "half settings.json",
            "make data/data_#.npy",
            "half data/data_#.npy",
            "rename label/label_#.npy",
            "make grid.png",
        ],
    ),
    ("evaluate", ["make metrics.json", "rename metrics.json"]),
]


@pytest.fixture(scope="module")
def starter() -> Iterator[killed.Starter]:
    starter = killed.Starter()
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def whole(starter, tmp_path_factory) -> dict[str, Path]:
    """Folders of runs after each program, without kills."""
    found: dict[str, Path] = {}
    for program, flags in COMMANDS.items():
        folder = tmp_path_factory.mktemp(program)
        if program in BEFORE:
            shutil.copytree(found[BEFORE[program]], folder / killed.RUNS)
        assert starter.start(folder, "", 1, program, flags) == 0, (folder / "log.txt").read_text()
        found[program] = folder / killed.RUNS
    return found


@pytest.mark.parametrize(("program", "places"), IN_A_ROW, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_killed_goes_on_as_if_it_had_not_been(tmp_path, starter, whole, program, places):
    runs = tmp_path / killed.RUNS
    if program in BEFORE:
        shutil.copytree(whole[BEFORE[program]], runs)
    for place in places:
        step = step_of(runs / RUN)
        code = starter.start(tmp_path, place, 1, program, COMMANDS[program])
        assert code == -signal.SIGKILL, f"{place}: {(tmp_path / 'log.txt').read_text()}"
        assert broken(runs, whole[program], step) == [], place
    assert starter.start(tmp_path, "-", 1, program, COMMANDS[program]) == 0, (tmp_path / "log.txt").read_text()
    assert differences(runs, whole[program]) == []
