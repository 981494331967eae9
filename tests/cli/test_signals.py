"""Signals from the first second of a program to its last, and streams that are closed: no traceback, no silent loss."""

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from common import stopping
from common.config.streams import Dispensable
from common.program import run_program
from common.training import callbacks, fitting, once
from common.training.module import DiffusionModule
from common.training.trainer import AtomicCheckpointIO
from tests.test_imports import ROOT
from tests.training import interrupted, tiny

FLAGS = {
    **tiny.FLAGS,
    "wb_id": "a",
    "train_steps": 6,
    "batch_size": 8,
    "val_check_interval": 2,
    "num_sanity_val_steps": 1,
    "log_model_every_n": 100,
    "checkpoint_every": 3,
    "ema_every": 2,
}
FOLDER = "a_digits_H0.9_K2"
AGAIN = f"; go on with: python train.py --resume {FOLDER}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupted.make_quick(patch.setattr)
        torch.set_num_threads(1)
        assert train.main(tiny.command(**FLAGS, output_dir=folder)) == 0
    return folder / FOLDER


@pytest.fixture
def program(monkeypatch):
    """This process as a program that has just begun; what would end it at once raises SystemExit."""

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(atexit, "register", lambda function: None)
    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(stopping, "_reaction", stopping._reaction)
    with stopping.kept():
        stopping.take()
        yield


def run(*words: str) -> int | str | None:
    """Run train.py as its own process would; returns the exit code."""
    with pytest.raises(SystemExit) as end:
        run_program(lambda: train.main(words), "stopped; nothing was lost")
    return end.value.code


def send(monkeypatch, owner: object, name: str, at: int, number: int, times: int) -> None:
    """Send this process signals when a function is called for the n-th time (from 1)."""
    function, calls = getattr(owner, name), 0

    def signalled(*args, **options):
        nonlocal calls
        calls += 1
        if calls == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return function(*args, **options)

    monkeypatch.setattr(owner, name, signalled)


LOST = "stopped at step {} before a checkpoint could be written; {} lost" + AGAIN
KEPT = f"stopped at step {{}}; state kept in runs/{FOLDER}/checkpoints/last.ckpt"
# where, the call of a function there, what the program says to a signal, and to two
PHASES = {
    "reading": (once, "load_data", 1, "stopped; nothing was lost", None),
    "sanity check": (DiffusionModule, "validation_step", 1, "stopped at step 0; nothing was lost" + AGAIN, None),
    "step": (DiffusionModule, "training_step", 3, KEPT.format(3), LOST.format(2, "steps 1 to 2 are")),
    "validation": (DiffusionModule, "validation_step", 2, KEPT.format(2), LOST.format(2, "steps 1 to 2 are")),
    "grid": (callbacks, "save_samples", 1, KEPT.format(2), LOST.format(2, "steps 1 to 2 are")),
    # the first of step 3, and last.ckpt of step 6
    "checkpoint": (AtomicCheckpointIO, "save_checkpoint", 1, KEPT.format(4), LOST.format(3, "steps 1 to 3 are")),
    "last checkpoint": (AtomicCheckpointIO, "save_checkpoint", 4, "", LOST.format(6, "steps 4 to 6 are")),
    # the average, after the plain ones
    "final weights": (callbacks, "save", 2, "", "stopped at step 6; nothing was lost" + AGAIN),
    "end": (fitting, "last_losses", 1, "stopped; nothing was lost", None),
}
CASES = [(name, times) for name, phase in PHASES.items() for times in (1, 2) if times == 1 or phase[4]]
LATER = {
    ("validation", 2),
    ("grid", 1),
    ("grid", 2),
    ("checkpoint", 2),
}  # in the middle of training, like those of a step


@pytest.mark.parametrize(
    ("phase", "times", "number"),
    [
        pytest.param(
            *case, stopping.SIGNALS[i % 4], marks=pytest.mark.slow if case in LATER else [], id="{}-{}".format(*case)
        )
        for i, case in enumerate(CASES)
    ],
)
@pytest.mark.usefixtures("program")
def test_a_signal_ends_a_training_and_nothing_is_lost_silently(monkeypatch, capfd, whole, phase, times, number):
    """What it says is what is there: the same command or the one it names makes it the run that nobody stopped."""
    owner, name, at, once, twice = PHASES[phase]
    monkeypatch.setattr(stopping, "SAME", 0.0)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        send(patch, owner, name, at, number, times)
        code = run(*tiny.command(**FLAGS))
    out, err = capfd.readouterr()
    said = once if times == 1 else twice
    assert code == (130 if said else 0)
    assert said in [*out.splitlines(), *err.splitlines()] if said else "next      python generate.py" in out
    assert "Traceback" not in err
    assert signal.getsignal(number) is before
    stopping.take()
    (resume,) = re.findall(r"python train\.py (.+)", out + err) or [" ".join(tiny.command(**FLAGS))]
    if code and Path("runs").exists() != (phase == "reading"):
        assert run(*("--resume a" if phase == "end" else resume).split()) == 0
    assert tiny.difference(Path("runs", FOLDER), whole) == 0


def wait_until_taken(process: subprocess.Popen) -> None:
    """Wait until a process has a handler of its own for SIGUSR1."""
    status = Path(f"/proc/{process.pid}/status")
    while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> (signal.SIGUSR1 - 1) & 1:
        assert process.poll() is None
        time.sleep(0.001)


def launched(*words: str | Path, **options) -> subprocess.Popen:
    """A program of its own, whose signals do what they do by default."""

    def defaults() -> None:
        for number in stopping.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": defaults}
    # a relative PYTHONPATH in a folder that was removed would end Python itself
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], env=env, **pipes | options)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("script", ["train.py", "generate.py", "evaluate.py", "scripts/export.py", "-m common.runs"])
def test_a_signal_during_the_imports(number, script, tmp_path):
    (tmp_path / "torch.py").write_text("import time; time.sleep(20); raise SystemExit")  # for -m imports do not end
    process = launched(*(script.split() if script.startswith("-m") else [ROOT / script]), cwd=tmp_path)
    wait_until_taken(process)
    process.send_signal(number)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "\nstopped; nothing was done yet\n")
    assert process.returncode == 130


@needs_proc
def test_nohup_is_respected():
    code = "from common.program import start_program; start_program(); input()"
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = launched("-c", code, cwd=ROOT, stdin=subprocess.PIPE, **ignored)
    wait_until_taken(process)
    process.send_signal(signal.SIGHUP)
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


FRAME = """
import os, signal, sys, time
from common import stopping
from common.program import run_program, start_program

start_program()
stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        # a second one while the first is dealt with; at once it is the same
        ("def main():\n    try: stop()\n    finally: stop(); print('in order', file=sys.stderr)", "in order\n\ntold"),
        ("def main():\n    try: stop()\n    finally: time.sleep(0.6); stop()", "\nstopped at once; what was not saved"),
        # where nothing can be raised
        ("class A:\n    def __del__(self): stop()\n\ndef main(): A(); return 0", "\nstopped at once; what was not"),
        # after the end, when Python's own handlers are back
        ("import atexit; atexit.register(stop)\nmain = lambda: 0", ""),
        ("class A:\n    def __del__(self): stop()\nsys.kept = A()\nmain = lambda: 0", None),
        # in a process that reads, which has no part in it
        (
            "def main():\n    if (child := os.fork()) == 0: stop(); time.sleep(9)\n"
            "    return 0 if os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM else 1",
            None,
        ),
    ],
    ids=["same", "second", "finaliser", "exit", "clearing up", "fork"],
)
def test_a_signal_at_an_awkward_moment(code, said):
    process = launched("-c", f"{FRAME}stopping.begin_work()\n{code}\nrun_program(main, 'told')", cwd=ROOT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0 if said is None else 130, "")
    assert err.startswith(said or "")
    assert "Traceback" not in err
    assert err == "" if not said else err.count("\n\n") <= 1


@pytest.mark.usefixtures("program")
def test_lightning_has_no_part_in_signals_under_slurm(tmp_path, monkeypatch, capfd):
    """From its start to our first step it would send the job back into the queue; its own checkpoint came first."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name in ("NTASKS", "NTASKS_PER_NODE", "NNODES", "JOB_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "1")
    for name in ("PROCID", "LOCALID", "NODEID", "STEP_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "diffusion")
    with monkeypatch.context() as patch:
        send(patch, DiffusionModule, "validation_step", 1, signal.SIGUSR1, 1)
        assert run(*tiny.command(**FLAGS)) == 130
    assert f"stopped at step 0; nothing was lost{AGAIN}\n" in capfd.readouterr().err
    assert not (tmp_path / "called").exists()
    folder = Path("runs", FOLDER)
    assert not list(folder.rglob("hpc_ckpt*"))
    (folder / "hpc_ckpt_1.ckpt").write_bytes(b"of an earlier version")
    assert train.main(["--resume", "a"]) == 0


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_training_without_any_stream(tmp_path):
    """Files that are opened do not take the place of the output."""

    def closed() -> None:
        for handle in range(3):
            os.close(handle)

    words = tiny.command(**FLAGS | {"train_steps": 2})
    process = launched(ROOT / "train.py", *words, stdout=None, stderr=None, cwd=tmp_path, preexec_fn=closed)
    assert process.wait(120) == 0
    folder = tmp_path / "runs" / FOLDER
    assert {"model-final.pth", "ema_model-final.pth"} <= {path.name for path in (folder / "model").iterdir()}
    assert len(tiny.weights(folder)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_a_progress_bar_that_nobody_reads(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as pipe:
        stream = Dispensable(pipe)
        for _ in range(2):
            assert stream.write("half done\n") == 10
            stream.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_on_a_full_disk():
    process = launched(ROOT / "train.py", "--list_presets", stdout=os.open("/dev/full", os.O_WRONLY))
    assert process.communicate(timeout=60)[1] == "the output cannot be written: No space left on device\n"
    assert process.returncode == 2  # 141 is that nobody reads


def test_a_working_folder_that_was_removed(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    process = launched(ROOT / "train.py")
    line = "train.py: error: the working folder does not exist any more; cd to one that does\n"
    assert process.communicate(timeout=60) == ("", line)
    assert process.returncode == 2


def test_a_working_folder_that_is_removed_meanwhile(tmp_path, monkeypatch):
    """A run that lies elsewhere is trained to its end."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    start = fitting.run_trainer
    monkeypatch.setattr(fitting, "run_trainer", lambda *parts: (gone.rmdir(), start(*parts)))
    assert train.main(tiny.command(**FLAGS | {"train_steps": 2}, output_dir=tmp_path / "runs")) == 0
    monkeypatch.chdir(tmp_path)
