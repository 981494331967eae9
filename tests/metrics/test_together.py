"""Done when 6: evaluate.py by one, two and three processes, however they are started, gives the same figures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import evaluate
from common.data.digits import Digits
from common.data.source import DataOptions
from common.metrics.features import classifier

ROOT = Path(__file__).parents[2]
RUN = "digits-demo_digits_H0.9_K2"
COUNT, BLOCK = 600, 50
WORDS = ("--samples", "some", "--metrics", "agreement,fid@classifier,sw@pixels", "--per_class", "True")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


STEPS = 10  # of the classifier, as in all tests, in the fixtures of the module and in processes of their own
PROGRAM = f"""
import sys
from common.metrics.features import classifier
classifier.STEPS = {STEPS}
import evaluate
sys.exit(evaluate.main())
"""


@pytest.fixture(scope="module", autouse=True)
def _short_classifier_for_the_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", STEPS)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder of runs with a shipped run, samples of it and the classifier of its data, but no features."""
    folder = tmp_path_factory.mktemp("together")
    run = folder / RUN
    run.mkdir()
    shutil.copy(ROOT / "runs" / RUN / "config.json", run)
    samples = run / "generated_data" / "model-final" / "some"
    data = Digits().load(DataOptions(data_dir=folder))
    x, labels = data.train.read(COUNT)
    noise = np.random.default_rng(0).normal(scale=0.1, size=x.shape)
    arrays = (x.numpy() / 255 + noise).astype(np.float32).transpose(0, 2, 3, 1)
    for name in ("data", "label"):
        (samples / name).mkdir(parents=True)
    for start in range(0, COUNT, BLOCK):
        np.save(samples / "data" / f"data_{start:06d}.npy", arrays[start : start + BLOCK])
        np.save(samples / "label" / f"label_{start:06d}.npy", labels.numpy()[start : start + BLOCK])
    words = ("--run_id", RUN, "--output_dir", str(folder), "--metrics", "rke@classifier", "--samples", "some")
    assert evaluate.main([*words, "--save_figures", str(folder / "first.json")]) == 0
    for place in (folder / ".cache", samples):
        shutil.rmtree(place / "features")
    return folder


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory) -> Path:
    """The folder of one process, whose figures and parts the others must have."""
    folder = tmp_path_factory.mktemp("alone")
    assert evaluate.main(command(prepared, folder)) == 0
    assert parts(folder)["samples"] == COUNT // BLOCK
    return folder


def command(prepared: Path, folder: Path, *words: str) -> list[str]:
    """The words of evaluate.py in a copy of the runs of its own."""
    if not (folder / RUN).exists():
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
    return [*WORDS, "--run_id", RUN, "--output_dir", str(folder), "--save_figures", str(folder / "x.json"), *words]


def read(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "x.json").read_text())
    del found["about"]
    return found


def parts(folder: Path) -> dict[str, int]:
    """How many parts are kept beside the samples, and of real data."""
    return {"samples": len(kept(folder / RUN)), "real": len(kept(folder / ".cache"))}


def kept(folder: Path) -> list[Path]:
    return list(folder.rglob("features/*/*.npz"))


@pytest.mark.slow
def test_processes_of_one_machine_one_of_which_is_killed(prepared, alone, tmp_path, capsys):
    ended: list[int] = []

    def kill() -> None:
        while not ended:
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()) and len(kept(tmp_path)) < 6:
                    time.sleep(1)
                    child.send_signal(signal.SIGKILL)
                    ended.append(child.pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert evaluate.main(command(prepared, tmp_path, "--devices", "2")) == 0
    killer.join(1)
    assert read(tmp_path) == pytest.approx(read(alone), rel=1e-6, abs=1e-6)
    assert len(ended) == 1
    assert "a process was lost (killed by SIGKILL" in capsys.readouterr().out
    assert parts(tmp_path) == parts(alone)


@pytest.mark.slow
def test_processes_that_torchrun_starts_one_of_which_is_killed(prepared, alone, tmp_path):
    words = command(prepared, tmp_path)

    def started(rank: int) -> subprocess.Popen:
        of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            cwd=ROOT,
            env=os.environ | TORCHRUN | of_rank | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    processes = [started(rank) for rank in range(3)]
    processes[2].kill()
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL]
    assert told[1] == ("", "")  # the first one speaks for all
    assert "figures   " in told[0][0]
    assert read(tmp_path) == pytest.approx(read(alone), rel=1e-6, abs=1e-6)
    assert parts(tmp_path) == parts(alone)


@pytest.mark.slow
def test_tasks_of_srun_one_after_the_other(prepared, alone, tmp_path, monkeypatch, capsys):
    for rank in (1, 0):
        for name, value in {"SLURM_STEP_ID": 0, "SLURM_NTASKS": 2, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}.items():
            monkeypatch.setenv(name, str(value))
        assert evaluate.main(command(prepared, tmp_path)) == 0
        if rank:
            assert capsys.readouterr().out == ""
            assert not (tmp_path / "x.json").exists()
            assert parts(tmp_path) == parts(alone)
    assert read(tmp_path) == pytest.approx(read(alone), rel=1e-6, abs=1e-6)


@pytest.mark.slow
def test_samples_are_drawn_by_as_many_processes(tmp_path):
    words = ["--run_id", RUN, "--metrics", "sw@pixels", "--n_samples", "12", "--batch_size", "4", "--steps", "2"]
    drawn = []
    for devices in ("1", "2"):
        folder = tmp_path / devices
        shutil.copytree(ROOT / "runs" / RUN, folder / RUN)
        assert evaluate.main([*words, "--output_dir", str(folder), "--devices", devices]) == 0
        (place,) = (folder / RUN / "generated_data" / "model-final").iterdir()
        figures = json.loads((place / "metrics.json").read_text())
        del figures["about"]
        drawn.append((figures, [np.load(file) for file in sorted((place / "data").iterdir())]))
    assert drawn[0][0] == drawn[1][0]
    assert len(drawn[0][1]) == 3
    assert np.array_equal(*(np.concatenate(arrays) for _, arrays in drawn))
