"""Run folders: naming, finding, reading. ``load`` gives back what was trained.

config.json holds plain data: the class and constructor arguments of dynamics and backbone, the prediction, the prior
and the data's shape. Nothing is unpickled; a named class is used only if it is of the kind that belongs there.
"""

import json
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from common.checkpoints import load_state
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics, Prior

CONFIG = "config.json"
SECTIONS = ("dynamics", "prior", "backbone", "prediction", "data", "settings")
OWN_PACKAGES = ("common", "gfdm", "fdp")


class RunNotFound(ValueError):
    """No such run or version; the message lists what there is."""


@dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
        denoiser: (v, t, labels) to x0_hat, on the CPU, in evaluation mode.
        dynamics: what it was trained under.
        config: the run's config.json.
        data: name, shape (C, H, W) and number of classes of the data.
        folder: the run folder.
        version: version of the weights, e.g. ``final``.
    """

    denoiser: Denoiser
    dynamics: LinearDynamics
    config: dict[str, Any]
    data: dict[str, Any]
    folder: Path
    version: str


def class_path(cls: type) -> str:
    """``module:Class``, as :func:`build` reads it."""
    return f"{cls.__module__}:{cls.__qualname__}"


def build(spec: dict[str, Any], kind: type) -> Any:
    """Make an object from ``{"class": "module:Class", "arguments": {..}}``.

    Args:
        spec: class path and constructor arguments.
        kind: what the class must be a subclass of.

    Raises:
        ValueError: where the class cannot be found or is of another kind.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("arguments"), dict) or "class" not in spec:
        raise ValueError(f'{CONFIG} must name a {kind.__name__} by "class" and "arguments", got {spec!r}')
    name, arguments = spec["class"], spec["arguments"]
    module = str(name).partition(":")[0]
    if module.partition(".")[0] not in OWN_PACKAGES and module not in sys.modules:
        # importing runs code: a config from elsewhere must not choose what is imported
        raise ValueError(
            f"{CONFIG} names {name!r}, which is not ours; import {module!r} yourself before loading the run"
        )
    try:
        cls = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{CONFIG} names {name!r}, which cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise ValueError(f"{CONFIG} names {name!r}, which is no {kind.__name__}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{CONFIG}: {name} cannot be made from its arguments: {error}") from error


def build_denoiser(config: dict[str, Any]) -> Denoiser:
    """Dynamics with its prior, fresh backbone and prediction of a config."""
    dynamics = build(config["dynamics"], LinearDynamics)
    dynamics.prior = Prior(dynamics, **config["prior"])
    return Denoiser(build(config["backbone"], nn.Module), dynamics, config["prediction"])


def run_folders(output_dir: Path) -> list[Path]:
    """Run folders under a directory, oldest first."""
    folders = [path.parent for path in output_dir.glob(f"*/{CONFIG}")]
    return sorted(folders, key=lambda folder: (folder / CONFIG).stat().st_mtime)


def find(run_id: str, output_dir: Path, flag: str = "run_id") -> Path:
    """The folder of a run: by id, by folder name, or ``latest``.

    Args:
        run_id: what to look for.
        output_dir: folder that holds the runs.
        flag: the flag a message names.

    Raises:
        RunNotFound: with the runs there are.
    """
    folders = run_folders(output_dir)
    if run_id == "latest" and folders:
        return folders[-1]
    whole = [folder for folder in folders if folder.name == run_id]
    matches = whole or [folder for folder in folders if run_id and folder.name.startswith(f"{run_id}_")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(folder.name for folder in matches)
        raise RunNotFound(f"--{flag} {run_id} fits several runs: {names}. Give the whole name of one.")
    known = ", ".join(folder.name for folder in folders) or "none"
    raise RunNotFound(f"--{flag} {run_id}: no such run under {output_dir}. Runs there: {known}")


def versions(folder: Path) -> list[str]:
    """Versions of the weights in a run folder, in the order they were written."""
    files = sorted((folder / "model").glob("model-*.pth"), key=lambda path: path.stat().st_mtime)
    return [path.stem.removeprefix("model-") for path in files]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder.

    Raises:
        ValueError: where it is no JSON, or a section is missing.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable: {error}") from error
    missing = [key for key in SECTIONS if not isinstance(config, dict) or key not in config]
    if missing:
        raise ValueError(f"{path} is no config of a run: {', '.join(missing)} missing")
    return config


def load_weights(network: nn.Module, path: Path) -> None:
    """Read a state dict into a network.

    Raises:
        ValueError: naming what was expected and found where it does not fit.
    """
    state, expected = load_state(path), network.state_dict()
    missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
    wrong = [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
    if missing or extra or wrong:
        detail = [f"{len(missing)} missing (e.g. {min(missing)})"] if missing else []
        detail += [f"{len(extra)} unknown (e.g. {min(extra)})"] if extra else []
        if wrong:
            name = min(wrong)
            detail.append(f"{name} is {tuple(state[name].shape)} where {tuple(expected[name].shape)} was expected")
        raise ValueError(f"{path} does not fit this network: {'; '.join(detail)}")
    network.load_state_dict(state)


def load(run_id: str, version: str = "final", output_dir: str | Path = "runs", *, averaged: bool | None = None) -> Run:
    """Load a trained model from its run folder.

    Args:
        run_id: id, folder name or ``latest``.
        version: version of the weights, e.g. ``final`` or ``v0``.
        output_dir: folder that holds the runs.
        averaged: use the averaged weights (``ema_model-*``); None takes them where the run kept them.

    Raises:
        RunNotFound: for an unknown run or version, listing what there is.
        ValueError: for weights that do not fit.
    """
    folder = find(run_id, Path(output_dir))
    config = read_config(folder)
    if version not in versions(folder):
        known = ", ".join(versions(folder)) or "none yet (training has not reached its first version)"
        raise RunNotFound(f"--version {version}: not in {folder / 'model'}. Versions there: {known}")
    ema = folder / "model" / f"ema_model-{version}.pth"
    if averaged and not ema.exists():
        raise RunNotFound(f"--use_ema True: this run kept no averaged weights ({ema} is missing); use --use_ema False")
    denoiser = build_denoiser(config)
    use = ema.exists() if averaged is None else averaged
    load_weights(denoiser.backbone, ema if use else folder / "model" / f"model-{version}.pth")
    return Run(denoiser.eval(), denoiser.dynamics, config, config["data"], folder, version)
