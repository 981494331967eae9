"""Several processes draw one set of samples: the same bits, whoever dies; and what drawing takes, told before."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import args
from common.cluster.place import SRUN, Place
from common.files import locked, owner_of
from common.generation import blocks as generation
from common.generation import planning, room, sharing, signs, threads
from common.generation.sections import Shard, Sharing
from common.refusal import Refusal
from common.runs import SampleFolder
from tests.cli.test_generate import arrays
from tests.test_imports import ROOT

SHIPPED = "digits-demo_digits_H0.9_K2"
DRAW = ("generate", "--run_id", "digits-demo", "--steps", 1, "--n_samples", 25, "--batch_size", 5)
JOB = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "1", "SLURM_PROCID": "0"}


@pytest.fixture
def shipped(tmp_path) -> Path:
    """A copy of a run that comes with the program."""
    folder = tmp_path / "runs" / SHIPPED
    shutil.copytree(ROOT / "runs" / SHIPPED, folder, ignore=shutil.ignore_patterns("generated_data", "samples"))
    return folder


def of(run: Path, name: str = "ab3-1-ema") -> Path:
    return run / "generated_data" / "model-final" / name


def state(folder: Path) -> dict[str, bytes]:
    """Every file of a set, without the time at which it was begun."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found["manifest.json"] = re.sub(rb'"made": "[^"]+"', b"", found["manifest.json"])
    return found


# -- flags -------------------------------------------------------------------------------------------------------------


def test_which_share_a_process_has():
    rank = Place(rank=1, count=3, local_rank=1, local_count=3, launcher=SRUN)
    assert Sharing().share(Place()) is None
    assert Sharing().share(rank) == Shard(1, 3)
    assert Sharing(shard=Shard.read("7/8")).share(Place(launcher=SRUN)) == (7, 8)  # a task of an array, alone in a step
    assert args.parse_generate(["--run_id", "a", "--shard", "2/4"]).sharing.shard == (2, 4)
    for given in (Sharing(shard=Shard(0, 2)), Sharing(devices=2)):
        with pytest.raises(Refusal, match="the 3 processes that srun has started exclude each other"):
            given.share(rank)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--shard", "8/8"), "argument --shard: must be K/N with K from 0 to N - 1, as 0/8 to 7/8, got '8/8'"),
        (("--shard", "-1/8"), "--shard"),
        (("--shard", "one"), "must be K/N"),
        (("--devices", 0), "argument --devices: must be at least 1"),
        (("--shard", "0/2", "--devices", 2), "--shard and --devices exclude each other"),
        (("--shard", "0/2", "--trajectory"), "--trajectory and --shard exclude each other"),
        (("--shard", "0/2", "--grid", "measured"), "--grid measured: the grid of digits-demo"),
        (("--dry_run", "--grid", "measured"), "draw one sample first (--n_samples 1)"),
    ],
)
def test_what_cannot_be_is_refused(cli, shipped, words, told):
    (shipped / "grid.json").unlink()
    result = cli(*DRAW, *words)
    assert (result.code, result.written) == (2, [])
    assert told in result.err
    assert result.err.startswith("generate.py: error: ")
    assert len(result.err.splitlines()) == 1


# -- shares ------------------------------------------------------------------------------------------------------------


def test_shares_are_one_set(cli, shipped):
    """In any order, by another number of them, and by the command without: the same bytes as those of one process."""
    assert cli(*DRAW).code == 0
    whole = state(of(shipped))
    shutil.rmtree(of(shipped))
    first = cli(*DRAW, "--shard", "2/3")
    assert "share     2/3: 5 of 25 samples" in first.out
    assert "5 of 25 samples are there. The last share puts them together" in first.out
    assert (of(shipped) / "shards" / "2-of-3" / "manifest.json").exists()
    assert "5 of 25 samples are there; go on with" in cli("evaluate", "--run_id", "digits-demo").err
    assert cli(*DRAW, "--shard", "0/3").code == 0
    last = cli(*DRAW, "--shard", "1/3")
    assert f"grid      {of(shipped).relative_to(Path.cwd())}" in last.out
    assert state(of(shipped)) == whole
    for lost in (0, 10, 15):
        (of(shipped) / "data" / f"data_{lost:06d}.npy").unlink()
    (of(shipped) / "data" / "data_000020.npy").write_bytes(b"damaged")
    assert cli(*DRAW, "--shard", "1/2").code == 0  # 5 and 15
    assert [path.name for path in (of(shipped) / "shards").iterdir()] == ["1-of-2"]
    assert cli(*DRAW, "--shard", "3/4").code == 0  # 15, which is there: what shares of two have left is put together
    assert not (of(shipped) / "shards").exists()
    rest = cli(*DRAW)
    assert "note      1 drawn again, since damaged or without their labels: data_000020.npy" in rest.out
    assert "kept      10 samples are there already" in rest.out
    assert state(of(shipped)) == whole


def test_who_draws_at_the_same_time(cli, shipped, monkeypatch):
    """The same share twice, the set as a whole, and shares of another number are refused, naming who draws."""
    draw, seen = generation.Job.draw, {}
    monkeypatch.setattr("common.generation.sets.PATIENCE", 0.05)
    monkeypatch.setattr(signs, "EVERY", 60.0)  # else the lock of who draws counts as written by the others

    def during(what: str, **commands: tuple[object, ...]) -> None:
        def meanwhile(self, indices, on_step):
            if not seen:
                seen["begun"] = None
                seen.update({name: cli(*words) for name, words in commands.items()})
            return draw(self, indices, on_step)

        with monkeypatch.context() as patch:
            patch.setattr(generation.Job, "draw", meanwhile)
            seen["last"] = cli(*DRAW, *what.split())

    share = (*DRAW, "--shard")
    during(
        "--shard 0/2",
        same=(*share, "0/2"),
        all=DRAW,
        thirds=(*share, "1/3"),
        early=("evaluate", "--run_id", "digits-demo"),
        other=(*share, "1/2"),
        plan=(*DRAW, "--dry_run"),
    )
    assert {name: result.code for name, result in seen.items() if result} == {
        "same": 2, "all": 2, "thirds": 2, "early": 2, "other": 0, "plan": 0, "last": 0
    }  # fmt: skip
    who = f"generate.py (process {os.getpid()} on "
    assert f"shards/0-of-2 is being written by {who}" in seen["same"].err
    for name in ("all", "thirds"):
        assert f"share 0/2 of {of(shipped).relative_to(Path.cwd())} is being drawn by {who}" in seen[name].err
    assert f"samples are there; {who}" in seen["early"].err
    assert not any(seen[name].written for name in ("same", "all", "thirds", "early", "plan"))
    assert "10 of 25 samples are there. The last share" in seen["other"].out
    assert f"grid      {of(shipped).relative_to(Path.cwd())}" in seen["last"].out
    seen.clear()
    shutil.rmtree(of(shipped))
    during("", share=(*share, "0/2"))
    assert (seen["share"].code, seen["share"].written) == (2, [])
    assert f"is being written by {who}" in seen["share"].err


def test_one_of_a_job_draws_the_share_of_another_that_has_died(cli, shipped, monkeypatch):
    assert cli(*DRAW).code == 0
    whole = state(of(shipped))
    shutil.rmtree(of(shipped))
    monkeypatch.setattr(sharing, "GONE", 0.1)
    monkeypatch.setattr(sharing, "LOOKED_EVERY", 0.1)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", None)
    result = cli(*DRAW)
    assert "note      process 1 of 2 has died, or never came: its share is drawn here" in result.out
    assert state(of(shipped)) == whole
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    late = cli(*DRAW)
    assert (late.code, late.out) == (0, "")  # the first one speaks


def test_one_of_a_job_that_holds_its_share_and_does_nothing_is_told(cli, shipped, monkeypatch):
    monkeypatch.setattr(signs, "LIMIT", 0.3)
    monkeypatch.setattr(sharing, "LOOKED_EVERY", 0.1)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", None)
    with locked(of(shipped) / "shards" / "1-of-2", "generate.py"):
        result = cli(*DRAW)
    assert result.code == 75
    assert f"note      process 1 of 2 gives no sign of life: generate.py (process {os.getpid()} on " in result.out
    assert result.err.splitlines()[-1] == (
        "generate.py: error: process 1 of 2 gives no sign of life and holds its share: 10 of 25 samples are missing; "
        "end it, and the same command goes on"
    )
    for name in JOB:
        monkeypatch.delenv(name)
    assert "kept      15 samples are there already" in cli(*DRAW).out


def test_who_draws_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(signs, "EVERY", 0.01)
    monkeypatch.setattr(signs, "LIMIT", 0.2)
    place, listening = SampleFolder(tmp_path), signs.Listening(1)
    with locked(place.shard(0, 1), "generate.py"):
        with signs.Beating(place, Shard(0, 1)):
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                assert not listening.silent(place)
                time.sleep(0.02)
        monkeypatch.setattr(signs, "LEAP", 0.15)
        listening.silent(place)
        time.sleep(0.25)
        assert not listening.silent(place)  # nobody looked for so long: all may have been stopped
        time.sleep(0.15)
        assert listening.silent(place) == [0]
    assert not listening.silent(place)


def test_a_set_remembers_the_number_of_threads(tmp_path):
    def begun(where: str, *, anew: bool = False) -> list[str]:
        job = SimpleNamespace(dynamics=SimpleNamespace(device=torch.device(where)))
        threads.begin_with(place, job, anew=anew)
        with threads.as_begun(place, job, draws=True) as told:
            return [*told, torch.get_num_threads()]

    place, own = SampleFolder(tmp_path), torch.get_num_threads()
    try:
        assert begun("cuda") == [own]
        assert not place.manifest.exists
        assert begun("cpu") == [own]
        torch.set_num_threads(own + 1)
        assert begun("cuda") == [own + 1]
        told, used = begun("cpu")
        assert used == own
        assert f"not with {own + 1}: the last bits depend on it; OMP_NUM_THREADS={own} says so" in told
        assert torch.get_num_threads() == own + 1
        assert begun("cpu", anew=True) == [own + 1]
        for nonsense in (10**9, 0, "2", True, None):
            place.manifest.note("threads", nonsense)
            assert begun("cpu") == [own + 1]
    finally:
        torch.set_num_threads(own)


@pytest.mark.slow
def test_all_compute_with_as_many_threads_as_the_first_one(cli, shipped, monkeypatch):
    """The last bits depend on them, whoever draws a share or goes on."""
    draw, seen, own = generation.Job.draw, [], torch.get_num_threads()

    def noted(self, indices, on_step):
        seen.append(torch.get_num_threads())
        return draw(self, indices, on_step)

    monkeypatch.setattr(generation.Job, "draw", noted)
    told = f"note      {of(shipped).relative_to(Path.cwd())} was begun with {own} thread"
    assert told not in cli(*DRAW, "--shard", "0/2").out
    try:
        torch.set_num_threads(own + 1)
        other = cli(*DRAW, "--shard", "1/3").out
        assert told in other
        assert f"not with {own + 1}: the last bits depend on it; OMP_NUM_THREADS={own} says so" in other
        assert told in cli(*DRAW).out
        assert torch.get_num_threads() == own + 1
        assert told not in cli(*DRAW).out  # nothing is drawn
        assert set(seen) == {own}
        for path in (of(shipped) / "data").iterdir():
            path.unlink()
        assert told not in cli(*DRAW).out  # nothing is there that they must be like
        assert seen[-1] == own + 1
    finally:
        torch.set_num_threads(own)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_writes_nothing(cli, shipped, monkeypatch):
    plan = cli(*DRAW[:3], "--dry_run", "--n_samples", 50_000, "--batch_size", 5)
    assert (plan.code, plan.written) == (0, [])
    assert not (shipped / "generated_data").exists()
    assert "network   10 evaluations per sample, 500,000 in all" in plan.out
    assert re.search(r"time      about .* by one process: 10,000 blocks of 5; 2 of them were drawn, and take", plan.out)
    assert re.search(r"disk      \d+ MB are needed, [\d.,]+ [GM]B are free", plan.out)
    assert f"path      runs/{SHIPPED}/generated_data/model-final/ab3-10-ema" in plan.out
    assert cli(*DRAW).code == 0
    (of(shipped) / "data" / "data_000010.npy").unlink()
    for more, told in (
        (("--devices", 3), "20 samples are there already"),
        (("--devices", 3), "by one process: 1 block of "),
        (("--devices", 3), "one process draws that block, the others have nothing to do: lower --batch_size"),
        (("--devices", 3, "--n_samples", 26), "3 processes draw up to "),
        (("--shard", "1/2"), "plan      10 samples (share 1/2 of 25)"),
    ):
        plan = cli(*DRAW, "--dry_run", *more)
        assert (plan.code, plan.written) == (0, [])
        assert told in plan.out
    monkeypatch.setattr(room, "free_at", lambda folder: 10_000)
    for more in ((), ("--dry_run",), ("--shard", "0/2")):
        refused = cli(*DRAW, "--n_samples", 26, *more)
        assert (refused.code, refused.written) == (2, [])
        assert re.search(
            r"ab3-1-ema-2: 1\.\d MB are needed for \d+ samples, and 10 kB are free; make room", refused.err
        )


def test_a_block_that_takes_long_is_not_drawn_to_its_end(cli, shipped, monkeypatch):
    monkeypatch.setattr(planning, "ENOUGH", 0.0)
    plan = cli(*DRAW[:3], "--mode", "ode", "--steps", 1000, "--n_samples", 2, "--batch_size", 1, "--dry_run")
    assert "2 of them were begun for 0 s each" in plan.out
    assert "network   1,000 evaluations per sample, 2,000 in all" in plan.out


# -- processes ---------------------------------------------------------------------------------------------------------


def start(*words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "generate.py", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_blocks(process: subprocess.Popen, folder: Path, count: int) -> None:
    while process.poll() is None and len(list(folder.glob("data/data_*.npy"))) < count:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def others(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that it has started to draw."""
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_one_two_and_three_processes_draw_the_same_bits_whoever_is_killed(cli, shipped):
    words = ("--run_id", "digits-demo", "--steps", 2, "--n_samples", 2000, "--batch_size", 40)
    folder = of(shipped, "ab3-2-ema")
    assert cli("generate", *words, "--trajectory").code == 0
    whole = state(folder)
    shutil.rmtree(folder)

    first = start(*words, "--devices", 2, "--trajectory")
    wait_for_blocks(first, folder, 3)
    drawing = others(first)
    assert len(drawing) == 2
    drawing[0].kill()
    wait_for_blocks(first, folder, 15)
    drawing = others(first)
    first.kill()
    assert "was killed by SIGKILL (for want of memory?); its block is drawn again" in first.communicate()[0]
    assert not psutil.wait_procs(drawing, timeout=20)[1]  # nobody draws for nobody
    there = len(list(folder.glob("data/data_*.npy")))
    assert 15 <= there < 50
    again = start(*words, "--devices", 3, "--trajectory")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert f"kept      {there * 40} samples are there already" in out
    assert arrays(folder).keys() == {name for name in whole if name.endswith(".npy")}
    assert {name for name, content in state(folder).items() if whole[name] != content} <= {
        "trajectory.png",  # of a few samples alone, if their block was there: but for rounding
        "trajectory.gif",
    }
    shutil.rmtree(folder)

    shares = [start(*words, "--shard", f"{k}/2") for k in range(2)]
    wait_for_blocks(shares[1], folder, 5)
    shares[1].kill()
    shares[1].communicate()
    assert [shares[0].communicate() and shares[0].returncode, start(*words, "--shard", "1/2").wait()] == [0, 0]
    assert state(folder) == {name: content for name, content in whole.items() if "trajectory" not in name}
    assert owner_of(folder) is None
    assert len(json.loads((folder / "manifest.json").read_text())["files"]) == 101


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    """From 2,000 to 10,000 samples of 2 kB: less than half of what they hold themselves, 16 MB.

    The first number comes twice: to do anything again costs a process some MB, whatever it is.
    """
    words = [sys.executable, ROOT / "tests" / "cli" / "drawing_growth.py", tmp_path, "1", "2000", "2000", "10000"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("peaks"))
    _, before, after = map(float, line.split()[1:])
    assert after - before <= 8
