"""Run folders: naming, finding, reading. ``load`` gives back what was trained.

config.json holds plain data: the class and constructor arguments of dynamics and backbone, how the network adapts, the
prediction, the prior (its numbers, or the name of the file with its functions) and the data's shape. Nothing is
unpickled; a named class is used only if it is of the kind that belongs there.

Folders of the published GFDM code ("released") hold weights alone, ``{id}_{data}_H{hurst}_K{num_aug}/model/*.pth``.
They are found like our own, and loaded with a config that the caller makes.
"""

import json
import pkgutil
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.denoiser import Denoiser
from common.dynamics import LinearDynamics, Prior
from common.files import load_state, save_safetensors
from common.meta import MetaLearned
from common.refusal import Refusal

CONFIG = "config.json"
PRIOR = "prior.safetensors"  # mean function and spectrum of the data, where sampling starts from those
SECTIONS = ("dynamics", "prior", "backbone", "prediction", "data", "settings")
OWN_PACKAGES = ("common", "gfdm", "fdp")
PLAIN, AVERAGED = "model", "ema_model"  # kinds of weights; further averages are ema{decay:g}_model
WEIGHTS = re.compile(r"(model|ema[\d.e-]*_model)-(.+)\.(?:pth|safetensors)")
RELEASED_NAME = re.compile(r".+_([^_]+)_H(\d+(?:\.\d+)?)_K(\d+)")
EMA_PYTORCH = {"initted", "step", "online_model", "ema_model"}  # first parts of the names in such a file


class RunNotFound(Refusal):
    """No such run or version; the message lists what there is."""


@dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
        denoiser: (v, t, labels) to x0_hat, on the CPU, in evaluation mode.
        dynamics: what it was trained under.
        config: the run's config.json, or the one given for a released folder.
        data: name, shape (C, H, W) and number of classes of the data.
        folder: the run folder.
        version: version of the weights, e.g. ``final``.
        averaged: whether they are averaged weights.
        weights: the file they came from.
    """

    denoiser: Denoiser
    dynamics: LinearDynamics
    config: dict[str, Any]
    data: dict[str, Any]
    folder: Path
    version: str
    averaged: bool
    weights: Path


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
        raise Refusal(f'{CONFIG} must name a {kind.__name__} by "class" and "arguments", got {spec!r}')
    name, arguments = spec["class"], spec["arguments"]
    module = str(name).partition(":")[0]
    if module.partition(".")[0] not in OWN_PACKAGES and module not in sys.modules:
        # importing runs code: a config from elsewhere must not choose what is imported
        raise Refusal(
            f"{CONFIG} names {name!r}, which is not ours; name its file with --plugin, or import {module!r} before "
            "loading the run"
        )
    try:
        cls = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise Refusal(f"{CONFIG} names {name!r}, which cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise Refusal(f"{CONFIG} names {name!r}, which is no {kind.__name__}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise Refusal(f"{CONFIG}: {name} cannot be made from its arguments: {error}") from error


def build_dynamics(config: dict[str, Any]) -> LinearDynamics:
    """The dynamics of a config, with the published prior."""
    dynamics: LinearDynamics = build(config["dynamics"], LinearDynamics)
    return dynamics


def build_denoiser(config: dict[str, Any], prior: dict[str, Tensor] | None = None) -> Denoiser:
    """Dynamics with its prior, fresh network and prediction of a config.

    Args:
        config: as :func:`read_config` gives it.
        prior: ``mean`` and ``variance`` of the data where they are functions, which stand in no config.

    Raises:
        ValueError: where a part cannot be made.
    """
    dynamics = build_dynamics(config)
    dynamics.prior = Prior(dynamics, **(config["prior"] if prior is None else prior))
    network = build(config["backbone"], nn.Module)
    if config.get("adaptation"):
        network = MetaLearned(network, dynamics.basis, dynamics.metric, **config["adaptation"])
    return Denoiser(network, dynamics, config["prediction"])


def read_prior(folder: Path, config: dict[str, Any]) -> dict[str, Tensor] | None:
    """Mean and variance of the data in a run folder, where its config names a file of them.

    Raises:
        ValueError: where the file is missing or holds something else.
    """
    if config["prior"] != {"file": PRIOR}:
        return None
    path = folder / PRIOR
    if not path.is_file():
        raise Refusal(f"{path} is missing: the mean and spectrum that sampling starts from; --resume writes it again")
    tensors = load_state(path)
    if tensors.keys() != {"mean", "variance"} or list(tensors["mean"].shape) != config["data"]["shape"]:
        raise ValueError(f"{path} must hold mean and variance of samples of shape {config['data']['shape']}")
    return tensors


def run_folders(output_dir: Path) -> list[Path]:
    """Run folders under a directory, oldest first; released ones also one level deeper (people unzip by hand)."""
    visible = [path for path in output_dir.glob("*") if not path.name.startswith(".")]  # others are being unpacked
    ours = [path for path in visible if (path / CONFIG).is_file()]
    released = [path for path in visible if is_released(path)]
    rest = [path for path in visible if path not in ours and path not in released]
    released += [path.parent for parent in rest for path in parent.glob("*/model") if is_released(path.parent)]
    ages = {path: (path / CONFIG).stat().st_mtime for path in ours}
    ages |= {path: max(file.stat().st_mtime for file in _weight_paths(path)) for path in released}
    return sorted(ages, key=lambda folder: ages[folder])


def is_released(folder: Path) -> bool:
    """Whether a folder is in the layout of the published code: weights, but no config.json."""
    return not (folder / CONFIG).is_file() and bool(_weight_paths(folder))


def parse_released_name(name: str) -> dict[str, Any]:
    """``data_name``, ``hurst`` and ``num_aug`` from the name of a released folder, e.g. ``1299582_cifar10_H0.9_K2``.

    Args:
        name: ``{id}_{data}_H{hurst}_K{num_aug}``; the data's name has no underscore.

    Raises:
        ValueError: where the name does not say.
    """
    match = RELEASED_NAME.fullmatch(name)
    if not match:
        raise Refusal(f"{name!r} does not say data, Hurst index and number of processes as ID_DATA_H0.9_K2 does")
    return {"data_name": match[1], "hurst": float(match[2]), "num_aug": int(match[3])}


def find(run_id: str, output_dir: Path, flag: str = "run_id") -> Path:
    """The folder of a run: by id, by folder name, or ``latest``.

    Args:
        run_id: what to look for.
        output_dir: folder that holds the runs.
        flag: the flag a message names.

    Raises:
        RunNotFound: with the runs there are.
    """
    folders = {folder.relative_to(output_dir).as_posix(): folder for folder in run_folders(output_dir)}
    if Path(run_id).resolve().parent == output_dir.resolve():  # a path, as a shell completes it
        run_id = Path(run_id).name
    if run_id == "latest" and folders:
        return [*folders.values()][-1]
    matches = (
        [name for name in folders if name == run_id]
        or [name for name, folder in folders.items() if folder.name == run_id]
        or [name for name, folder in folders.items() if run_id and folder.name.startswith(f"{run_id}_")]
    )
    if len(matches) == 1:
        return folders[matches[0]]
    if matches:
        raise RunNotFound(f"{run_id} fits several runs: {', '.join(matches)}. Give the whole name of one.", flag)
    known = ", ".join(folders) or "none"
    raise RunNotFound(f"{run_id}: no such run under {output_dir}. Runs there: {known}", flag)


def _weight_paths(folder: Path) -> list[Path]:
    return [path for path in (folder / "model").glob("*model-*") if WEIGHTS.fullmatch(path.name)]


def weight_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Files of weights by version and kind, versions in the order they were written.

    A kind is ``model``, ``ema_model`` or, for further averages, ``ema{decay:g}_model``; an exported .safetensors counts
    where there is no .pth.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(_weight_paths(folder), key=lambda path: (path.suffix != ".pth", path.stat().st_mtime)):
        match = WEIGHTS.fullmatch(path.name)
        assert match  # that is how they were chosen
        files.setdefault(match[2], {}).setdefault(match[1], path)
    return files


def versions(folder: Path) -> list[str]:
    """Versions of the weights in a run folder, in the order they were written."""
    return list(weight_files(folder))


def check_config(config: Any, source: str) -> dict[str, Any]:
    """The config itself.

    Raises:
        ValueError: where it is no config of a run, naming the source and what is missing.
    """
    missing = [key for key in SECTIONS if not isinstance(config, dict) or key not in config]
    if missing:
        raise Refusal(f"{source} is no config of a run: {', '.join(missing)} missing")
    return dict(config)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder.

    Raises:
        ValueError: where there is none, it is no JSON, or a section is missing.
    """
    path = folder / CONFIG
    if is_released(folder):
        raise Refusal(
            f"{folder} has no {CONFIG} (weights of the published code): make a config from its name and the flags of "
            "its architecture with args.released_config, and give it to runs.load as config"
        )
    try:
        config = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} is not readable: {error}") from error
    return check_config(config, str(path))


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own state dict out of what the published code saves.

    The averaged part of an ema-pytorch file is taken, and ``module.`` (torch's data parallel wrapper) is removed from
    the front of the names where all have it. Any other state dict is returned as it is.
    """
    prefix, parts = "ema_model.", {name.partition(".")[0] for name in state}
    if "ema_model" in parts and parts <= EMA_PYTORCH:
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights into a network: our files, .safetensors, and both kinds of files of the published code.

    Raises:
        ValueError: naming what was expected and found where it does not fit.
    """
    state, expected = plain_names(load_state(path)), network.state_dict()
    missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
    wrong = [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
    if missing or extra or wrong:
        detail = [f"{len(missing)} missing (e.g. {min(missing)})"] if missing else []
        detail += [f"{len(extra)} unknown (e.g. {min(extra)})"] if extra else []
        if wrong:
            name = min(wrong)
            detail.append(f"{name} is {tuple(state[name].shape)} where {tuple(expected[name].shape)} was expected")
        raise Refusal(f"{path} does not fit this network: {'; '.join(detail)}")
    network.load_state_dict(state)


def choose_weights(
    folder: Path, version: str, averaged: bool | None, decay: float | None, decays: list[float]
) -> tuple[bool, Path]:
    """Whether averaged weights are to be used, and the file.

    Args:
        folder: the run folder.
        version: version of the weights.
        averaged: use averaged weights; None takes them where they are.
        decay: decay of the average to use; None takes the main one.
        decays: decays of the averages that the run was to keep, the main one first.

    Raises:
        RunNotFound: for what is not there, listing what there is.
        ValueError: for a decay together with ``averaged=False``.
    """
    there = weight_files(folder)
    if version not in there:
        known = ", ".join(there) or "none yet (training has not reached its first version)"
        raise RunNotFound(f"{version}: not in {folder / 'model'}. Versions there: {known}", "version")
    files = there[version]
    if decay is not None:
        if averaged is False:
            raise Refusal(f"{decay:g} asks for averaged weights, --use_ema False for the others", "ema_decay")
        kinds = [AVERAGED, *(f"ema{further}_model" for further in decays[1:])]
        kept = {kept: files[kind] for kept, kind in zip(decays, kinds, strict=False) if kind in files}
        if decay not in kept:
            known = ", ".join(f"{kept:g}" for kept in kept) or "none"
            raise RunNotFound(f"{decay:g}: no such average of version {version}. Decays there: {known}", "ema_decay")
        return True, kept[decay]
    use = AVERAGED in files if averaged is None else averaged
    kind = AVERAGED if use else PLAIN
    if kind not in files:
        known = ", ".join(file.name for file in files.values())
        raise RunNotFound(
            f"{use}: {folder / 'model' / f'{kind}-{version}.pth'} is missing; this version has {known}",
            "use_ema",
        )
    return use, files[kind]


def load(
    run_id: str,
    version: str = "final",
    output_dir: str | Path = "runs",
    *,
    averaged: bool | None = None,
    decay: float | None = None,
    config: dict[str, Any] | None = None,
) -> Run:
    """Load a trained model from its run folder.

    Args:
        run_id: id, folder name or ``latest``.
        version: version of the weights, e.g. ``final`` or ``v0``.
        output_dir: folder that holds the runs.
        averaged: use the averaged weights (``ema_model-*``); None takes them where the run kept them.
        decay: where a run kept several averages, the decay of the one to use; None takes the main one. Not together
            with ``averaged=False``.
        config: for a released folder, which has no config.json, what would stand in it; for others None.

    Raises:
        RunNotFound: for an unknown run, version or average, listing what there is.
        ValueError: for weights that do not fit, a released folder without ``config``, or a config too many.
    """
    folder = find(run_id, Path(output_dir))
    if config is None:
        config = read_config(folder)
    elif is_released(folder):
        config = check_config(config, f"the config given for {folder}")
    else:
        raise Refusal(f"must be None: {folder} has its own {CONFIG}", "config")
    decays = config["settings"].get("ema_decay") if decay is not None else None
    decays = list(decays) if isinstance(decays, list | tuple) else [decays] if decays is not None else []
    use, weights = choose_weights(folder, version, averaged, decay, decays)
    denoiser = build_denoiser(config, read_prior(folder, config))
    load_weights(denoiser.backbone, weights)
    return Run(denoiser.eval(), denoiser.dynamics, config, config["data"], folder, version, use, weights)


def export_safetensors(run: Run, path: Path | None = None) -> Path:
    """Write the weights of a run as .safetensors, with its config as JSON in the metadata (key ``config``).

    Args:
        run: what was loaded; averaged weights if they were loaded.
        path: where it goes; beside the file that was loaded where None, e.g. ``model/ema_model-final.safetensors``.

    Returns:
        The path.
    """
    path = path or run.weights.with_suffix(".safetensors")
    metadata = {"format": "pt", "config": json.dumps(run.config), "version": run.version}
    save_safetensors(path, run.denoiser.backbone.state_dict(), metadata)
    return path
