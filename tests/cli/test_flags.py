"""Flags: who wins, what --help says, presets, the .env file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import args
from common.config import parser as cli_tools
from common.config.flags import boolean
from common.config.plugins import build, class_of
from common.config.resolve import fit_to_data
from common.config.schema import Chosen, RunConfig
from common.config.stored import from_json, to_json
from common.data.spec import DataSpec
from common.training.resume import plan
from gfdm.presets import PRESETS as GFDM_PRESETS
from tests.data.idx import write_mnist
from tests.marks import later
from tests.training import tiny

SHAPES = {
    "digits": (1, 8, 8), "mnist": (1, 28, 28), "fashionmnist": (1, 28, 28), "cifar10": (3, 32, 32),
    "celeba": (3, 32, 32), "spokendigits": (1, 8000), "arrays": (1, 21),
}  # fmt: skip


def run_of(*words: str) -> RunConfig:
    """The run that a command line describes, its data unseen."""
    order = args.parse_train(words)
    assert order is not None
    assert order.config is not None
    return order.config


def resolve(*words: str) -> dict:
    """Every flag of that run with its value."""
    values = run_of(*words).flags(class_of)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def fitted(*words: str, shape: tuple[int, ...] = (1, 8, 8), num_classes: int | None = 10) -> RunConfig:
    """The run on data of a shape, as config.json gives it back."""
    config = run_of(*words)
    kind, rate = ("image", None) if len(shape) == 3 else ("sound", 8000)
    classes = None if num_classes is None else tuple(map(str, range(num_classes)))
    spec = DataSpec(kind, shape, sample_rate=rate, classes=classes)
    config = fit_to_data(config, spec, class_of(config.dynamics), class_of(config.network))
    return from_json(to_json(config), "a test")


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


GROUPS = {
    "train": args.train_groups(*args.everything()),
    "generate": args.generate_groups(args.all_members()),
    "evaluate": args.evaluate_groups(),
}


@pytest.mark.parametrize("program", GROUPS)
def test_help_is_printed(cli, program):
    result = cli(program, "--help")
    assert result.code == 0
    assert result.err == ""
    assert result.out.startswith(f"usage: {program}.py")


@pytest.mark.parametrize("program", GROUPS)
def test_help_all_lists_every_flag_with_its_default(cli, monkeypatch, program):
    monkeypatch.setenv("COLUMNS", "1000")  # no help text is broken, but a long name stands on a line of its own
    shown = " ".join(cli(program, "--help", "all").out.split())
    names = [flag.name for flags in GROUPS[program].values() for flag in flags]
    assert len(names) == len(set(names))
    for flag in (flag for flags in GROUPS[program].values() for flag in flags):
        value = "{" + ",".join(flag.choices) + "}" if flag.choices else flag.name.upper()
        if flag.read is boolean:
            value = "True|False"
        value = value if flag.alone is None else f"[{value}]"
        value += f" [{value} ...]" * flag.many
        default = ",".join(map(str, flag.default)) if isinstance(flag.default, tuple) else str(flag.default)
        given = flag.default is None or "(default" in flag.help
        assert f" --{flag.name} {value} {flag.help}" + ("" if given else f" (default: {default})") in shown, flag
        assert len(flag.help) >= 5
        assert flag.help != "see its documentation", flag


def test_help_shows_the_flags_of_the_chosen_classes(cli):
    shown = cli("train", "--help").out
    assert shown.startswith("usage: train.py [--preset NAME] [flags]\n")
    for word in ("--hurst", "--model_channels", "--preset", "--list_presets", "--dry_run", "--resume", "--version"):
        assert f"  {word} " in shown, word
    assert "--energy_norm" not in shown
    shown = cli("train", "--dynamics", "heat", "--model_name", "inr", "--help").out
    assert "--energy_norm" in shown
    assert "--width" in shown
    assert "--hurst" not in shown
    assert "--snr" in cli("generate", "--solver", "pc", "--help").out


@pytest.mark.parametrize("program", ["train", "generate", "evaluate"])
def test_version(cli, program):
    result = cli(program, "--version")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{program}.py ")


def test_help_imports_nothing_that_takes_long():
    """Lightning, torchvision, torchmetrics, scikit-learn, matplotlib and W&B are imported where they are used."""
    heavy = ("lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib", "wandb", "scipy", "pytorch_optimizer")
    code = f"import sys, train, generate, evaluate; print([name for name in {heavy} if name in sys.modules])"
    root = Path(args.__file__).parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert found.stdout.strip() == "[]"


def test_presets_are_listed_and_shown(cli):
    result = cli("train", "--list_presets")
    assert (result.code, result.written) == (0, [])
    rows = {line.split()[0]: line for line in result.out.splitlines() if line}
    assert max(map(len, result.out.splitlines())) <= 140
    for name, values in args.PRESETS.items():
        assert str(values["data_name"]) in rows[name]
        assert f"{args.ABOUT[name].parameters:,}" in rows[name]
        assert rows[name].endswith(args.ABOUT[name].purpose)
        shown = cli("train", "--show_preset", name)
        assert (shown.code, shown.out.count("\n")) == (0, 1)
        words = shown.out.split()
        assert words[:2] == ["python", "train.py"]
        assert resolve(*words[2:]) == resolve("--preset", name)  # what is printed can be pasted
    assert "--show_preset nothing" not in cli("train", "--show_preset", "nothing").out
    assert cli("train", "--show_preset", "nothing").code == 2


# -- every preset builds ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "mnist-small"])
def test_dry_run(cli, tmp_path, name):
    write_mnist(tmp_path / "data", train=8, test=4)
    result = cli("train", "--preset", name, "--dry_run", "--batch_size", 4)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1].startswith("dry run   one batch of 4 samples, loss ")
    assert result.written == []
    assert sorted(path.name for path in Path().iterdir()) == ["data"]


@pytest.mark.parametrize("name", GFDM_PRESETS)  # the others: test_functional.py
def test_presets_make_a_network(name):
    settings = resolve("--preset", name)
    config = fitted("--preset", name, "--wb_id", "x", shape=SHAPES[settings["data_name"]])
    with torch.device("meta"):  # only counted
        backbone = build(config.network, nn.Module)
    parameters = sum(p.numel() for p in backbone.parameters())
    if settings["data_name"] != "arrays":  # there it depends on the number of classes
        assert parameters == args.ABOUT[name].parameters
    if name == "gfdm-mnist":
        assert parameters == 20_996_417  # of the published checkpoints
    elif name.endswith("cifar10") or name.startswith("gfdm-cifar10"):
        assert parameters == 58_692_867
    else:
        assert 5e5 < parameters < 2e6
    if settings["dynamics"] == "fvp":
        expected = f"x_{settings['data_name']}_H{settings['hurst']}_K{settings['num_aug']}"
    else:
        expected = f"x_cifar10_{settings['dynamics']}_unet"
    assert config.folder_name == expected


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


@pytest.mark.parametrize("dynamics", ["fve", "cld", *map(later, ("fvp", "vp", "ve", "subvp"))])
def test_every_dynamics_builds_from_its_flags(cli, dynamics):
    result = cli("train", *tiny.command(**tiny.FLAGS, dynamics=dynamics, batch_size=2), "--dry_run")
    assert (result.code, result.err) == (0, "")


def test_flags_reach_the_dynamics():
    words = "--hurst 0.3 --num_aug 1 --gamma_max 7 --norm False --marginals paper --beta_min 0.2 --beta_max 9"
    assert fitted(*words.split()).dynamics == Chosen(
        "fvp",
        "gfdm.dynamics:FVP",
        {
            "hurst": 0.3,
            "num_aug": 1,
            "gamma_max": 7.0,
            "beta_min": 0.2,
            "beta_max": 9.0,
            "normalize": False,
            "marginals": "paper",
            "aug_init_var": 1e-4,
        },
    )
    found = fitted("--dynamics", "ve", "--sigma_min", "0.1", "--sigma_max", "4").dynamics
    assert found == Chosen("ve", "common.dynamics.classic:VE", {"sigma_min": 0.1, "sigma_max": 4.0})


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
    order = args.parse_train(["--dry_run"])
    assert order is not None
    name = str(plan(order).config.keeping.wb_id)
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
    order = args.parse_train(["--max_time", text])
    assert order is not None
    assert order.command.max_time == seconds


def test_values_by_name():
    (flag,) = args.choice_flags("model_args")
    given = flag.read("num_heads=2,rate=1e-3, kind=small,flag=True")
    assert given == {"num_heads": 2, "rate": 1e-3, "kind": "small", "flag": True}
    assert fitted("--model_args", "num_heads=2").network.arguments["num_heads"] == 2
    assert fitted("--dynamics", "cld", "--dynamics_args", "mass=0.5").dynamics.arguments["mass"] == 0.5


@pytest.mark.parametrize("text", ["--compile", "--compile True", "--compile yes"])
def test_a_switch_needs_no_word(text):
    assert resolve(*text.split())["compile"] is True
