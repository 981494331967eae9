"""From a configuration to its objects."""

import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config.flags import at_home
from common.config.plugins import build
from common.config.schema import DataConfig, RunConfig
from common.data import SOURCES, DataOptions, DataSet
from common.data.axes import kind_of_axes
from common.data.spec import Kind
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics, Prior
from common.meta import MetaLearned
from common.refusal import Refusal

TOLD_APART = 0.174  # decision level over deviation and root of the number of points: seen at 8 x 8 and 28 x 28


def build_dynamics(config: RunConfig) -> LinearDynamics:
    """The dynamics of a run, with the published prior."""
    dynamics: LinearDynamics = build(config.dynamics, LinearDynamics)
    if config.data_std is not None:
        dynamics.data_std = config.data_std
    if config.spec is not None:
        dynamics.decision_level = TOLD_APART * dynamics.data_std * math.sqrt(math.prod(config.spec.grid))
    return dynamics


def build_denoiser(config: RunConfig, prior: dict[str, Tensor] | None = None) -> Denoiser:
    """Dynamics with its prior, fresh network and prediction of a run.

    Args:
        config: what the run is.
        prior: ``mean`` and ``variance`` of the data if they are functions, which stand in no configuration.

    Raises:
        Refusal: if a part cannot be made.
    """
    dynamics = build_dynamics(config)
    dynamics.prior = Prior(dynamics, **(config.prior_values if prior is None else prior))
    network: nn.Module = build(config.network, nn.Module)
    if config.adaptation:
        network = build(config.adaptation, MetaLearned, network, dynamics.basis, dynamics.metric)
    return Denoiser(network, dynamics, config.model.prediction)


def check_device(device: str) -> torch.device:
    """The device of ``--device``.

    Raises:
        Refusal: for cuda without CUDA.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise Refusal("cuda: torch sees no CUDA device here; use --device cpu", "device")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def data_root(data_dir: str | Path | None) -> Path:
    """Where data is: ``--data_dir``, else $DATA_ROOT, else ./data."""
    return Path(data_dir or at_home(os.environ.get("DATA_ROOT") or "data"))


def kind_of_data(data_name: str, data_dir: str | None, axes: str | None = None) -> Kind | None:
    """What the samples of a data set are, told without reading them; None if that cannot be told.

    Args:
        data_name: its name.
        data_dir: what was given as ``--data_dir``.
        axes: what was given as ``--axes``.
    """
    if axes is not None:
        return kind_of_axes(axes)
    root = data_root(data_dir and at_home(data_dir))
    return SOURCES[data_name]().kind_in(root) if data_name in SOURCES else None


def load_data(config: DataConfig) -> DataSet:
    """The data set of a run.

    Raises:
        Refusal: if it is missing (with how to get it) or contradicts a flag.
    """
    if config.data_name not in SOURCES:
        known = ", ".join(SOURCES)
        raise Refusal(f"{config.data_name} is unknown; there are {known} (own ones come with --plugin)", "data_name")
    options = DataOptions(
        data_dir=data_root(config.data_dir),
        image_size=config.image_size,
        channels=config.channels,
        download=config.download,
        center_crop=config.center_crop,
        sample_rate=config.sample_rate,
        length=config.length,
        class_order=config.class_order,
        axes=config.axes,
        levels=config.levels,
    )
    return SOURCES[config.data_name]().load(options)
