"""What leaves a run folder: weights as a .safetensors file, a program of one call, a copy that is only sampled from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol

import torch

from common.config.flags import Checked
from common.config.stored import CONFIG, to_json, write_config
from common.files import atomic_write, locked, save_safetensors
from common.refusal import Refusal
from common.runs.folder import SHIPPED, RunFolder
from common.runs.one_step import one_step_program
from common.runs.run import Run

REMARK = """This is a copy of a run, with the weights that samples are drawn from: `python generate.py --run_id {id}`.
It cannot be resumed; `python train.py --init_from {id}` starts a new run from it.
Outside of `runs`, both also need `--output_dir`, the folder that this one lies in.
"""


class Export(Protocol):
    """Writes a file of a run and returns its path."""

    def __call__(self, run: Run, path: Path | None = None, *, half: bool = False) -> Path: ...


def export_safetensors(run: Run, path: Path | None = None, *, half: bool = False) -> Path:
    """Write the weights of a run as .safetensors, with its configuration as JSON in the metadata (key ``config``).

    Args:
        run: what was loaded; averaged weights if they were loaded.
        path: where it goes; None writes beside the file that was loaded, e.g. ``model/ema_model-final.safetensors``.
        half: write floating-point numbers in 16 bits.

    Returns:
        The path.

    Raises:
        Refusal: if the file goes into the folder of the run, whose manifest lists it then, and that is being trained or
            has symbolic links in it.
    """
    own = run.weights.with_name(f"{run.kind}-{run.version}.safetensors")
    return _put(run, own, path, lambda place: _write(run, place, half))


def export_one_step(run: Run, path: Path | None = None, *, half: bool = False) -> Path:
    """Write a tuned run as a program of one call, noise and labels to samples (:mod:`common.runs.one_step`).

    Args:
        run: what was loaded; averaged weights if they were loaded.
        path: where it goes; None writes beside the weights, e.g. ``model/one-step-ema_model-final.pt2``.
        half: keep weights in 16 bits; the program computes in 32.

    Returns:
        The path.

    Raises:
        Refusal: as :func:`common.runs.one_step.one_step_program` and :func:`export_safetensors` do.
    """
    own = run.weights.with_name(f"one-step-{run.kind}-{run.version}.pt2")
    content = one_step_program(run, half=half)  # before the folder is locked: it takes seconds
    return _put(run, own, path, lambda place: atomic_write(place, content))


FORMATS: dict[str, Export] = {"weights": export_safetensors, "one-step": export_one_step}


@dataclass(frozen=True)
class ExportConfig(Checked):
    """What leaves a run folder, and how.

    Attributes:
        format: what is written: weights (.safetensors), or one-step: a tuned run as a program of one call, from noise
            and labels to samples, that needs nothing but torch (.pt2)
        half: write numbers of 16 bits, half as large; the network computes in 32 all the same
        copy_to: folder of runs that gets a copy of the run to sample from: these weights, config, log and pictures
            (default: none; what is written lies beside the weights of the run)
    """

    format: Annotated[str, FORMATS] = "weights"
    half: bool = False
    copy_to: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copy_to is not None and self.format != type(self).format:
            raise Refusal(
                f"and --format {self.format} exclude each other: a copy is of the run, with its weights; leave one out",
                "copy_to",
            )


def _put(run: Run, own: Path, path: Path | None, write: Callable[[Path], None]) -> Path:
    """Write a file to a path, or where it belongs in the folder of the run, whose manifest lists it then."""
    if path is not None and path != own:
        write(path)
        return path
    run.folder.refuse_links()
    with locked(run.folder.path, "export.py", "wait for it"), run.folder.manifest.renewing(own):
        write(own)
    return own


def _write(run: Run, path: Path, half: bool) -> None:
    metadata = {"format": "pt", "config": json.dumps(to_json(run.config)), "version": run.version}
    state = run.denoiser.backbone.state_dict()
    if half:
        state = {name: x.half() if x.dtype == torch.float32 else x for name, x in state.items()}
    save_safetensors(path, state, metadata)


def copy_to_sample(run: Run, runs: Path, *, half: bool = False) -> RunFolder:
    """Copy what sampling from a run needs, and what there is to look at: no state of training, no other version.

    The copy counts as one that comes with a program: ``latest`` never means it, and it is not trained on.

    Args:
        run: what was loaded; averaged weights if they were loaded.
        runs: folder of runs that gets the copy, under the same name.
        half: write floating-point numbers in 16 bits.

    Returns:
        The copy.

    Raises:
        Refusal: if the copy is there already, the run is a folder of the published code, or has symbolic links in it.
    """
    source, copy = run.folder, RunFolder(runs / run.folder.name)
    if copy.path.exists():
        raise Refusal(f"{copy.path} is there already; remove it, or name another folder", "copy_to")
    if source.is_released:
        raise Refusal(f"{source.name} has no {CONFIG}; without --copy_to its weights are written as a file", "copy_to")
    source.refuse_links()  # what they lead to is no part of the run
    # first of all: a copy that was interrupted is no run to resume
    atomic_write(copy.path / SHIPPED, REMARK.format(id=run.config.keeping.wb_id).encode())
    grids = sorted(source.samples.glob("step-*.png"))[-1:]
    weights = copy.model / f"{run.kind}-{run.version}.safetensors"
    with copy.manifest.renewing(copy.prior, copy.real, weights, copy.config):
        for file in (source.prior, source.real, source.metrics, source.loss_picture, *grids):
            if file.is_file():
                source.manifest.check(file)
                atomic_write(copy.path / file.relative_to(source.path), file.read_bytes())
        _write(run, weights, half)
        anywhere = replace(run.config.data, data_dir=None)
        kept = replace(run.config.keeping, output_dir=type(run.config.keeping)().output_dir)
        write_config(copy.path, replace(run.config, data=anywhere, keeping=kept))  # last: now it is a run
    return copy
