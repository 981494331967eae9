"""Runs that tune another one: whether a run is such a one, from what, and what it keeps of that."""

import reprlib
from dataclasses import fields
from pathlib import PurePath
from typing import Any

from common.config.flags import flag_name, flags_of
from common.config.plugins import class_of
from common.config.resolve import OF_DATA
from common.config.schema import DENOISE, Chosen, DataConfig, ModelConfig, RunConfig
from common.meta import MetaLearned
from common.refusal import Refusal

OF_RECIPE = ("t_min", "label_dropout")  # what a network knows: which times, and samples without a label
FOLDED = "guidance_scale"  # the argument of an objective
MODEL, FINAL = "model", "-final"  # the folder of weights of a run, and how the names of the last ones end
OF_ONE_LINE = frozenset({"download"})


def is_consistent(config: RunConfig) -> bool:
    """Whether a run was tuned so that its answer to any point of a path is a sample.

    Raises:
        Refusal: if its objective is a class that is not known.
    """
    return config.objective != DENOISE and bool(getattr(class_of(config.objective), "consistent", False))


def tuned_from(config: RunConfig) -> str:
    """The run that a run was tuned from, with its file of weights unless they are final; else the path of a file."""
    weights = PurePath(str(config.recipe.init_from))
    run = weights.parent.parent.name if weights.parent.name == MODEL else ""
    if not run:
        return str(weights)
    return run if weights.stem.endswith(FINAL) else f"{run} ({weights.name})"


def folded_guidance(config: RunConfig) -> float:
    """The scale of guidance that a tuning folds into the answers of its network; 1 is none.

    Raises:
        Refusal: if it is no number, as it may be in a foreign config.json.
    """
    scale = config.objective.arguments.get(FOLDED)
    if scale is not None and type(scale) not in (int, float):
        raise Refusal(f"config.json: {FOLDED} cannot be {reprlib.repr(scale)}")
    return 1.0 if scale is None else float(scale)


def kept_flags(start: RunConfig) -> dict[str, Any]:
    """Flags of a run that say what it is: data, process, network, prediction, prior.

    Args:
        start: the run.

    Raises:
        Refusal: if it names a class that is not known.
    """
    found: dict[str, Any] = {"dynamics": start.dynamics.name, "model_name": start.network.name}
    for section, kind in ((start.data, DataConfig), (start.model, ModelConfig)):
        found |= {f.name: getattr(section, f.name) for f in fields(kind) if f.name not in OF_ONE_LINE}
    found |= {name: getattr(start.recipe, name) for name in OF_RECIPE}
    found |= _arguments(start.dynamics, "dynamics_args") | _arguments(start.network, "model_args")
    if start.adaptation:
        found |= {flag_name(MetaLearned, name): value for name, value in start.adaptation.arguments.items()}
    else:
        found["inner_steps"] = 0
    return {name: value for name, value in found.items() if value is not None}


def _arguments(chosen: Chosen, further: str) -> dict[str, Any]:
    """Flags of a class's arguments, and the flag that takes those without one; the data gives some itself."""
    kind, rest = class_of(chosen), {}
    flags = {flag.argument: flag.name for flag in flags_of(kind)}
    found: dict[str, Any] = {}
    for name, value in chosen.arguments.items():
        if name in OF_DATA:
            continue
        if name in flags:
            found[flags[name]] = tuple(value) if isinstance(value, list) else value
        else:
            rest[name] = value
    return found | ({further: rest} if rest else {})
