"""The one argparse schema: flags, defaults, presets, validation, and the config of a run made from them.

Order of precedence: a flag given on the command line, the preset, the default that follows the data set, the default.
A wrong value ends with one line that names the flag, and exit code 2.
"""

import importlib
import importlib.util
import inspect
import itertools
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.backbones import INR, UNet, UViT
from common.config import flags as cli
from common.config.flags import Flag, at_least, boolean, integers, number, ranges, several
from common.data import SOURCES, DataOptions, DataSet
from common.denoiser import PREDICTIONS
from common.dynamics import CLD, VE, VP, LinearDynamics, SubVP
from common.meta import COMMON_RATE, LEARNED_START
from common.runs import class_path, parse_released_name
from common.runs.pretrained import PRETRAINED
from common.samplers import CORRECTORS, GRIDS, PREDICTORS, SOLVERS
from common.training.loggers import LOGGERS
from common.training.module import REDUCTIONS
from common.training.optimizers import OPTIMIZERS, SCHEDULERS
from common.training.times import TIME_SAMPLINGS
from common.training.weights import LOSS_WEIGHTS
from fdp.dynamics import HeatSubVP
from fdp.presets import PRESETS as FDP_PRESETS
from gfdm.dynamics import FVE, FVP, MARGINALS
from gfdm.presets import PRESETS as GFDM_PRESETS

# What --dynamics and --model_name know; a --plugin may add to them, and to SOURCES, SOLVERS, GRIDS and PRESETS.
DYNAMICS: dict[str, type[LinearDynamics]] = {
    "fvp": FVP, "fve": FVE, "vp": VP, "ve": VE, "subvp": SubVP, "cld": CLD, "heat": HeatSubVP
}  # fmt: skip
BACKBONES: dict[str, type[nn.Module]] = {"unet": UNet, "uvit": UViT, "inr": INR}
PRESETS: dict[str, dict[str, object]] = {**GFDM_PRESETS, **FDP_PRESETS}

DATA_DEFAULTS: dict[str, str] = {  # data set -> preset whose values it gets
    "digits": "digits",
    "mnist": "gfdm-mnist",
    "fashionmnist": "gfdm-mnist",
    "cifar10": "gfdm-cifar10",
    "cifar100": "gfdm-cifar10",
}
HEAT_DEFAULTS: dict[tuple[str, str], str] = {  # under heat dynamics: data set and network -> preset
    ("digits", "uvit"): "fdp-digits-uvit",
    ("digits", "inr"): "fdp-digits-inr",
    ("mnist", "inr"): "fdp-mnist-inr",
    ("celeba", "uvit"): "fdp-celeba-uvit",
    ("celeba", "inr"): "fdp-celeba-inr",
    ("spokendigits", "uvit"): "fdp-audio-uvit",
    ("spokendigits", "inr"): "fdp-audio-inr",
}

# -- the schema ------------------------------------------------------------------------------------------------------

POSITIVE = number(0, open_low=True)
PRIORS = ("zero", "data")
SHARE = number(0, 1, open_high=True)
# defaults that follow the dynamics or the network
EMA_DECAY = {"fve": 0.999, "ve": 0.999}  # published: 0.999 (FVE), 0.9999 (all others)
BETA_MAX = {"heat": 10.0}  # else 20
PRIOR = {"heat": "data"}  # else zero: under heat dynamics the published one is wrong
INNER_STEPS = {"inr": 3}  # else 0: a coordinate network learns what it shall denoise by adapting to it

PLUGIN = Flag(
    "plugin",
    several(str),
    None,
    "own module (name or .py file) that adds data sets, networks, dynamics; see docs/extending.md (default: none)",
)
OUTPUT_DIR = Flag("output_dir", Path, Path("runs"), "folder that holds the runs")
DATA_DIR = Flag(
    "data_dir",
    Path,
    None,
    "folder with data sets in torchvision's layout; folder: the images; arrays: the .npy or .npz file "
    "(default: $DATA_ROOT or ./data)",
)
DEVICE = Flag("device", str, "auto", "where to compute", ("auto", "cpu", "cuda"))

DYNAMICS_FLAGS = (
    Flag("dynamics", str, "fvp", "forward process", DYNAMICS),
    Flag("hurst", number(0, 1, open_low=True, open_high=True), 0.9, "Hurst index H of fvp and fve"),
    Flag("num_aug", at_least(0), 2, "number K of augmenting processes of fvp and fve; 0 is classical VP / VE"),
    Flag("gamma_max", number(1, open_low=True), 20.0, "largest rate of the augmenting processes"),
    Flag("norm", boolean, True, "normalise the weights of the augmenting processes"),
    Flag("marginals", str, "exact", "law of the augmented process: its own, or the published one", MARGINALS),
    Flag("beta_min", number(0), 0.1, "beta(0) of fvp, vp, subvp"),
    Flag(
        "beta_max", POSITIVE, None, "beta(1) of fvp, vp, subvp; twice B(1), nearly, of heat (default: 20; 10 for heat)"
    ),
    Flag("sigma_min", POSITIVE, 0.01, "noise level at t = 0 of fve, ve"),
    Flag("sigma_max", POSITIVE, 50.0, "noise level at t = 1 of fve, ve"),
    Flag("x_norm", POSITIVE, None, "frequency of heat at one cycle per sample point (default: side of the grid)"),
    Flag("energy_norm", POSITIVE, 1.0, "divisor of the noise variance of heat"),
    Flag("dynamics_args", cli.keyword_values, None, "further arguments of the dynamics, e.g. mass=0.5 (default: none)"),
    Flag(
        "prior",
        str,
        None,
        "start of sampling: N(0, S(T)) as published, or with the data's mean and variance (under heat: its mean "
        "function and spectrum) (default: data for heat, else zero)",
        PRIORS,
    ),
)
NETWORK_FLAGS = (
    Flag("model_name", str, "unet", "backbone", BACKBONES),
    Flag("model_channels", at_least(8), 128, "channels of the first level, a multiple of 8"),
    Flag("num_res_blocks", at_least(1), 4, "residual blocks per level"),
    Flag("attn_resolutions", integers, (8,), "downsampling factors (not pixels) with attention, e.g. 4,2"),
    Flag("channel_mult", integers, (1, 2, 2, 2), "channel factor of each level, e.g. 1,2,4"),
    Flag("dropout", SHARE, 0.1, "dropout in the residual blocks"),
    Flag("patch_size", at_least(1), None, "side of the patches of uvit (default: 2)"),
    Flag("embed_dim", at_least(8), None, "width of uvit (default: 512)"),
    Flag(
        "depth", at_least(1), None, "blocks of uvit, an odd number, or hidden layers of inr (default: 13; 15 for inr)"
    ),
    Flag("num_heads", at_least(1), None, "attention heads (default: 1 for unet, 8 for uvit)"),
    Flag("mlp_dim", at_least(1), None, "hidden width of the blocks of uvit (default: 4 times --embed_dim)"),
    Flag("position", str, None, "how uvit knows where a patch is (default: sincos)", ("sincos", "learned")),
    Flag("width", at_least(1), None, "units of a hidden layer of inr (default: 256)"),
    Flag("y_input", boolean, None, "inr sees the noisy value at each point, not the coordinates alone (default: True)"),
    Flag(
        "inner_steps",
        at_least(0),
        None,
        "gradient steps in which the network adapts to every noisy sample before it "
        "answers; 0 for none (default: 3 for inr, else 0)",
    ),
    Flag(
        "inner_lr",
        POSITIVE,
        None,
        "learning rate of the inner steps (default: 0.01; 0.0005, to start from, if learned)",
    ),
    Flag("inner_clip", POSITIVE, 1.0, "largest element of a gradient in the inner steps"),
    Flag("learned_rates", boolean, False, "learn one inner rate for every weight (Meta-SGD)"),
    Flag(
        "checkpointing",
        boolean,
        None,
        "compute blocks or inner steps again in the backward pass, which saves memory (default: False)",
    ),
    Flag("paper", boolean, None, "repeat the errors of FDP's published networks, for their weights (default: False)"),
    Flag("model_args", cli.keyword_values, None, "further arguments of the backbone, e.g. num_heads=4 (default: none)"),
    Flag("prediction", str, "auto", "what the network predicts", ("auto", *PREDICTIONS)),
)

TRAIN_FLAGS: dict[str, tuple[Flag, ...]] = {
    "data": (
        Flag("data_name", str, "digits", "data set; digits is built in", SOURCES),
        DATA_DIR,
        Flag("download", boolean, False, "fetch the data set where it is missing"),
        Flag(
            "channels",
            at_least(1),
            None,
            "channels of the images (default: those of the data, 3 for folder and celeba)",
        ),
        Flag(
            "image_size",
            at_least(1),
            None,
            "side of the images; others are resized (default: that of the data, 64 for celeba)",
        ),
        Flag(
            "center_crop",
            number(0, 1, open_low=True),
            None,
            "side of the central square that is cut out before resizing, as a share of the shorter side (default: 1; "
            "140/178 for celeba, as published)",
        ),
        Flag("length", at_least(1), None, "points of functions and sounds, cut or padded (default: that of the data)"),
        Flag("num_classes", at_least(1), None, "number of classes; checked against the data"),
        Flag("conditioning", boolean, True, "give the network class labels, where the data has some"),
        Flag("label_dropout", SHARE, 0.0, "share of labels left out in training, for --guidance_scale in generation"),
        Flag("flip", boolean, False, "mirror training images left to right at random"),
        Flag("val_samples", at_least(1), 1000, "held-out images used in validation"),
        Flag("num_workers", at_least(0), None, "processes that read data (default: 0 for sets held on the device)"),
    ),
    "dynamics": DYNAMICS_FLAGS,
    "network": NETWORK_FLAGS,
    "training": (
        Flag("train_steps", at_least(2), 1000000, "optimiser steps"),
        Flag("batch_size", at_least(1), 128, "images per device and micro-step"),
        Flag("accumulate_grad_batches", at_least(1), 1, "micro-steps per optimiser step"),
        Flag("lr", POSITIVE, 2e-4, "peak learning rate"),
        Flag(
            "optimizer", str, "adam", "optimiser; adam as published for GFDM, adamw and adabelief for FDP", OPTIMIZERS
        ),
        Flag("weight_decay", number(0), 0.0, "weight decay of the optimiser"),
        Flag("lr_schedule", str, "onecycle", "course of the learning rate; onecycle as published for GFDM", SCHEDULERS),
        Flag("warmup_steps", at_least(0), 0, "steps from 0 to --lr, with --lr_schedule warmup_cosine"),
        Flag("decay_steps", at_least(0), 0, "step at which --lr_end is reached; 0 is the last one"),
        Flag("lr_end", number(0), 0.0, "last learning rate of --lr_schedule warmup_cosine"),
        Flag("clip_grad", number(0), 1.0, "largest gradient norm, or element; 0 does not clip"),
        Flag(
            "clip_by",
            str,
            "norm",
            "what --clip_grad limits; value (every element) as published for FDP",
            ("norm", "value"),
        ),
        Flag("t_min", number(1e-6, 1, open_high=True), 1e-5, "smallest training time; published: 1e-5, FDP 1e-3"),
        Flag("time_warmup", at_least(0), 0, "steps over which the range of training times grows to 63 % of it"),
        Flag("time_sampling", str, "uniform", "law of the training times; uniform as published", TIME_SAMPLINGS),
        Flag("loss_weight", str, "own", "error that is averaged; own (the network's) as published", LOSS_WEIGHTS),
        Flag(
            "loss_reduction",
            str,
            "mean",
            "of the squared error over the grid; sum makes the loss grow with it",
            REDUCTIONS,
        ),
        Flag("use_ema", boolean, True, "keep an exponential moving average of the weights and sample from it"),
        Flag(
            "ema_decay",
            several(SHARE),
            None,
            "decay of the average; several, e.g. 0.9999,0.999, keep one average each, the first being the one used "
            "(default: 0.999 for fve and ve, else 0.9999)",
        ),
        Flag("ema_every", at_least(1), 10, "optimiser steps between updates of the average"),
        Flag("init_from", str, None, "start from the weights of a run (id, folder name) or a file (default: fresh)"),
        Flag("seed", at_least(0), 0, "seed of initial weights, times, noise, order and dropout"),
        Flag("val_check_interval", at_least(1), 10000, "optimiser steps between validations, each with a sample grid"),
        Flag("num_sanity_val_steps", at_least(0), 0, "validation batches tried before training starts"),
        Flag("log_every", at_least(1), 50, "optimiser steps between log lines"),
        Flag("log_model_every_n", at_least(1), 100000, "optimiser steps between kept weights (model-v0.pth, ..)"),
        Flag("checkpoint_every", at_least(1), 1000, "optimiser steps between checkpoints"),
        Flag("keep", at_least(1), 2, "checkpoints kept beside last.ckpt"),
        Flag(
            "max_time",
            cli.duration,
            None,
            "stop, resumably, so long after the start: 90s, 30m, 3.5h, 23:50:00 (default: never)",
        ),
    ),
    "run": (
        Flag("wb_id", cli.run_name, None, "id of the run (default: six random digits)"),
        Flag("name", cli.run_name, None, "word added to the folder's name (default: none)"),
        OUTPUT_DIR,
        DEVICE,
        Flag("devices", at_least(1), None, "devices per node (default: every visible GPU; 1 on a CPU)"),
        Flag("num_nodes", at_least(1), 1, "nodes"),
        Flag("strategy", str, "auto", "how several devices work together", ("auto", "ddp")),
        Flag("precision", str, "32-true", "numerical precision of the network", ("32-true", "bf16-mixed", "16-mixed")),
        Flag("tf32", boolean, True, "let CUDA multiply float32 matrices in TF32, which is faster"),
        Flag("compile", boolean, False, "compile the network (torch.compile)"),
        Flag("deterministic", boolean, False, "bit-identical results on CUDA too"),
        Flag("logger", str, "csv", "where else figures go; metrics.csv is always written", LOGGERS),
        Flag("wb_key", str, None, "key of Weights & Biases, implies --logger wandb (default: $WANDB_API_KEY)"),
        Flag("wb_project", cli.run_name, "diffusion", "project at Weights & Biases"),
        PLUGIN,
    ),
}
OF_EVERY_CLASS = {"dynamics", "dynamics_args", "prior", "model_name", "model_args", "prediction", "inner_steps"}
ADAPTATION = {"inner_steps", "inner_lr", "inner_clip", "learned_rates", "checkpointing", "paper"}
BUILT_FROM = {flag.name for flags in (DYNAMICS_FLAGS, NETWORK_FLAGS) for flag in flags}

# what a run folder without config.json (published code) does not say
RELEASED_FLAGS = ("norm", "gamma_max", "marginals", "model_channels", "num_res_blocks", "attn_resolutions",
                  "channel_mult", "channels", "image_size", "num_classes", "conditioning")  # fmt: skip
_BY_NAME = {flag.name: flag for flags in TRAIN_FLAGS.values() for flag in flags}


def _for_released(name: str) -> Flag:
    flag = _BY_NAME[name]
    help_ = flag.help.partition(" (default")[0]
    return Flag(name, flag.parse, None, f"{help_} (default: as published)", flag.choices)


GENERATE_FLAGS: dict[str, tuple[Flag, ...]] = {
    "what": (
        Flag("run_id", str, None, "id or folder name of the run, or latest (required, or --pretrained)"),
        Flag("pretrained", str, None, "fetch the GFDM authors' weights, sample from them (default: none)", PRETRAINED),
        Flag("version", str, None, "version of the weights: final, v0, v1, .. (default: final, else the newest)"),
        Flag("use_ema", boolean, None, "use the averaged weights (default: where the run kept them)"),
        Flag("ema_decay", SHARE, None, "which average, where the run kept several (default: its first)"),
        Flag("n_samples", at_least(1), 100, "number of samples"),
        Flag("seeds", ranges, None, "seeds, one per sample, e.g. 0-63,100 (default: 0 to n_samples - 1)"),
        Flag("labels", integers, None, "classes, repeated in turn, e.g. 3,3,7 (default: all classes in turn)"),
        Flag("guidance_scale", number(0), 1.0, "classifier-free guidance, of runs with --label_dropout; 1 is none"),
    ),
    "how": (
        Flag(
            "mode",
            str,
            None,
            "published samplers: sde is --solver em, ode is --solver euler; pc has both",
            ("sde", "ode"),
        ),
        Flag("solver", str, None, "solver (default: exp2 for digits and under heat, else that of --mode sde)", SOLVERS),
        Flag(
            "steps",
            at_least(1),
            None,
            "solver steps (default: 20 for exp1 and exp2, 100 for pc, else 1000 as published)",
        ),
        Flag("grid", str, None, "time grid (default: the solver's own)", GRIDS),
        Flag("t_end", number(1e-6, 1, open_high=True), 1e-3, "time at which sampling ends"),
        Flag("predictor", str, None, "predictor of pc (default: euler)", PREDICTORS),
        Flag("corrector", str, None, "corrector of pc (default: langevin)", CORRECTORS),
        Flag("snr", POSITIVE, None, "signal-to-noise ratio of the corrector of pc (default: 0.16)"),
        Flag("factor", number(0), None, "re-noising of pc's euler and semianalytic, in steps; 0 for none (default: 1)"),
        Flag("paper", boolean, None, "repeat the published details of pc: one correction for a batch, times beyond T"),
        Flag(
            "denoise_last", boolean, None, "give x0_hat at t_end, not the state there (default: for pc, as published)"
        ),
        Flag("prior", str, None, "start of sampling: as published, or the data's (default: that of the run)", PRIORS),
        Flag("clip_x0", boolean, None, "clip x0_hat to [-1, 1] (default: for exp1 and exp2, on images)"),
        Flag(
            "batch_size",
            at_least(1),
            100,
            "samples computed together; fixed blocks, so results do not depend on restarts",
        ),
        Flag("trajectory", boolean, False, "also draw how the first samples come out of the noise (trajectory.png)"),
    ),
    "run": (
        OUTPUT_DIR,
        DEVICE,
        Flag("data_name", str, None, "accepted as published; checked against the run"),
        Flag("dynamics", str, None, "accepted as published; checked against the run", DYNAMICS),
        Flag("hurst", float, None, "accepted as published; checked against the run"),
        Flag("num_aug", int, None, "accepted as published; checked against the run"),
        Flag("wb_key", str, None, "accepted as published; nothing is logged here"),
        PLUGIN,
    ),
    "run folders of the published code, which have no config.json": tuple(map(_for_released, RELEASED_FLAGS)),
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
        OUTPUT_DIR,
        Flag("data_dir", Path, None, "where the data lies now (default: where the run found it)"),
        PLUGIN,
    ),
}

# -- messages --------------------------------------------------------------------------------------------------------

ALIASES = {"attention_resolutions": "attn_resolutions", "normalize": "norm"}  # names of arguments -> flags
NAMES = {
    flag.name for groups in (TRAIN_FLAGS, GENERATE_FLAGS, EVALUATE_FLAGS) for flags in groups.values() for flag in flags
} | {"resume"}


def with_flags(message: str) -> str:
    """One line in which names of flags are written as flags."""
    return cli.with_flags(message, NAMES, ALIASES)


def user_errors(program: str) -> AbstractContextManager[None]:
    """Turn the errors of building into one line and exit code 2."""
    return cli.user_errors(program, NAMES, ALIASES)


# -- plugins and data ------------------------------------------------------------------------------------------------


def load_plugins(program: str, argv: Sequence[str] | None) -> None:
    """Import the modules of ``--plugin`` before the other flags are read, so that these know what they add."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = [word.removeprefix("--plugin=") for word in words if word.startswith("--plugin=")]
    named += [value for flag, value in itertools.pairwise(words) if flag == "--plugin"]
    with user_errors(program):
        for name in (part for names in named for part in names.split(",")):
            import_plugin(name)


def import_plugin(name: str) -> None:
    """Import a module by name (also from the working folder) or by the path of its .py file.

    Raises:
        ValueError: where there is none.
    """
    path = Path(name)
    is_file = path.suffix == ".py"
    module, folder = (path.stem, path.parent.resolve()) if is_file else (name, Path.cwd())
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or (is_file and not path.is_file()):
        raise ValueError(f"plugin {name}: no such module; give a module's name or the path of its .py file")
    if is_file and (found.origin is None or Path(found.origin).resolve() != path.resolve()):
        raise ValueError(f"plugin {name}: {found.origin or 'Python itself'} has that name already; rename the file")
    try:
        importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"plugin {name} cannot be imported: {error}") from error


def data_folder(given: Path | None) -> Path:
    """--data_dir, else $DATA_ROOT, else ./data."""
    return given or Path(os.environ.get("DATA_ROOT") or "data")


DATA_FLAGS = ("image_size", "channels", "center_crop", "length", "download")  # as DataOptions has them


def load_data(settings: dict[str, Any]) -> DataSet:
    """The data set of a run.

    Args:
        settings: values of ``data_name``, ``data_dir`` and ``DATA_FLAGS``.

    Raises:
        ValueError: where it is missing (with how to get it) or contradicts a flag.
    """
    name = settings["data_name"]
    if name not in SOURCES:
        raise ValueError(f"data_name {name} is unknown; there are {', '.join(SOURCES)} (own ones come with --plugin)")
    options = DataOptions(data_dir=data_folder(settings["data_dir"]), **{flag: settings[flag] for flag in DATA_FLAGS})
    return SOURCES[name]().load(options)


# -- train.py --------------------------------------------------------------------------------------------------------

# what may change between the parts of a resumed run; everything else is part of what is being trained
RESUMABLE = {
    "data_dir", "download", "num_workers", "output_dir", "device", "devices", "num_nodes", "strategy", "wb_id", "keep",
    "checkpoint_every", "log_model_every_n", "val_check_interval", "val_samples", "num_sanity_val_steps",
    "deterministic", "compile", "tf32",
    "max_time", "logger", "wb_project", "plugin", "init_from",
}  # fmt: skip


TRAIN_HELP = """Train a diffusion model. Without --preset and --data_name: preset digits. Sets of the papers get their
published values, other data those of CIFAR-10 (59 M parameters, 1 M steps) unless a preset or flags say otherwise."""


def train_parser() -> cli.OneLineParser:
    """The parser of train.py."""
    parser = cli.make_parser("train.py", TRAIN_HELP, TRAIN_FLAGS)
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


def following(data_name: str, settings: dict[str, Any]) -> dict[str, object]:
    """The defaults that follow the data set: the published values for it, or none.

    Args:
        data_name: name of the data set.
        settings: dynamics and network, given or by default.
    """
    preset = HEAT_DEFAULTS.get((data_name, settings["model_name"])) if settings["dynamics"] == "heat" else None
    preset = preset or DATA_DEFAULTS.get(data_name)
    return PRESETS[preset] if preset else {}


def resolve_train(given: dict[str, Any]) -> dict[str, Any]:
    """Values of all training flags from those given on the command line; the key of a logger is not among them.

    Raises:
        ValueError: for flags that contradict each other.
    """
    preset = PRESETS[given["preset"]] if "preset" in given else {}
    base = cli.defaults(TRAIN_FLAGS)
    explicit = {key: value for key, value in given.items() if key in base}
    name = explicit.get("data_name") or preset.get("data_name") or base["data_name"]
    settings = {**base, **({} if preset else following(str(name), {**base, **explicit})), **preset, "data_name": name}
    settings |= explicit
    if settings["ema_decay"] is None:
        settings["ema_decay"] = (EMA_DECAY.get(settings["dynamics"], 0.9999),)
    if settings["beta_max"] is None:
        settings["beta_max"] = BETA_MAX.get(settings["dynamics"], 20.0)
    if settings["prior"] is None:
        settings["prior"] = PRIOR.get(settings["dynamics"], "zero")
    if settings["inner_steps"] is None:
        settings["inner_steps"] = INNER_STEPS.get(settings["model_name"], 0)
    if "wb_key" in explicit and "logger" not in explicit:
        settings["logger"] = "wandb"
    del settings["wb_key"]
    check_train(settings, explicit)
    return settings


def check_train(settings: dict[str, Any], explicit: dict[str, Any]) -> None:
    """Refuse flags that contradict each other.

    Raises:
        ValueError: naming both.
    """
    if "wb_key" in explicit and settings["logger"] != "wandb":
        raise ValueError(f"wb_key and --logger {settings['logger']} exclude each other; use --logger wandb")
    if settings["label_dropout"] and not settings["conditioning"]:
        raise ValueError("label_dropout and --conditioning False exclude each other: there are no labels to leave out")
    if "ema_decay" in explicit and not settings["use_ema"]:
        raise ValueError("ema_decay and --use_ema False exclude each other; leave one of them out")
    for flags, classes, chosen in (
        (DYNAMICS_FLAGS, DYNAMICS, "dynamics"),
        (NETWORK_FLAGS, BACKBONES, "model_name"),
    ):
        used = {ALIASES.get(name, name) for name in inspect.signature(classes[settings[chosen]]).parameters}
        if settings["inner_steps"]:
            used |= ADAPTATION
        for flag in flags:
            if flag.name in explicit and flag.name not in used | OF_EVERY_CLASS:
                why = " without --inner_steps" if flag.name in ADAPTATION else ""
                raise ValueError(f"{flag.name} has no effect on --{chosen} {settings[chosen]}{why}; leave it out")
    if settings["learned_rates"] and "inner_clip" in explicit:
        raise ValueError("inner_clip has no effect with --learned_rates True; leave it out")
    if settings["learned_rates"] and (settings["inner_lr"] or 0) > 1:
        raise ValueError(f"inner_lr {settings['inner_lr']:g}: learned rates lie in [0, 1]")
    repeats = settings["learned_rates"] or "paper" in inspect.signature(BACKBONES[settings["model_name"]]).parameters
    if settings["paper"] and not repeats:
        raise ValueError(f"paper has no effect on --model_name {settings['model_name']} without --learned_rates True")
    if settings["lr_end"] > settings["lr"]:
        raise ValueError(f"lr_end {settings['lr_end']:g} is above --lr {settings['lr']:g}, where it ends")
    if settings["lr_schedule"] != "warmup_cosine":
        for name in ("warmup_steps", "decay_steps", "lr_end"):
            if explicit.get(name):
                raise ValueError(f"{name} has no effect on --lr_schedule {settings['lr_schedule']}; leave it out")
    elif settings["warmup_steps"] >= (settings["decay_steps"] or settings["train_steps"]):
        raise ValueError(
            f"warmup_steps {settings['warmup_steps']} must be below --decay_steps or, without it, --train_steps"
        )


def arguments_of(cls: type, values: dict[str, Any], extra: dict[str, Any] | None, flag: str) -> dict[str, Any]:
    """Constructor arguments of a class: flags that are named like its parameters, then those of ``flag``.

    Args:
        cls: a dynamics or a backbone.
        values: flag name to value.
        extra: what ``flag`` (--dynamics_args, --model_args) gave.
        flag: its name, for messages.

    Raises:
        ValueError: for a name that the class does not know.
    """
    parameters = inspect.signature(cls).parameters
    for name in extra or {}:
        if name not in parameters:
            raise ValueError(f"{flag} {name}: {cls.__name__} has no such argument; it takes {', '.join(parameters)}")
    named = {name: values[ALIASES.get(name, name)] for name in parameters if ALIASES.get(name, name) in values}
    # None: the class has a default of its own
    named = {
        name: v for name, v in named.items() if v is not None or parameters[name].default is inspect.Parameter.empty
    }
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    return {**plain, **(extra or {})}


def make_config(
    settings: dict[str, Any],
    shape: tuple[int, ...],
    num_classes: int | None,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    samples: int | None = None,
    sample_rate: int | None = None,
) -> dict[str, Any]:
    """config.json of a run.

    Args:
        settings: values of all training flags.
        shape: shape (C, *S) of one sample.
        num_classes: classes of the data, or None where it has no labels.
        value_range: what -1 and 1 stand for in generated arrays.
        samples: how many there are to learn from, where that is known.
        sample_rate: of audio, in samples per second.

    Raises:
        ValueError: where a flag contradicts the data, or the network does not work on such data.
    """
    name, classes = settings["data_name"], num_classes if settings["conditioning"] else None
    for flag, found in (("channels", shape[0]), ("num_classes", num_classes)):
        if settings[flag] not in (None, found):
            raise ValueError(f"{flag} {settings[flag]} contradicts --data_name {name}, which has {found}")
    if settings["label_dropout"] and classes is None:
        raise ValueError(f"label_dropout {settings['label_dropout']}: --data_name {name} has no labels to leave out")
    for flag, register in (("dynamics", DYNAMICS), ("model_name", BACKBONES)):
        if settings[flag] not in register:
            raise ValueError(f"{flag} {settings[flag]} is unknown; name the file that defines it with --plugin FILE")
    dynamics, backbone = DYNAMICS[settings["dynamics"]], BACKBONES[settings["model_name"]]
    grid = shape[1:]
    of_data = {"shape": grid, "image_size": shape[-1], "in_channels": shape[0], "out_channels": shape[0]}
    values = {key: settings[key] for key in BUILT_FROM} | of_data | {"num_classes": classes}
    values["x_norm"] = settings["x_norm"] or float(max(grid))
    adapts = bool(settings["inner_steps"])
    if adapts:
        values["checkpointing"] = None  # it is the inner steps that are computed again, blocks inside them cannot be
    if not adapts and settings["y_input"] is False:
        raise ValueError(
            "inner_steps 0 and --y_input False exclude each other: the network would not see the noisy data"
        )
    if "image_size" in inspect.signature(backbone).parameters and (len(shape) != 3 or shape[1] != shape[2]):
        sides = "x".join(map(str, shape[1:]))
        raise ValueError(
            f"model_name {settings['model_name']} works on square images; --data_name {name} has samples of {sides}"
            + ("; give --image_size" if len(shape) == 3 else "")
        )
    stored = {key: value for key, value in settings.items() if key not in ("max_time", "plugin")}
    return {
        "format": 1,
        "dynamics": {
            "class": class_path(dynamics),
            "arguments": arguments_of(dynamics, values, settings["dynamics_args"], "dynamics_args"),
        },
        "prior": {"mean": 0.0, "variance": 0.0},
        "backbone": {
            "class": class_path(backbone),
            "arguments": arguments_of(backbone, values, settings["model_args"], "model_args"),
        },
        "adaptation": adaptation(settings) if adapts else None,
        "prediction": settings["prediction"],
        "data": {
            "name": name,
            "shape": list(shape),
            "num_classes": classes,
            "range": list(value_range),
            "samples": samples,
            "sample_rate": sample_rate,
        },
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in stored.items()},
    }


def adaptation(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``MetaLearned``, all of them, so that its defaults may change without changing old runs."""
    learned = settings["learned_rates"]
    return {
        "steps": settings["inner_steps"],
        "rate": settings["inner_lr"] or (LEARNED_START if learned else COMMON_RATE),
        "clip": settings["inner_clip"],
        "learned_rates": learned,
        "checkpointing": bool(settings["checkpointing"]),
        "paper": bool(settings["paper"]) and learned,
    }


def folder_name(settings: dict[str, Any]) -> str:
    """Name of the run folder."""
    head = "_".join(str(settings[key]) for key in ("wb_id", "name", "data_name") if settings[key] is not None)
    if settings["dynamics"] in ("fvp", "fve"):
        return f"{head}_H{settings['hurst']}_K{settings['num_aug']}"
    return f"{head}_{settings['dynamics']}_{settings['model_name']}"


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

PUBLISHED_CLASSES = 10  # the published code takes labels modulo 10, whatever the data
PUBLISHED_SHAPES = {"mnist": (1, 28), "fashionmnist": (1, 28), "cifar10": (3, 32)}  # channels, side
LARGEST_PUBLISHED_K = 3


def released_config(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The config of a run folder of the published code: its name, the published defaults, and flags of generate.py.

    Args:
        folder: the run folder, ``{id}_{data_name}_H{hurst}_K{num_aug}``.
        given: flags that were given, out of ``RELEASED_FLAGS`` and ``dynamics``.

    Raises:
        ValueError: for a process that cannot be known (K >= 4), or data whose shape is neither published nor given.
    """
    named = parse_released_name(folder.name)
    name, num_aug = named["data_name"], named["num_aug"]
    if num_aug > LARGEST_PUBLISHED_K:
        raise ValueError(
            f"num_aug {num_aug}: {folder.name} cannot be sampled from. The published code computed the weights omega "
            "of its K processes in float32 and did not keep them; from K = 4 on they are rounding noise, so the "
            "process that this network learned is not known"
        )
    flags = {key: given[key] for key in (*RELEASED_FLAGS, "dynamics") if given.get(key) is not None}
    settings = resolve_train({"data_name": name, **flags})
    settings |= {**named, "wb_id": folder.name.split("_")[0], "marginals": flags.get("marginals", "paper")}
    channels, side = PUBLISHED_SHAPES.get(name, (settings["channels"], settings["image_size"]))
    channels, side = settings["channels"] or channels, settings["image_size"] or side
    if channels is None or side is None:
        raise ValueError(f"channels and --image_size are needed: {folder.name} does not say what its images are")
    classes = settings["num_classes"] or PUBLISHED_CLASSES
    return make_config({**settings, "channels": channels}, (channels, side, side), classes)


def parse(program: str, description: str, groups: cli.Groups, argv: Sequence[str] | None) -> dict[str, Any]:
    """The flags given on a command line of generate.py or evaluate.py; a run must be named."""
    cli.read_env_file()
    load_plugins(program, argv)
    parser = cli.make_parser(program, description, groups)
    given = vars(parser.parse_args(argv))
    if "run_id" not in given and "pretrained" not in given:
        parser.error("--run_id is required: the id or folder name of a run, or latest")
    return given


def parse_generate(argv: Sequence[str] | None) -> dict[str, Any]:
    """Values of all flags of generate.py.

    Raises:
        ValueError: for flags that contradict each other.
    """
    given = parse("generate.py", "Draw samples from a trained run.", GENERATE_FLAGS, argv)
    if given.get("solver") is not None and "mode" in given and "stochastic" not in solver_parameters(given["solver"]):
        raise ValueError(
            "mode and --solver exclude each other: --mode sde is --solver em, --mode ode is --solver euler"
        )
    for one, other, hint in (
        ("pretrained", "run_id", ": --pretrained names a run of its own"),
        ("pretrained", "version", ": --pretrained names a version of its own"),
    ):
        if one in given and other in given:
            raise ValueError(f"{one} and --{other} exclude each other{hint}")
    if "ema_decay" in given and given.get("use_ema") is False:
        raise ValueError("ema_decay and --use_ema False exclude each other; leave one of them out")
    if "seeds" in given:
        count = len(given["seeds"])
        if given.get("n_samples", count) != count:
            raise ValueError(f"n_samples {given['n_samples']} contradicts --seeds, which names {count}; leave it out")
        given["n_samples"] = count
    return {**cli.defaults(GENERATE_FLAGS), **given}


SOLVER_FLAGS = ("predictor", "corrector", "snr", "factor", "paper")


def solver_parameters(name: str) -> Collection[str]:
    """Names of the arguments a solver takes."""
    return inspect.signature(SOLVERS[name]).parameters.keys()


def solver_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of the chosen solver: the flags of the same names that were given, and the mode.

    Args:
        settings: values of all flags of generate.py, with the solver chosen.

    Raises:
        ValueError: for a flag the solver has no use for.
    """
    taken = solver_parameters(settings["solver"])
    given = {flag: settings[flag] for flag in SOLVER_FLAGS if settings[flag] is not None}
    for flag in given:
        if flag not in taken:
            raise ValueError(f"{flag} has no effect on --solver {settings['solver']}; leave it out")
    if settings["predictor"] == "reverse_diffusion" and settings["factor"]:
        raise ValueError("factor has no effect on --predictor reverse_diffusion, which has one stage; leave it out")
    if settings["corrector"] == "none" and settings["snr"] is not None:
        raise ValueError("snr has no effect on --corrector none; leave it out")
    return given | ({"stochastic": settings["mode"] != "ode"} if "stochastic" in taken else {})


def parse_evaluate(argv: Sequence[str] | None) -> dict[str, Any]:
    """Values of all flags of evaluate.py.

    Raises:
        ValueError: for an unknown metric.
    """
    given = parse("evaluate.py", "Figures about generated samples.", EVALUATE_FLAGS, argv)
    settings = {**cli.defaults(EVALUATE_FLAGS), **given}
    unknown = [name for name in settings["metrics"] if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics {unknown[0]!r} is unknown; there are {', '.join(METRICS)}")
    return settings
