"""From a run's configuration to what trains it: module, data module, trainer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from common.cluster.meeting import Meeting
from common.config.build import build_denoiser, build_dynamics
from common.config.plugins import build
from common.config.schema import RunConfig, check_picture_scale
from common.data.module import DataModule
from common.data.source import DataSet
from common.files import load_state
from common.refusal import Refusal
from common.runs import RunFolder, RunNotFound, open_version
from common.runs.released import plain_names
from common.runs.run import fit_weights
from common.runs.versions import nature
from common.samplers import quick_solver
from common.training.callbacks import SampleGrid
from common.training.csv_log import CsvLog
from common.training.module import DiffusionModule
from common.training.objective import Objective, objective_of
from common.training.session import say
from common.training.starting import start_config, start_folder, weights_file
from common.training.trainer import make_trainer

RELEASED_PREDICTION = "eps"  # of the published code's networks


def build_module(config: RunConfig, weights: Path | None, prior: dict[str, Tensor] | None) -> DiffusionModule:
    """The network with its training recipe.

    Args:
        config: what the run is.
        weights: a file of weights to start from.
        prior: mean function and spectrum of the data, if sampling starts from those.

    Raises:
        Refusal: if parts do not fit together, or the weights do not fit the network.
    """
    torch.manual_seed(config.recipe.seed)
    denoiser = build_denoiser(config, prior)
    if weights is not None:
        try:
            state = plain_names(load_state(weights))
        except Refusal as refusal:
            raise Refusal(
                f"{refusal}; name the run, or a file of weights in its model folder", "init_from"
            ) from refusal
        try:
            fit_weights(denoiser.backbone, state, weights)
        except Refusal as refusal:
            tuned = objective_of(config).starts_from_run
            mend = "leave out the flags of another one, and of other data" if tuned else "by its preset or flags"
            raise Refusal(f"{refusal}. The network must be that of the weights; {mend}", "init_from") from refusal
    objective = build(config.objective, Objective, denoiser.dynamics, config.recipe)
    module = DiffusionModule(denoiser, config.recipe, objective)
    if config.hardware.compile:
        module.network.compile()  # in place: names in checkpoints stay those of the plain network
    return module


@torch.no_grad()
def check_output(config: RunConfig, module: DiffusionModule, device: torch.device) -> None:
    """Show the network two samples: an output of another shape would be broadcast to theirs, and learned from.

    Raises:
        Refusal: naming the network, if its output has not the shape of its input.
    """
    module.to(device).eval()
    x = torch.zeros(2, *config.sample.shape, device=device)
    t = torch.full((2,), module.dynamics.horizon / 2, dtype=torch.float64, device=device)
    # forward itself: a compiled network would be compiled for this batch too
    output = module.network.forward(x, t, torch.zeros(2, dtype=torch.int64, device=device))
    module.train()
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != tuple(x.shape):
        raise Refusal(
            f"{config.network.name}: answers samples {tuple(x.shape)} with {found}; the output must have their shape",
            "model_name",
        )


def check_compiler(device: torch.device) -> None:
    """Compile something small: without a compiler the training would end at its first step.

    Raises:
        Refusal: if it cannot be compiled.
    """
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except (RuntimeError, OSError) as error:  # torch's own errors are RuntimeErrors
        reason = str(error).strip().partition("\n")[0]
        raise Refusal(
            f"True: torch.compile does not work here ({reason}); install a C++ compiler (g++), name one with $CXX, or "
            "leave it out",
            "compile",
        ) from error


def build_data(config: RunConfig, dataset: DataSet) -> DataModule:
    """The batches of a run.

    Raises:
        Refusal: if samples that are no images shall be mirrored.
    """
    data = config.data
    if data.flip and not dataset.spec.is_image:
        raise Refusal(f"True mirrors images; --data_name {data.data_name} holds 1-D functions", "flip")
    return DataModule(
        dataset,
        batch_size=config.recipe.batch_size,
        seed=config.recipe.seed,
        flip=data.flip,
        val_samples=data.val_samples,
        num_workers=data.num_workers,
    )


def with_statistics(config: RunConfig, dataset: DataSet, file: str) -> tuple[RunConfig, dict[str, Tensor] | None]:
    """Put what sampling needs of the data into the configuration: its deviation, and what sampling starts from.

    That is numbers, or the name of the file the functions go to.

    Args:
        config: what the run is.
        dataset: what to learn from.
        file: that name.

    Returns:
        The configuration, and mean function and spectrum if the dynamics has modes, else None.
    """
    config = replace(config, data_std=dataset.deviation())
    if config.model.prior != "data":
        return config, None
    basis = build_dynamics(config).basis
    if basis.modes:
        functions = dict(zip(("mean", "variance"), dataset.spectral_statistics(basis), strict=True))
        return replace(config, prior_values={"file": file}), functions
    mean, variance = dataset.statistics()
    return replace(config, prior_values={"mean": mean, "variance": variance}), None


def initial_weights(config: RunConfig, source: str) -> Path:
    """The file that --init_from names: a file itself, or the newest weights of a run, averaged if it has those.

    Says what that is, and if its process is not that of the new run.

    Args:
        config: what the new run is.
        source: what --init_from says.

    Raises:
        Refusal: if there is none, a run's network predicts something else, or the objective cannot start from it.
    """
    output_dir = config.keeping.output_dir
    stored = start_config(source, output_dir)
    if file := weights_file(source, output_dir):
        say(f"start     weights of {source}")
        remark_on(config, stored)
        return file
    folder = start_folder(source, output_dir)
    learnt = stored.model.prediction if stored else RELEASED_PREDICTION
    wanted = config.model.prediction
    if wanted != learnt and (wanted, learnt) != ("auto", RELEASED_PREDICTION):
        raise Refusal(f"{source}: its network predicts {learnt}; add --prediction {learnt}", "init_from")
    if not folder.versions():
        export = f"; give a file of its checkpoint's, by python scripts/export.py {folder.words('run_id')}"
        mend = export if folder.checkpoint_files() else ""
        raise RunNotFound(f"{source}: {folder.model} holds no weights yet{mend}", "init_from")
    decays = stored.recipe.averages if stored else ()
    version = open_version(folder, None, decays)
    kind = version.choose(averaged=None, decay=None)
    origin = f"under {build_dynamics(stored)}" if stored else "by the published code"
    say(f"start     {folder.name} ({version.title}, {nature(kind, decays)}), trained {origin}, {learnt}-prediction")
    remark_on(config, stored)
    return version.file(kind).resolve()


def remark_on(config: RunConfig, start: RunConfig | None) -> None:
    """Say what is unlike in a new run and the one that its weights come from, as far as that is known.

    Raises:
        Refusal: if the objective cannot start from it.
    """
    if start is None:
        return
    if start.dynamics != config.dynamics:
        say(
            f"note      the process is not that of these weights: they are trained on under {build_dynamics(config)}, "
            f"not {build_dynamics(start)}"
        )
    for remark in objective_of(config).check_start(config, start):
        say(f"note      {remark}")


def build_trainer(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    module: DiffusionModule,
    resume_step: int,
    deadline: float | None,
    callbacks: Sequence[Callback] = (),
    meeting: Meeting | None = None,
) -> pl.Trainer:
    """Lightning's trainer for the run folder, with further callbacks; writes nothing yet.

    Raises:
        Refusal: for hardware that is not there, or a magnification of what is no image.
    """
    scale = config.keeping.picture_scale
    check_picture_scale(scale, config.sample)
    solver = quick_solver(module.dynamics, consistent=module.objective.consistent)
    grids = SampleGrid(folder, config.sample, solver, config.recipe.batch_size, scale)
    log = CsvLog(folder.metrics, resume_step)
    try:
        return make_trainer(
            folder, log, config, device=device, deadline=deadline, callbacks=[*callbacks, grids], meeting=meeting
        )
    except MisconfigurationException as error:
        raise Refusal(str(error)) from error
