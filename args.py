"""The command lines of the programs: registers of both families, presets, and three parsers made from signatures.

Order of precedence: a flag given on the command line, the preset (or what follows the data set), the default.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from torch import nn

from common.backbones import INR, UNet, UNet1D, UViT
from common.config.build import kind_of_data
from common.config.flags import Flag, at_least, flags_of, keyword_values
from common.config.parser import (
    Groups,
    flag_names,
    make_parser,
    parse,
    peek,
    read_words,
    wants_all_help,
    without_repeats,
)
from common.config.plugins import trust
from common.config.presets import About, preset_line, preset_table
from common.config.resolve import ADAPTATION_FLAGS, Member, carried_over, for_data, resolve, section
from common.config.schema import DataConfig, Hardware, Keeping, ModelConfig, Recipe, order_of_axes
from common.data import SOURCES
from common.denoiser import PREDICTIONS
from common.dynamics import CLD, EDM, VE, VP, Flow, LinearDynamics, SubVP
from common.generation.config import DRAWN_BY, GenerateOrder, SampleConfig, all_members, sample_config
from common.generation.judged import EvaluateOrder, draws_now
from common.generation.matching import Matching
from common.generation.parsing import GENERATE_HELP, NOT_LOGGED, PROCESS, claim_flags, parse_drawing, process_flags
from common.generation.sections import Compared, InputConfig, Opening, Sharing
from common.meta import MetaLearned
from common.metrics import METRICS
from common.metrics.config import CompareConfig, EvaluateConfig, chosen_metrics, metric_member
from common.refusal import Refusal
from common.runs.pretrained import PRETRAINED
from common.training.loggers import LOGGERS
from common.training.objectives import OBJECTIVES, Denoising
from common.training.optimizers import OPTIMIZERS, SCHEDULERS
from common.training.resume import Command, TrainOrder
from common.training.starting import AUTO, check_objective, values_for
from common.training.sweep.flags import Sweeping
from common.training.times import TIME_SAMPLINGS
from common.training.weights import LOSS_WEIGHTS, REDUCTIONS
from fdp import presets as fdp
from fdp.dynamics import HeatSubVP
from fdp.flax_pretrained import RELEASED
from gfdm import presets as gfdm
from gfdm.dynamics import FVE, FVP
from gfdm.released import RELEASED_FLAGS, describing_flags, released_config

Values = dict[str, Any]

# -- registers: a --plugin may add to these, and to SOURCES, SOLVERS, GRIDS, GUIDANCE, METRICS, LOSS_WEIGHTS -----------
DYNAMICS: dict[str, type[LinearDynamics]] = {
    "fvp": FVP, "fve": FVE, "vp": VP, "ve": VE, "subvp": SubVP, "cld": CLD, "edm": EDM, "flow": Flow, "heat": HeatSubVP
}  # fmt: skip
BACKBONES: dict[str, type[nn.Module]] = {"unet": UNet, "unet1d": UNet1D, "uvit": UViT, "inr": INR}
PRESETS: dict[str, dict[str, object]] = {**gfdm.PRESETS, **fdp.PRESETS}
ABOUT: dict[str, About] = {**gfdm.ABOUT, **fdp.ABOUT}

PRETRAINED.update(RELEASED)
trust(DYNAMICS, BACKBONES, OBJECTIVES)  # config.json may name these classes, a plugin's among them

FOR_KIND: dict[str | None, str] = {**gfdm.FOR_KIND, **fdp.FOR_KIND}  # for sets that neither paper names

CHOICES: dict[str, Collection[str]] = {
    "preset": PRESETS, "show_preset": PRESETS, "dynamics": DYNAMICS, "model_name": BACKBONES, "data_name": SOURCES,
    "prediction": ("auto", *PREDICTIONS), "prior": ("zero", "data"), "optimizer": OPTIMIZERS, "lr_schedule": SCHEDULERS,
    "time_sampling": TIME_SAMPLINGS, "loss_weight": LOSS_WEIGHTS, "loss_reduction": REDUCTIONS, "logger": LOGGERS,
    "pretrained": PRETRAINED, "objective": OBJECTIVES,
}  # fmt: skip


# -- flags that decide which others there are --------------------------------------------------------------------------

OF_DYNAMICS, OF_NETWORK, OF_OBJECTIVE = ("dynamics", "dynamics_args"), ("model_name", "model_args"), ("objective",)


@dataclass(frozen=True)
class Choice:
    """What decides which other flags there are.

    Attributes:
        dynamics: forward process
        model_name: network
        objective: what the network learns: denoise, or consistency, which tunes a run (--init_from) to answer at once
        dynamics_args: further arguments of the dynamics, by name, e.g. mass=0.5 (default: none)
        model_args: further arguments of the network, by name, e.g. num_heads=4 (default: none)
        inner_steps: gradient steps of the network on every sample before it answers (default: 3 for inr, else 0)
        data_name: data set
        data_dir: where the data is
        axes: order of axes of arrays
        preset: values for the other flags
        resume: a run to go on with
        init_from: a run to start from
        wb_id: id of the run
        output_dir: folder that holds the runs
    """

    dynamics: str = "fvp"
    model_name: str = "unet"
    objective: str = "denoise"
    dynamics_args: Annotated[str | None, keyword_values] = None
    model_args: Annotated[str | None, keyword_values] = None
    inner_steps: Annotated[int | None, at_least(0)] = None
    data_name: str = DataConfig.data_name
    data_dir: str | None = None
    axes: Annotated[str | None, order_of_axes] = None
    preset: str | None = None
    resume: str | None = None
    init_from: str | None = None
    wb_id: str | None = None
    output_dir: str = str(Keeping.output_dir)

    @property
    def members(self) -> tuple[Member, Member, Member]:
        """Process, network and objective; a name that is not known is left for the parser to refuse."""
        process, network = DYNAMICS.get(self.dynamics, FVP), BACKBONES.get(self.model_name, UNet)
        objective = Member(self.objective, OBJECTIVES.get(self.objective, Denoising), *OF_OBJECTIVE)
        return Member(self.dynamics, process, *OF_DYNAMICS), Member(self.model_name, network, *OF_NETWORK), objective

    @property
    def suited(self) -> Values:
        """Values of the preset, else of the run that is tuned, else those that suit the data set."""
        if self.preset is not None:
            return dict(PRESETS.get(self.preset, {}))
        if tuned := values_for(self.members[-1].kind, self):
            return {**tuned, "objective": self.objective}
        choice = (self.dynamics, self.data_name, self.model_name)
        chosen = fdp.FOR_CHOICE.get(choice) or gfdm.FOR_DATA.get(self.data_name)
        name = chosen or FOR_KIND.get(kind_of_data(self.data_name, self.data_dir, self.axes))
        return {**PRESETS[name], "data_name": self.data_name} if name else {}


def section_flags(*kinds: type) -> tuple[Flag, ...]:
    """Flags of dataclasses of the schema, with what there is to choose from."""
    return tuple(flag for kind in kinds for flag in flags_of(kind, choices=CHOICES))


def choice_flags(*names: str) -> tuple[Flag, ...]:
    """Some flags of :class:`Choice`."""
    return tuple(flag for flag in section_flags(Choice) if flag.name in names)


def everything() -> list[list[Member]]:
    """All processes, all networks and all objectives."""
    of_choices = (DYNAMICS, OF_DYNAMICS), (BACKBONES, OF_NETWORK), (OBJECTIVES, OF_OBJECTIVE)
    return [[Member(*one, *flags) for one in register.items()] for register, flags in of_choices]


# -- train.py ----------------------------------------------------------------------------------------------------------

TRAIN_HELP = """Train a diffusion model. Without --preset and --data_name: preset digits. Sets of the papers get their
published values, 1-D functions those of functions-small, recordings those of fdp-audio-small, others those of CIFAR-10
(59 M parameters, 1 M steps), unless a preset or flags say otherwise. Below are the flags of the chosen dynamics and
network, with defaults that a preset, the data or a tuned run replaces (--list_presets); --help all shows all flags."""


def train_groups(processes: Sequence[Member], networks: Sequence[Member], objectives: Sequence[Member]) -> Groups:
    """Flags of train.py, in the order in which a user meets them."""
    return without_repeats(
        {
            "what to do": section_flags(Command),
            "several trainings": section_flags(Sweeping),
            "data": section_flags(DataConfig),
            "dynamics": (*choice_flags(*OF_DYNAMICS), *(flag for member in processes for flag in member.flags)),
            "network": (*choice_flags(*OF_NETWORK), *(flag for member in networks for flag in member.flags)),
            "adaptation of the network to every sample": (*choice_flags("inner_steps"), *ADAPTATION_FLAGS),
            "prediction and prior": section_flags(ModelConfig),
            "training": (*choice_flags("objective"), *section_flags(Recipe), *(f for o in objectives for f in o.flags)),
            "run folder and logging": section_flags(Keeping),
            "hardware": section_flags(Hardware),
        }
    )


def train_flag_names() -> dict[str, str]:
    """Names of arguments to flags of train.py."""
    kinds = (member.kind for members in everything() for member in members)
    return flag_names(train_groups(*everything()), (MetaLearned, *kinds))


def base_values(seen: Mapping[str, str]) -> Values:
    """Values that given flags win over, without those of a class or data set that is not the chosen one."""
    values: Values = section(Choice, seen).suited
    values = for_data(values, section(Choice, {**values, **seen}).data_name)
    for own, other in zip(section(Choice, values).members, section(Choice, {**values, **seen}).members, strict=True):
        values = carried_over(values, own, other)
    return values


def parse_train(argv: Sequence[str] | None) -> TrainOrder | None:
    """What a command line of train.py asks for; None if it asked for the presets, which are then printed.

    Raises:
        Refusal: for flags that contradict each other or have no effect.
    """
    words = read_words("train.py", argv)
    seen = peek(words, section_flags(Choice))
    base = base_values(seen)
    choice = section(Choice, {**base, **seen})
    process, network, objective = choice.members
    unknown = wants_all_help(words) or choice.resume not in (None, "", AUTO)  # a run knows its own classes
    groups = train_groups(*everything() if unknown else ([process], [network], [objective]))
    parser = make_parser("train.py", "[--preset NAME] [flags]", TRAIN_HELP, groups)
    values = parse(parser, words, ((process, DYNAMICS), (network, BACKBONES), (objective, OBJECTIVES)))
    command: Command = section(Command, values)
    values = {name: value for name, value in values.items() if name not in vars(command)}
    if command.list_presets or command.show_preset:
        print(preset_line(PRESETS[command.show_preset]) if command.show_preset else preset_table(PRESETS, ABOUT))
        return None
    if command.wb_key is not None and values.setdefault("logger", "wandb") != "wandb":
        raise Refusal(f"and --logger {values['logger']} exclude each other; use --logger wandb", "wb_key")
    config = resolve(base, values, process, network, objective) if command.starts else None
    check_objective(config, objective.kind, values, command.preset)
    of_preset = base if command.preset else {}
    return TrainOrder(command=command, config=config, given=values, of_preset=of_preset, words=tuple(words))


# -- generate.py -------------------------------------------------------------------------------------------------------

DRAWING = "what to draw, and how"
PLUGIN = next(flag for flag in flags_of(Command) if flag.name == "plugin")
CLAIMS = claim_flags(DYNAMICS)


def generate_groups(members: Iterable[Member] = (), *, processes: Mapping[str, type] | None = None) -> Groups:
    """Flags of generate.py, those of some solvers, wrappers, tasks and processes among them."""
    return without_repeats(
        {
            "which run": section_flags(Opening),
            DRAWING: (*section_flags(*DRAWN_BY), *(f for member in members for f in member.flags)),
            "who draws": section_flags(Sharing),
            "published command lines": (*CLAIMS, NOT_LOGGED),
            "run folders of the published code, which have no config.json": describing_flags(),
            PROCESS: process_flags(processes),
        }
    )


def generate_flag_names() -> dict[str, str]:
    """Names of arguments to flags of generate.py."""
    members = all_members()
    kinds = [*BACKBONES.values(), *DYNAMICS.values(), *(member.kind for member in members)]
    return flag_names(generate_groups(members, processes=DYNAMICS), kinds)


def parse_generate(argv: Sequence[str] | None) -> GenerateOrder:
    """What a command line of generate.py asks for.

    Raises:
        Refusal: for flags that contradict each other or have no effect.
    """
    values, *members = parse_drawing("generate.py", GENERATE_HELP, generate_groups, DYNAMICS, argv)
    return generate_order(values, sample_config(values, *members)).drawn_by(values)


def generate_order(values: Values, sample: SampleConfig) -> GenerateOrder:
    """What given flags amount to."""
    matching = Matching(values, DYNAMICS) if sample.match_noise else None
    named = {name for name in values if not (matching and name in matching.flags)}
    return GenerateOrder(
        opening=section(Opening, values),
        compared=section(Compared, values),
        inputs=section(InputConfig, values),
        sample=sample,
        claims={flag.name: values[flag.name] for flag in CLAIMS if flag.name in named},
        describe=partial(released_config, given=values),
        describing=tuple(name for name in RELEASED_FLAGS if name in named),
        matching=matching,
    )


# -- evaluate.py -------------------------------------------------------------------------------------------------------

EVALUATE_HELP = """Figures about samples: those of a run that lie there, or, with any flag of generate.py, those that it
draws now; or those of another program (--samples DIR --reference DIR). --compare RUN RUN .. sets them side by side."""
TAKEN = frozenset(flag.name for flag in section_flags(SampleConfig))


def evaluate_groups(members: Iterable[Member] = (), *, processes: Mapping[str, type] | None = None) -> Groups:
    """Flags of evaluate.py: its own, those of every metric, and those that samples are drawn by."""
    what = {"what": (*section_flags(EvaluateConfig), PLUGIN), "comparison": section_flags(CompareConfig)}
    drawing = {f"{DRAWING}, as generate.py": generate_groups(members)[DRAWING], PROCESS: process_flags(processes)}
    return without_repeats({**what, **{f"metric {one}": metric_member(one, TAKEN).flags for one in METRICS}, **drawing})


def evaluate_flag_names() -> dict[str, str]:
    """Names of arguments to flags of evaluate.py."""
    return flag_names(evaluate_groups(all_members(), processes=DYNAMICS), METRICS.values())


def parse_evaluate(argv: Sequence[str] | None) -> EvaluateOrder | CompareConfig:
    """What a command line of evaluate.py asks for.

    Raises:
        Refusal: for an unknown metric, a wrong argument of one, or flags that contradict each other.
    """
    values, *members = parse_drawing("evaluate.py", EVALUATE_HELP, evaluate_groups, DYNAMICS, argv)
    if comparison := CompareConfig.asked(values):
        return comparison
    config: EvaluateConfig = section(EvaluateConfig, values)
    if config.paper and config.samples is None:
        values.setdefault("n_samples", config.paper.n_samples)
    sample, draws = sample_config(values, *members), draws_now(config, TAKEN & values.keys())
    return EvaluateOrder(
        config=config,
        metrics=chosen_metrics(config, values, TAKEN),
        n_samples=sample.n_samples,
        drawing=generate_order(values, sample) if draws else None,
        device=sample.device,
        describe=lambda folder, shape: released_config(folder, {**shape, **values}),
    )
