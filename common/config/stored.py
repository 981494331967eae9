"""config.json: a run's configuration as plain data. Format 2 is written; format 1, of earlier versions, is read too."""

import argparse
import contextlib
import json
import reprlib
import typing
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from common.config.kinds import SIZE, fits, restored
from common.config.plugins import is_own
from common.config.schema import DENOISE, SECTIONS, Chosen, RunConfig
from common.data.folder import Folder
from common.data.spec import DataSpec
from common.files import Manifest, read_json, write_json
from common.refusal import Refusal

CONFIG, PRIOR = "config.json", "prior.safetensors"
FORMAT = 2
PARTS = ("dynamics", "network", "adaptation", "prior", "spec", "label", *SECTIONS)
PARTS_OF_FORMAT_1 = ("dynamics", "prior", "backbone", "prediction", "data", "settings")
ADAPTATION = "common.meta:MetaLearned"
LARGE = 1e6  # no deviation of data on the scale of networks lies above it, nor below one over it


def to_json(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain data."""
    spec = None if config.spec is None else asdict(config.spec)
    sections = {name: asdict(getattr(config, name)) for name in SECTIONS}
    content = {
        "format": FORMAT,
        "label": config.label,
        "dynamics": _named(config.dynamics),
        "network": _named(config.network),
        "adaptation": None if config.adaptation is None else config.adaptation.arguments,
        "objective": _named(config.objective),
        "prior": dict(config.prior_values),
        "data_std": config.data_std,
        "processes": config.processes,
        "spec": spec,
        **sections,
    }
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))  # paths as texts, tuples as lists
    return plain


def from_json(content: Any, source: str) -> RunConfig:
    """A configuration from plain data of format 1 or 2.

    Args:
        content: what :func:`to_json` made, here or in an earlier version.
        source: where it comes from, for messages.

    Raises:
        Refusal: if it is no configuration of a run, naming the source and what is wrong.
    """
    version = content.get("format", 1) if isinstance(content, dict) else 1
    needed = PARTS_OF_FORMAT_1 if version == 1 else PARTS
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing:
        raise Refusal(f"{source} is no config of a run: {', '.join(missing)} missing")
    if version not in (1, FORMAT):
        raise Refusal(f"{source} has format {version}, of a newer version of this program; this one reads 1 and 2")
    try:
        return _from_format_1(content) if version == 1 else _from_format_2(content)
    except (KeyError, TypeError, AttributeError, Refusal) as error:
        raise Refusal(f"{source} is no config of a run: {error}") from error


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
        Refusal: if there is none, it is damaged or no JSON, or a part is missing.
    """
    path = folder / CONFIG
    Manifest(folder).check(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise Refusal(f"{path} is not readable: {error}") from error
    config = from_json(content, str(path))
    if config.spec is None:
        raise Refusal(f"{path} does not say what a sample is")
    for chosen in (config.dynamics, config.network):
        _check_sizes(chosen, config.spec, path)
    return config


def write_config(folder: Path, config: RunConfig) -> None:
    """Write config.json into a run folder, atomically."""
    write_json(folder / CONFIG, to_json(config))


def _named(chosen: Chosen) -> dict[str, Any]:
    return {"name": chosen.name, "class": chosen.path, "arguments": chosen.arguments}


def _section(kind: type, values: Mapping[str, Any]) -> Any:
    """A section from plain values; what is not known is left out, what is missing or null takes its default.

    Raises:
        Refusal: for a value that no flag could have given.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    given = {f.name: values[f.name] for f in fields(kind) if values.get(f.name) is not None}
    return kind(**{name: _value(name, value, hints[name]) for name, value in given.items()})


def with_order(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values with the order of classes: earlier versions numbered those of folders as text, without saying so."""
    return {"class_order": "text", **values} if values.get("data_name") == Folder.name else values


def _value(name: str, value: Any, hint: Any) -> Any:
    """A value of a field, as its flag could have given it; ranges of numbers are checked by the sections themselves."""
    allowed = fits(value, hint)
    for extra in getattr(hint, "__metadata__", ()) if isinstance(value, str) else ():
        if isinstance(extra, Collection):
            allowed &= value in extra
        elif callable(extra):
            with contextlib.suppress(argparse.ArgumentTypeError):
                extra(value)
                continue
            allowed = False
    if not allowed:
        raise Refusal(f"cannot be {reprlib.repr(value)}", name)
    return restored(value, hint)


def _spec(values: Mapping[str, Any]) -> DataSpec:
    hints = typing.get_type_hints(DataSpec)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise Refusal(f"a sample has no {', '.join(sorted(unknown))}")
    return DataSpec(**{name: _value(name, value, hints[name]) for name, value in values.items()})


def _prior(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What sampling starts from: two numbers, or the name of a file."""
    numbers = values.keys() == {"mean", "variance"} and all(fits(value, float) for value in values.values())
    if not numbers and values != {"file": PRIOR}:
        raise Refusal(f'prior must be numbers "mean" and "variance", or "file": "{PRIOR}", not {reprlib.repr(values)}')
    return values


def _processes(value: Any) -> int | None:
    """With how many a run was begun; runs of earlier versions do not say it."""
    if not (fits(value, int | None, largest=SIZE) and (value is None or value >= 1)):
        raise Refusal(f"cannot be {reprlib.repr(value)}", "processes")
    known: int | None = value
    return known


def _deviation(value: Any) -> float | None:
    """The deviation of the data; runs of earlier versions do not say it."""
    if value is not None and not (fits(value, float) and 1 / LARGE <= value <= LARGE):
        raise Refusal(f"data_std must be a number from {1 / LARGE:g} to {LARGE:g}, not {reprlib.repr(value)}")
    return None if value is None else float(value)


def _check_sizes(chosen: Chosen, spec: DataSpec, path: Path) -> None:
    """Refuse a class of this program that is made for samples of another size, or for fewer classes than there are.

    Raises:
        Refusal: naming the argument.
    """
    if not is_own(chosen):
        return
    for name, size in (("shape", list(spec.grid)), ("in_channels", spec.channels), ("out_channels", spec.channels)):
        found = chosen.arguments.get(name, size)
        if found != size and found is not None:
            raise Refusal(f"{path}: {name} of {chosen.path} is {reprlib.repr(found)}, but samples have {size}")
    known = chosen.arguments.get("num_classes")
    if isinstance(known, int) and known < (spec.num_classes or 0):
        raise Refusal(f"{path}: num_classes of {chosen.path} is {known}, but there are {spec.num_classes} classes")


def _chosen(content: Mapping[str, Any], name: str) -> Chosen:
    if not (isinstance(content.get("arguments"), dict) and fits(content.get("class"), str) and fits(name, str)):
        raise Refusal(f'a class must be named by "class" and "arguments", got {reprlib.repr(content)}')
    return Chosen(name, content["class"], content["arguments"])


def _adaptation(arguments: dict[str, Any] | None) -> Chosen | None:
    return None if arguments is None else _chosen({"class": ADAPTATION, "arguments": arguments}, "meta")


def _objective(content: Mapping[str, Any] | None) -> Chosen:
    """What a network is trained towards; runs of earlier versions do not say it."""
    return DENOISE if content is None else _chosen(content, content["name"])


def _from_format_2(content: Mapping[str, Any]) -> RunConfig:
    spec = content["spec"]
    return RunConfig(
        dynamics=_chosen(content["dynamics"], content["dynamics"]["name"]),
        network=_chosen(content["network"], content["network"]["name"]),
        adaptation=_adaptation(content["adaptation"]),
        label=_value("label", content["label"], str),
        spec=None if spec is None else _spec(spec),
        prior_values=_prior(content["prior"]),
        data_std=_deviation(content.get("data_std")),
        objective=_objective(content.get("objective")),
        processes=_processes(content.get("processes")),
        **{name: _section(kind, with_order(content[name])) for name, kind in SECTIONS.items()},
    )


def _from_format_1(content: Mapping[str, Any]) -> RunConfig:
    settings, data = content["settings"], content["data"]
    shape, rate, count = data["shape"], data.get("sample_rate"), data["num_classes"]
    if not fits(count, int | None, largest=SIZE):
        raise Refusal(f"cannot be {reprlib.repr(count)}", "num_classes")
    spec = {
        "kind": "image" if len(shape) == 3 else "function" if rate is None else "sound",
        "shape": shape,
        "value_range": data.get("range", [0.0, 1.0]),
        "sample_rate": rate,
        "classes": None if count is None else list(map(str, range(count))),
        "samples": data.get("samples"),
    }
    values = {**settings, "data_name": data.get("name", settings.get("data_name")), "prediction": content["prediction"]}
    if isinstance(values.get("ema_decay"), float):  # as the first runs have it
        values["ema_decay"] = [values["ema_decay"]]
    name, model = settings.get("dynamics", "unknown"), settings.get("model_name", "unknown")
    fractional = {"hurst", "num_aug"} <= content["dynamics"]["arguments"].keys()
    return RunConfig(
        dynamics=_chosen(content["dynamics"], name),
        network=_chosen(content["backbone"], model),
        adaptation=_adaptation(content.get("adaptation")),
        label=f"H{settings['hurst']}_K{settings['num_aug']}" if fractional else f"{name}_{model}",
        spec=_spec(spec),
        prior_values=_prior(content["prior"]),
        **{section: _section(kind, with_order(values)) for section, kind in SECTIONS.items()},
    )
