"""A trained model: ``load`` gives back what was trained, from its run folder.

Nothing is unpickled; a class that config.json names is used only if it is of the kind that belongs there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from common.config.build import build_denoiser
from common.config.rehearsal import rehearse
from common.config.schema import RunConfig
from common.config.stored import CONFIG, read_config
from common.config.tuned import is_consistent, tuned_from
from common.data.spec import DataSpec
from common.denoiser import Denoiser
from common.dynamics import LinearDynamics
from common.files import load_state
from common.refusal import Refusal
from common.runs.folder import RunFolder, find
from common.runs.log import columns, read_metrics
from common.runs.released import plain_names
from common.runs.time_grid import read_time_grid
from common.runs.versions import PLAIN, Version, open_version


@dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
        denoiser: (v, t, labels) to x0_hat, on the CPU, in evaluation mode.
        dynamics: what it was trained under.
        config: what config.json holds, or the configuration given for a released folder.
        data: what a sample is: shape (C, *S), range, classes.
        folder: the run folder.
        source: the version of the weights.
        kind: which of its weights: ``model``, ``ema_model`` or, for a further average, e.g. ``ema0.999_model``.
    """

    denoiser: Denoiser
    dynamics: LinearDynamics
    config: RunConfig
    data: DataSpec
    folder: RunFolder
    source: Version
    kind: str

    @property
    def version(self) -> str:
        """Name of the version, e.g. ``final``, or ``step-0000225`` for a checkpoint."""
        return self.source.name

    @property
    def averaged(self) -> bool:
        """Whether the weights are averaged."""
        return self.kind != PLAIN

    @property
    def weights(self) -> Path:
        """The file they came from."""
        return self.source.file(self.kind)

    @property
    def is_consistent(self) -> bool:
        """Whether it was tuned so that its answer to any point of a path is a sample: one or two evaluations do."""
        return is_consistent(self.config)

    @property
    def log(self) -> dict[str, np.ndarray]:
        """What its training has logged: one array (lines,) float64 for each name; empty without a ``metrics.csv``.

        Names are ``step``, ``train/loss``, ``val/loss``, ..; NaN stands where a line has no such number.
        """
        return columns(read_metrics(self.folder.metrics))

    @property
    def remarks(self) -> list[str]:
        """What a user should know: newer checkpoints that cannot be read, weights that could not be checked."""
        return self.source.remarks

    @property
    def account(self) -> str:
        """Which weights they are, in one line: version, averaged or not, file, and the flags that take others.

        Decays are those of the configuration; a folder of the published code says none.
        """
        found = self.source.account(self.kind, () if self.folder.is_released else self.config.recipe.averages)
        return f"{found}; tuned from {tuned_from(self.config)}" if self.is_consistent else found


def read_prior(folder: RunFolder, config: RunConfig) -> dict[str, Tensor] | None:
    """Mean and variance of the data in a run folder, if its configuration names a file of them.

    Raises:
        Refusal: if the file is missing, damaged or holds something else.
    """
    if dict(config.prior_values) != {"file": folder.prior.name}:
        return None
    if not folder.prior.is_file():
        raise Refusal(
            f"{folder.prior} is missing: the mean and spectrum that sampling starts from; {folder.mend(folder.prior)}"
        )
    folder.manifest.check(folder.prior)
    tensors = load_state(folder.prior)
    if tensors.keys() != {"mean", "variance"} or tuple(tensors["mean"].shape) != config.sample.shape:
        raise Refusal(f"{folder.prior} must hold mean and variance of samples of shape {list(config.sample.shape)}")
    return tensors


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights into a network: our files, .safetensors, and both kinds of files of the published code.

    Raises:
        Refusal: naming what was expected and found if it does not fit.
    """
    fit_weights(network, plain_names(load_state(path)), path)


def fit_weights(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put a state dict into a network.

    Args:
        network: what it belongs to.
        state: weights by name.
        path: the file they came from.

    Raises:
        Refusal: naming what was expected and found if it does not fit.
    """
    expected = network.state_dict()
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


def load(
    run_id: str,
    version: str | None = None,
    output_dir: str | Path = "runs",
    *,
    averaged: bool | None = None,
    decay: float | None = None,
    config: RunConfig | None = None,
) -> Run:
    """Load a trained model from its run folder.

    Args:
        run_id: id, folder name or ``latest``.
        version: version of the weights, e.g. ``final`` or ``v0``, or ``step-0000225`` for a checkpoint; None takes
            ``final``, else the newest. Of a run that was stopped before it kept any, that is the newest checkpoint
            (``account`` of the run says so).
        output_dir: folder that holds the runs.
        averaged: use the averaged weights (``ema_model-*``); None takes them if the run kept them.
        decay: decay of the average to use, if a run kept several; None takes the main one. Not together with
            ``averaged=False``.
        config: for a released folder, which has no config.json, what would stand in it; for others None.

    Raises:
        RunNotFound: for an unknown run, version or average, listing what there is.
        Refusal: for weights that do not fit, a released folder without ``config``, or a config too many.
    """
    return load_folder(find(run_id, Path(output_dir)), version, averaged=averaged, decay=decay, config=config)


def load_folder(
    folder: RunFolder,
    version: str | None = None,
    *,
    averaged: bool | None = None,
    decay: float | None = None,
    config: RunConfig | None = None,
) -> Run:
    """As :func:`load`, from a folder that was found already."""
    if config is None:
        if folder.is_released:
            raise Refusal(
                f"{folder.path} has no {CONFIG} (weights of the published code): make a configuration from its name "
                "and the flags of its architecture with gfdm.released.released_config, and give it to runs.load"
            )
        config = read_config(folder.path)
    elif not folder.is_released:
        raise Refusal(f"must be None: {folder.path} has its own {CONFIG}", "config")
    source = open_version(folder, version, config.recipe.averages)
    kind = source.choose(averaged, decay)
    prior = read_prior(folder, config)
    try:
        rehearse(config, source.file(kind))
        denoiser = build_denoiser(config, prior)
    except Refusal as refusal:
        if folder.is_released:  # flags described it
            raise
        raise Refusal(f"{folder.path / CONFIG}: {refusal}") from refusal
    fit_weights(denoiser.backbone, source.read(kind), source.file(kind))
    denoiser.dynamics.node_density = read_time_grid(folder)
    return Run(denoiser.eval(), denoiser.dynamics, config, config.sample, folder, source, kind)
