"""A time grid is measured on a run once, and kept with it: ``generate.py --grid measured``."""

import torch
from torch import nn

from common.denoiser import Clipped
from common.files import locked
from common.progress import bar, tell
from common.refusal import Refusal
from common.runs import Run
from common.runs.time_grid import write_time_grid
from common.samplers.measured import EVALUATIONS, FOLLOWED, measure

PROGRAM = "generate.py"
FIRST_SEED = 2**31  # of the samples that are followed, so that they are none of those people draw


def measure_on(run: Run, device: torch.device) -> None:
    """Measure the grid of a run, and keep it, unless a training writes to the folder, or nothing can be written.

    The run's ``dynamics.node_density`` is that grid from then on.

    Args:
        run: the run.
        device: where to compute.

    Raises:
        Refusal: if no grid can be measured on it.
    """
    if not run.dynamics.is_monotone:
        raise Refusal(f"measured: the noise level of {run.dynamics} falls in time; leave it out", "grid")
    dynamics, seeds = run.dynamics.to(device).scalar_path(), range(FIRST_SEED, FIRST_SEED + FOLLOWED)
    denoiser: nn.Module = Clipped(run.denoiser) if run.data.is_image else run.denoiser
    labels = run.data.labels_for(range(FOLLOWED))
    with bar(EVALUATIONS, "measuring a grid", "step", lasting=True) as progress:
        found = measure(
            dynamics,
            denoiser.to(device),
            (FOLLOWED, *run.data.shape),
            seeds=seeds,
            labels=None if labels is None else labels.to(device),
            on_step=progress.update,
        )
    run.dynamics.node_density = (found.nodes, found.values)
    try:
        with locked(run.folder.path, PROGRAM):
            write_time_grid(run.folder, run.dynamics.node_density, run.source.label(run.kind))
    except (Refusal, OSError) as error:  # a training writes there, or nobody can: the grid serves all the same
        tell(f"note      the measured grid is not kept: {error}")
        return
    tell(f"grid      measured, and kept in {run.folder.time_grid}; samples of this run take it from now on")
