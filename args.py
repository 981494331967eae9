"""The command lines of the programs: registers of both families, presets, and three parsers made from signatures.

Order of precedence: a flag given on the command line, the preset (or what follows the data set), the default.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from common.backbones import INR, UNet, UViT
from common.config.flags import (
    INTEGER,
    REAL,
    Flag,
    at_least,
    boolean,
    duration,
    flags_of,
    keyword_values,
    several,
)
from common.config.parser import (
    Groups,
    OneLineParser,
    flag_names,
    make_parser,
    parse,
    peek,
    preset_table,
    read_words,
    wants_all_help,
    without_repeats,
)
from common.config.resolve import ADAPTATION_FLAGS, Member, carried_over, resolve, section
from common.config.schema import DataConfig, Hardware, Keeping, ModelConfig, Recipe
from common.data import SOURCES
from common.denoiser import PREDICTIONS
from common.dynamics import CLD, EDM, VE, VP, Flow, LinearDynamics, SubVP
from common.generation.config import (
    GenerateOrder,
    Opening,
    SampleConfig,
    guidance_member,
    guidance_of,
    sample_config,
    solver_member,
    solver_of,
)
from common.guidance import GUIDANCE
from common.meta import MetaLearned
from common.metrics import METRICS, Metric
from common.metrics.config import EvaluateConfig, metric_member
from common.refusal import Refusal
from common.runs.pretrained import PRETRAINED
from common.samplers import GRIDS, MODES, SOLVERS
from common.training.loggers import LOGGERS
from common.training.optimizers import OPTIMIZERS, SCHEDULERS
from common.training.resume import AUTO, TrainOrder
from common.training.times import TIME_SAMPLINGS
from common.training.weights import LOSS_WEIGHTS, REDUCTIONS
from fdp.dynamics import HeatSubVP
from fdp.presets import FOR_DATA as FDP_FOR_DATA
from fdp.presets import PRESETS as FDP_PRESETS
from gfdm.dynamics import FVE, FVP
from gfdm.presets import FOR_DATA
from gfdm.presets import PRESETS as GFDM_PRESETS
from gfdm.released import RELEASED_FLAGS, released_config

Values = dict[str, Any]

# -- registers: a --plugin may add to these, and to SOURCES, SOLVERS, GRIDS, GUIDANCE, METRICS, LOSS_WEIGHTS -----------

DYNAMICS: dict[str, type[LinearDynamics]] = {
    "fvp": FVP, "fve": FVE, "vp": VP, "ve": VE, "subvp": SubVP, "cld": CLD, "edm": EDM, "flow": Flow, "heat": HeatSubVP
}  # fmt: skip
BACKBONES: dict[str, type[nn.Module]] = {"unet": UNet, "uvit": UViT, "inr": INR}
PRESETS: dict[str, dict[str, object]] = {**GFDM_PRESETS, **FDP_PRESETS}

# the preset whose values a data set gets: under a process and with a network, else under any
FOR_CHOICE: dict[tuple[str, str, str], str] = {("heat", *choice): preset for choice, preset in FDP_FOR_DATA.items()}

CHOICES: dict[str, Collection[str]] = {
    "data_name": SOURCES,
    "prediction": ("auto", *PREDICTIONS),
    "prior": ("zero", "data"),
    "optimizer": OPTIMIZERS,
    "lr_schedule": SCHEDULERS,
    "time_sampling": TIME_SAMPLINGS,
    "loss_weight": LOSS_WEIGHTS,
    "loss_reduction": REDUCTIONS,
    "logger": LOGGERS,
    "mode": MODES,
    "solver": SOLVERS,
    "grid": GRIDS,
    "guidance": GUIDANCE,
    "pretrained": PRETRAINED,
}  # fmt: skip

# -- flags that are no arguments of a class ----------------------------------------------------------------------------

PLUGIN = Flag(
    "plugin", several(str), None, "own module (name or .py file) that adds to the registers; see docs/extending.md"
)
WB_KEY = Flag("wb_key", str, None, "key of Weights & Biases; implies --logger wandb (default: $WANDB_API_KEY)")
PRESET = Flag("preset", str, None, "values for the flags below; a flag that is given wins", PRESETS)
LIST_PRESETS = Flag("list_presets", boolean, None, "print the presets and their values, and exit")
DRY_RUN = Flag("dry_run", boolean, None, "build everything, take one step, and write nothing")
RESUME = Flag(
    "resume",
    str,
    None,
    "go on with a run: its id or a checkpoint; auto takes --wb_id, and starts afresh if there is nothing",
    alone=AUTO,
)
MAX_TIME = Flag(
    "max_time", duration, None, "stop, resumably, so long after the start: 90s, 30m, 3.5h, 23:50:00 (default: never)"
)
DYNAMICS_FLAG = Flag("dynamics", str, "fvp", "forward process", DYNAMICS)
MODEL_FLAG = Flag("model_name", str, "unet", "network", BACKBONES)
DYNAMICS_ARGS = Flag("dynamics_args", keyword_values, None, "arguments of a dynamics of your own, e.g. mass=0.5")
MODEL_ARGS = Flag("model_args", keyword_values, None, "arguments of a network of your own, e.g. num_heads=4")
INNER_STEPS = Flag(
    "inner_steps",
    at_least(0),
    None,
    "gradient steps in which the network adapts to every noisy sample before it answers; 0 for none (default: 3 for "
    "inr, else 0)",
)
COMMANDS = ("preset", "list_presets", "dry_run", "resume", "max_time", "plugin", "wb_key")  # no part of what a run is
OF_DYNAMICS, OF_NETWORK = ("dynamics", "dynamics_args"), ("model_name", "model_args")


def section_flags(kind: type) -> tuple[Flag, ...]:
    """Flags of a dataclass of the schema, with what there is to choose from."""
    return flags_of(kind, choices=CHOICES)


def chosen(values: Mapping[str, Any]) -> tuple[Member, Member]:
    """The process and the network that values choose; a name that is not known is left for the parser to refuse."""
    process, network = values.get("dynamics", DYNAMICS_FLAG.default), values.get("model_name", MODEL_FLAG.default)
    return (
        Member(process, DYNAMICS.get(process, FVP), *OF_DYNAMICS),
        Member(network, BACKBONES.get(network, UNet), *OF_NETWORK),
    )


def every(register: Mapping[str, type], flag: str, more: str) -> list[Member]:
    """All classes of a register."""
    return [Member(name, kind, flag, more) for name, kind in register.items()]


# -- train.py ----------------------------------------------------------------------------------------------------------

TRAIN_HELP = """Train a diffusion model. Without --preset and --data_name: preset digits. Sets of the papers get their
published values, other data those of CIFAR-10 (59 M parameters, 1 M steps) unless a preset or flags say otherwise.
Below are the flags of the chosen dynamics and network; --help all shows those of every class."""


def train_groups(processes: Sequence[Member], networks: Sequence[Member]) -> Groups:
    """Flags of train.py, in the order in which a user meets them."""
    return without_repeats(
        {
            "what to do": (PRESET, LIST_PRESETS, DRY_RUN, RESUME, PLUGIN),
            "data": section_flags(DataConfig),
            "dynamics": (DYNAMICS_FLAG, *(f for member in processes for f in member.flags), DYNAMICS_ARGS),
            "network": (MODEL_FLAG, *(f for member in networks for f in member.flags), MODEL_ARGS),
            "adaptation of the network to every sample": (INNER_STEPS, *ADAPTATION_FLAGS),
            "prediction and prior": section_flags(ModelConfig),
            "training": section_flags(Recipe),
            "run folder and logging": (*section_flags(Keeping), WB_KEY, MAX_TIME),
            "hardware": section_flags(Hardware),
        }
    )


def train_parser(processes: Sequence[Member], networks: Sequence[Member]) -> OneLineParser:
    """The parser of train.py for the flags of some classes."""
    return make_parser("train.py", "[--preset NAME] [flags]", TRAIN_HELP, train_groups(processes, networks))


def train_flag_names() -> dict[str, str]:
    """Names of arguments to flags of train.py."""
    kinds = (MetaLearned, *BACKBONES.values(), *DYNAMICS.values())
    return flag_names(train_groups(every(DYNAMICS, *OF_DYNAMICS), every(BACKBONES, *OF_NETWORK)), kinds)


def base_values(given: Mapping[str, str]) -> Values:
    """Values that given flags win over: those of the preset, else those that suit the data set.

    Values of a class that is not the chosen one are left out.
    """
    data, preset = given.get("data_name", DataConfig.data_name), given.get("preset")
    process, network = chosen(given)
    suited = FOR_CHOICE.get((process.name, data, network.name)) or FOR_DATA.get(data)
    if preset is not None:
        values = dict(PRESETS.get(preset, {}))
    else:
        values = {**PRESETS[suited], "data_name": data} if suited else {}
    for own, other in zip(chosen(values), chosen({**values, **given}), strict=True):
        values = carried_over(values, own, other)
    return values


def parse_train(argv: Sequence[str] | None) -> TrainOrder | None:
    """What a command line of train.py asks for; None if it asked for the presets, which are then printed.

    Raises:
        Refusal: for flags that contradict each other or have no effect.
    """
    words = read_words("train.py", argv)
    seen = peek(words, (PRESET, DYNAMICS_FLAG, MODEL_FLAG, RESUME, section_flags(DataConfig)[0]))
    base = base_values(seen)
    process, network = chosen({**base, **seen})
    if wants_all_help(words) or seen.get("resume") not in (None, "", AUTO):  # which classes a run has is not known yet
        parser = train_parser(every(DYNAMICS, *OF_DYNAMICS), every(BACKBONES, *OF_NETWORK))
    else:
        parser = train_parser([process], [network])
    values = parse(parser, words, ((process, DYNAMICS), (network, BACKBONES)))
    command = {name: values.pop(name, None) for name in COMMANDS}
    if command["list_presets"]:
        print(preset_table(PRESETS))
        return None
    if command["wb_key"] is not None and values.setdefault("logger", "wandb") != "wandb":
        raise Refusal(f"and --logger {values['logger']} exclude each other; use --logger wandb", "wb_key")
    starts = command["resume"] in (None, AUTO)
    return TrainOrder(
        config=resolve({**base, **values}, values, process, network) if starts else None,
        given={**base, **values} if command["preset"] else values,
        resume=command["resume"],
        dry_run=bool(command["dry_run"]),
        max_time=command["max_time"],
        plugins=command["plugin"] or (),
        wb_key=command["wb_key"],
        words=tuple(words),
    )


# -- generate.py -------------------------------------------------------------------------------------------------------

GENERATE_HELP = """Draw samples from a trained run. Flags of solvers and wrappers are shown for those that are named;
--help all shows every flag."""
DRAWING = "what to draw, and how"
CLAIMED = "accepted as published; checked against the run"
CLAIMS = (
    Flag("data_name", str, None, CLAIMED),
    Flag("dynamics", str, None, CLAIMED, DYNAMICS),
    Flag("hurst", REAL, None, CLAIMED),
    Flag("num_aug", INTEGER, None, CLAIMED),
)
NOT_LOGGED = Flag("wb_key", str, None, "accepted as published; nothing is logged here")


def describing_flags() -> tuple[Flag, ...]:
    """Flags that say what a folder of the published code does not."""
    process, network = chosen({})
    known = {flag.name: flag for flag in (*section_flags(DataConfig), *network.flags, *process.flags)}
    return tuple(
        replace(known[name], default=None, help=f"{known[name].help.partition(' (default')[0]} (default: as published)")
        for name in RELEASED_FLAGS
    )


def generate_groups(members: Iterable[Member]) -> Groups:
    """Flags of generate.py, those of some solvers and wrappers among them."""
    return without_repeats(
        {
            "which run": (*section_flags(Opening), PLUGIN),
            DRAWING: (*section_flags(SampleConfig), *(f for member in members for f in member.flags)),
            "published command lines": (*CLAIMS, NOT_LOGGED),
            "run folders of the published code, which have no config.json": describing_flags(),
        }
    )


def generate_flag_names() -> dict[str, str]:
    """Names of arguments to flags of generate.py."""
    members = [*map(solver_member, SOLVERS), *map(guidance_member, GUIDANCE)]
    return flag_names(generate_groups(members), [member.kind for member in members])


def parse_generate(argv: Sequence[str] | None) -> GenerateOrder:
    """What a command line of generate.py asks for.

    Raises:
        Refusal: for flags that contradict each other or have no effect.
    """
    words = read_words("generate.py", argv)
    seen = peek(words, section_flags(SampleConfig))
    solver, wrapper = solver_of(seen), guidance_of(seen)
    members = [member for member in (solver, wrapper) if member.name]
    if wants_all_help(words):
        members = [*map(solver_member, SOLVERS), *map(guidance_member, GUIDANCE)]
    parser = make_parser("generate.py", "--run_id ID [flags]", GENERATE_HELP, generate_groups(members))
    values = parse(parser, words, ((solver, SOLVERS), (wrapper, GUIDANCE)))
    return generate_order(values, sample_config(values, solver, wrapper))


def generate_order(values: Values, sample: SampleConfig) -> GenerateOrder:
    """What given flags amount to."""
    return GenerateOrder(
        opening=section(Opening, values),
        sample=sample,
        claims={flag.name: values[flag.name] for flag in CLAIMS if flag.name in values},
        describe=partial(released_config, given=values),
        describing=tuple(name for name in RELEASED_FLAGS if name in values),
    )


# -- evaluate.py -------------------------------------------------------------------------------------------------------

EVALUATE_HELP = "Figures about the samples that generate.py drew."


def evaluate_groups() -> Groups:
    """Flags of evaluate.py: its own, then those of every metric."""
    own = {f"metric {name}": metric_member(name).flags for name in METRICS}
    return without_repeats({"what": (*section_flags(EvaluateConfig), PLUGIN), **own})


def evaluate_flag_names() -> dict[str, str]:
    """Names of arguments to flags of evaluate.py."""
    return flag_names(evaluate_groups(), METRICS.values())


def parse_evaluate(argv: Sequence[str] | None) -> tuple[EvaluateConfig, list[Metric]]:
    """What a command line of evaluate.py asks for, and the metrics.

    Raises:
        Refusal: for an unknown metric, or a wrong argument of one.
    """
    words = read_words("evaluate.py", argv)
    parser = make_parser("evaluate.py", "--run_id ID [flags]", EVALUATE_HELP, evaluate_groups())
    values = parse(parser, words, ())
    config: EvaluateConfig = section(EvaluateConfig, values)
    return config, [METRICS[name](**metric_member(name).given(values)) for name in config.names]


# -- scripts/export.py -------------------------------------------------------------------------------------------------


def parse_export(argv: Sequence[str] | None) -> GenerateOrder:
    """Which weights a command line of export.py names; how samples would be drawn stays at its defaults."""
    groups = generate_groups(())
    words = read_words("export.py", argv)
    kept = {title: flags for title, flags in groups.items() if title != DRAWING}
    parser = make_parser("export.py", "--run_id ID [flags]", "Write the weights of a run as .safetensors.", kept)
    values = parse(parser, words, ())
    return generate_order(values, SampleConfig())
