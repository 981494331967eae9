"""Flags: who wins, what --help says, presets, the .env file."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import args
import train
from common.config import flags as cli_tools
from common.runs import build
from gfdm.presets import PRESETS as GFDM_PRESETS
from tests.data.idx import write_mnist
from tests.training import tiny

SHAPES = {
    "digits": (1, 8, 8), "mnist": (1, 28, 28), "fashionmnist": (1, 28, 28), "cifar10": (3, 32, 32),
    "celeba": (3, 32, 32), "spokendigits": (1, 8000),
}  # fmt: skip


def resolve(*words: str) -> dict:
    return args.resolve_train(vars(args.train_parser().parse_args(words)))


# -- precedence -------------------------------------------------------------------------------------------------------

LEVELS = [
    # the default, the values of the data set, the preset, the flag: each beats those before
    ((), "clip_grad", 1.0),
    (("--data_name", "mnist"), "clip_grad", 1.0),
    ((), "model_channels", args.PRESETS["digits"]["model_channels"]),
    (("--data_name", "mnist"), "model_channels", 64),
    (("--data_name", "mnist", "--preset", "mnist-small"), "model_channels", 24),
    (("--preset", "mnist-small"), "data_name", "mnist"),
    (("--preset", "mnist-small"), "model_channels", 24),
    (("--preset", "mnist-small", "--model_channels", "40"), "model_channels", 40),
    (("--model_channels", "40", "--preset", "mnist-small"), "model_channels", 40),
    (("--data_name", "mnist", "--model_channels", "40"), "model_channels", 40),
    (("--preset", "gfdm-mnist"), "use_ema", False),
    (("--preset", "gfdm-mnist", "--use_ema", "True"), "use_ema", True),
    (("--data_name", "mnist"), "use_ema", False),
    # values that look false are values
    (("--seed", "0"), "seed", 0),
    (("--clip_grad", "0"), "clip_grad", 0.0),
    (("--preset", "digits", "--num_aug", "0"), "num_aug", 0),
    (("--data_name", "mnist", "--lr", "0.5"), "lr", 0.5),
    # a preset on other data: the flag wins, the preset's other values stay
    (("--preset", "mnist-small", "--data_name", "digits"), "data_name", "digits"),
    (("--preset", "mnist-small", "--data_name", "digits"), "model_channels", 24),
    # the average's decay follows the dynamics
    (("--data_name", "mnist", "--dynamics", "fvp"), "ema_decay", (0.9999,)),
    (("--data_name", "mnist", "--dynamics", "fve"), "ema_decay", (0.999,)),
    (("--data_name", "mnist", "--dynamics", "ve"), "ema_decay", (0.999,)),
    (("--data_name", "mnist", "--dynamics", "fve", "--use_ema", "--ema_decay", "0.5,0.25"), "ema_decay", (0.5, 0.25)),
]


@pytest.mark.parametrize(("words", "flag", "value"), LEVELS)
def test_a_flag_beats_a_preset_beats_the_data_beats_the_default(words, flag, value):
    assert resolve(*words)[flag] == value


def test_a_preset_that_averages_says_so():
    """A preset with a decay of its own trains with the average, whatever the values of its data set are."""
    for name, values in args.PRESETS.items():
        if "ema_decay" in values:
            assert resolve("--preset", name)["use_ema"] is True, name


@pytest.mark.parametrize("name", args.PRESETS)
def test_a_preset_holds_what_it_says(name):
    settings = resolve("--preset", name)
    assert {key: settings[key] for key in args.PRESETS[name]} == args.PRESETS[name]
    assert set(args.PRESETS[name]) <= set(cli_tools.defaults(args.TRAIN_FLAGS))


def test_the_published_command_of_mnist_is_the_default_of_mnist():
    """The README of GFDM's code, word for word."""
    published = (
        "--data_name mnist --channels 1 --image_size 28 --hurst 0.9 --num_aug 3 --dynamics fvp --model_channels 64 "
        "--num_res_blocks 3 --attn_resolutions 4,2 --channel_mult 1,2,4 --dropout 0.0 --use_ema False "
        "--log_model_every_n 50000 --val_check_interval 500 --lr 1e-4 --batch_size 1024 --train_steps 50000"
    )
    given, implied = resolve(*published.split()), resolve("--data_name", "mnist")
    assert {k for k in given if given[k] != implied[k]} == {"channels", "image_size"}  # which are checked only
    assert given["attn_resolutions"] == (4, 2)
    assert given["channel_mult"] == (1, 2, 4)


# -- help and presets -------------------------------------------------------------------------------------------------

GROUPS = {"train": args.TRAIN_FLAGS, "generate": args.GENERATE_FLAGS, "evaluate": args.EVALUATE_FLAGS}
FLAGS = [(program, flag) for program, groups in GROUPS.items() for flags in groups.values() for flag in flags]


@pytest.mark.parametrize("program", GROUPS)
def test_help_is_printed(cli, program):
    result = cli(program, "--help")
    assert result.code == 0
    assert result.err == ""
    assert result.out.startswith(f"usage: {program}.py")


@pytest.mark.parametrize(("program", "flag"), FLAGS, ids=lambda value: getattr(value, "name", value))
def test_help_lists_every_flag_with_its_default(cli, monkeypatch, program, flag):
    monkeypatch.setenv("COLUMNS", "1000")  # no help text is broken, but a long name stands on a line of its own
    shown = " ".join(cli(program, "--help").out.split())
    value = "{" + ",".join(flag.choices) + "}" if flag.choices else flag.name.upper()
    if flag.parse is cli_tools.boolean:
        value = "[True|False]"
    default = ",".join(map(str, flag.default)) if isinstance(flag.default, tuple) else str(flag.default)
    assert f" --{flag.name} {value} {flag.help}" + ("" if flag.default is None else f" (default: {default})") in shown
    assert len(flag.help) >= 5
    if flag.default is None:
        assert any(word in flag.help for word in ("default:", "required", "checked against", "published"))


def test_no_flag_is_there_twice():
    for groups in GROUPS.values():
        names = [flag.name for flags in groups.values() for flag in flags]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("word", ["--preset", "--list_presets", "--dry_run", "--resume"])
def test_help_of_train_lists_the_other_flags(cli, word):
    assert f"  {word} " in cli("train", "--help").out


def test_presets_are_listed_with_their_values(cli):
    result = cli("train", "--list_presets")
    assert result.code == 0
    assert result.written == []
    lines = result.out.splitlines()
    for name in args.PRESETS:
        words = lines[lines.index(name) + 1].split()
        assert resolve(*words) == resolve("--preset", name)  # what is printed can be pasted


# -- every preset builds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "mnist-small"])
def test_dry_run(cli, tmp_path, name):
    write_mnist(tmp_path / "data", train=8, test=4)
    result = cli("train", "--preset", name, "--dry_run", "--batch_size", 4)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1].startswith("dry run   one step on 4 images, loss ")
    assert result.written == []
    assert sorted(path.name for path in Path().iterdir()) == ["data"]


@pytest.mark.parametrize("name", GFDM_PRESETS)  # the others: test_functional.py
def test_presets_make_a_network(name):
    settings = {**resolve("--preset", name), "wb_id": "x"}
    config = json.loads(json.dumps(args.make_config(settings, SHAPES[settings["data_name"]], 10)))  # plain data
    with torch.device("meta"):  # only counted
        backbone = build(config["backbone"], nn.Module)
    parameters = sum(p.numel() for p in backbone.parameters())
    if name == "gfdm-mnist":
        assert parameters == 20_996_417  # of the published checkpoints
    elif name.endswith("cifar10") or name.startswith("gfdm-cifar10"):
        assert parameters == 58_692_867
    else:
        assert 5e5 < parameters < 2e6
    if settings["dynamics"] == "fvp":
        assert config["dynamics"]["arguments"]["hurst"] == settings["hurst"]
        assert config["dynamics"]["arguments"]["num_aug"] == settings["num_aug"]
        expected = f"x_{settings['data_name']}_H{settings['hurst']}_K{settings['num_aug']}"
    else:
        expected = f"x_cifar10_{settings['dynamics']}_unet"
    assert args.folder_name(settings) == expected


PAPER = {  # presets of the tables in the paper's README
    "gfdm-mnist": ("fvp", 0.9, 3),
    "gfdm-cifar10": ("fvp", 0.9, 2),
    "gfdm-cifar10-h0.9-k1": ("fvp", 0.9, 1),
    "gfdm-cifar10-h0.7-k2": ("fvp", 0.7, 2),
    "gfdm-cifar10-h0.9-k2": ("fvp", 0.9, 2),
}


@pytest.mark.parametrize("name", PAPER)
def test_presets_of_the_paper(name):
    settings = resolve("--preset", name)
    assert tuple(settings[key] for key in ("dynamics", "hurst", "num_aug")) == PAPER[name]


@pytest.mark.parametrize(("name", "decay"), [("vp-cifar10", 0.9999), ("ve-cifar10", 0.999)])
def test_classical_presets_of_the_paper(name, decay):
    settings = resolve("--preset", name)
    assert settings["dynamics"] == name[:2]
    assert settings["ema_decay"] == (decay,)


@pytest.mark.parametrize("dynamics", ["fvp", "fve", "vp", "ve", "subvp", "cld"])
def test_every_dynamics_builds_from_its_flags(cli, dynamics):
    result = cli("train", *tiny.command(**tiny.FLAGS, dynamics=dynamics, batch_size=2), "--dry_run")
    assert (result.code, result.err) == (0, "")


def dynamics_of(*words: str) -> dict:
    return args.make_config(resolve(*words), (1, 8, 8), 10)["dynamics"]


def test_flags_reach_the_dynamics():
    words = "--hurst 0.3 --num_aug 1 --gamma_max 7 --norm False --marginals paper --beta_min 0.2 --beta_max 9"
    spec = dynamics_of(*words.split())
    assert spec == {
        "class": "gfdm.dynamics:FVP",
        "arguments": {
            "hurst": 0.3,
            "num_aug": 1,
            "gamma_max": 7.0,
            "normalize": False,
            "marginals": "paper",
            "beta_min": 0.2,
            "beta_max": 9.0,
        },
    }
    spec = dynamics_of("--dynamics", "ve", "--sigma_min", "0.1", "--sigma_max", "4")
    assert spec == {"class": "common.dynamics.classic:VE", "arguments": {"sigma_min": 0.1, "sigma_max": 4.0}}


# -- .env and secrets -------------------------------------------------------------------------------------------------

SECRET = "k3y-0f-a-real-account"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("DATA_ROOT=here", "here"),
        ("export DATA_ROOT=here", "here"),
        ("  DATA_ROOT='here'  \n", "here"),
        ('DATA_ROOT="a b"', "a b"),
        ("# DATA_ROOT=there\n\nDATA_ROOT=here\nOTHER", "here"),
        ("DATA_ROOT=", None),
        ("", None),
    ],
)
def test_env_file(monkeypatch, text, value):
    Path(".env").write_text(text)
    cli_tools.read_env_file()
    assert os.environ.get("DATA_ROOT") == value


@pytest.mark.parametrize(
    ("env", "shell", "flag", "expected"),
    [
        (None, None, None, "data"),
        ("from-env", None, None, "from-env"),
        ("from-env", "from-shell", None, "from-shell"),
        ("from-env", "from-shell", "from-flag", "from-flag"),
        ("from-env", None, "from-flag", "from-flag"),
    ],
)
def test_a_flag_beats_the_shell_beats_the_env_file(cli, monkeypatch, env, shell, flag, expected):
    if env:
        Path(".env").write_text(f"DATA_ROOT={env}\n")
    if shell:
        monkeypatch.setenv("DATA_ROOT", shell)
    result = cli("train", "--data_name", "mnist", *(["--data_dir", flag] if flag else []))
    assert result.code == 2
    assert f" {expected}/MNIST/raw." in result.err


@pytest.mark.parametrize("place", ["shell", ".env"])
def test_secrets_are_written_nowhere(cli, monkeypatch, place):
    if place == "shell":
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
    else:
        Path(".env").write_text(f"WANDB_API_KEY={SECRET}\nDATA_ROOT=data\n")
    flags = {**tiny.FLAGS, "train_steps": 2, "batch_size": 2, "val_check_interval": 9, "wb_id": "s"}
    assert cli("train", *tiny.command(**flags)).code == 0
    result = cli("generate", "--run_id", "s", "--steps", 1, "--n_samples", 1)
    assert result.code == 0
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert {"config.json", "environment.txt", "settings.json", "model-final.pth"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in result.out + result.err


def test_a_random_id_is_six_digits():
    name = train.plan({"dry_run": True})[0]["wb_id"]
    assert len(name) == 6
    assert 100000 <= int(name) <= 999999  # no leading zero: published command lines read it as a number


@pytest.mark.parametrize("words", [["--wb_key", "S3CRET"], ["--wb_key=S3CRET"]])
def test_a_key_leaves_the_command_line(words):
    line = ["train.py", "--lr", "1", *words, "--seed", "2"]
    assert cli_tools.without_secret(line) == ["train.py", "--lr", "1", "--seed", "2"]
    shown = cli_tools.redacted(line)
    assert len(shown) == len(line)
    assert not any("S3CRET" in word for word in shown)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800), ("01:02:03", 3723), ("1:00:00:05", 86405)],
)
def test_durations(text, seconds):
    assert resolve("--max_time", text)["max_time"] == seconds


def test_values_by_name():
    given = resolve("--model_args", "num_heads=2,rate=1e-3, kind=small,flag=True")["model_args"]
    assert given == {"num_heads": 2, "rate": 1e-3, "kind": "small", "flag": True}
    config = args.make_config(resolve("--model_args", "num_heads=2"), (1, 8, 8), 10)
    assert config["backbone"]["arguments"]["num_heads"] == 2
    config = args.make_config(resolve("--dynamics", "cld", "--dynamics_args", "mass=0.5"), (1, 8, 8), 10)
    assert config["dynamics"]["arguments"] == {"mass": 0.5}


@pytest.mark.parametrize("text", ["--compile", "--compile True", "--compile yes"])
def test_a_switch_needs_no_word(text):
    assert resolve(*text.split())["compile"] is True
