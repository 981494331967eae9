"""A time grid is measured on a run once, and kept with it: ``generate.py --grid measured``."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common.denoiser import Clipped
from common.files import locked
from common.metrics.points import sliced_w2_to, slices
from common.metrics.reference import data_like
from common.progress import bar, tell
from common.refusal import Refusal
from common.runs import Run
from common.runs.time_grid import write_time_grid
from common.samplers import measured, renoise_times
from common.samplers.grids import Density

PROGRAM = "generate.py"
FIRST_SEED = 2**31  # of the samples that are followed, so that they are none of those people draw
MOST_REAL = 4096  # real samples that those of a consistent network are compared with


def measure_on(run: Run, device: torch.device, data_dir: Path | None = None) -> None:
    """Measure the grid of a run, and keep it, unless a training writes to the folder, or nothing can be written.

    The run's ``dynamics.node_density`` is that grid from then on.

    Args:
        run: the run.
        device: where to compute.
        data_dir: where the data of a consistent run lies now; None takes the place where the run found it.

    Raises:
        Refusal: if no grid can be measured on it.
    """
    if not run.dynamics.is_monotone:
        raise Refusal(f"measured: the noise level of {run.dynamics} falls in time; leave it out", "grid")
    denoiser: nn.Module = Clipped(run.denoiser) if run.data.is_image else run.denoiser
    denoiser.to(device)
    found = chosen_on(run, denoiser, device, data_dir) if run.is_consistent else measured_on(run, denoiser, device)
    run.dynamics.node_density = (found.nodes, found.values)
    try:
        with locked(run.folder.path, PROGRAM):
            write_time_grid(run.folder, run.dynamics.node_density, run.source.label(run.kind))
    except (Refusal, OSError) as error:  # a training writes there, or nobody can: the grid serves all the same
        tell(f"note      the measured grid is not kept: {error}")
        return
    tell(f"grid      measured, and kept in {run.folder.time_grid}; samples of this run take it from now on")


def measured_on(run: Run, denoiser: nn.Module, device: torch.device) -> Density:
    """The grid of a run that denoises, from a few paths."""
    dynamics, count = run.dynamics.to(device).scalar_path(), measured.FOLLOWED
    labels = run.data.labels_for(range(count))
    with bar(measured.EVALUATIONS, "measuring a grid", "step", lasting=True) as progress:
        return measured.measure(
            dynamics,
            denoiser,
            (count, *run.data.shape),
            seeds=range(FIRST_SEED, FIRST_SEED + count),
            labels=None if labels is None else labels.to(device),
            on_step=progress.update,
        )


def chosen_on(run: Run, denoiser: nn.Module, device: torch.device, data_dir: Path | None) -> Density:
    """The grid of a consistent run, with which few samples come nearest to real ones: by sliced W2^2 of their values.

    Raises:
        Refusal: if the data is not there, or its samples have another shape.
    """
    data, remarks = data_like(run.folder.name, run.config, data_dir)
    for remark in remarks:
        tell(f"note      {remark}")
    x, _ = data.train.read(MOST_REAL)
    _, labels = data.train.read(renoise_times.FOLLOWED)  # samples of the classes that there are
    of_real, count = slices(run.data.to_network(x).flatten(1)), len(labels)

    def distance(samples: Tensor) -> float:
        return sliced_w2_to(samples.flatten(1), of_real)

    blocks = -(-count // renoise_times.AT_ONCE)
    with bar(renoise_times.EVALUATIONS * blocks, "choosing times", "block", lasting=True) as progress:
        return renoise_times.choose(
            run.dynamics.to(device).scalar_path(),
            denoiser,
            (count, *run.data.shape),
            distance,
            seeds=range(FIRST_SEED, FIRST_SEED + count),
            labels=None if run.data.num_classes is None else labels.to(device),
            on_block=progress.update,
        )
