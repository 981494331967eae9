"""Shells, notebooks and jobs as people have them; every case names the thread that its symptom comes from."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch._inductor.config as inductor
from lightning.pytorch.utilities import rank_zero_only

from common.config import environment
from common.config.env_file import read_env_file
from common.config.environment import OF_SRUN, leave_to_others
from common.training import wandb_logger
from tests.cli.test_wrong_input import refused
from tests.test_imports import ROOT
from tests.training import tiny

FLAGS = tiny.command(**tiny.FLAGS, train_steps=2, batch_size=2, val_check_interval=9, wb_id="a")
FOLDER = "a_digits_H0.9_K2"
WHOLE = {"config.json", "environment.txt", "metrics.csv", "real.safetensors", "model", "checkpoints", "manifest.json"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}
SRUN |= {"SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}


def program(name: str, *words: object, without: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess:
    """Run a program as a process of its own, with some variables of the environment."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, ROOT / f"{name}.py", *map(str, words)],
        env={**kept, **given, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


# -- programs that a variable stopped, or misled ----------------------------------------------------------------------

TRIPPED = {
    "kohya_ss#2521: a notebook's backend": ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ""),
    "pytorch-lightning#7003: a rank of nobody wrote half a run": ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK left out"),
    "numexpr#472: set to nothing to unset it": ({"LOCAL_RANK": "", "SLURM_NTASKS": ""}, "LOCAL_RANK left out"),
    "pytorch-lightning#19762: a shell in a job": (
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "zsh", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
        "SLURM_NTASKS, SLURM_PROCID left out: srun has not started this process",
    ),
}
HARMLESS = {  # which tripped nothing; at once, since a training takes seconds
    "TMPDIR": "/nonexistent",  # open-r1#488
    "MPLCONFIGDIR": "/proc/nope",  # matplotlib#832
    "OMP_NUM_THREADS": "",  # numexpr#318
    "CUDA_VISIBLE_DEVICES": "-1",
    "COLUMNS": "0",
    "TERM": "nonsense",
    "NO_COLOR": "1",
    "LC_ALL": "xx_YY.nonsense",
    "PYTHONHASHSEED": "7",
    "http_proxy": "http://127.0.0.1:9",
    "NODE_RANK": "1",  # pytorch-lightning#5651
    "MASTER_PORT": "nonsense",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",  # LoRA_Easy_Training_Scripts#314
}


@pytest.mark.slow  # each alone; all of them at once below
@pytest.mark.parametrize(("variables", "told"), TRIPPED.values(), ids=TRIPPED)
def test_leftovers_do_not_mislead_a_training(variables, told):
    result = program("train", *FLAGS, **variables)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert told in result.stderr
    assert {path.name for path in Path("runs", FOLDER).iterdir()} >= WHOLE


def test_much_at_once_is_borne():
    """All of that, and a name with letters that the output has not (this one tripped)."""
    tripped = {name: value for variables, _ in TRIPPED.values() for name, value in variables.items()}
    result = program("train", *FLAGS, "--output_dir", "läufe", without=("HOME",), **HARMLESS, **tripped)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "SLURM_NTASKS, SLURM_PROCID left out: srun has not started this process" in result.stderr
    assert "RANK, LOCAL_RANK left out: torchrun has not started this process" in result.stderr
    assert r"l\xe4ufe" in result.stdout
    assert {path.name for path in Path("läufe", FOLDER).iterdir()} >= WHOLE


@pytest.mark.slow
def test_help_without_docstrings(cli, monkeypatch):
    """docopt#515, pyexcel#270: under python -OO there are none, and ours are the texts of the flags."""
    monkeypatch.setenv("COLUMNS", "0")
    plain = cli("generate", "--help")
    without = program("generate", "--help", PYTHONOPTIMIZE="2", PYTHONDONTWRITEBYTECODE="1")
    assert plain.out == without.stdout
    assert "see its documentation" not in plain.out


# -- who started this process -----------------------------------------------------------------------------------------

RANKS = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
STARTED = [  # what there is, and what is taken out of it
    ({}, set()),
    (RANKS, set()),  # torchrun
    ({**RANKS, "LOCAL_RANK": "x"}, {"RANK", "LOCAL_RANK"}),
    ({"RANK": "0"}, {"RANK"}),
    ({"LOCAL_RANK": "1"}, set()),  # Lightning's own
    (SRUN, set()),
    ({**SRUN, **RANKS}, set()),  # torchrun under srun
    ({**SRUN, "SLURM_JOB_NAME": "bash"}, {*OF_SRUN} & SRUN.keys()),
    ({name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}, {*OF_SRUN} & SRUN.keys()),  # salloc
    ({"SLURM_JOB_ID": "7"}, set()),
]


@pytest.mark.parametrize(("variables", "left_out"), STARTED)
def test_what_a_launcher_left_is_told_from_what_it_set(variables, left_out):
    found = dict(variables)
    notes = leave_to_others(found)
    assert found == {name: value for name, value in variables.items() if name not in left_out}
    assert len(notes) == bool(left_out)
    assert all(name in notes[0] for name in left_out)
    assert leave_to_others(found) == []


def test_a_task_with_a_terminal_is_a_shell(monkeypatch):
    """pytorch-lightning#16955: srun --pty, whatever the job is called."""
    monkeypatch.setattr(
        environment.sys, "stdin", type("Terminal", (), {"closed": False, "isatty": lambda self: True})()
    )
    assert leave_to_others(dict(SRUN))


NUMBERED = "--devices leads to one process, but a launcher has numbered this one 1 ($RANK, LOCAL_RANK)"


def test_a_number_that_no_process_has_is_refused(cli, monkeypatch):
    """A second process of one trained alone, wrote weights and a checkpoint, and no config.json."""
    for name, value in RANKS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # which Lightning has taken from them when it is imported
    refused(cli("train", *FLAGS), "train", re.escape(NUMBERED))
    assert not Path("runs").exists()


@pytest.mark.slow
def test_so_is_a_process_of_its_own():
    result = program("train", *FLAGS, **RANKS)
    assert result.returncode == 2
    assert NUMBERED in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("runs").exists()


# -- paths ------------------------------------------------------------------------------------------------------------

PATHS = [  # programs with every flag that names a path
    ("train", (*FLAGS, "--resume", "{}x.ckpt"), "--resume {}x.ckpt: no such file"),
    ("train", (*FLAGS, "--init_from={}x"), "--init_from {}x: no such run"),
    ("train", (*FLAGS, "--plugin={}x.py"), "--plugin {}x.py: no such module"),
    ("train", ("--data_name", "mnist", "--data_dir={}x"), "in {}x/MNIST/raw"),
    ("generate", ("--run_id={}x",), "--run_id {}x: runs is not there"),
    ("generate", ("--run_id", "x", "--output_dir={}x"), "--run_id x: {}x is not there"),
    ("evaluate", ("--run_id={}x",), "--run_id {}x: runs is not there"),
    ("evaluate", ("--run_id", "x", "--output_dir={}x"), "--run_id x: {}x is not there"),
]


@pytest.mark.parametrize(("name", "words", "told"), PATHS)
def test_home_is_meant_by_a_tilde(cli, monkeypatch, tmp_path, name, words, told):
    """cockroach#14435: in --flag=~/x no shell expands it, and a folder ~ was made."""
    home = f"{tmp_path}/home/"
    monkeypatch.setenv("HOME", home)
    result = cli(name, *(word.replace("{}", "~/") for word in words))
    assert told.replace("{}", home) in result.err
    assert (result.code, result.written) == (2, [])
    refused(cli(name, *(word.replace("{}", "~nobody-of-that-name/") for word in words)), name, "~nobody-of-that-name")


@pytest.mark.parametrize("where", ["shell", ".env"])
def test_home_is_meant_in_data_root_too(cli, monkeypatch, tmp_path, where):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if where == "shell":
        monkeypatch.setenv("DATA_ROOT", "~/data")
    else:
        Path(".env").write_text("DATA_ROOT=~/data\n")
    assert f"in {tmp_path}/home/data/MNIST/raw" in cli("train", "--data_name", "mnist").err


def test_runs_go_home(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli("train", *FLAGS, "--output_dir=~/runs").code == 0
    assert Path("home/runs", FOLDER, "config.json").is_file()
    assert not list(Path().glob("~*"))


BYTES = [
    ("train", (*FLAGS, "--output_dir", "r\udcff")),
    ("train", ("--data_name", "folder", "--data_dir", "d\udcff", "--wb_id", "a")),
    ("train", (*FLAGS, "--plugin=p\udcff.py")),
    ("train", ("--wb_id", "a\udcff")),
    ("generate", ("--run_id", "a\udcff")),
    ("evaluate", ("--run_id", "a", "--data_dir", "\udcc3\udcbc")),  # an umlaut, in a locale without
]


@pytest.mark.parametrize(("name", "words"), BYTES)
def test_bytes_that_are_no_letters_are_refused(cli, name, words):
    """finetune_alexnet_with_tensorflow#34 and pages-build-container#98: surrogates not allowed, half way."""
    refused(cli(name, *words), name, r"\\udc.*: no text in utf-8; rename what it names, or go there")


def test_a_working_folder_of_such_bytes_works(cli, monkeypatch):
    folder = Path("r\udcff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert cli("train", *FLAGS).code == 0
    assert cli("train", *FLAGS, "--wb_id", "b", "--init_from", "a").code == 0
    assert cli("generate", "--run_id", "b", "--steps", 2, "--n_samples", 2).code == 0
    assert cli("evaluate", "--run_id", "b", "--metrics", "nearest").code == 0


# -- W&B --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "words", "project"),
    [
        (None, (), "diffusion"),
        ("my_project", (), "my_project"),
        ("my_project", ("--wb_project", "other_one"), "other_one"),
        ("", (), "diffusion"),
    ],
)
def test_the_project_is_that_of_the_flag_or_of_the_variable(cli, monkeypatch, variable, words, project):
    """pytorch-lightning#16028, wandb#949: the variable is the default of the flag; a run stays in its project."""
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    assert cli("train", *FLAGS, *words).code == 0
    stored = json.loads(Path("runs", FOLDER, "config.json").read_text())
    assert stored["keeping"]["wb_project"] == project


def test_which_project_was_taken_is_told(monkeypatch, tmp_path, capfd):
    started = []
    monkeypatch.setattr(wandb_logger, "wandb_settings", lambda: SETTINGS)
    monkeypatch.setattr(wandb_logger, "start_run", lambda *given: started.append(given) or Started(tmp_path))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb_logger.weights_and_biases(tmp_path, "run", {}, "mine")
    assert "logged offline in project mine, as $WANDB_PROJECT says; " in capfd.readouterr().err
    wandb_logger.weights_and_biases(tmp_path, "run", {}, "theirs")
    assert (
        "the project is theirs, by --wb_project or the run's config.json, not $WANDB_PROJECT" in capfd.readouterr().err
    )
    assert [given[3] for given in started] == ["mine", "theirs"]


@dataclasses.dataclass
class Started:
    folder: Path


SETTINGS = type("Settings", (), {"mode": "offline"})()


def test_what_is_no_project_is_refused(cli, monkeypatch):
    refused(cli("train", *FLAGS, "--wb_project", "a/b"), "train", "--wb_project.*1 to 128 characters")
    monkeypatch.setenv("WANDB_PROJECT", "a#b")
    refused(cli("train", *FLAGS), "train", r"\$WANDB_PROJECT 'a#b': use 1 to 128 characters")


def test_an_env_file_names_a_project():
    Path(".env").write_text("WANDB_PROJECT=my_project\n")
    assert read_env_file() == []
    assert os.environ["WANDB_PROJECT"] == "my_project"


# -- torch.compile ----------------------------------------------------------------------------------------------------


def test_a_missing_compiler_is_told_before_a_run_is_there(cli):
    """marie-ai#94, pytorch#92745: it was told at the first step, and the id was taken."""
    with inductor.patch({"cpp.cxx": (None, "/nonexistent/g++")}):  # setattr would leave torch without the setting
        result = cli("train", *FLAGS, "--compile")
    refused(result, "train", "--compile True: torch.compile does not work here .*No working C.. compiler.*leave it out")
    assert not Path("runs").exists()
