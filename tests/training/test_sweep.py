"""Sweeps: what members there are, what is refused before the first, how they run, and that kills lose nothing."""

import contextlib
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import args
import train
from common import stopping
from common.cluster.job import OfJob
from common.files import load_checkpoint, locked
from common.refusal import Refusal
from common.runs import find, run_folders
from common.training.sweep import running
from common.training.sweep.children import newest, share
from common.training.sweep.flags import Axis, asks_for_a_sweep, axes
from common.training.sweep.order import SweepOrder, ordered
from common.training.sweep.picture import sweep_figure
from common.training.sweep.results import better
from common.training.sweep.slurm import script_of
from tests.test_imports import ROOT
from tests.training import interrupted, tiny
from tests.training.wholeness import differences

LABEL = "digits_H0.9_K2"
SHORT = {**tiny.FLAGS, "train_steps": 4, "batch_size": 8, "val_check_interval": 4, "log_every": 2}


def asked(*words: str) -> SweepOrder:
    return ordered(words, args.parse_train, args.train_flag_names())


def refusal(*words: str) -> str:
    with pytest.raises(Refusal) as error:
        train.train(words)
    return str(error.value)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- members and their names ------------------------------------------------------------------------------------------


def test_members_are_the_product_and_are_named_after_it():
    found = asked("--sweep", "hurst=0.7,.9", "--sweep", "lr=1e-5,0.00002", "--preset", "digits", "--wb_id", "a")
    assert [member.id for member in found.members] == [
        "a-hurst0.7-lr1e-05", "a-hurst0.7-lr2e-05", "a-hurst0.9-lr1e-05", "a-hurst0.9-lr2e-05"
    ]  # fmt: skip
    configs = [member.config for member in found.members]
    assert [(c.dynamics.arguments["hurst"], c.recipe.lr) for c in configs] == [
        (0.7, 1e-5), (0.7, 2e-5), (0.9, 1e-5), (0.9, 2e-5)
    ]  # fmt: skip
    for member in found.members:  # the line of a member is an ordinary one, and makes the same run
        order = args.parse_train(member.words)
        assert order is not None
        assert order.config == member.config
        assert order.command.resume == "auto"
    assert found.folder == Path("runs/a")
    assert found.fixed == {"preset": "digits"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["lr=1e30,1e-30"], ["lr1e30", "lr1e-30"]),
        (["num_aug=1,2"], ["num-aug1", "num-aug2"]),
        (["lr_schedule=onecycle,constant"], ["lr-schedule-onecycle", "lr-schedule-constant"]),
        (["channel_mult=1,2;1,2,2"], ["channel-mult1-2", "channel-mult1-2-2"]),
        (["channel_mult=1,2;"], ["channel-mult1-2"]),
        (["seed=0,1,2"], ["seed0", "seed1", "seed2"]),
        (["use_ema=yes,False"], ["use-ema-True", "use-ema-False"]),
        (["preset=digits,fdp-digits-inr"], ["preset-digits", "preset-fdp-digits-inr"]),
        (["init_from=a/b.pth,a.b-pth"], ["init-from-a-b.pth", "init-from-a.b-pth"]),
        (["init_from=a/b,a-b"], ["init-from-a-b", "init-from-a-b-2"]),
        (["seed=0,1", "hurst=0.5"], ["seed0-hurst0.5", "seed1-hurst0.5"]),  # several words of one flag
    ],
)
def test_names_of_values(words, names):
    found = asked("--sweep", *words, "--wb_id=x")
    assert [member.id for member in found.members] == [f"x-{name}" for name in names]
    assert [one for axis in found.axes for one in axes(str(axis))] == list(found.axes)  # written as they are read


def test_the_same_command_has_the_same_id():
    ids = [
        asked("--sweep", *words).id
        for words in (
            ["hurst=0.7,0.9", "--lr", "1e-4", "--preset", "digits"],
            ["hurst=.7,.9", "--preset=digits", "--lr=0.0001", "--sweep_jobs", "2", "--device", "cpu"],
            ["hurst=0.7,0.9", "--lr", "1e-4"],
            ["hurst=0.7,0.8", "--lr", "1e-4", "--preset", "digits"],
        )
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"sweep-[0-9a-f]{6}", name) for name in ids)


def test_help_is_that_of_train_py(capsys):
    assert not asks_for_a_sweep(["--sweep", "a=1", "--help"])
    assert train.train("--sweep hurst=0.7 --help") == 0
    out = capsys.readouterr().out
    assert "--sweep_slurm" in out
    assert '"channel_mult=1,2;1,2,2"' in " ".join(out.split())


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "--sweep": "--sweep: expected at least one argument",
    "--sweep hurst": "'hurst' is not of the form flag=value,value",
    "--sweep hurst=": "'hurst=' has an empty value",
    "--sweep hurst=0.7,,0.9": "has an empty value",
    "--sweep hirst=0.7": "--sweep hirst: train.py has no such flag; did you mean --hurst?",
    "--sweep hurst=0.7,high": "--sweep hurst=high: argument --hurst: 'high' is no number",
    "--sweep hurst=0.7,1.5": "--sweep hurst=1.5: --hurst must lie in (0, 1), got 1.5",
    "--sweep seed=4294967296": "--seed must be at most 4294967295",
    "--sweep seed=0,1 --sweep hurst=0.7,0.70": "--sweep hurst: 0.7,0.70 names a value twice",
    "--sweep seed=1,1": "--sweep seed: names 1 twice",
    "--sweep seed=1 --sweep seed=2": "--sweep seed: is swept twice",
    "--sweep seed=1,2 --seed 3": "--seed is given, and swept too",
    "--sweep seed=0-9,3": "argument --seed: '0-9' is no whole number",
    "--sweep sigma_max=3,4": "--sigma_max has no effect on --dynamics fvp",
    "--sweep dynamics=fvp,vp --hurst 0.7": "--sweep dynamics=vp: --hurst has no effect on --dynamics vp",
    "--sweep wb_id=a,b": "--sweep wb_id: cannot be swept",
    "--sweep resume=a,b": "--sweep resume: cannot be swept",
    "--sweep output_dir=a,b": "--sweep output_dir: cannot be swept",
    "--sweep device=cpu,cuda": "--sweep device: cannot be swept",
    "--sweep sweep_jobs=1,2": "--sweep sweep_jobs: cannot be swept",
    f"--sweep seed={','.join(map(str, range(1001)))}": "makes 1,001 trainings, more than 1,000",
    "--sweep channel_mult=1,2;1,2,3,4,5,6": "--sweep channel_mult=1,2,3,4,5,6: --image_size must be a",
    "--sweep seed=0,1 --nonsense 3": "unrecognized arguments: --nonsense 3",
    "--sweep seed=0,1 --data_name mnist --data_dir no": "--data_dir",
    "--sweep seed=0,1 --resume other": "--resume other and --sweep exclude each other",
    "--sweep seed=0,1 --check_data": "--check_data and --sweep exclude each other",
    "--sweep seed=0,1 --wb_key abcdefgh": "--wb_key and --sweep exclude each other: keep the key in .env",
    "--sweep seed=0,1 --sweep_member 2": "--sweep_member 2 is beyond the last of 2 members, 1",
    "--sweep seed=0,1 --sweep_member 1 --sweep_slurm x": "--sweep_member and --sweep_slurm exclude each other",
    "--sweep seed=0,1 --sweep_metric loss": "--sweep_metric loss: there are val/loss, train/loss",
    "--sweep seed=0,1 --sweep_metric eval/sw": "--sweep_metric eval/sw needs --eval_every",
    "--sweep_jobs 2": "--sweep_jobs has no effect without --sweep",
    f"--sweep seed=0,1 --wb_id {'x' * 150}": "--sweep leads to names of 156 letters",
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line[:60])
def test_what_is_refused_before_the_first_member(line, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    said = refusal(*line.split())
    assert REFUSED[line] in said
    assert "\n" not in said
    assert "abcdefgh" not in said
    assert not any(Path().iterdir())  # nothing is written


def test_it_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--sweep", "hirst=1"])
    assert end.value.code == 2
    assert (
        capsys.readouterr().err == "train.py: error: --sweep hirst: train.py has no such flag; did you mean --hurst?\n"
    )


# -- how they run -----------------------------------------------------------------------------------------------------

# train.py as far as a sweep can tell: SEED 1 fails, SEED 2 is killed, SEED 3 waits for a signal, SEED 7 fails once
PROGRAM = """
import hashlib, json, os, pathlib, signal, sys, time
given = dict(word[2:].split("=") for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path("runs", given["wb_id"] + "_digits_H0.9_K2")
(folder / "model").mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text("{}")
log = open("trained", "a")
print(given["wb_id"], given.get("max_time", ""), "begins", file=log, flush=True)
seed = int(given["seed"])
if seed == 1:
    print("train.py: error: the loss became NaN at step 3; no checkpoint was written yet", file=sys.stderr)
    sys.exit(1)
if seed == 7 and not (folder / "refused").exists():
    (folder / "refused").touch()
    sys.exit(2)
if seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 3 and not (folder / "stopped").exists():
    def stop(*_):
        (folder / "stopped").touch()
        sys.exit(130)
    signal.signal(signal.SIGTERM, stop)
    pathlib.Path("ready").touch()
    time.sleep(60)
time.sleep(0.3)
(folder / "metrics.csv").write_text("step,train/loss,train/images_per_s,val/loss\\n"
    f"2,{0.5 + seed},{time.time()},\\n4,{0.25 + seed},9,{0.125 + seed}\\n")
files = {}
for kind in ("model", "ema_model"):
    (folder / "model" / f"{kind}-final.pth").write_bytes(b"x")
    files[f"model/{kind}-final.pth"] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
(folder / "manifest.json").write_text(json.dumps({"format": 1, "made": "", "files": files}))
print(given["wb_id"], "", "ends", file=log, flush=True)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A sweep whose members are the program above; returns the exit code."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(running, "OFTEN", 0.02)
    with stopping.kept():
        yield lambda *words: running.sweep(asked(*words, "--wb_id=a"), tmp_path / "program.py")


def trained() -> list[str]:
    """When members began and ended."""
    lines = map(str.split, Path("trained").read_text().splitlines())
    return [f"{words[0]} {words[-1]}" for words in lines]


def test_members_run_one_after_the_other_and_never_again(run, capsys):
    words = ("--sweep", "seed=4,0,5")
    assert run(*words) == 0
    assert trained() == [f"a-seed{seed} {what}" for seed in (4, 0, 5) for what in ("begins", "ends")]
    table = rows(Path("runs/a/sweep.csv"))
    assert [row["val/loss"] for row in table] == ["4.125", "0.125", "5.125"]
    assert list(table[0]) == ["run", "seed", "state", "step", "train/loss", "val/loss"]  # nothing of the clock
    assert table[1] == {
        "run": f"a-seed0_{LABEL}", "seed": "0", "state": "finished", "step": "4",
        "train/loss": "0.25", "val/loss": "0.125"
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "best      a-seed0, val/loss 0.125\n" in out
    assert "finished  2/3 a-seed0: step 4 of" in out
    assert np.array(Image.open("runs/a/sweep.png").convert("L")).std() > 5
    before = Path("runs/a/sweep.csv").read_bytes()
    shutil.rmtree("runs/a/logs")
    assert run(*words) == 0
    assert len(trained()) == 6
    assert Path("runs/a/sweep.csv").read_bytes() == before
    assert "3 trainings, 3 of them finished" in capsys.readouterr().out


def test_two_at_once(run):
    assert run("--sweep", "seed=0,4,5,6", "--sweep_jobs", "2") == 0
    now, most = 0, 0
    for line in trained():
        now += 1 if line.endswith("begins") else -1
        most = max(most, now)
    assert most == 2


def test_a_member_that_fails_is_told_and_the_others_go_on(run, capsys):
    assert run("--sweep", "seed=1,2,4") == 1
    out = capsys.readouterr().out
    assert (
        "failed    1/3 a-seed1: exit code 1: the loss became NaN at step 3; no checkpoint was written yet (log: " in out
    )
    assert "failed    2/3 a-seed2: killed by SIGKILL (for want of memory?)" in out
    assert [row["state"] for row in rows(Path("runs/a/sweep.csv"))] == ["failed", "failed", "finished"]
    assert run("--sweep", "seed=1,2,4") == 1
    assert [line for line in trained() if "seed4" in line] == ["a-seed4 begins", "a-seed4 ends"]
    assert trained().count("a-seed1 begins") == 2


def test_a_signal_stops_all_members_and_the_same_command_goes_on(run, capsys, monkeypatch):
    wait = time.sleep

    def stopped_when_ready(seconds):
        wait(seconds)
        if Path("ready").exists():
            Path("ready").unlink()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(running.time, "sleep", stopped_when_ready)
    words = ("--sweep", "seed=0,3,4")
    assert run(*words) == 130
    out = capsys.readouterr().out
    assert "stopped   2/3 a-seed3: starting\n" in out
    assert "1 of 3 trainings are finished; go on with: python train.py --sweep=seed=0,3,4 --wb_id=a\n" in out
    assert [row["state"] for row in rows(Path("runs/a/sweep.csv"))] == ["finished", "stopped", "not begun"]
    assert "a-seed4 begins" not in trained()
    assert run(*words) == 0
    assert [row["state"] for row in rows(Path("runs/a/sweep.csv"))] == ["finished"] * 3


def test_time_is_of_the_whole(run, capsys, monkeypatch):
    monkeypatch.setattr(running.Sweep, "_is_time", lambda _: not Path("trained").exists())
    assert run("--sweep", "seed=0,4,5", "--max_time", "1h") == 0
    (left,) = re.findall(r"^a-seed0 ([\d.]+)s begins", Path("trained").read_text())
    assert 3500 < float(left) < 3600  # what the sweep has left, not what it had
    assert "time is up; 2 of 3 trainings are not finished; go on with: " in capsys.readouterr().out


def test_a_member_that_another_process_trains_is_waited_for(run, capsys, monkeypatch):
    other, wait = contextlib.ExitStack(), time.sleep
    other.enter_context(locked(Path("runs", f"a-seed0_{LABEL}"), "train.py"))

    def done_when_the_rest_is(seconds):
        wait(seconds)
        if Path("trained").exists() and "a-seed4 ends" in trained():
            other.close()

    monkeypatch.setattr(running.time, "sleep", done_when_the_rest_is)
    assert run("--sweep", "seed=0,4") == 0
    assert trained() == [f"a-seed{seed} {what}" for seed in (4, 0) for what in ("begins", "ends")]
    assert capsys.readouterr().out.count("wait      1/2 a-seed0: train.py (process ") == 1


@pytest.mark.parametrize("damaged", ["model/ema_model-final.pth", pytest.param("config.json", marks=pytest.mark.slow)])
def test_a_member_that_was_damaged_is_not_finished(run, capsys, damaged):
    """Its training makes final weights again; as they are, nobody could use what the table calls best."""
    assert run("--sweep", "seed=0,4") == 0
    folder = Path("runs", f"a-seed4_{LABEL}")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"] = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run("--sweep", "seed=0,4") == 0
    assert len(trained()) == 4
    (folder / damaged).write_bytes(b"")
    assert run("--sweep", "seed=0,4") == 0
    assert trained()[4:] == ["a-seed4 begins", "a-seed4 ends"]
    assert "2 trainings, 1 of them finished" in capsys.readouterr().out


def test_a_member_that_somebody_took_first_has_not_failed(run, capsys, monkeypatch):
    """A sweep that was killed leaves a member that may not have its lock yet when the sweep is started again."""
    other, seen = contextlib.ExitStack(), []
    there = running.owner_of

    def late(folder):
        found = there(folder)
        seen.append(found)
        if len(seen) == 1:  # nobody yet; a moment later somebody is
            other.enter_context(locked(folder, "train.py"))
        elif len(seen) == 3:
            other.close()
        return found

    monkeypatch.setattr(running, "owner_of", late)
    assert run("--sweep", "seed=7") == 0
    assert trained() == ["a-seed7 begins", "a-seed7 begins", "a-seed7 ends"]
    assert "wait      1/1 a-seed7: train.py (process " in capsys.readouterr().out
    assert [row["state"] for row in rows(Path("runs/a/sweep.csv"))] == ["finished"]


def test_another_command_under_the_same_id(run):
    again = ("--sweep", "seed=0,4", "--lr", "1e-4", "--num_workers", "0", "--wb_id", "a")
    assert run(*again) == 0
    for words, said in (
        ("seed=0,4,5 --lr 1e-4", "--sweep seed=0,4,5 contradicts the sweep a, which has seed=0,4"),
        ("lr=1e-4,1e-5", "--sweep lr=0.0001,1e-05 contradicts the sweep a, in which lr is not swept"),
        ("seed=0,4 --lr 2e-4", "--lr 0.0002 contradicts the sweep a, which has 0.0001"),
        ("seed=0,4", "--lr missing contradicts the sweep a, which has 0.0001"),
        ("seed=0,4 --lr 1e-4 --dropout 0.1", "--dropout 0.1 contradicts the sweep a, which was begun without it"),
    ):
        assert refusal("--sweep", *words.split(), "--wb_id", "a").startswith(said)
    assert run("--sweep", "seed=0,4", "--lr", "1e-4", "--num_workers", "1", "--sweep_jobs", "2") == 0
    Path("runs/b").mkdir()
    Path("runs/b/mine").touch()
    assert "runs/b is there, and is no sweep" in refusal("--sweep", "seed=0,4", "--wb_id", "b")
    Path("runs/a/logs/a-seed9.log").symlink_to("elsewhere")
    assert "a-seed9.log is a symbolic link, through which nothing is written" in refusal(*again)
    Path("runs/a/sweep.json").write_text('{"format": 1, "sweep": 3}')
    assert "runs/a/sweep.json does not say what the sweep is" in refusal("--sweep", "seed=0,4", "--wb_id", "a")


def test_cores_and_gpus_are_shared():
    assert share(0, 1, ["0", "1"], 8) == {}
    assert share(1, 2, [], 8) == {"OMP_NUM_THREADS": "4"}
    assert [share(i, 2, ["0", "1", "2", "3"], 2)["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["0,1", "2,3"]
    assert [share(i, 3, ["5", "7"], 2)["CUDA_VISIBLE_DEVICES"] for i in range(3)] == ["5", "7", "5"]


def test_how_far_a_log_is(tmp_path):
    log = tmp_path / "metrics.csv"
    assert newest(log) == (0, None)
    lines = [f"{step},{step / 7:.5f}," for step in range(50, 50_000, 50)]
    log.write_text("\n".join(["step,train/loss,val/loss", *lines, "50000,,0.25", "50050,0.1"]))
    assert newest(log) == (50_000, round(49_950 / 7, 5))


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_has_a_line_for_each_value_of_the_others():
    swept = (Axis("lr", ("1e-05", "0.001", "0.1")), Axis("hurst", ("0.7", "0.9")), Axis("seed", ("0", "1")))
    points = {
        (lr, h, seed): float(h) + i + int(seed) / 4
        for i, lr in enumerate(swept[0].values) for h in ("0.7", "0.9") for seed in ("0", "1")
    }  # fmt: skip
    (plot,) = sweep_figure(swept, points, "val/loss", -1).axes
    lines = {line.get_label(): line for line in plot.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["hurst 0.7", "hurst 0.9"]
    assert lines["hurst 0.9"].get_xdata().tolist() == [1e-5, 1e-3, 0.1]
    assert lines["hurst 0.9"].get_ydata() == pytest.approx([0.9 + i + 1 / 8 for i in range(3)])  # the mean over seeds
    assert (plot.get_xscale(), plot.get_xlabel(), plot.get_ylabel()) == ("log", "lr", "val/loss")
    (ring,) = [line for line in plot.get_lines() if line.get_fillstyle() == "none"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((1e-5, 0.7 + 1 / 8))


def test_which_figures_are_better_if_they_are_less():
    assert [better(name) for name in ("val/loss", "eval/sw", "eval/kid@pixels", "eval/is@inception", "eval/none")] == [
        -1, -1, -1, 1, 0
    ]  # fmt: skip


def test_two_flags_of_many_values_are_a_map():
    swept = (Axis("num_aug", ("1", "2", "3", "4")), Axis("lr_schedule", ("a", "b", "c", "d", "e")))
    points = {(a, b): int(a) + i / 10 for a in swept[0].values for i, b in enumerate(swept[1].values)}
    del points["2", "c"]  # it failed
    plot = sweep_figure(swept, points, "eval/sw", -1).axes[0]
    (image,) = plot.get_images()
    field = np.ma.filled(image.get_array(), np.nan)
    assert field.shape == (4, 5)
    assert field[3, 4] == pytest.approx(4.4)
    assert np.argwhere(np.isnan(field)).tolist() == [[1, 2]]


# -- job arrays -------------------------------------------------------------------------------------------------------


def test_a_job_script(tmp_path, capsys):
    words = "--sweep hurst=0.7,0.9 channel_mult=1,2;1,1 --name x --lr 1e-4 --wb_id a --sweep_slurm job.sh"
    assert train.train(words.replace(";", r"\;")) == 0
    assert "next      sbatch job.sh\n" in capsys.readouterr().out
    script = Path("job.sh").read_text()
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    assert "--array=0-3 " in script
    ids = [f"a-hurst{h}-channel-mult1-{m}" for h in ("0.7", "0.9") for m in ("2", "1")]
    assert f"IDS=({' '.join(ids)})\n" in script
    assert subprocess.run(["bash", "-n", "job.sh"]).returncode == 0
    (line,) = re.findall(r"^srun python train\.py (.*) \|\| exit$", script, flags=re.MULTILINE)
    again = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "2"))
    found = asked(*again)
    assert [member.id for member in found.members] == ids
    assert (found.asked.sweep_member, found.command.max_time) == (2, OfJob())
    assert "job.sh is there already" in refusal(*words.split())
    limited = script_of(asked("--sweep", "seed=0,1", "--max_time", "30m", "--devices", "2", "--wb_id", "a"))
    assert "--max_time=1800s --sweep_member" in limited
    assert "--gpus-per-node=2 --ntasks-per-node=2 " in limited


def test_a_job_script_says_of_a_folder_what_no_shell_runs(tmp_path):
    place = tmp_path / "a\ntouch stolen\n$(touch stolen) `touch stolen` 'x"
    (tmp_path / "job.sh").write_text(
        script_of(asked("--sweep", "seed=0,1", "--wb_id", "a", "--output_dir", str(place)))
    )
    subprocess.run(["bash", "job.sh"], capture_output=True, env={"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0"})
    assert not Path("stolen").exists()


@pytest.mark.parametrize(("code", "finished"), [(0, False), (0, True), (130, False)])
def test_a_task_of_the_array_asks_for_another_only_if_time_was_up(tmp_path, code, finished):
    (tmp_path / "job.sh").write_text(script_of(asked("--sweep", "seed=0,1", "--wb_id", "a")))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    final = Path("runs", f"a-seed1_{LABEL}", "model", "model-final.pth")
    make = f"mkdir -p {final.parent}; touch {final}" if finished else "true"
    for name, text in (
        ("srun", '"$@"'), ("scontrol", 'echo "$@" > asked'), ("python", f'echo "$@" > words; {make}; exit {code}')
    ):  # fmt: skip
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    slurm = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "job.sh"], env={**os.environ, **slurm}, capture_output=True).returncode == code
    assert Path("words").read_text().endswith("--max_time=job --sweep_member 1\n")
    wants = code == 0 and not finished
    assert Path("asked").exists() == wants
    assert not wants or Path("asked").read_text() == "requeue 7_1\n"


def test_members_one_by_one_are_ordinary_runs(capsys, monkeypatch):
    interrupted.make_quick(monkeypatch.setattr)
    words = tiny.command("--sweep", "lr=1e-3,1e-2", **SHORT, wb_id="a")
    assert train.train([*words, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "member    a-lr0.001: lr=0.001\nmember    a-lr0.01: lr=0.01\n" in out
    assert "sweep     2 trainings, 1 at once" in out
    assert not Path("runs").exists()
    for number in (1, 0):
        assert train.train([*words, "--sweep_member", number]) == 0
    monkeypatch.setattr(subprocess, "Popen", None)  # both are finished
    assert train.train(words) == 0
    out = capsys.readouterr().out
    assert "2 trainings, 2 of them finished" in out
    assert [folder.name for folder in run_folders(Path("runs"))] == [f"a-lr0.01_{LABEL}", f"a-lr0.001_{LABEL}"]
    assert find("latest", Path("runs")).name == f"a-lr0.001_{LABEL}"
    assert find("a-lr0.001", Path("runs")).name == f"a-lr0.001_{LABEL}"
    for row, lr in zip(rows(Path("runs/a/sweep.csv")), ("0.001", "0.01"), strict=True):
        last = tiny.lines(Path("runs", f"a-lr{lr}_{LABEL}"))[-1]
        assert (row["val/loss"], row["train/loss"], row["lr"]) == (last["val/loss"], last["train/loss"], lr)
    plain = tiny.command(**SHORT, wb_id="b", lr="1e-2")
    assert train.train(plain) == 0
    assert tiny.difference(Path("runs", f"a-lr0.01_{LABEL}"), Path("runs", f"b_{LABEL}")) == 0


# -- kills ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def started():
    """Starts train.py in a folder, as the first of a process group; nobody of that is left after the test."""
    processes = []

    def start(folder: Path, words: list[str]) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, str(ROOT / "train.py"), *words]
        with (folder / "log.txt").open("ab") as log:
            streams = {"stdout": log, "stderr": log, "start_new_session": True}
            processes.append(subprocess.Popen(command, cwd=folder, env=environment, **streams))
        return processes[-1]

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_a_checkpoint(process: subprocess.Popen, run: Path) -> None:
    while not (found := list(run.glob("checkpoints/step-*.ckpt"))):
        assert process.poll() is None
        time.sleep(0.05)
    assert load_checkpoint(sorted(found)[0])["global_step"] < KILLED["train_steps"]


KILLED = {**tiny.FLAGS, "train_steps": 120, "batch_size": 8, "checkpoint_every": 10, "log_every": 10, "wb_id": "k"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_that_was_killed_twice_ends_as_one_that_was_not(tmp_path, started, jobs):
    words = tiny.command("--sweep", "hurst=0.7,0.9", "--sweep", "lr=1e-3,4e-3", **KILLED, sweep_jobs=jobs)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(whole, words).wait() == 0
    first, third = "k-hurst0.7-lr0.001_digits_H0.7_K2", "k-hurst0.9-lr0.001_digits_H0.9_K2"
    process = started(killed, words)
    wait_for_a_checkpoint(process, killed / "runs" / first)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process = started(killed, words)
    wait_for_a_checkpoint(process, killed / "runs" / third)
    assert (killed / "runs" / first / "model" / "model-final.pth").exists()
    process.terminate()
    assert process.wait() == 130
    assert not (killed / "runs" / third / "model" / "model-final.pth").exists()
    assert started(killed, words).wait() == 0
    assert (killed / "runs/k/sweep.csv").read_bytes() == (whole / "runs/k/sweep.csv").read_bytes()
    assert differences(killed / "runs", whole / "runs") == []
    assert len(rows(killed / "runs/k/sweep.csv")) == 4
    assert "Traceback" not in (killed / "log.txt").read_text()
