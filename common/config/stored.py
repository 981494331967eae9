"""config.json: a run's configuration as plain data. Format 2 is written; format 1, of earlier versions, is read too."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from common.config.schema import SECTIONS, Chosen, RunConfig
from common.data.spec import DataSpec
from common.files import Manifest, write_json
from common.refusal import Refusal

CONFIG = "config.json"
FORMAT = 2
PARTS = ("dynamics", "network", "adaptation", "prior", "spec", "label", *SECTIONS)
PARTS_OF_FORMAT_1 = ("dynamics", "prior", "backbone", "prediction", "data", "settings")
ADAPTATION = "common.meta:MetaLearned"


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
        "prior": dict(config.prior_values),
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
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} is not readable: {error}") from error
    return from_json(content, str(path))


def write_config(folder: Path, config: RunConfig) -> None:
    """Write config.json into a run folder, atomically."""
    write_json(folder / CONFIG, to_json(config))


def _named(chosen: Chosen) -> dict[str, Any]:
    return {"name": chosen.name, "class": chosen.path, "arguments": chosen.arguments}


def _section(kind: type, values: Mapping[str, Any]) -> Any:
    """A section from plain values; what is not known is left out, what is missing takes its default."""
    known = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    for name in ("data_dir", "output_dir"):
        if known.get(name) is not None:
            known[name] = Path(known[name])
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


def _chosen(content: Mapping[str, Any], name: str) -> Chosen:
    if not isinstance(content.get("arguments"), dict) or not isinstance(content.get("class"), str):
        raise Refusal(f'a class must be named by "class" and "arguments", got {content!r}')
    return Chosen(name, content["class"], content["arguments"])


def _adaptation(arguments: dict[str, Any] | None) -> Chosen | None:
    return None if arguments is None else Chosen("meta", ADAPTATION, arguments)


def _from_format_2(content: Mapping[str, Any]) -> RunConfig:
    spec = content["spec"]
    if spec is not None:
        spec = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()}
    return RunConfig(
        dynamics=_chosen(content["dynamics"], content["dynamics"]["name"]),
        network=_chosen(content["network"], content["network"]["name"]),
        adaptation=_adaptation(content["adaptation"]),
        label=content["label"],
        spec=None if spec is None else DataSpec(**spec),
        prior_values=content["prior"],
        **{name: _section(kind, content[name]) for name, kind in SECTIONS.items()},
    )


def _from_format_1(content: Mapping[str, Any]) -> RunConfig:
    settings, data = content["settings"], content["data"]
    shape, rate, count = tuple(data["shape"]), data.get("sample_rate"), data["num_classes"]
    spec = DataSpec(
        "image" if len(shape) == 3 else "function" if rate is None else "sound",
        shape,
        tuple(data.get("range", (0.0, 1.0))),
        rate,
        None if count is None else tuple(map(str, range(count))),
        data.get("samples"),
    )
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
        spec=spec,
        prior_values=content["prior"],
        **{section: _section(kind, values) for section, kind in SECTIONS.items()},
    )
