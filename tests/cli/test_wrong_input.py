"""Wrong input ends with exit code 2 and one line that names the flag or the file; nothing is written."""

import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import plugins
from common.files import save
from common.metrics import METRICS, Evidence, Metric
from tests.cli.conftest import Result
from tests.data.idx import NAMES, write_mnist
from tests.test_checkpoints import Malicious
from tests.training import tiny

TRAIN = tiny.command(**tiny.FLAGS, train_steps=2, batch_size=2, val_check_interval=9)


def refused(result: Result, program: str, pattern: str) -> str:
    """Check what every refusal has in common; returns its message."""
    assert result.code == 2, (result.code, result.err)
    (line,) = result.err.splitlines()
    assert line.startswith(f"{program}.py: error: ")
    assert re.search(pattern, line), line
    assert "Traceback" not in result.err
    assert len(line) < 600
    assert result.written == []
    return line


# -- flags of train.py ------------------------------------------------------------------------------------------------

WRONG_TRAIN = [
    ("--hurst 0", r"--hurst.*\(0, 1\)"),
    ("--hurst 1.0", "--hurst"),
    ("--hurst nan", "--hurst"),
    ("--hurst high", "--hurst"),
    ("--num_aug -1", "--num_aug"),
    ("--num_aug 2.5", "--num_aug"),
    ("--num_aug 30", "--num_aug 30 is too large.*up to 6 work"),
    ("--gamma_max 1", "--gamma_max"),
    ("--gamma_max inf", "--gamma_max"),
    ("--norm maybe", "--norm"),
    ("--marginals wrong", "--marginals.*exact.*paper"),
    ("--beta_max 0", "--beta_min must be.*beta_max=0"),
    ("--beta_min -1", "--beta_min"),
    ("--beta_min 30", "--beta_min"),
    ("--beta_max inf", "--beta_max"),
    ("--sigma_min 0", "--sigma_min"),
    ("--dynamics ve --sigma_min 60", "--sigma_min"),
    ("--dynamics fve --sigma_max 0.001", "--sigma_min must be.*sigma_max=0.001"),
    ("--dynamics unknown", "--dynamics.*fvp.*cld"),
    ("--prior none", "--prior"),
    ("--prediction noise", "--prediction"),
    ("--model_name resnet", "--model_name"),
    ("--model_channels 12", "--model_channels.*multiple of 8"),
    ("--model_channels 4", "--model_channels"),
    ("--num_res_blocks 0", "--num_res_blocks"),
    ("--channel_mult 1,1,1,1,1", "--image_size.*levels of channel_mult"),
    ("--channel_mult=", "--channel_mult"),
    ("--channel_mult 1,0", "--channel_mult"),
    ("--channel_mult 1,x", "--channel_mult"),
    ("--attn_resolutions 8", r"--attn_resolutions.*\[1, 2\]"),
    ("--attn_resolutions 3", "--attn_resolutions"),
    ("--attn_resolutions all", "--attn_resolutions"),
    ("--dropout 1", "--dropout"),
    ("--dropout -0.1", "--dropout"),
    ("--image_size 0", "--image_size"),
    ("--image_size 4000x5000", "--image_size 4000x5000: a sample has at most 16,777,216 numbers"),
    ("--levels -5,300", "--levels: expected one argument; a value that begins with a minus is written --levels=-5,300"),
    ("--image_size 9", "channel_mult.*9|9.*channel_mult"),
    ("--channels 3", "--channels 3.*1"),
    ("--num_classes 11", "--num_classes 11 contradicts.*10"),
    ("--flip maybe", "--flip"),
    ("--conditioning 2", "--conditioning"),
    ("--val_samples 0", "--val_samples"),
    ("--train_steps 1", "--train_steps.*at least 2"),
    ("--batch_size 0", "--batch_size"),
    ("--accumulate_grad_batches 0", "--accumulate_grad_batches"),
    ("--lr 0", "--lr"),
    ("--lr -1e-3", "--lr"),
    ("--lr nan", "--lr"),
    ("--lr inf", "--lr"),
    ("--lr fast", "--lr"),
    ("--clip_grad -1", "--clip_grad"),
    ("--ema_decay 1", r"--ema_decay.*\[0, 1\)"),
    ("--ema_every 0", "--ema_every"),
    ("--seed -1", "--seed"),
    ("--seed 18446744073709551616", "--seed"),
    ("--seed 9223372036854775807", "--seed must be at most 4294967295, got 9223372036854775807"),
    ("--seed 4294967303", "--seed must be at most 4294967295, got 4294967303"),  # the initial weights of seed 7
    ("--seed 1.5", "--seed"),
    ("--checkpoint_every 0", "--checkpoint_every"),
    ("--keep 0", "--keep"),
    ("--wb_id a_b", "--wb_id"),
    ("--wb_id ../x", "--wb_id"),
    ("--wb_id latest", "--wb_id"),
    ("--wb_id=", "--wb_id"),
    ("--device quantum", "--device"),
    ("--devices 0", "--devices"),
    ("--strategy none", "--strategy"),
    ("--precision 8", "--precision"),
    ("--deterministic perhaps", "--deterministic"),
    ("--preset none", r"--preset.*digits.*gfdm-mnist[^;]*$"),
    ("--preset cifar10-smal", r"\); did you mean cifar10-small\?"),
    ("--model_name unt1d", "did you mean unet1d"),
    ("--x\x1b[2J", r"unrecognized arguments: --x\\x1b\[2J"),
    ("--batch-size 3", "unrecognized arguments: --batch-size 3; did you mean --batch_size"),
    ("--data_name none", "--data_name.*digits.*mnist"),
    ("--data_name mnist", r"--data_name mnist.*--download.*--data_dir"),
    ("--data_name mnist --data_dir nowhere", r"nowhere/MNIST/raw"),
    ("--resume nothing", "--resume nothing: runs is not there"),
    ("--resume nothing.ckpt", "--resume.*nothing.ckpt"),
    ("--resume latest", "--resume latest"),
    ("--label_dropout 1", r"--label_dropout.*\[0, 1\)"),
    ("--label_dropout 0.1 --conditioning False", "--label_dropout.*--conditioning False"),
    ("--time_sampling sometimes", "--time_sampling.*uniform.*lognormal"),
    ("--time_sampling log_sigma --hurst 0.1 --num_aug 3 --marginals paper", "--time_sampling needs.*rises"),
    ("--loss_weight much", "--loss_weight.*own.*edm"),
    ("--ema_decay 0.9,0.9", "--ema_decay.*twice"),
    ("--ema_decay 0.9,1", r"--ema_decay.*\[0, 1\)"),
    ("--ema_decay 0.9 --use_ema False", "--ema_decay.*--use_ema False"),
    ("--max_time 3", "--max_time.*30m"),
    ("--max_time 0s", "--max_time"),
    ("--max_time -1h", "--max_time"),
    ("--init_from nothing", "--init_from nothing.*none"),
    ("--name a/b", "--name"),
    ("--logger paper", "--logger.*csv.*wandb"),
    ("--wb_key abc --logger csv", "--wb_key.*--logger csv"),
    ("--wb_project a/b", "--wb_project"),
    ("--compile perhaps", "--compile.*True nor False"),
    ("--num_workers -1", "--num_workers"),
    ("--dynamics_args rate", "--dynamics_args.*name=value"),
    ("--dynamics_args rate=3", "--dynamics_args rate.*FVP.*hurst"),
    ("--dynamics cld --dynamics_args mass=-1", "mass must be above 0"),
    ("--model_args num_heads=5", "num_heads"),
    ("--model_args depth=5", "--model_args depth.*UNet"),
    ("--plugin nowhere", "--plugin nowhere.*no such module"),
    ("--plugin nowhere.py", "--plugin nowhere.py.*no such module"),
    ("--data_name fashionmnist", r"--data_name fashionmnist.*--download.*--data_dir"),
    ("--data_name cifar10", r"--data_name cifar10.*--download"),
    ("--data_name cifar100", r"--data_name cifar100.*--download"),
    ("--data_name folder --image_size 8 --data_dir nowhere", "nowhere"),
    ("--data_name arrays --data_dir nowhere.npz", "nowhere.npz"),
    ("--data_name arrays --data_dir nowhere", "nowhere"),
    ("--dynamics vp --hurst 0.5", "--hurst has no effect on --dynamics vp"),
    ("--dynamics cld --beta_max 5", "--beta_max has no effect on --dynamics cld"),
    ("--dynamics fve --beta_min 1", "--beta_min has no effect on --dynamics fve"),
    ("--sigma_max 5", "--sigma_max has no effect on --dynamics fvp"),
    ("--num_sanity_val_steps -1", "--num_sanity_val_steps"),
    ("--resume", "--resume auto needs --wb_id"),
    ("--device cpu --precision 16-mixed", "--precision 16-mixed"),
    ("--wandb_key SECRET123", r"--wandb_key \*\*\*"),
    ("--unknown 3", "--unknown"),
    ("--hur 0.5", "--hur"),
    ("--lr", "--lr"),
    ("surplus", "surplus"),
]


@pytest.mark.parametrize(("flags", "pattern"), WRONG_TRAIN, ids=[flags for flags, _ in WRONG_TRAIN])
def test_train(cli, flags, pattern):
    refused(cli("train", *TRAIN, *flags.split()), "train", pattern)
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("program", ["train", "generate"])
def test_cuda_without_cuda(cli, run, program):
    words = TRAIN if program == "train" else ["--run_id", "tiny"]
    refused(cli(program, *words, "--device", "cuda"), program, "--device cuda.*--device cpu")


def test_output_dir_that_is_a_file(cli, tmp_path):
    (tmp_path / "file").write_text("content")
    refused(cli("train", *TRAIN, "--output_dir", "file"), "train", "--output_dir")
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("content", [b"", b"this is no idx file at all"], ids=["empty", "text"])
def test_mnist_that_cannot_be_read(cli, tmp_path, content):
    write_mnist(tmp_path / "data")
    (tmp_path / "data" / "MNIST" / "raw" / NAMES[2]).write_bytes(content)
    refused(cli("train", *TRAIN, "--data_name", "mnist"), "train", "mnist.*data/MNIST/raw")


def test_an_image_size_that_does_not_divide(cli, tmp_path):
    write_mnist(tmp_path / "data")
    result = cli("train", *TRAIN, "--data_name", "mnist", "--channel_mult", "1,1,1,1")  # 28 is no multiple of 8
    refused(result, "train", "channel_mult.*28|28.*channel_mult")


# -- data that is wrong -----------------------------------------------------------------------------------------------

PIXELS = np.zeros((6, 8, 8, 1), np.uint8)


def save_npz(**arrays: Any) -> Callable[[], object]:
    return lambda: np.savez("a.npz", **arrays)


def pictures(*names: str, content: bytes | None = None) -> Callable[[], None]:
    def write() -> None:
        for name in names:
            path = Path("pictures") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9)).save(path) if content is None else path.write_bytes(content)

    return write


WRONG_DATA = {
    "no x": (save_npz(y=PIXELS), "arrays --data_dir a.npz", r"a\.npz.*holds samples .*there is y .*numpy\.savez"),
    "labels too short": (save_npz(x=PIXELS, y=np.arange(5)), "arrays --data_dir a.npz", "label"),
    "float labels": (save_npz(x=PIXELS, y=np.arange(6) / 2), "arrays --data_dir a.npz", "label"),
    "negative labels": (save_npz(x=PIXELS, y=np.arange(6) - 1), "arrays --data_dir a.npz", "label"),
    "NaN": (save_npz(x=np.full((6, 8, 8, 1), np.nan, np.float32)), "arrays --data_dir a.npz", "NaN|finite"),
    "constant": (save_npz(x=np.ones((6, 8, 8, 1), np.float32)), "arrays --data_dir a.npz", "nothing to learn"),
    "pickled": (save_npz(x=np.array([{}, {}, {}], object)), "arrays --data_dir a.npz", r"a\.npz"),
    "cut short": (lambda: Path("a.npz").write_bytes(b"PK\x03\x04 and nothing"), "arrays --data_dir a.npz", r"a\.npz"),
    "one sample": (save_npz(x=PIXELS[:1]), "arrays --data_dir a.npz", "two"),
    "functions for a UNet": (
        save_npz(x=np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)),
        "arrays --data_dir a.npz --model_name unet",
        "--model_name unet works on images.*samples of 16",
    ),
    "resized functions": (
        save_npz(x=np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)),
        "arrays --data_dir a.npz --model_name unet --image_size 8",
        "--image_size",
    ),
    "odd sides": (save_npz(x=np.zeros((6, 8, 13, 1), np.uint8)), "arrays --data_dir a.npz", "--image_size.*8x13.*8x14"),
    "other classes": (
        save_npz(x=PIXELS, y=np.arange(6) % 3),
        "arrays --data_dir a.npz --num_classes 10",
        "--num_classes 10 contradicts.*3",
    ),
    "label dropout without labels": (
        save_npz(x=PIXELS),
        "arrays --data_dir a.npz --label_dropout 0.1",
        "--label_dropout.*no labels",
    ),
    "several sizes": (
        lambda: [Image.new("L", (8, side)).save(f"{side}.png") for side in (8, 9, 10, 9)],
        "folder --data_dir .",
        r"--image_size is needed: .* 3 sizes \(1 of 8x8, 1 of 9x8, 1 of 10x8\); --image_size 8x8 would",
    ),
    "empty folder": (lambda: Path("pictures").mkdir(), "folder --data_dir pictures --image_size 8", "pictures"),
    "flat and classes": (pictures("a.png", "x/b.png"), "folder --data_dir pictures --image_size 8", "pictures"),
    "no picture": (
        pictures("a.png", "b.png", content=b"<html>"),
        "folder --data_dir pictures --image_size 8",
        r"[ab]\.png",
    ),
    "two channels": (
        pictures("a.png", "b.png"),
        "folder --data_dir pictures --image_size 8 --channels 2",
        "--channels 2",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_data(cli, case):
    write, flags, pattern = WRONG_DATA[case]
    write()
    refused(cli("train", *TRAIN, "--data_name", *flags.split()), "train", pattern)


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("random.py", "", "has that name already; rename"),
        ("types.py", "", "has that name already; rename"),
        ("mine.py", "import nothing_of_that_name", "--plugin mine.py cannot be imported.*nothing_of_that_name"),
        ("mine.py", "def broken(:", "--plugin mine.py cannot be imported"),
    ],
)
def test_plugins(cli, name, content, pattern, monkeypatch):
    monkeypatch.setattr(plugins, "_plugins", set())  # those that a later test does not name
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own").mkdir()
    Path("own", name).write_text(content)
    place = "mine.py" if name == "mine.py" else f"own/{name}"
    if name == "mine.py":
        Path("own", name).rename(name)
    refused(cli("train", *TRAIN, "--plugin", place), "train", pattern)


def test_a_folder_called_env_is_no_env_file(cli):
    Path(".env").mkdir()
    assert cli("train", *TRAIN, "--dry_run").code == 0


def test_an_env_file_that_is_no_text(cli):
    Path(".env").write_bytes(b"WANDB_MODE=\xff\xfe")
    refused(cli("train", *TRAIN, "--dry_run"), "train", r"\.env is no text")


def test_the_key_is_not_shown_in_a_message(cli):
    for words in (("--wb_key", "SECRET123", "--unknown", "1"), ("--wb_key=SECRET123", "--lr", "x"), ("--wb_kez", "S")):
        result = cli("train", *words)
        assert result.code == 2
        assert "SECRET123" not in result.err


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("a.pth", b"<html>", r"a\.pth"),
        ("a.safetensors", b"{}", r"a\.safetensors"),
        ("a.pth", None, r"a\.pth.*does not fit this network"),
    ],
)
def test_weights_to_start_from(cli, tmp_path, name, content, pattern):
    if content is None:
        save(tmp_path / name, {"other": torch.zeros(2)})
    else:
        (tmp_path / name).write_bytes(content)
    refused(cli("train", *TRAIN, "--init_from", name), "train", pattern)


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_run_that_exists_is_not_overwritten(cli, run):
    result = cli("train", *TRAIN, "--wb_id", "tiny")
    assert "--resume" in refused(result, "train", "--wb_id tiny.*exists")


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        ("--hurst 0.7", "--hurst 0.7 contradicts.*0.9"),
        ("--lr 1", "--lr 1.0 contradicts.*0.004"),
        ("--channel_mult 1,2", "--channel_mult.*contradicts"),
        ("--train_steps 10", "--train_steps 10 contradicts.*150"),
        ("--preset digits", "contradicts"),
        ("--use_ema False", "--use_ema"),
        ("--seed 1", "--seed 1 contradicts"),
        ("--dynamics vp", "--dynamics vp contradicts.*fvp"),
    ],
)
@pytest.mark.parametrize("resume", ["tiny", "runs/tiny_digits_H0.9_K2/checkpoints/last.ckpt"])
def test_a_flag_that_contradicts_the_run(cli, run, flags, pattern, resume):
    refused(cli("train", "--resume", resume, *flags.split()), "train", pattern)


@pytest.mark.parametrize("flags", ["--channels 1", "--image_size 8", "--num_classes 10", "--hurst 0.90", "--lr 4e-3"])
def test_a_flag_that_agrees_with_the_run(cli, run, flags):
    result = cli("train", "--resume", "tiny", *flags.split())
    assert (result.code, result.err) == (0, "")
    assert "already finished" in result.out


def test_a_run_of_an_earlier_version_keeps_its_large_seed(cli, run):
    """New runs have seeds below 2^32; one that has a larger one draws what it has drawn, and is sampled from."""
    edit(run, lambda config: config["recipe"].update(seed=2**40))
    for words in (("--resume", "tiny"), ("--resume", "auto", "--wb_id", "tiny", "--seed", 2**40)):
        result = cli("train", *words)
        assert (result.code, result.err) == (0, "")
        assert "already finished" in result.out
    refused(cli("train", "--resume", "tiny", "--seed", 0), "train", f"--seed 0 contradicts.*{2**40}")
    assert cli("generate", "--run_id", "tiny", "--n_samples", 1, "--steps", 2).code == 0


def test_an_ambiguous_id(cli, run):
    shutil.copytree(run, run.with_name("tiny_other"))
    for program, flag in (("train", "resume"), ("generate", "run_id"), ("evaluate", "run_id")):
        line = refused(cli(program, f"--{flag}", "tiny"), program, f"--{flag} tiny.*several")
        assert "tiny_digits_H0.9_K2" in line
        assert "tiny_other" in line


@pytest.mark.parametrize(
    "content",
    [
        lambda path: path.write_bytes(path.read_bytes()[:20000]),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b""),
        lambda path: save(path, {"weight": torch.zeros(2)}),
        lambda path: save(path, [1, 2]),
        lambda path: save(path, {"global_step": 2, "state_dict": {}}),
        lambda path: torch.save(Malicious(path.with_name("executed")), path),
        lambda path: path.write_bytes(pickle.dumps(Malicious(path.with_name("executed")))),
    ],
    ids=["truncated", "short", "empty", "state dict", "list", "bare", "malicious", "pickle"],
)
def test_a_checkpoint_that_is_none(cli, run, content):
    path = run / "checkpoints" / "last.ckpt"
    content(path)
    refused(cli("train", "--resume", "tiny"), "train", r"last\.ckpt")
    assert not path.with_name("executed").exists()


def test_a_checkpoint_of_another_network(cli, run):
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name] = torch.zeros(3, 3)
    checkpoint["global_step"] = 100
    save(path, checkpoint)
    refused(cli("train", "--resume", "tiny"), "train", r"last\.ckpt")


def test_weights_of_the_published_code_cannot_be_resumed(cli, run):
    (run / "config.json").unlink()
    refused(cli("train", "--resume", "tiny"), "train", r"config\.json is missing, though manifest\.json lists it; put")
    (run / "manifest.json").unlink()
    refused(cli("train", "--resume", "tiny"), "train", "weights only.*--init_from tiny_digits_H0.9_K2")


def test_a_run_whose_plugin_is_not_named(cli, run):
    edit(run, lambda config: config["dynamics"].update({"name": "mine", "class": "mine:Mine"}))
    refused(cli("train", "--resume", "tiny"), "train", "mine:Mine.*--plugin")


def test_a_checkpoint_outside_a_run(cli, run):
    Path("a").mkdir()
    shutil.copy(run / "checkpoints" / "last.ckpt", "a/some.ckpt")
    refused(cli("train", "--resume", "a/some.ckpt"), "train", r"--resume.*config\.json")


# -- flags of generate.py and evaluate.py -----------------------------------------------------------------------------

WRONG_GENERATE = [
    ("", "--run_id is required"),
    ("--run_id nothing", "--run_id nothing.*tiny_digits_H0.9_K2"),
    ("--run_id tiny --output_dir elsewhere", "--run_id tiny: elsewhere is not there; --output_dir names"),
    ("--run_id ../tiny", "--run_id"),
    ("--run_id tiny --version v9", "--version v9.*v0, v1, v2, final"),
    ("--run_id tiny --version ../model", "--version"),
    ("--run_id tiny --labels 10", "--labels.*10.*0 to 9"),
    ("--run_id tiny --labels -1", "--labels"),
    ("--run_id tiny --labels three", "--labels"),
    ("--run_id tiny --seeds 5-3", "--seeds.*5-3"),
    ("--run_id tiny --seeds -4", "--seeds"),
    ("--run_id tiny --seeds=", "--seeds"),
    ("--run_id tiny --seeds 1,,2", "--seeds"),
    ("--run_id tiny --seeds 18446744073709551616", "--seeds"),
    ("--run_id tiny --seeds 0,4294967303", "--seeds.*4294967303.*2\\^32"),  # the sample of seed 7
    ("--run_id tiny --seeds 0-9223372036854775806", "--seeds.*2\\^32"),
    ("--run_id tiny --seeds 0-4294967295", "--seeds.*100000000"),
    ("--run_id tiny --n_samples 1000000000000", "--n_samples.*100000000"),
    ("--run_id tiny --seeds 0-3 --n_samples 5", "--n_samples 5 contradicts --seeds"),
    ("--run_id tiny --n_samples 0", "--n_samples"),
    ("--run_id tiny --steps 0", "--steps"),
    ("--run_id tiny --batch_size 0", "--batch_size"),
    ("--run_id tiny --mode langevin", "--mode.*sde.*ode"),
    ("--run_id tiny --solver none", "--solver.*em.*exp2"),
    ("--run_id tiny --mode sde --solver em", "--mode.*--solver"),
    ("--run_id tiny --grid none", "--grid"),
    ("--run_id tiny --t_end 0", "--t_end"),
    ("--run_id tiny --t_end 1", "--t_end"),
    ("--run_id tiny --use_ema perhaps", "--use_ema"),
    ("--run_id tiny --clip_x0 perhaps", "--clip_x0"),
    ("--run_id tiny --data_name mnist", "--data_name mnist contradicts.*digits"),
    ("--run_id tiny --dynamics vp", "--dynamics vp contradicts.*fvp"),
    ("--run_id tiny --hurst 0.5", "--hurst 0.5 contradicts.*0.9"),
    ("--run_id tiny --num_aug 3", "--num_aug 3 contradicts.*2"),
    ("--run_id tiny --guidance_scale -1", "--guidance_scale"),
    ("--run_id tiny --guidance_scale 2", "--guidance_scale 2.*--label_dropout"),
    ("--run_id tiny --ema_decay 0.5", "--ema_decay 0.5.*Decays there: 0.866667"),
    ("--run_id tiny --ema_decay 0.99 --use_ema False", "--ema_decay.*--use_ema False"),
    ("--run_id tiny --model_channels 64", "--model_channels.*config.json"),
    ("--run_id tiny --pretrained vp-cifar10", "--pretrained and --run_id"),
    ("--pretrained none", "--pretrained.*gfdm-cifar10-h0.9-k2"),
    ("--pretrained vp-cifar10 --version v1", "--pretrained and --version"),
    ("--run_id tiny --plugin nowhere", "--plugin nowhere"),
    ("--run_id tiny --trajectory maybe", "--trajectory"),
    ("--run_id tiny --picture_scale 0", "--picture_scale.*1"),
    ("--run_id tiny --picture_scale 33", "--picture_scale.*32"),
    ("--run_id tiny --picture_scale 1.5", "--picture_scale"),
    ("--run_id tiny --unknown 1", "--unknown"),
    ("--run_id tiny --step 3", "--step"),
]
WRONG_EVALUATE = [
    ("", "--run_id is required"),
    ("--run_id nothing", "--run_id nothing.*tiny_digits_H0.9_K2"),
    ("--run_id tiny", "no such samples.*generate.py --run_id"),
    ("--run_id tiny --version v0", "no such samples.*none"),
    ("--run_id tiny --samples sde7", "no such samples.*none"),
    ("--run_id tiny --metrics beauty", "--metrics 'beauty'.*agreement, nearest"),
    ("--run_id tiny --metrics=", "--metrics"),
]


@pytest.mark.parametrize(("flags", "pattern"), WRONG_GENERATE, ids=[flags for flags, _ in WRONG_GENERATE])
def test_generate(cli, run, flags, pattern):
    refused(cli("generate", *flags.split()), "generate", pattern)
    assert not (run / "generated_data").exists()


@pytest.mark.parametrize(("flags", "pattern"), WRONG_EVALUATE, ids=[flags for flags, _ in WRONG_EVALUATE])
def test_evaluate(cli, run, flags, pattern):
    refused(cli("evaluate", *flags.split()), "evaluate", pattern)


def test_a_flag_of_a_metric_that_is_not_wanted(cli, run, monkeypatch):
    class Sharpness(Metric):
        def __init__(self, blur: float = 1.0) -> None: ...

        def __call__(self, evidence: Evidence) -> None:
            return None

    monkeypatch.setitem(METRICS, "sharpness", Sharpness)
    line = refused(cli("evaluate", "--run_id", "tiny", "--metrics", "nearest", "--blur", "2"), "evaluate", "--blur")
    assert "without sharpness among --metrics" in line


def test_settings_that_cannot_be_read_are_another_set(cli, run):
    """What a user may have there is neither taken for these samples nor written over."""
    words = ("--run_id", "tiny", "--n_samples", 1, "--steps", 1)
    assert cli("generate", *words).code == 0
    (settings,) = run.glob("generated_data/model-final/*/settings.json")
    for content in (b"{half", b"\xff\xfe"):
        settings.write_bytes(content)
        assert cli("generate", *words, "--labels", "").code == 0
        assert settings.read_bytes() == content
    again = cli("generate", *words)
    assert "samples were there" in again.out  # no labels and an empty list of them are the same
    assert len(list(run.glob("generated_data/model-final/*/settings.json"))) == 2


# -- run folders that are broken, foreign or hostile ------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def edit(run: Path, change: Change) -> None:
    config = json.loads((run / "config.json").read_text())
    change(config)
    (run / "config.json").write_text(json.dumps(config))
    (run / "manifest.json").unlink(missing_ok=True)  # it would tell


@pytest.mark.parametrize("solver", ["exp2", "em --grid log_sigma"])
def test_a_solver_that_does_not_apply(cli, run, solver):
    """The published marginals at small H have a noise level that falls in time."""
    edit(run, lambda config: config["dynamics"]["arguments"].update(hurst=0.1, marginals="paper"))
    refused(cli("generate", "--run_id", "tiny", "--solver", *solver.split()), "generate", "marginals|monotone|falls")
    assert not (run / "generated_data").exists()


def test_labels_of_a_run_without(cli, run):
    edit(run, lambda config: config["spec"].update(classes=None, per_class=None))
    edit(run, lambda config: config["network"]["arguments"].update(num_classes=None))
    for file in (run / "model").iterdir():
        state = torch.load(file, weights_only=True)
        state.pop("label_emb.weight")
        save(file, state)
    refused(cli("generate", "--run_id", "tiny", "--labels", "3"), "generate", "--labels.*without labels")
    assert cli("generate", "--run_id", "tiny", "--n_samples", 2, "--steps", 1).code == 0


@pytest.mark.parametrize(
    "content",
    [b"{nope", b"", b"\xff\xfe\x00\x01", b"[]", b"{}", b'"text"'],
    ids=["broken", "empty", "binary", "list", "no keys", "text"],
)
@pytest.mark.parametrize("program", ["generate", "evaluate", "train"])
def test_a_config_that_is_none(cli, run, content, program):
    (run / "config.json").write_bytes(content)
    flag = "--resume" if program == "train" else "--run_id"
    (run / "generated_data" / "model-final" / "exp2-1" / "data").mkdir(parents=True)
    np.save(run / "generated_data" / "model-final" / "exp2-1" / "data" / "data_0.npy", np.zeros((1, 8, 8, 1)))
    refused(cli(program, flag, "tiny"), program, r"config\.json")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda c: c["dynamics"].update({"class": "os:system"}), "os:system"),
        (lambda c: c["dynamics"].update({"class": "torch.nn:Linear"}), "torch.nn:Linear"),
        (lambda c: c["dynamics"].update({"class": "gfdm.dynamics:Gone"}), "gfdm.dynamics:Gone"),
        (lambda c: c["dynamics"].update({"class": 3}), r"config\.json"),
        (lambda c: c["dynamics"]["arguments"].update(hurst=3), "hurst"),
        (lambda c: c["dynamics"]["arguments"].update(hurst="a"), r"config\.json"),
        (lambda c: c["dynamics"]["arguments"].update(surplus=3), r"config\.json.*surplus"),
        (lambda c: c["dynamics"].pop("arguments"), r"config\.json.*arguments"),
        (lambda c: c["network"].update({"class": "gfdm.dynamics:FVP"}), "does not fit|config"),
        (lambda c: c["network"]["arguments"].update(model_channels=24), "does not fit this network"),
        (lambda c: c["network"]["arguments"].update(channel_mult=[1, 1, 1]), "does not fit this network"),
        (lambda c: c.pop("prior"), r"config\.json.*prior"),
        (lambda c: c["prior"].update(variance=-1), "variance"),
        (lambda c: c["model"].update(prediction="guess"), "prediction"),
        (lambda c: c.pop("data"), r"config\.json.*data"),
        (lambda c: c.pop("recipe"), r"config\.json.*recipe"),
    ],
    ids=["function", "other class", "gone", "class 3", "range", "type", "surplus", "no arguments",
         "dynamics as network", "width", "levels", "no prior", "variance", "prediction", "no data", "no recipe"],
)  # fmt: skip
def test_a_config_that_is_wrong(cli, run, change, pattern):
    edit(run, change)
    refused(cli("generate", "--run_id", "tiny", "--n_samples", 1, "--steps", 1), "generate", pattern)


@pytest.mark.parametrize(
    "change", [lambda c: c["data"].update(data_name="gone"), lambda c: c.pop("data")], ids=["gone", "no data"]
)
def test_data_that_is_unknown(cli, run, change):
    assert cli("generate", "--run_id", "tiny", "--n_samples", 1, "--steps", 1).code == 0
    edit(run, change)
    refused(cli("evaluate", "--run_id", "tiny"), "evaluate", r"config\.json|data")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_text("<html>404</html>"), "truncated|state dict"),
        (lambda path: save(path, {"a": torch.zeros(2)}), "does not fit this network.*missing.*unknown"),
        (lambda path: save(path, {"state_dict": {"a": torch.zeros(2)}}), "no plain state dict"),
        (lambda path: save(path, [torch.zeros(2)]), "no plain state dict"),
        (lambda path: torch.save(Malicious(path.with_name("executed")), path), "state dict"),
        (lambda path: path.write_bytes(pickle.dumps(Malicious(path.with_name("executed")))), "state dict"),
        (lambda path: shutil.copy(path.parents[1] / "checkpoints" / "last.ckpt", path), "no plain state dict"),
    ],
    ids=["truncated", "empty", "page", "foreign", "nested", "list", "malicious", "pickle", "checkpoint"],
)
def test_weights_that_are_none(cli, run, content, pattern):
    path = run / "model" / "ema_model-final.pth"
    content(path)
    refused(cli("generate", "--run_id", "tiny"), "generate", r"ema_model-final\.pth is damaged, or another file")
    (run / "manifest.json").unlink()
    refused(cli("generate", "--run_id", "tiny"), "generate", rf"ema_model-final\.pth.*({pattern})")
    assert not path.with_name("executed").exists()


def test_averaged_weights_that_are_not_there(cli, run):
    (run / "model" / "ema_model-v1.pth").unlink()
    result = cli("generate", "--run_id", "tiny", "--version", "v1", "--use_ema", True)
    refused(result, "generate", r"--use_ema True.*ema_model-v1\.pth")


@pytest.mark.parametrize("length", [0, 50, 200])
def test_samples_that_are_broken(cli, run, length):
    """A block cut short by a full disk is named by evaluate.py and drawn again by generate.py."""
    words = ("--run_id", "tiny", "--n_samples", 4, "--steps", 1)
    assert cli("generate", *words).code == 0
    (block,) = run.glob("generated_data/*/*/data/*.npy")
    whole = block.read_bytes()
    block.write_bytes(whole[:length])
    refused(cli("evaluate", "--run_id", "tiny"), "evaluate", block.name)
    assert cli("generate", *words).code == 0
    assert block.read_bytes() == whole
