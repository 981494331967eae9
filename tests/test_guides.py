"""The guides in docs: what they tell a user to do is done, in small."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed import run as torchrun

import args
import train
from benchmarks.quality_functions import damped_sines
from common import runs
from common.data.trees import LARGEST_MEMBER
from common.guidance import METHODS
from common.guidance.tasks import TASKS
from common.media.grids import visible_scale
from common.metrics import DEFAULTS, METRICS
from common.metrics.agreement import PixelClassifier
from common.metrics.features import FEATURES
from common.metrics.protocols import PROTOCOLS
from common.samplers import renoise_times
from tests.cluster.joined import free_port
from tests.cluster.slurm import Job, options_of, sbatch
from tests.documents import ROOT, blocks, commands, run
from tests.training import tiny

LENGTHS = {
    "quickstart.md": 120,
    "functions.md": 120,
    "images.md": 80,
    "metrics.md": 120,
    "python.md": 120,
    "sounds.md": 60,
    "cluster.md": 170,
    "tuning.md": 70,
    "conditional.md": 115,
}
GUIDES = {name: (ROOT / "docs" / name).read_text() for name in LENGTHS}
UNET = shlex.split("--model_channels 16 --channel_mult 1,1 --attn_resolutions 2 --num_res_blocks 1 --batch_size 8")
UNET1D = shlex.split("--model_channels 8 --channel_mult 2,2 --batch_size 32")
SHORT = shlex.split("--train_steps 4 --val_check_interval 4 --device cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder with images in DIR, in two classes."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        path = tmp_path / "DIR" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50), (20 * i, 100, 200)).save(path)
    return tmp_path


def python(name: str) -> list[str]:
    return blocks(GUIDES[name], "python")


@pytest.mark.parametrize("name", LENGTHS)
def test_guides_are_short(name):
    assert len(GUIDES[name].splitlines()) <= LENGTHS[name]
    assert f"docs/{name}" in (ROOT / "README.md").read_text()


def test_quickstart(folder, capsys):
    for demo in ("mnist-demo_mnist_H0.9_K3", "digits-demo_digits_H0.9_K2", "digits-heat-demo_digits_heat_uvit"):
        assert demo.partition("_")[0] in GUIDES["quickstart.md"]
        assert (ROOT / "runs" / demo / "config.json").is_file()
    shutil.copytree(
        ROOT / "runs" / "mnist-demo_mnist_H0.9_K3",
        folder / "runs" / "mnist-demo_mnist_H0.9_K3",
        ignore=shutil.ignore_patterns("generated_data"),
    )
    own = []
    for command in commands(GUIDES["quickstart.md"]):
        more = ["--steps", "3"] if command[0] == "generate.py" else []
        if command[0] == "train.py" and "--resume" not in command:
            more = [*UNET, *SHORT]
        if "--data_dir" in command:  # stopped, as if by Ctrl-C, and gone on with by a later line
            own = [*command, *UNET, *SHORT]
            more += ["--max_time", "0.001s"]
        run(command, *more)
    out = capsys.readouterr().out
    assert "images    from 50x40, cropped to 40x40, resized to 32x32\n" in out
    assert re.search(r"mine_folder_H0.9_K2, goes on at step [123] ", out)
    for place in ("loss.png", "samples/step-*.png", "generated_data/model-final/*/grid.png"):
        assert list(folder.glob(f"runs/first_digits_H0.9_K2/{place}"))
        assert list(folder.glob(f"runs/mine_folder_H0.9_K2/{place}"))
    run(own, "--image_size", "48x32", "--wb_id", "tall")
    assert runs.load("tall").data.shape == (3, 48, 32)
    for block in python("quickstart.md"):
        exec(compile(block, "quickstart.md", "exec"), {})
    assert "(4, 8, 8, 1) 10" in capsys.readouterr().out


@pytest.mark.slow
def test_metrics(folder, capsys):
    for name in ("first", "second"):
        run(["train.py", "--preset", "digits", "--wb_id", name, *UNET, *SHORT])
        run(["generate.py", "--run_id", name, "--n_samples", "20", "--steps", "2"])
    drawn = ["--n_samples", "20", "--steps", "2"]
    run(["evaluate.py", "--run_id", "second", *drawn, "--metrics", "sw,fid", "--features", "pixels"])
    shutil.copytree(folder / "DIR", folder / "REAL")
    for command in commands(GUIDES["metrics.md"]):
        words = ["20" if word == "1000" else word for word in command]
        small = ["--image_size", "8"] if "--reference" in words else []
        run(words, *small, *([] if "--compare" in words else ["--features", "pixels"]))
    assert r"\begin{tabular}" in (folder / "table.tex").read_text()
    out = capsys.readouterr().out
    assert "verdict   " in out
    told = [name for name in (*METRICS, *FEATURES, *PROTOCOLS) if f"`{name}`" not in GUIDES["metrics.md"]]
    assert told == []
    assert f"`{'`, `'.join(DEFAULTS)}` are the default" in " ".join(GUIDES["metrics.md"].split())
    names = [features.name for features in FEATURES.values() if features.automatic]
    assert f"the first of `{'`, `'.join(names)}` that is there" in GUIDES["metrics.md"]


@pytest.mark.slow
def test_images(folder, capsys):
    for command in commands(GUIDES["images.md"]):
        trains = command[0] == "train.py" and "--check_data" not in command
        run(command, *([*UNET, *SHORT] if trains else []), *(["--steps", "3"] if command[0] == "generate.py" else []))
    out = capsys.readouterr().out
    assert (folder / "runs" / "check-folder.png").is_file()
    assert "classes   in turn: class1 (1), class0 (0)\n" in out
    kept = (folder / "runs" / "mine_folder_H0.9_K2" / "data.txt").read_text().splitlines()
    assert [line for line in kept if line not in out] == []
    assert kept[-1].split()[:2] == ["1", "class1"]
    assert f"may have {LARGEST_MEMBER / 1e6:.0f} MB" in GUIDES["images.md"]


def test_the_default_scale_of_pictures_is_as_the_guide_says():
    assert [visible_scale(*sides) for sides in ((8, 8), (28, 28), (32, 32), (16, 32), (33, 33), (64, 64))] == [
        8, 2, 2, 2, 1, 1
    ]  # fmt: skip
    text = " ".join(GUIDES["quickstart.md"].split())
    assert "at most 64 pixels, so 8 for 8x8, 2 for 28x28 and 32x32, and 1 above 32" in text


@pytest.mark.slow
def test_functions(folder, capsys):
    sines, judge, rough = python("functions.md")
    for block in (sines, rough):
        exec(compile(block, "functions.md", "exec"), {})
    for expected, key in zip(damped_sines(3000, 0), ("x", "y"), strict=True):  # so the benchmark's figures apply
        assert np.array_equal(np.load("sines.npz")[key], expected)
    for command in commands(GUIDES["functions.md"]):
        more = {"train.py": [*UNET1D, *SHORT], "generate.py": ["--n_samples", "20"]}
        run(command, *more.get(command[0], []))
    (place,) = folder.glob("runs/sines_arrays_H0.9_K2/generated_data/model-final/ab3-10-ema")
    drawn = np.load(place / "data" / "data_000000.npy")
    assert (drawn.shape, drawn.dtype) == ((20, 200, 1), np.float32)
    assert abs(drawn.mean() - 20) < 5  # data units
    assert (place / "label" / "label_000000.npy").is_file()
    found: dict = {}
    exec(compile(judge, "functions.md", "exec"), found)
    assert "drawn / real: [" in capsys.readouterr().out
    steps = np.diff(np.load("rough.npz")["x"], axis=1)
    assert (steps**2).mean() == pytest.approx(128**-0.6, rel=0.02)

    # what the guide says of series that do not decay: their class is read as asked, their energies are wrong
    rng, u, labels = np.random.default_rng(3), np.linspace(0, 1, 200), np.arange(1000) % 2
    low, high = np.array([[3.0, 5.0], [9.0, 13.0]])[labels].T
    frequency, phase = rng.uniform(low, high), rng.uniform(0, 2 * np.pi, 1000)
    amplitude = rng.uniform(1.2, 1.5, (1000, 1))
    constant = 20 + amplitude * np.sin(2 * np.pi * frequency[:, None] * u + phase[:, None])
    real, known = (np.load("sines.npz")[key] for key in ("x", "y"))
    scaled = [torch.from_numpy((x[:1000, None] - 20) / 5) for x in (real, constant)]
    classes = PixelClassifier(scaled[0], torch.from_numpy(known[:1000]))(scaled[1])
    assert (classes == torch.from_numpy(labels)).double().mean() > 0.99
    ratios = found["energies"](constant) / found["energies"](real)
    assert ratios == pytest.approx([0.17, 0.76, 3.3, 14, 1.3, 1.22, 1.24], rel=0.1)


@pytest.mark.slow
def test_sounds(folder):
    (block,) = python("sounds.md")
    exec(compile(block, "sounds.md", "exec"), {})
    small = shlex.split("--embed_dim 16 --depth 3 --num_heads 2 --batch_size 8")
    for command in commands(GUIDES["sounds.md"]):
        more = {"train.py": [*small, *SHORT], "generate.py": ["--n_samples", "2", "--steps", "2"]}
        run(command, *more[command[0]])
    assert len(list(folder.glob("runs/bells_sounds_heat_uvit/generated_data/*/*/audio/*.wav"))) == 2


def words_of(path: Path) -> str:
    """What the samples beside a file were drawn with."""
    return (path.parent / "settings.json").read_text()


TRAINED_HERE = ("faces", "bells", "waves")  # by whoever reads the guide


def test_conditional(folder, capsys):
    """Its lines complete samples of a run that comes with the program, and leave what the guide says."""
    run_folder = folder / "runs" / "digits-demo_digits_H0.9_K2"
    shutil.copytree(ROOT / "runs" / run_folder.name, run_folder, ignore=shutil.ignore_patterns("generated_data"))
    rng, known = np.random.default_rng(0), np.ones((8, 8))
    known[2:6, 2:6] = 0
    clean = rng.uniform(0, 1, (2, 8, 8, 1)).astype(np.float32)
    np.save("clean.npy", clean)
    np.save("known.npy", known)
    np.save("measured.npy", np.where(known[..., None] > 0, clean, np.nan))
    drawn = [one for one in commands(GUIDES["conditional.md"]) if one[2] not in TRAINED_HERE]
    assert len(drawn) == 7
    for command in drawn:
        few = [] if {"--input", "--observation"} & set(command) else ["--n_inputs", "2"]
        run(command, "--n_samples", "2", "--nfe", "2", "--device", "cpu", *few)
    out = capsys.readouterr().out
    assert out.count("psnr [dB] ") == 6  # all but that of measurements
    assert len(list(folder.glob("runs/*/generated_data/*/*/comparison.png"))) == 7
    told = re.findall(r"`(\w+\.(?:png|npy|json))`", GUIDES["conditional.md"].split("## ")[1])
    assert len(told) == 9
    (place,) = (path.parent for path in folder.glob("runs/*/generated_data/*/*/mask.npy") if "box:2" in words_of(path))
    assert [name for name in told if not (place / name).is_file()] == []
    missing = [name for name in (*TASKS, *METHODS) if f"`{name}`" not in GUIDES["conditional.md"]]
    assert missing == []


@pytest.mark.slow
def test_conditional_of_colours_sounds_and_other_grids(folder, capsys):
    network = shlex.split("--dynamics vp --model_name uvit --embed_dim 16 --depth 3 --num_heads 2 --patch_size 4")
    run(
        ["train.py", "--data_name", "folder", "--data_dir", "DIR", "--image_size", "16", "--wb_id", "faces"],
        *network,
        *SHORT,
    )
    (block,) = python("sounds.md")
    exec(compile(block, "sounds.md", "exec"), {})
    sound = shlex.split("--embed_dim 16 --depth 3 --num_heads 2 --batch_size 8")
    run(["train.py", "--data_name", "sounds", "--data_dir", "recordings", "--wb_id", "bells"], *sound, *SHORT)
    inr = shlex.split(
        "--model_name inr --dynamics vp --prediction x0 --width 8 --depth 2 --inner_steps 1 --batch_size 4"
    )
    run(["train.py", "--data_name", "digits", "--wb_id", "waves"], *inr, *SHORT)
    for command in commands(GUIDES["conditional.md"]):
        if command[2] in TRAINED_HERE:
            few = [] if "--target_shape" in command else ["--n_inputs", "1"]
            run(command, "--n_samples", "2", "--nfe", "3", "--device", "cpu", *few)
    assert len(list(folder.glob("runs/*/generated_data/*/*/comparison.png"))) == 3
    assert list(folder.glob("runs/bells*/generated_data/*/*/audio/input_000_observation.wav"))
    (fine,) = folder.glob("runs/waves*/generated_data/*/*/data/*.npy")
    assert np.load(fine).shape == (2, 128, 128, 1)


@pytest.mark.slow
def test_tuning(folder, capsys, monkeypatch):
    """Its lines tune, draw in as many evaluations as they say, judge and export."""
    monkeypatch.setattr(renoise_times, "FOLLOWED", 16)
    steps = [*SHORT, "--batch_size", "8"]
    small = {
        "train.py": steps,
        "generate.py": ["--n_samples", "2"],
        "evaluate.py": ["--n_samples", "20", "--metrics", "nearest"],
        "scripts/export.py": [],
    }
    for command in commands(GUIDES["tuning.md"]):
        run(command, *small[command[0]], *(UNET if "--preset" in command else []))
    (place,) = folder.glob("runs/fast_*")
    assert place.name.endswith(GUIDES["tuning.md"].split("whose name ends in `")[1].split("`")[0])
    told = re.findall(r"^python generate\.py .*?(?:--nfe (\d)|(\d) evaluations)", GUIDES["tuning.md"], re.MULTILINE)
    drawn = re.findall(r"network   (\d) evaluations? per sample", capsys.readouterr().out)
    assert drawn[: len(told)] == [asked or said for asked, said in told]
    assert len(told) == 4
    assert list(place.glob(GUIDES["tuning.md"].split("writes `")[1].split("`")[0]))


# -- cluster.md --------------------------------------------------------------------------------------------------------

RECORDING = """#!/bin/bash
printf '%q ' "${0##*/}" "$@" >> "$STAND_IN_WORDS"
echo >> "$STAND_IN_WORDS"
"""
SMALL = {
    "train.py": [*UNET, *SHORT, "--devices", "1"],
    "generate.py": ["--n_samples", "4", "--steps", "2", "--devices", "1"],
    "evaluate.py": shlex.split("--metrics nearest --features pixels --devices 1"),
}
PARSED = {"train.py": args.parse_train, "generate.py": args.parse_generate, "evaluate.py": args.parse_evaluate}


def recorded(folder: Path) -> list[list[str]]:
    """Words of programs that were called instead of the real ones, its name first; they are forgotten."""
    path = folder / "words"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [shlex.split(line) for line in lines]


def test_cluster(folder, capsys):
    """Its commands are run: those of the programs in small, the others with stand-ins for what they call."""
    for command in commands(GUIDES["cluster.md"]):
        run(command, *([] if "--dry_run" in command else SMALL[command[0]]))
    assert "next      sbatch grid.sbatch\n" in capsys.readouterr().out
    for name in ("python", "torchrun", "sbatch"):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(RECORDING)
        path.chmod(0o755)
    (folder / "bin" / "ssh").symlink_to(ROOT / "tests" / "cluster" / "ssh")
    for name in ("scripts", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "DIR").rename(folder / "faces")
    plain = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "STAND_IN_WORDS": str(folder / "words")}
    plain["MASTER_PORT"] = str(free_port())
    lines = "\n".join(blocks(GUIDES["cluster.md"], "bash"))
    subprocess.run(["bash", "-e", "-c", lines], env=plain, check=True, timeout=60)
    called = recorded(folder)
    direct = [words[1:] for words in called if words[0] == "torchrun"]
    by_ssh = [words[3:] for words in called if words[1:3] == ["-m", "torch.distributed.run"]]
    assert (len(direct), len(by_ssh)) == (1, 2)
    for words in (*direct, *by_ssh):
        asked = torchrun.get_args_parser().parse_args(words)
        order = args.parse_train(asked.training_script_args)
        assert order is not None
        hardware = order.config.hardware
        assert (asked.nnodes, asked.nproc_per_node) == (str(hardware.num_nodes), str(hardware.devices))
        assert (asked.rdzv_backend, order.command.resume) == ("c10d", "auto")

    # what the jobs run that were sent
    sent = [words[1:] for words in called if words[0] == "sbatch"]
    assert [words[-1] for words in sent] == [
        "faces.sbatch", "scripts/slurm/generate.sbatch", "scripts/slurm/generate.sbatch",
        "scripts/slurm/evaluate.sbatch", "grid.sbatch",
    ]  # fmt: skip
    for name in ("faces_x", "grid-hurst0.9-seed2_x"):
        path = folder / "runs" / name / "model" / "model-final.pth"
        path.parent.mkdir(parents=True)
        path.touch()
    found = []
    for *options, name in sent:
        script = (folder / name).read_text()
        array = dict(option[2:].split("=") for option in options).get("array", options_of(script).get("array", ""))
        first, _, last = array.partition("-")
        count = int(last or first) - int(first) + 1 if array else 1
        element = (int(last or first), int(first), count) if array else None
        job = Job(script, folder, plain, element=element)
        sbatch(job, within=60)
        assert job.codes == [0], job.log
        (words,) = recorded(folder)
        PARSED[words[1]](words[2:])
        found.append(words[1:])
    assert "--shard 3/4" in shlex.join(found[1])
    assert "--shard 0/1" in shlex.join(found[2])
    assert "--sweep_member 5" in shlex.join(found[4])


def processes(*environments: dict[str, str], words: list[str]) -> None:
    """train.py once in each environment, at the same time; all must succeed."""
    plain = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            env={**os.environ, **plain, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments
    ]
    try:
        outputs = [process.communicate(timeout=200)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(outputs)
    assert "\n".join(outputs).count("network ") == 1  # one process speaks


@pytest.mark.slow
def test_whoever_starts_the_processes_the_weights_are_the_same(folder):
    """As srun does on one machine, and as torchrun does on two."""
    words = tiny.command(**{**tiny.FLAGS, "train_steps": 6, "batch_size": 8, "dropout": 0, "device": "cpu"})
    assert train.main([*words, "--batch_size", "16", "--wb_id", "one"]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    slurm |= {"SLURM_NNODES": "1", "SLURM_NODELIST": "localhost", "SLURM_NODEID": "0", "MASTER_PORT": port}
    slurm["SLURM_STEP_ID"] = "0"  # of srun alone
    tasks = [{**slurm, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
    processes(*tasks, words=[*words, "--wb_id", "srun", "--resume", "auto", "--devices", "2", "--num_nodes", "1"])
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    torchrun |= {"LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    nodes = [{**torchrun, "RANK": rank, "GROUP_RANK": rank} for rank in "01"]
    processes(*nodes, words=[*words, "--wb_id", "nodes", "--devices", "1", "--num_nodes", "2"])
    one, srun, two = (folder / "runs" / f"{name}_digits_H0.9_K2" for name in ("one", "srun", "nodes"))
    assert tiny.difference(srun, two) == 0
    assert tiny.difference(one, srun) < 1e-5
