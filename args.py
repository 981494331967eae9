"""The one argparse schema: flags, defaults, presets, validation, and the config of a run made from them.

Order of precedence: a flag given on the command line, the preset, the default that follows the data set, the default.
A wrong value ends with one line that names the flag, and exit code 2.
"""

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from common.backbones import UNet
from common.data import SOURCES, Arrays
from common.denoiser import PREDICTIONS
from common.dynamics import CLD, VE, VP, SubVP
from common.runs import class_path
from common.samplers import GRIDS, SOLVERS
from gfdm.dynamics import FVE, FVP, MARGINALS
from gfdm.presets import PRESETS as GFDM_PRESETS

PRESETS: dict[str, dict[str, object]] = {**GFDM_PRESETS}
DATA_DEFAULTS: dict[str, str] = {"digits": "digits", "mnist": "gfdm-mnist"}  # data set -> preset whose values it gets

# -- types of values -------------------------------------------------------------------------------------------------


def boolean(text: str) -> bool:
    """True or False, as published command lines write it."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def integers(text: str) -> tuple[int, ...]:
    """Integers separated by commas, e.g. 1,2,4."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of integers separated by commas") from error


def ranges(text: str) -> tuple[int, ...]:
    """Integers and ranges separated by commas, e.g. 0-63,100."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{part!r} is no number and no rising range like 0-63")
        if int(match[2] or match[1]) > LARGEST:
            raise argparse.ArgumentTypeError(f"{part!r} is not below 2^63")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


LARGEST = 2**63 - 1


def at_least(low: int) -> Callable[[str], int]:
    """Integers from ``low`` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
        if not low <= value <= LARGEST:
            raise argparse.ArgumentTypeError(f"must be at least {low} and below 2^63, got {value}")
        return value

    return parse


def number(
    low: float, high: float = float("inf"), *, open_low: bool = False, open_high: bool = False
) -> Callable[[str], float]:
    """Numbers of an interval."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
        inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
        if not inside or math.isinf(value):
            interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == float('inf') else ']'}"
            raise argparse.ArgumentTypeError(f"must lie in {interval}, got {text}")
        return value

    return parse


def run_name(text: str) -> str:
    """A run id that is a plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", text) or text == "latest":
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits, '-' and '.' (and not 'latest')")
    return text


# -- the schema ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    """One flag: parser of its value, default, help text, choices."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    choices: tuple[str, ...] | None = None


POSITIVE = number(0, open_low=True)
EMA_DECAY = {"fve": 0.999, "ve": 0.999}  # published: 0.999 (FVE), 0.9999 (all others)

TRAIN_FLAGS: dict[str, tuple[Flag, ...]] = {
    "data": (
        Flag("data_name", str, "digits", "data set; digits is built in", tuple(SOURCES)),
        Flag("data_dir", Path, None, "folder with data sets in torchvision's layout (default: $DATA_ROOT or ./data)"),
        Flag("channels", at_least(1), None, "channels of the images; checked against the data"),
        Flag("image_size", at_least(1), None, "side of the images in pixels; checked against the data"),
        Flag("num_classes", at_least(1), None, "number of classes; checked against the data"),
        Flag("conditioning", boolean, True, "give the network class labels"),
        Flag("flip", boolean, False, "mirror training images left to right at random"),
        Flag("val_samples", at_least(1), 1000, "held-out images used in validation"),
    ),
    "dynamics": (
        Flag("dynamics", str, "fvp", "forward process", ("fvp", "fve", "vp", "ve", "subvp", "cld")),
        Flag("hurst", number(0, 1, open_low=True, open_high=True), 0.9, "Hurst index H of fvp and fve"),
        Flag("num_aug", at_least(0), 2, "number K of augmenting processes of fvp and fve; 0 is classical VP / VE"),
        Flag("gamma_max", number(1, open_low=True), 20.0, "largest rate of the augmenting processes"),
        Flag("norm", boolean, True, "normalise the weights of the augmenting processes"),
        Flag("marginals", str, "exact", "law of the augmented process: its own, or the published one", MARGINALS),
        Flag("beta_min", number(0), 0.1, "beta(0) of fvp, vp, subvp"),
        Flag("beta_max", POSITIVE, 20.0, "beta(1) of fvp, vp, subvp"),
        Flag("sigma_min", POSITIVE, 0.01, "noise level at t = 0 of fve, ve"),
        Flag("sigma_max", POSITIVE, 50.0, "noise level at t = 1 of fve, ve"),
        Flag(
            "prior",
            str,
            "zero",
            "start of sampling: N(0, S(T)) as published, or with the data's mean and variance",
            ("zero", "data"),
        ),
    ),
    "network": (
        Flag("model_name", str, "unet", "backbone", ("unet",)),
        Flag("model_channels", at_least(8), 128, "channels of the first level, a multiple of 8"),
        Flag("num_res_blocks", at_least(1), 4, "residual blocks per level"),
        Flag("attn_resolutions", integers, (8,), "downsampling factors (not pixels) with attention, e.g. 4,2"),
        Flag("channel_mult", integers, (1, 2, 2, 2), "channel factor of each level, e.g. 1,2,4"),
        Flag("dropout", number(0, 1, open_high=True), 0.1, "dropout in the residual blocks"),
        Flag("prediction", str, "auto", "what the network predicts", ("auto", *PREDICTIONS)),
    ),
    "training": (
        Flag("train_steps", at_least(2), 1000000, "optimiser steps"),
        Flag("batch_size", at_least(1), 128, "images per device and micro-step"),
        Flag("accumulate_grad_batches", at_least(1), 1, "micro-steps per optimiser step"),
        Flag("lr", POSITIVE, 2e-4, "peak learning rate of the one-cycle schedule"),
        Flag("clip_grad", number(0), 1.0, "largest gradient norm; 0 does not clip"),
        Flag("use_ema", boolean, True, "keep an exponential moving average of the weights and sample from it"),
        Flag(
            "ema_decay",
            number(0, 1, open_high=True),
            None,
            "decay of the average (default: 0.999 for fve and ve, else 0.9999)",
        ),
        Flag("ema_every", at_least(1), 10, "optimiser steps between updates of the average"),
        Flag("seed", at_least(0), 0, "seed of initial weights, times, noise, order and dropout"),
        Flag("val_check_interval", at_least(1), 10000, "optimiser steps between validations, each with a sample grid"),
        Flag("log_every", at_least(1), 50, "optimiser steps between log lines"),
        Flag("log_model_every_n", at_least(1), 100000, "optimiser steps between kept weights (model-v0.pth, ..)"),
        Flag("checkpoint_every", at_least(1), 1000, "optimiser steps between checkpoints"),
        Flag("keep", at_least(1), 2, "checkpoints kept beside last.ckpt"),
    ),
    "run": (
        Flag("wb_id", run_name, None, "id of the run (default: six random digits)"),
        Flag("output_dir", Path, Path("runs"), "folder that holds the runs"),
        Flag("device", str, "auto", "where to compute", ("auto", "cpu", "cuda")),
        Flag("devices", at_least(1), 1, "devices per node"),
        Flag("num_nodes", at_least(1), 1, "nodes"),
        Flag("strategy", str, "auto", "how several devices work together", ("auto", "ddp")),
        Flag("precision", str, "32-true", "numerical precision of the network", ("32-true", "bf16-mixed", "16-mixed")),
        Flag("deterministic", boolean, False, "bit-identical results on CUDA too"),
    ),
}

GENERATE_FLAGS: dict[str, tuple[Flag, ...]] = {
    "what": (
        Flag("run_id", str, None, "id or folder name of the run, or latest (required)"),
        Flag("version", str, "final", "version of the weights: final, v0, v1, .."),
        Flag("use_ema", boolean, None, "use the averaged weights (default: where the run kept them)"),
        Flag("n_samples", at_least(1), 100, "number of samples"),
        Flag("seeds", ranges, None, "seeds, one per sample, e.g. 0-63,100 (default: 0 to n_samples - 1)"),
        Flag("labels", integers, None, "classes, repeated in turn, e.g. 3,3,7 (default: all classes in turn)"),
    ),
    "how": (
        Flag("mode", str, None, "published samplers: sde is --solver em, ode is --solver euler", ("sde", "ode")),
        Flag(
            "solver",
            str,
            None,
            "solver (default: exp2 for digits, else that of --mode sde, as published)",
            tuple(SOLVERS),
        ),
        Flag("steps", at_least(1), None, "solver steps (default: 20 for exp1 and exp2, else 1000 as published)"),
        Flag("grid", str, None, "time grid (default: the solver's own)", tuple(GRIDS)),
        Flag("t_end", number(1e-6, 1, open_high=True), 1e-3, "time at which sampling ends"),
        Flag("clip_x0", boolean, None, "clip x0_hat to [-1, 1] (default: for exp1 and exp2)"),
        Flag(
            "batch_size",
            at_least(1),
            100,
            "samples computed together; fixed blocks, so results do not depend on restarts",
        ),
    ),
    "run": (
        Flag("output_dir", Path, Path("runs"), "folder that holds the runs"),
        Flag("device", str, "auto", "where to compute", ("auto", "cpu", "cuda")),
        Flag("data_name", str, None, "accepted as published; checked against the run"),
        Flag("dynamics", str, None, "accepted as published; checked against the run"),
        Flag("hurst", float, None, "accepted as published; checked against the run"),
        Flag("num_aug", int, None, "accepted as published; checked against the run"),
    ),
}

METRICS = ("agreement", "nearest")
EVALUATE_FLAGS: dict[str, tuple[Flag, ...]] = {
    "what": (
        Flag("run_id", str, None, "id or folder name of the run, or latest (required)"),
        Flag("version", str, None, "version of the weights (default: that of the newest generated data)"),
        Flag("samples", str, None, "folder under generated_data/model-{version}, e.g. sde1000 (default: the newest)"),
        Flag(
            "metrics",
            lambda text: tuple(text.split(",")),
            METRICS,
            f"metrics separated by commas: {', '.join(METRICS)}",
        ),
        Flag("output_dir", Path, Path("runs"), "folder that holds the runs"),
        Flag("data_dir", Path, None, "folder with data sets in torchvision's layout (default: $DATA_ROOT or ./data)"),
    ),
}


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def make_parser(program: str, description: str, groups: dict[str, tuple[Flag, ...]]) -> OneLineParser:
    """A parser whose namespace holds only what was given."""
    parser = OneLineParser(
        prog=program, description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            shown = ",".join(map(str, flag.default)) if isinstance(flag.default, tuple) else flag.default
            default = "" if flag.default is None else f" (default: {shown})"
            group.add_argument(
                f"--{flag.name}",
                type=flag.parse,
                help=(flag.help + default).replace("%", "%%"),
                choices=flag.choices,
                metavar=None if flag.choices else flag.name.upper(),
            )
    return parser


def defaults(groups: dict[str, tuple[Flag, ...]]) -> dict[str, Any]:
    """Flag name to default value."""
    return {flag.name: flag.default for flags in groups.values() for flag in flags}


def read_env_file(path: Path = Path(".env")) -> None:
    """Take ``NAME=value`` lines of a .env file into the environment; what the shell has set wins."""
    if path.exists():
        for line in path.read_text().splitlines():
            match = re.fullmatch(r"\s*(?:export\s+)?(\w+)=(.*?)\s*", line)
            if match and match[2]:
                os.environ.setdefault(match[1], match[2].strip("\"'"))


def data_folder(given: Path | None) -> Path:
    """--data_dir, else $DATA_ROOT, else ./data."""
    return given or Path(os.environ.get("DATA_ROOT") or "data")


ALIASES = {"attention_resolutions": "attn_resolutions", "normalize": "norm"}  # names of arguments -> flags


def with_flags(message: str) -> str:
    """One line in which names of flags are written as flags."""
    groups = (TRAIN_FLAGS, GENERATE_FLAGS, EVALUATE_FLAGS)
    names = {flag.name for group in groups for flags in group.values() for flag in flags} | {"resume"}
    line = " ".join(message.split())
    for argument, flag in ALIASES.items():
        line = re.sub(rf"(?<![\w-]){argument}(?!\w)", flag, line)
    if re.split(r"\W", line)[0] in names:
        line = f"--{line}"
    # words such as "steps" are also English: beyond the first word only names with an underscore are taken for flags
    compound = "|".join(sorted(name for name in names if "_" in name))
    return re.sub(rf"(?<![\w./-])({compound})(?![\w./])", r"--\1", line)


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn the errors of building (they name argument and range) into one line and exit code 2."""
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        print(f"{program}: error: {with_flags(str(error))}", file=sys.stderr)
        raise SystemExit(2) from error


# -- train.py --------------------------------------------------------------------------------------------------------

# what may change between the parts of a resumed run; everything else is part of what is being trained
RESUMABLE = {
    "data_dir", "output_dir", "device", "devices", "num_nodes", "strategy", "wb_id", "keep", "checkpoint_every",
    "log_model_every_n", "val_check_interval", "val_samples", "deterministic",
}  # fmt: skip


def train_parser() -> OneLineParser:
    """The parser of train.py."""
    parser = make_parser("train.py", "Train a diffusion model. Without flags: preset digits.", TRAIN_FLAGS)
    parser.add_argument("--preset", choices=tuple(PRESETS), help="values for the flags below; a given flag wins")
    parser.add_argument("--list_presets", action="store_true", help="print the presets and their values")
    parser.add_argument("--dry_run", action="store_true", help="build everything, take one step, write nothing")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="auto|ID|PATH",
        help="go on with a run: auto takes --wb_id and starts fresh if there is nothing; or a run id, or a checkpoint",
    )
    return parser


def preset_table() -> str:
    """Presets and their values, for --list_presets."""
    lines = []
    for name, values in PRESETS.items():
        flags = (f"--{k} {','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in values.items())
        lines.append(f"{name}\n    {' '.join(flags)}")
    return "\n".join(lines)


def resolve_train(given: dict[str, Any]) -> dict[str, Any]:
    """Values of all training flags from those given on the command line."""
    preset = PRESETS[given["preset"]] if "preset" in given else {}
    base = defaults(TRAIN_FLAGS)
    name = given.get("data_name") or preset.get("data_name") or base["data_name"]
    following = PRESETS[DATA_DEFAULTS[str(name)]] if str(name) in DATA_DEFAULTS and not preset else {}
    explicit = {key: value for key, value in given.items() if key in base}
    settings = {**base, **following, **preset, **explicit}
    if settings["ema_decay"] is None:
        settings["ema_decay"] = EMA_DECAY.get(settings["dynamics"], 0.9999)
    return settings


def dynamics_spec(settings: dict[str, Any]) -> dict[str, Any]:
    """Class and constructor arguments of the dynamics."""
    beta = {"beta_min": settings["beta_min"], "beta_max": settings["beta_max"]}
    sigma = {"sigma_min": settings["sigma_min"], "sigma_max": settings["sigma_max"]}
    fractional = {
        "hurst": settings["hurst"],
        "num_aug": settings["num_aug"],
        "gamma_max": settings["gamma_max"],
        "normalize": settings["norm"],
        "marginals": settings["marginals"],
    }
    table: dict[str, tuple[type, dict[str, Any]]] = {
        "fvp": (FVP, {**fractional, **beta}),
        "fve": (FVE, {**fractional, **sigma}),
        "vp": (VP, beta),
        "ve": (VE, sigma),
        "subvp": (SubVP, beta),
        "cld": (CLD, {}),
    }
    cls, arguments = table[settings["dynamics"]]
    return {"class": class_path(cls), "arguments": arguments}


def make_config(settings: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        ValueError: where a flag contradicts the data.
    """
    channels, height, width = arrays.shape
    if height != width:
        raise ValueError(f"data_name {settings['data_name']}: images of {height}x{width} are not square")
    for flag, found in (("channels", channels), ("image_size", height), ("num_classes", arrays.num_classes)):
        if settings[flag] not in (None, found):
            raise ValueError(
                f"{flag} {settings[flag]} contradicts --data_name {settings['data_name']}, which has {found}"
            )
    pixels = arrays.train.images.double() / 127.5 - 1
    with_data = settings["prior"] == "data"
    return {
        "format": 1,
        "dynamics": dynamics_spec(settings),
        "prior": {
            "mean": float(pixels.mean()) if with_data else 0.0,
            "variance": float(pixels.var()) if with_data else 0.0,
        },
        "backbone": {
            "class": class_path(UNet),
            "arguments": {
                "image_size": height,
                "in_channels": channels,
                "model_channels": settings["model_channels"],
                "out_channels": channels,
                "num_res_blocks": settings["num_res_blocks"],
                "attention_resolutions": list(settings["attn_resolutions"]),
                "dropout": settings["dropout"],
                "channel_mult": list(settings["channel_mult"]),
                "num_classes": arrays.num_classes if settings["conditioning"] else None,
            },
        },
        "prediction": settings["prediction"],
        "data": {
            "name": settings["data_name"],
            "shape": list(arrays.shape),
            "num_classes": arrays.num_classes if settings["conditioning"] else None,
        },
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
    }


def folder_name(settings: dict[str, Any]) -> str:
    """Name of the run folder."""
    if settings["dynamics"] in ("fvp", "fve"):
        return f"{settings['wb_id']}_{settings['data_name']}_H{settings['hurst']}_K{settings['num_aug']}"
    return f"{settings['wb_id']}_{settings['data_name']}_{settings['dynamics']}_{settings['model_name']}"


def check_device(device: str) -> torch.device:
    """The device of ``--device``.

    Raises:
        ValueError: for cuda without CUDA.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch sees no CUDA device here; use --device cpu")
    name = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(name)


# -- generate.py and evaluate.py -------------------------------------------------------------------------------------


def parse(
    program: str, description: str, groups: dict[str, tuple[Flag, ...]], argv: Sequence[str] | None
) -> dict[str, Any]:
    """The flags given on a command line of generate.py or evaluate.py; --run_id is required."""
    read_env_file()
    parser = make_parser(program, description, groups)
    given = vars(parser.parse_args(argv))
    if "run_id" not in given:
        parser.error("--run_id is required: the id or folder name of a run, or latest")
    return given


def parse_generate(argv: Sequence[str] | None) -> dict[str, Any]:
    """Values of all flags of generate.py.

    Raises:
        ValueError: for flags that contradict each other.
    """
    given = parse("generate.py", "Draw samples from a trained run.", GENERATE_FLAGS, argv)
    if "mode" in given and "solver" in given:
        raise ValueError(
            "mode and --solver exclude each other: --mode sde is --solver em, --mode ode is --solver euler"
        )
    if "seeds" in given:
        count = len(given["seeds"])
        if given.get("n_samples", count) != count:
            raise ValueError(f"n_samples {given['n_samples']} contradicts --seeds, which names {count}; leave it out")
        given["n_samples"] = count
    return {**defaults(GENERATE_FLAGS), **given}


def parse_evaluate(argv: Sequence[str] | None) -> dict[str, Any]:
    """Values of all flags of evaluate.py.

    Raises:
        ValueError: for an unknown metric.
    """
    given = parse("evaluate.py", "Figures about generated samples.", EVALUATE_FLAGS, argv)
    settings = {**defaults(EVALUATE_FLAGS), **given}
    unknown = [name for name in settings["metrics"] if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics {unknown[0]} is unknown; there are {', '.join(METRICS)}")
    return settings
