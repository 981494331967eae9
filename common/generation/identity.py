"""What an identity of samples says, as settings.json keeps it: which command draws them, how many there are."""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.config.flags import flags_of, ranges_in, written
from common.files import read_json
from common.files.manifest import LARGEST
from common.generation.config import OBSERVED, OF_MODE, OF_PROCESS, Members, SampleConfig, members_of
from common.generation.matching import words_for
from common.generation.sections import Compared, InputConfig
from common.samplers import SOLVERS


def flags_for(identity: Mapping[str, Any]) -> list[str]:
    """Flags of generate.py that draw the samples of an identity, as words of a command line.

    Each is one word, ``--steps=20``: an identity may be anybody's, and none of its values becomes a flag.

    Args:
        identity: what :meth:`SampleConfig.identity` gave, here or in an earlier version.
    """
    values = {f.name: identity[f.name] for f in fields(SampleConfig) if f.name in identity}
    named = {name: str(identity.get(name)) for name in Members._fields}
    for (name, arguments), member in zip(
        [(name, values.pop(f"{name}_arguments", None)) for name in named], members_of(named), strict=True
    ):
        if member.name != named[name] or not isinstance(arguments, Mapping):
            continue  # it has none, or it is one of a plugin, which has to be named anyway
        if OF_MODE in arguments:
            values |= {"mode": "sde" if arguments[OF_MODE] else "ode"}
        values |= {flag.name: arguments[flag.argument] for flag in member.flags if flag.argument in arguments}
    process = words_for(values.pop(OF_PROCESS, None))
    return [*(f"--{name}={written(value)}" for name, value in values.items()), *process]


def input_flags(path: Path) -> list[str]:
    """Flags of generate.py that name the inputs of a task, as words of a command line; none if nothing says so.

    Args:
        path: ``inputs.json`` of a set; it may be anybody's.
    """
    try:
        named = dict(read_json(path, LARGEST)["flags"])
    except (OSError, ValueError, LookupError, TypeError):
        return []
    known = flags_of(InputConfig) + flags_of(Compared)
    return [f"--{flag.name}={named[flag.name]}" for flag in known if isinstance(named.get(flag.name), str)]


def samples_of(identity: Mapping[str, Any]) -> int | None:
    """How many samples an identity names; None if it does not say."""
    try:
        of_each = sum(map(len, ranges_in(str(identity["seeds"]))))
        return of_each * int(identity[OBSERVED]["inputs"]) if OBSERVED in identity else of_each
    except (LookupError, ValueError, TypeError, argparse.ArgumentTypeError):
        return None


def evaluations_of(identity: Mapping[str, Any]) -> int | None:
    """Denoiser calls per sample that an identity names, at most; None if it does not say, or by a solver of a plugin.

    Args:
        identity: as in :func:`samples_of`; it may be anybody's.
    """
    try:
        solver = SOLVERS[str(identity["solver"])](**identity.get("solver_arguments", {}))
        return solver.calls(
            int(identity["steps"]), denoise_last=bool(identity.get("denoise_last") or identity.get("target_shape"))
        )
    except (LookupError, ValueError, TypeError):
        return None
