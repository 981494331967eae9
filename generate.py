"""Draw samples from a trained run: ``python generate.py --run_id ID``; see ``--help``."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import args
from common.denoiser import Clipped
from common.dynamics import Prior
from common.files import write_json
from common.generation import generate, grid_columns, labels_for, not_finite, read_samples
from common.guidance import ClassifierFree
from common.media.audio import write_wav
from common.media.pictures import save_samples, save_trajectory
from common.runs import CONFIG, Run, find, is_released, load, versions
from common.runs.pretrained import PRETRAINED, fetch
from common.samplers import GRIDS, SOLVERS

MODES = {"sde": "em", "ode": "euler"}
EXPONENTIAL = ("exp1", "exp2")
STEPS = {"pc": 100}  # as published for the UViT on faces
GRID_IMAGES = 100
AUDIO_FILES = 20  # sounds that are also written as .wav
TRAJECTORY_ROWS, TRAJECTORY_COLUMNS = 4, 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run generate.py; returns the exit code."""
    with args.user_errors("generate.py"):
        settings = args.parse_generate(argv)
        device = args.check_device(settings["device"])
        run = find_and_load(settings)
        check_published(settings, run)
        choose_solver(settings, run)
        choose_prior(run, settings["prior"])
        num_classes = run.data["num_classes"]
        labels_for([0], settings["labels"], num_classes)
        denoiser = wrapped(run, settings).to(device)
        dynamics = run.dynamics.to(device)
        # the scalar path is the better one wherever it exists
        scalar = settings["solver"] in EXPONENTIAL and dynamics.is_monotone
        path = dynamics.scalar_path() if scalar else dynamics
        make_solver = partial(SOLVERS[settings["solver"]], **args.solver_arguments(settings))
        make_solver().check(path)
        if settings["grid"]:
            GRIDS[settings["grid"]](path, settings["t_end"], settings["steps"])
    seeds = settings["seeds"] or tuple(range(settings["n_samples"]))
    folder = target_folder(run, settings, seeds)
    count, steps = len(seeds), settings["steps"]
    sample_rate = run.data.get("sample_rate")
    value_range = tuple(run.data.get("range", (0.0, 1.0)))
    print(f"{count} samples from {run.folder.name} ({run.version}): {settings['solver']}, {steps} steps, on {device}")
    trajectory = Trajectory(steps) if settings["trajectory"] else None
    with tqdm(
        total=-(-count // settings["batch_size"]) * steps,
        desc="sampling",
        unit="step",
        mininterval=0.2 if sys.stderr.isatty() else 15.0,
    ) as bar:

        def on_step(time: float, x: Tensor) -> None:
            bar.update()
            if trajectory:
                trajectory.add(time, x)

        nfe = generate(
            folder,
            path,
            denoiser,
            tuple(run.data["shape"]),
            seeds=seeds,
            labels=settings["labels"],
            num_classes=num_classes,
            block=settings["batch_size"],
            value_range=value_range,
            solver=make_solver,
            steps=steps,
            grid=GRIDS[settings["grid"]] if settings["grid"] else None,
            t_end=settings["t_end"],
            denoise_last=settings["denoise_last"],
            on_step=on_step,
            on_kept=lambda: bar.update(steps) and None,
            redraw=bool(trajectory),
        )
    print(f"network   {nfe} evaluations per sample" if nfe else "network   not needed: all samples were there already")
    if trajectory and trajectory.times:
        save_trajectory(folder / "trajectory.png", trajectory.times, trajectory.states)
        print(f"path      {folder / 'trajectory.png'}")
    whole = count - len(broken := not_finite(folder))
    if broken:
        which = ", ".join(str(seeds[i]) for i in broken[:10])
        print(
            f"generate.py: warning: {len(broken)} of {count} samples have NaN or infinite values (seeds {which}"
            f"{', ..' if len(broken) > 10 else ''}); the network is not trained enough, or its inner steps diverge",
            file=sys.stderr,
        )
    first = torch.from_numpy(read_samples(folder, GRID_IMAGES)[0]).movedim(-1, 1).nan_to_num()
    if first.ndim == 4:
        low, high = value_range
        first = (first - low) / (high - low)
    if sample_rate:
        first = first[:AUDIO_FILES]
        for i, sound in enumerate(first):
            write_wav(folder / "audio" / f"audio_{i:06d}.wav", sound, sample_rate)
        print(f"audio     {folder / 'audio'}")
    save_samples(folder / "grid.png", first, grid_columns(num_classes, len(first)), sample_rate)
    print(f"arrays    {folder / 'data'}\ngrid      {folder / 'grid.png'}")
    return 0 if whole else 1


def find_and_load(settings: dict[str, Any]) -> Run:
    """The run of --run_id or --pretrained; a folder of the published code is read with the flags that were given.

    Raises:
        ValueError: where it cannot be found, fetched or read.
    """
    output_dir = settings["output_dir"]
    if settings["pretrained"]:
        folder = fetch(settings["pretrained"], output_dir)
        settings["version"] = PRETRAINED[settings["pretrained"]].version
    else:
        folder = find(settings["run_id"], output_dir)
    released = is_released(folder)
    unused = [flag for flag in args.RELEASED_FLAGS if settings[flag] is not None]
    if unused and not released:
        raise ValueError(f"{unused[0]} is for folders of the published code; {folder.name} has its own {CONFIG}")
    kept = versions(folder)
    newest = "final" if "final" in kept or not kept else kept[-1]
    return load(
        folder.relative_to(output_dir).as_posix(),
        settings["version"] or newest,
        output_dir,
        averaged=settings["use_ema"],
        decay=settings["ema_decay"],
        config=args.released_config(folder, settings) if released else None,
    )


def choose_prior(run: Run, prior: str | None) -> None:
    """Start sampling where the run does, or as published.

    Raises:
        ValueError: for the data's moments, of a run that does not know them.
    """
    if prior == "data" and not run.dynamics.prior.variance.any():
        raise ValueError(
            f"prior data: {run.folder.name} was trained with --prior zero: it does not know its data's mean"
        )
    if prior == "zero":
        run.dynamics.prior = Prior(run.dynamics)


def wrapped(run: Run, settings: dict[str, Any]) -> nn.Module:
    """The run's denoiser with guidance and clipping as asked for.

    Raises:
        ValueError: for guidance of a network that was not trained for it.
    """
    denoiser: nn.Module = run.denoiser
    if settings["guidance_scale"] != 1:
        if run.data["num_classes"] is None or not run.config["settings"].get("label_dropout"):
            raise ValueError(
                f"guidance_scale {settings['guidance_scale']:g}: {run.folder.name} was trained without "
                "--label_dropout, so it knows no sample without a label"
            )
        denoiser = ClassifierFree(denoiser, settings["guidance_scale"])
    return Clipped(denoiser) if settings["clip_x0"] else denoiser


class Trajectory:
    """States of the first samples at evenly spaced steps of the first block.

    Args:
        steps: solver steps.
    """

    def __init__(self, steps: int) -> None:
        self.wanted = {round(i * (steps - 1) / (TRAJECTORY_COLUMNS - 1)) for i in range(TRAJECTORY_COLUMNS)}
        self.steps, self.seen = steps, 0
        self.times: list[float] = []
        self.states: list[Tensor] = []

    def add(self, time: float, x: Tensor) -> None:
        """Keep the state (B, C, *S) reached at a time, if it is one of the wanted ones."""
        if self.seen in self.wanted:
            self.times.append(time)
            self.states.append(x[:TRAJECTORY_ROWS].cpu())
        self.seen += 1


def check_published(settings: dict[str, Any], run: Run) -> None:
    """The published command lines repeat what the run knows: it must agree.

    Raises:
        ValueError: naming the flag that does not.
    """
    stored = run.config["settings"]
    for flag in ("data_name", "dynamics", "hurst", "num_aug"):
        if settings[flag] is not None and settings[flag] != stored[flag]:
            raise ValueError(f"{flag} {settings[flag]} contradicts the run {run.folder.name}, which has {stored[flag]}")


def choose_solver(settings: dict[str, Any], run: Run) -> None:
    """Fill in what was not given: the built-in digits and heat dynamics get the fast path, all else the published
    sampler."""
    if settings["solver"] is None:
        suited = run.data["name"] == "digits" or bool(run.dynamics.basis.modes)
        fast = settings["mode"] is None and suited and run.dynamics.is_monotone
        settings["solver"] = "exp2" if fast else MODES[settings["mode"] or "sde"]
    exponential = settings["solver"] in EXPONENTIAL
    if settings["steps"] is None:
        settings["steps"] = 20 if exponential else STEPS.get(settings["solver"], 1000)
    if settings["denoise_last"] is None:
        settings["denoise_last"] = settings["solver"] == "pc"
    if settings["clip_x0"] is None:
        settings["clip_x0"] = exponential and len(run.data["shape"]) == 3


def target_folder(run: Run, settings: dict[str, Any], seeds: tuple[int, ...]) -> Path:
    """``generated_data/model-{version}/{mode}{steps}``; a numbered neighbour where other settings were used before."""
    modes = {solver: mode for mode, solver in MODES.items()}
    solver, steps = settings["solver"], settings["steps"]
    name = f"{modes[solver]}{steps}" if solver in modes else f"{solver}-{steps}"
    keys = ("guidance_scale", "solver", "steps", "grid", "t_end", "clip_x0", "batch_size")
    # what came later is left out where it is not used, so that samples drawn before are found again
    later = {
        **{key: settings[key] for key in ("denoise_last", "prior")},
        "solver_arguments": args.solver_arguments(settings),
    }
    chosen = {
        "weights": run.weights.name,
        "labels": settings["labels"] or None,
        **{key: settings[key] for key in keys},
        **{key: value for key, value in later.items() if value},
        "device": run.dynamics.device.type,  # a CPU and a GPU draw other noise from the same seed
        "seeds": list(seeds),
    }
    if is_released(run.folder):  # what stands in no config.json came from flags
        chosen |= {key: run.config[key] for key in ("dynamics", "backbone")}
    wanted = json.loads(json.dumps(chosen))
    base = run.folder / "generated_data" / f"model-{run.version}"
    number = 1
    while True:
        folder = base / (name if number == 1 else f"{name}-{number}")
        file = folder / "settings.json"
        if not file.exists():
            write_json(file, wanted)
            return folder
        if json.loads(file.read_text()) == wanted:
            return folder
        number += 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it stood", file=sys.stderr)
        raise SystemExit(130) from None
