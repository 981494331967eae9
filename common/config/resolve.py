"""From flags, given or in a preset, to the configuration of a run."""

import argparse
import inspect
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from common.config.flags import Flag, flag_name, flags_of, project_name
from common.config.length import averages, intervals
from common.config.plugins import class_path
from common.config.schema import (
    DENOISE,
    PROJECT,
    PROJECT_VARIABLE,
    SAMPLE_FLAGS,
    SECTIONS,
    Chosen,
    Keeping,
    Recipe,
    RunConfig,
)
from common.config.stored import ADAPTATION
from common.data import BUILT_IN
from common.data.spec import DataSpec
from common.dynamics import LinearDynamics
from common.meta import MetaLearned, starting_rate
from common.refusal import Refusal
from common.sides import Sides, written

OF_DATA = frozenset({"shape", "image_size", "in_channels", "out_channels", "num_classes"})  # arguments the data fills
ADAPTATION_FLAGS = flags_of(MetaLearned)
INNER_STEPS = "inner_steps"
# no argument of a class gets these flags; --checkpointing and --paper are for the network and its adaptation alike
OF_EVERY_RUN = frozenset(flag.name for section in SECTIONS.values() for flag in flags_of(section)).union(
    MetaLearned.flag_names.values()
)
COSINE_FLAGS = ("warmup_steps", "decay_steps", "lr_end")


@dataclass(frozen=True)
class Member:
    """A class and its name in a register.

    Attributes:
        name: its name, e.g. ``fvp``.
        kind: the class.
        flag: the flag that chooses it: ``dynamics`` or ``model_name``.
        more: the flag that takes further arguments; empty if there is none.
        skip: arguments that get no flag, because the data gives them or a flag of every run has their name.
    """

    name: str
    kind: type
    flag: str
    more: str = ""
    skip: frozenset[str] = OF_DATA | OF_EVERY_RUN

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Flags of its constructor."""
        return flags_of(self.kind, skip=self.skip)

    @property
    def arguments(self) -> Collection[str]:
        """Names of all arguments of its constructor."""
        return inspect.signature(self.kind).parameters.keys()

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those arguments of the constructor that flags with a value give."""
        return {flag.argument: values[flag.name] for flag in self.flags if values.get(flag.name) is not None}

    def choose(self, values: Mapping[str, Any]) -> Chosen:
        """The class with its arguments: those that were given, then its own defaults.

        Raises:
            Refusal: for a further argument that it does not have.
        """
        parameters = inspect.signature(self.kind).parameters
        further: Mapping[str, Any] = values.get(self.more) or {}
        for name in further:
            if name not in parameters:
                raise Refusal(
                    f"{name}: {self.kind.__name__} has no such argument; it takes {', '.join(parameters)}", self.more
                )
        given = self.given(values)
        own = {name: p.default for name, p in parameters.items() if name not in OF_DATA and is_plain(p.default)}
        return Chosen(self.name, class_path(self.kind), plain({**own, **given, **further}))


def carried_over(values: Mapping[str, Any], own: Member, other: Member) -> dict[str, Any]:
    """What values that were chosen for one class mean for another: a class keeps its own defaults.

    Args:
        values: flags of a preset.
        own: the class that the preset is for.
        other: the class that is used instead.

    Returns:
        The values without those of arguments that the other class does not inherit from a common base.
    """
    shared = [base for base in own.kind.__mro__ if base in other.kind.__mro__ and "__init__" in vars(base)]
    inherited = {name for base in shared for name in inspect.signature(base).parameters}
    lost = {flag.name for flag in own.flags if flag.argument not in inherited}
    return {name: value for name, value in values.items() if name not in lost}


def for_data(values: Mapping[str, Any], data_name: str) -> dict[str, Any]:
    """What values that were chosen for one data set mean for another, whose samples are what they are.

    Args:
        values: flags of a preset, with the name of its data set if it is for one.
        data_name: the data set that is used.
    """
    same = values.get("data_name", data_name) == data_name
    return {name: value for name, value in values.items() if same or name not in SAMPLE_FLAGS}


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON gives them back: tuples are lists, paths are texts."""
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in texts.items()}


def is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was, but for tuples and paths; others stay defaults of the constructor."""
    try:
        text = json.dumps(value, default=path_text, allow_nan=False)
    except (TypeError, ValueError):  # a number that JSON does not have is a ValueError
        return False
    return bool(json.loads(text) == plain({"": value})[""])


def path_text(value: Any) -> str:
    """The text of a path.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is no plain value")


def section(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of flags from the values that were given; the others take their defaults."""
    return kind(**{flag.argument: values[flag.name] for flag in flags_of(kind) if flag.name in values})


def resolve(
    base: Mapping[str, Any],
    given: Mapping[str, Any],
    dynamics: Member,
    network: Member,
    objective: Member | None = None,
) -> RunConfig:
    """The configuration of a run.

    Args:
        base: flags of the preset, or of what suits the data; what is missing takes its default.
        given: flags of the command line, which win.
        dynamics: the chosen process.
        network: the chosen backbone.
        objective: what the network is trained towards; None denoises.

    Raises:
        Refusal: for flags that contradict each other or have no effect.
    """
    values = {**base, **given}
    sections = {name: section(kind, values) for name, kind in SECTIONS.items()}
    process: type[LinearDynamics] = dynamics.kind
    model, recipe = sections["model"], sections["recipe"]
    if model.prior is None:
        sections["model"] = replace(model, prior=process.default_prior)
    for member in (dynamics, network):
        own = {flag.argument: flag.name for flag in member.flags}
        for name in values.get(member.more) or {}:
            if own.get(name) in given:
                raise Refusal(f"{name} and --{own[name]} exclude each other; leave one of them out", member.more)
    following: dict[str, Any] = {}
    if recipe.ema_decay is None:
        following["ema_decay"] = (process.default_ema_decay,)
    if recipe.time_sampling is None:
        following["time_sampling"] = process.default_time_sampling
    recipe = replace(recipe, **following)
    whole: Recipe = section(Recipe, base) if "ema_decay" in base else Recipe()  # what the decay was stated for
    recipe = averages(recipe, whole.train_steps, given)
    sections["recipe"] = recipe
    sections["keeping"] = in_project(intervals(sections["keeping"], recipe.train_steps, given))
    chosen, goal = dynamics.choose(values), objective.choose(values) if objective else DENOISE
    label = process.run_label.format_map({**chosen.arguments, "dynamics": dynamics.name, "model": network.name})
    config = RunConfig(
        dynamics=chosen,
        network=network.choose(values),
        adaptation=choose_adaptation(values, network),
        label=label if goal == DENOISE else f"{label}_{goal.name}",
        objective=goal,
        **sections,
    )
    check(config, given, network)
    return config


def in_project(keeping: Keeping) -> Keeping:
    """The same with its project at W&B: that of the flag, else of W&B's own variable; a run stays in it.

    Raises:
        Refusal: if the variable holds none.
    """
    if keeping.wb_project is not None:
        return keeping
    try:
        return replace(keeping, wb_project=project_name(os.environ.get(PROJECT_VARIABLE) or PROJECT))
    except argparse.ArgumentTypeError as error:
        raise Refusal(f"${PROJECT_VARIABLE} {error}") from error


def choose_adaptation(values: Mapping[str, Any], network: Member) -> Chosen | None:
    """How the network adapts to every sample; None if it does not."""
    steps = values.get(INNER_STEPS)
    steps = getattr(network.kind, "default_inner_steps", 0) if steps is None else steps
    if not steps:
        return None
    given = {flag.argument: values[flag.name] for flag in ADAPTATION_FLAGS if values.get(flag.name) is not None}
    own = {flag.argument: flag.default for flag in ADAPTATION_FLAGS}
    arguments = {**own, **given, "steps": steps}
    learned = arguments["learned_rates"]
    rate, paper = arguments["rate"] or starting_rate(learned), arguments["paper"] and learned
    return Chosen("meta", ADAPTATION, {**arguments, "rate": rate, "paper": paper})


def check(config: RunConfig, given: Mapping[str, Any], network: Member) -> None:
    """Refuse what was given without effect.

    Raises:
        Refusal: naming it.
    """
    own = {flag.name for flag in network.flags}
    recipe, adaptation = config.recipe, config.adaptation
    if config.data.data_name == BUILT_IN and given.get("data_dir"):
        raise Refusal(f"has no effect on --data_name {BUILT_IN}; give --data_name folder or arrays", "data_dir")
    if recipe.label_dropout and not config.data.conditioning:
        raise Refusal("and --conditioning False exclude each other: there are no labels to leave out", "label_dropout")
    if "ema_decay" in given and not recipe.use_ema:
        raise Refusal("and --use_ema False exclude each other; leave one of them out", "ema_decay")
    if recipe.lr_schedule != "warmup_cosine":
        for name in COSINE_FLAGS:
            if name in given and getattr(recipe, name):
                raise Refusal(f"has no effect on --lr_schedule {recipe.lr_schedule}; leave it out", name)
    if adaptation is None:
        for flag in ADAPTATION_FLAGS:
            if flag.name in given and flag.name not in own | {INNER_STEPS}:
                raise Refusal(
                    f"has no effect on --model_name {config.network.name} without --{INNER_STEPS}; leave it out",
                    flag.name,
                )
        switch = getattr(network.kind, "input_switch", None)
        if switch and not config.network.arguments[switch]:
            raise Refusal(
                f"0 and --{switch} False exclude each other: the network would not see the noisy data", INNER_STEPS
            )
        return
    learned = adaptation.arguments["learned_rates"]
    if learned and "inner_clip" in given:
        raise Refusal("has no effect with --learned_rates True; leave it out", "inner_clip")
    if "paper" in given and "paper" not in own and not learned:
        raise Refusal(
            f"has no effect on --model_name {config.network.name} without --learned_rates True; leave it out", "paper"
        )


def fit_to_data(config: RunConfig, spec: DataSpec, dynamics: type, network: type[nn.Module]) -> RunConfig:
    """The configuration once the data is known: its shape and classes go into the arguments of the classes.

    Args:
        config: as :func:`resolve` made it.
        spec: what a sample is.
        dynamics: class of the process.
        network: class of the backbone.

    Raises:
        Refusal: if a flag contradicts the data, or the network does not work on such data.
    """
    data = config.data
    for flag, found in (("channels", spec.channels), ("num_classes", spec.num_classes)):
        wanted = getattr(data, flag)
        if wanted not in (None, found):
            raise Refusal(f"{wanted} contradicts --data_name {data.data_name}, which has {found}", flag)
    spec = spec if data.conditioning else spec.unlabelled()
    if config.recipe.label_dropout and spec.num_classes is None:
        raise Refusal(
            f"{config.recipe.label_dropout}: --data_name {data.data_name} has no labels to leave out", "label_dropout"
        )
    if "image_size" in inspect.signature(network).parameters and not spec.is_image:
        raise Refusal(
            f"{config.network.name} works on images; --data_name {data.data_name} has samples of {written(spec.grid)}",
            "model_name",
        )
    values: dict[str, Any] = {
        "shape": spec.grid,
        "image_size": Sides.of(spec.grid).short if spec.is_image else None,
        "in_channels": spec.channels,
        "out_channels": spec.channels,
        "num_classes": spec.num_classes,
    }
    process: type[LinearDynamics] = dynamics
    values = plain(values)
    backbone = filled(config.network, network, values)
    if config.adaptation and "checkpointing" in backbone.arguments:
        # it is the inner steps that are computed again; blocks inside them cannot be
        backbone = replace(backbone, arguments={**backbone.arguments, "checkpointing": False})
    return replace(
        config,
        spec=spec,
        dynamics=filled(config.dynamics, dynamics, {**values, **plain(process.defaults_for(spec.grid))}),
        network=backbone,
    )


def filled(chosen: Chosen, kind: type, values: Mapping[str, Any]) -> Chosen:
    """A class with those of its arguments that the data gives, in the order of its constructor."""
    known = {**values, **chosen.arguments}
    return replace(
        chosen, arguments={name: known[name] for name in inspect.signature(kind).parameters if name in known}
    )


def arguments_to_flags(*kinds: type) -> dict[str, str]:
    """Names of arguments to flags, for messages; the last class wins."""
    return {name: flag_name(kind, name) for kind in kinds for name in inspect.signature(kind).parameters}
