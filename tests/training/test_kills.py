"""Hard kills between two changes of the disk: what goes on afterwards is what would have been, bit for bit.

A fast selection; ``python -m benchmarks.kills`` does the same with real starts, at random times, and in every place.
"""

import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training import killed, tiny
from tests.training.wholeness import broken, differences, step_of

RUN = "k_digits_H0.9_K2"
RUNS = {"tune": "c_digits_H0.9_K2_consistency"}  # of commands that make another one
FLAGS = {
    **tiny.FLAGS,
    "wb_id": "k",
    "resume": "auto",
    "train_steps": 12,
    "batch_size": 8,
    "accumulate_grad_batches": 2,
    "dropout": 0.1,
    "label_dropout": 0.2,
    "ema_decay": "0.9,0.5",
    "ema_every": 2,
    "log_every": 1,
    "val_check_interval": 4,
    "log_model_every_n": 4,
    "checkpoint_every": 2,
}
TUNING = {
    "objective": "consistency",
    "init_from": "k",
    "guidance_scale": 2,
    "stages": 3,
    "wb_id": "c",
    "resume": "auto",
    **{name: value for name, value in FLAGS.items() if name not in (*tiny.FLAGS, "wb_id", "resume", "label_dropout")},
}
COMMANDS = {
    "train": tiny.command(**FLAGS),
    "tune": tiny.command(**TUNING),
    "generate": tiny.command(run_id="k", n_samples=12, batch_size=3, steps=4),
    "evaluate": tiny.command(run_id="k", metrics="agreement,nearest"),
}
PROGRAMS = {"tune": "train"}  # of commands that are not called like theirs
BEFORE = {"tune": "train", "generate": "train", "evaluate": "generate"}

# kills of one run, one after the other; each start goes on from the last checkpoint
IN_A_ROW = [
    (
        "train",
        ["folder .", "half config.json", "half real.safetensors", "rename manifest.json", "make environment.txt"],
    ),
    (
        "train",
        [
            "torn metrics.csv",
            "half checkpoints/step-#.ckpt",
            "rename checkpoints/last.ckpt",
            "make model/ema#.#_model-final.pth",
        ],
    ),
    pytest.param(
        "train",
        ["make checkpoints/last.ckpt", "make model/ema_model-v#.pth", "validation", "remove checkpoints/step-#.ckpt"],
        marks=pytest.mark.slow,
    ),
    pytest.param("train", ["denoise", "renamed samples/step-#.png", "rename metrics.csv"], marks=pytest.mark.slow),
    pytest.param(
        "tune", ["step", "half checkpoints/step-#.ckpt", "remove checkpoints/step-#.ckpt"], marks=pytest.mark.slow
    ),
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
def whole(starter, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of runs after a program, without kills; made when it is first asked for."""

    @functools.cache
    def after(program: str) -> Path:
        folder, name = tmp_path_factory.mktemp(program), PROGRAMS.get(program, program)
        if program in BEFORE:
            shutil.copytree(after(BEFORE[program]), folder / killed.RUNS)
        assert starter.start(folder, "", 1, name, COMMANDS[program]) == 0, (folder / "log.txt").read_text()
        return folder / killed.RUNS

    return after


def killed_at(starter, whole, folder: Path, program: str, places: list[str]) -> list[str]:
    """What is lost, different or broken of a program that was killed at places, one after the other, and then ended."""
    name, runs, found = PROGRAMS.get(program, program), folder / killed.RUNS, []
    folder.mkdir(exist_ok=True)
    if program in BEFORE:
        shutil.copytree(whole(BEFORE[program]), runs)
    for place in places:
        step = step_of(runs / RUNS.get(program, RUN))
        code = starter.start(folder, place, 1, name, COMMANDS[program])
        if code != -signal.SIGKILL:
            return [*found, f"{place} is not reached, exit code {code}: {last_words(folder)}"]
        found += [f"{place}: {text}" for text in broken(runs, whole(program), step)]
    code = starter.start(folder, "-", 1, name, COMMANDS[program])
    return [*found, *differences(runs, whole(program))] if code == 0 else [*found, last_words(folder)]


def last_words(folder: Path) -> str:
    return "\n".join((folder / "log.txt").read_text().splitlines()[-6:])


@pytest.mark.parametrize(("program", "places"), IN_A_ROW, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_killed_goes_on_as_if_it_had_not_been(tmp_path, starter, whole, program, places):
    assert killed_at(starter, whole, tmp_path, program, places) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", COMMANDS)
def test_every_place(tmp_path, starter, whole, program):
    places = dict.fromkeys((whole(program).parent / "places").read_text().splitlines())
    found = {place: killed_at(starter, whole, tmp_path / str(i), program, [place]) for i, place in enumerate(places)}
    assert {place: texts for place, texts in found.items() if texts} == {}
    assert len(found) >= 4
