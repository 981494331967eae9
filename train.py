"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

import os
import platform
import secrets
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import args
from common.checkpoints import UNREADABLE, atomic_write, write_json
from common.data import SOURCES, DataModule
from common.runs import CONFIG, build_denoiser, find, read_config
from common.training.callbacks import SampleGrid, Stopped
from common.training.csv_log import CsvLog
from common.training.module import DiffusionModule, NonFiniteLoss, Recipe
from common.training.trainer import LAST, Hardware, make_trainer

GRID_STEPS, GRID_SAMPLES = 20, 50  # of the sample grids drawn while training
CHECKED_AGAINST_DATA = ("channels", "image_size", "num_classes")
RUN_ID_VARIABLE = "DIFFUSION_RUN_ID"  # how the processes of one run agree on a random id


def main(argv: Sequence[str] | None = None) -> int:
    """Run train.py; returns the exit code."""
    args.read_env_file()
    given = vars(args.train_parser().parse_args(argv))
    if given.get("list_presets"):
        print(args.preset_table())
        return 0
    with args.user_errors("train.py"):
        settings, folder, checkpoint = plan(given)
        device = args.check_device(settings["device"])
        arrays = SOURCES[settings["data_name"]]().load(args.data_folder(settings["data_dir"]))
        config = args.make_config(settings, arrays)
        module, data = build(settings, config, arrays)
        resume_step = checkpoint_step(checkpoint, module) if checkpoint else 0
    config["prediction"] = module.prediction
    steps, batch = settings["train_steps"], settings["batch_size"] * settings["accumulate_grad_batches"]
    shape = "x".join(map(str, arrays.shape))
    say(f"dynamics  {module.dynamics}, {module.prediction}-prediction")
    say(f"network   {settings['model_name']}, {module.parameter_count:,} parameters, on {device}")
    say(f"data      {settings['data_name']}, {len(arrays.train.labels):,} images of {shape}")
    say(f"training  {steps:,} steps of {batch} images per device")
    if given.get("dry_run"):
        return dry_run(module, data, device)

    say(f"run       {folder}" + (f", resumed from {checkpoint}" if checkpoint else ""))
    if resume_step >= steps:
        say(f"already finished at step {resume_step}")
        return 0
    with args.user_errors("train.py"):
        trainer = build_trainer(settings, config, folder, device, module, resume_step)
    if is_first_process():
        if not checkpoint:
            write_json(folder / CONFIG, config)
        note_environment(folder / "environment.txt", argv)
    return fit(trainer, module, data, checkpoint, folder)


def is_first_process() -> bool:
    """Whether this process speaks and writes for the run; the others (DDP) only compute."""
    return getattr(rank_zero_only, "rank", None) in (None, 0)


def say(line: str) -> None:
    """Print from the first process, at once."""
    if is_first_process():
        print(line, flush=True)


# -- which run -------------------------------------------------------------------------------------------------------


def plan(given: dict[str, Any]) -> tuple[dict[str, Any], Path, Path | None]:
    """Settings of the run, its folder, and the checkpoint to resume, if any.

    Raises:
        ValueError: for a run that exists already, cannot be found, or is contradicted by a flag.
    """
    settings = args.resolve_train(given)
    resume = given.get("resume")
    output_dir: Path = settings["output_dir"]
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir {output_dir} is a file, not a folder")
    if resume is None or resume == "auto":
        exists = settings["wb_id"] is not None and (output_dir / args.folder_name(settings) / CONFIG).exists()
        dry = given.get("dry_run", False)
        if settings["wb_id"] is None:
            settings["wb_id"] = fresh_id()
        folder = output_dir / args.folder_name(settings)
        if exists and resume is None and not dry and is_first_process():
            raise ValueError(f"wb_id {settings['wb_id']}: {folder} exists; add --resume auto or take another id")
        if resume is None or not exists or dry:
            return settings, folder, None
        checkpoint = folder / "checkpoints" / LAST
    elif Path(resume).suffix == ".ckpt":
        checkpoint = Path(resume).resolve()
        folder = checkpoint.parent.parent
        if not checkpoint.exists():
            raise ValueError(f"resume {resume}: no such file")
        if not (folder / CONFIG).exists():
            raise ValueError(f"resume {resume}: {folder} is no run folder ({CONFIG} is missing)")
    else:
        folder = find(resume, output_dir, flag="resume")
        checkpoint = folder / "checkpoints" / LAST
    return resumed(given, folder), folder, checkpoint if checkpoint.exists() else None


def fresh_id() -> str:
    """Six random digits; processes that Lightning starts from the first one take over its id."""
    if is_first_process():
        os.environ[RUN_ID_VARIABLE] = str(100000 + secrets.randbelow(900000))
    return os.environ[RUN_ID_VARIABLE]


def resumed(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The stored settings of a run, with those given flags that may change.

    Raises:
        ValueError: where a given flag differs and may not.
    """
    stored = read_config(folder)["settings"]
    known = args.defaults(args.TRAIN_FLAGS)
    settings = {**known, **{key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}}
    settings["data_dir"] = Path(settings["data_dir"]) if settings["data_dir"] else None
    explicit = {key: value for key, value in given.items() if key in known}
    if "preset" in given:
        explicit = {**args.PRESETS[given["preset"]], **explicit}
    for key, value in explicit.items():
        if key in args.RESUMABLE:
            settings[key] = value
        elif key not in CHECKED_AGAINST_DATA and settings[key] != value:
            raise ValueError(
                f"{key} {value} contradicts the run {folder.name}, which has {settings[key]}; leave it out"
            )
    settings["output_dir"], settings["wb_id"] = folder.parent, stored["wb_id"]
    return settings


def checkpoint_step(checkpoint: Path, module: DiffusionModule) -> int:
    """The step a checkpoint was taken at.

    Raises:
        ValueError: where it is no checkpoint of this network by this program.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        step, state = int(content["global_step"]), content["state_dict"]
        found = {name: tuple(value.shape) for name, value in state.items()}
        whole = all(part in content for part in ("optimizer_states", "lr_schedulers", "loops"))
    except (*UNREADABLE, IndexError) as error:
        raise ValueError(
            f"resume: {checkpoint} is no readable checkpoint of train.py (truncated or foreign); "
            f"try another of {checkpoint.parent}"
        ) from error
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong or not whole:
        detail = f"{wrong[0]} is {found.get(wrong[0])}, expected {expected.get(wrong[0])}" if wrong else "parts missing"
        raise ValueError(f"resume: {checkpoint} does not fit this run: {detail}")
    return step


# -- what it is made of ----------------------------------------------------------------------------------------------


def build(settings: dict[str, Any], config: dict[str, Any], arrays: Any) -> tuple[DiffusionModule, DataModule]:
    """Network with its training recipe, and the data module."""
    torch.manual_seed(settings["seed"])
    recipe = Recipe(
        train_steps=settings["train_steps"],
        lr=settings["lr"],
        ema_decay=settings["ema_decay"] if settings["use_ema"] else None,
        ema_every=settings["ema_every"],
        seed=settings["seed"],
        log_every=settings["log_every"],
    )
    data = DataModule(
        arrays,
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        flip=settings["flip"],
        val_samples=settings["val_samples"],
    )
    return DiffusionModule(build_denoiser(config), recipe), data


def build_trainer(
    settings: dict[str, Any],
    config: dict[str, Any],
    folder: Path,
    device: torch.device,
    module: DiffusionModule,
    resume_step: int,
) -> pl.Trainer:
    """Lightning's trainer for the run folder; writes nothing yet."""
    grids = SampleGrid(
        folder / "samples",
        tuple(config["data"]["shape"]),
        num_classes=config["data"]["num_classes"],
        solver="exp2" if module.dynamics.is_monotone else "em",
        steps=GRID_STEPS,
        count=GRID_SAMPLES,
        clip=True,
    )
    hardware = Hardware(
        accelerator=device.type,
        devices=settings["devices"],
        num_nodes=settings["num_nodes"],
        strategy=settings["strategy"],
        precision=settings["precision"],
        deterministic=settings["deterministic"],
    )
    return make_trainer(
        folder,
        CsvLog(folder / "metrics.csv", resume_step),
        hardware,
        train_steps=settings["train_steps"],
        val_check_interval=settings["val_check_interval"],
        checkpoint_every=settings["checkpoint_every"],
        keep=settings["keep"],
        weights_every=settings["log_model_every_n"],
        gradient_clip=settings["clip_grad"],
        accumulate=settings["accumulate_grad_batches"],
        callbacks=[grids],
    )


def note_environment(path: Path, argv: Sequence[str] | None) -> None:
    """Add command line and versions to environment.txt, below those of earlier parts of the run."""
    command = " ".join(["train.py", *(sys.argv[1:] if argv is None else argv)])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    earlier = path.read_text() if path.exists() else ""
    lines = [f"# {command}", f"# Python {platform.python_version()} on {platform.platform()}, {device}", *packages, ""]
    atomic_write(path, (earlier + "\n".join(lines)).encode())


# -- going -----------------------------------------------------------------------------------------------------------


def dry_run(module: DiffusionModule, data: DataModule, device: torch.device) -> int:
    """One forward and backward pass on one batch; nothing is written."""
    module.to(device)
    batch = data.transfer_batch_to_device(next(iter(data.val_dataloader())), device, 0)
    t = torch.linspace(module.recipe.t_min, 1, len(batch.images), device=device)
    loss = module.denoiser.error(batch.images, t, torch.randn_like(batch.images), batch.labels).mean()
    loss.backward()
    say(f"dry run   one step on {len(batch.images)} images, loss {loss.item():.4f}; nothing written")
    return 0


def fit(trainer: pl.Trainer, module: DiffusionModule, data: DataModule, checkpoint: Path | None, folder: Path) -> int:
    """Train to the end, or to a signal; returns the exit code."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        say(f"{stop}\ngo on with: python train.py --resume {folder.name} --output_dir {folder.parent}")
        return 130
    except NonFiniteLoss as error:
        print(f"train.py: error: {error}; last checkpoint: {folder / 'checkpoints' / LAST}", file=sys.stderr)
        return 1
    say(f"weights   {folder / 'model'}\npictures  {folder / 'loss.png'}, {folder / 'samples'}")
    say(f"next      python generate.py --run_id {folder.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
