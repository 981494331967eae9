"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

import platform
import secrets
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import args
from common.checkpoints import atomic_write, write_json
from common.data import SOURCES, DataModule
from common.runs import CONFIG, build_denoiser, find, read_config
from common.training.callbacks import SampleGrid, Stopped
from common.training.csv_log import CsvLog
from common.training.module import DiffusionModule, NonFiniteLoss, Recipe
from common.training.trainer import LAST, Hardware, make_trainer

GRID_STEPS = 20  # evaluations of the sample grids drawn while training


def main(argv: Sequence[str] | None = None) -> int:
    """Run train.py; returns the exit code."""
    args.read_env_file()
    given = vars(args.train_parser().parse_args(argv))
    if given.get("list_presets"):
        print(args.preset_table())
        return 0
    with args.user_errors("train.py"):
        settings, checkpoint = plan(given)
        device = args.check_device(settings["device"])
        arrays = SOURCES[settings["data_name"]]().load(args.data_folder(settings["data_dir"]))
        config = args.make_config(settings, arrays)
        torch.manual_seed(settings["seed"])
        denoiser = build_denoiser(config)
    config["prediction"] = denoiser.prediction
    data = DataModule(
        arrays,
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        flip=settings["flip"],
        val_samples=settings["val_samples"],
    )
    module = DiffusionModule(
        denoiser,
        Recipe(
            train_steps=settings["train_steps"],
            lr=settings["lr"],
            ema_decay=settings["ema_decay"] if settings["use_ema"] else None,
            ema_every=settings["ema_every"],
            seed=settings["seed"],
            log_every=settings["log_every"],
        ),
    )
    parameters = sum(p.numel() for p in module.network.parameters())
    print(f"dynamics  {denoiser.dynamics}, {denoiser.prediction}-prediction")
    print(f"network   {settings['model_name']}, {parameters:,} parameters, on {device}")
    print(
        f"data      {settings['data_name']}, {len(arrays.train.labels):,} images of {'x'.join(map(str, arrays.shape))}"
    )
    steps, batch = settings["train_steps"], settings["batch_size"] * settings["accumulate_grad_batches"]
    print(f"training  {steps:,} steps of {batch} images per device")
    if given.get("dry_run"):
        return dry_run(module, data, device)

    folder = settings["output_dir"] / args.folder_name(settings)
    print(f"run       {folder}" + (f", resumed from {checkpoint}" if checkpoint else ""), flush=True)
    resume_step = 0
    if checkpoint:
        resume_step = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
        if resume_step >= steps:
            print(f"already finished at step {resume_step}")
            return 0
    else:
        write_json(folder / CONFIG, config)
    atomic_write(folder / "environment.txt", environment(argv).encode())
    sampler = {"solver": "exp2"} if denoiser.dynamics.is_monotone else {"solver": "em"}
    trainer = make_trainer(
        folder,
        CsvLog(folder / "metrics.csv", resume_step),
        Hardware(
            accelerator=device.type,
            devices=settings["devices"],
            num_nodes=settings["num_nodes"],
            strategy=settings["strategy"],
            precision=settings["precision"],
            deterministic=settings["deterministic"],
        ),
        train_steps=steps,
        val_check_interval=settings["val_check_interval"],
        checkpoint_every=settings["checkpoint_every"],
        keep=settings["keep"],
        weights_every=settings["log_model_every_n"],
        gradient_clip=settings["clip_grad"],
        accumulate=settings["accumulate_grad_batches"],
        callbacks=[
            SampleGrid(
                folder / "samples",
                arrays.shape,
                num_classes=config["data"]["num_classes"],
                steps=GRID_STEPS,
                count=50,
                clip=True,
                **sampler,
            )
        ],
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        print(f"{stop}\ngo on with: python train.py --resume {folder.name} --output_dir {settings['output_dir']}")
        return 130
    except NonFiniteLoss as error:
        print(f"train.py: error: {error}; last good checkpoint: {folder / 'checkpoints' / LAST}", file=sys.stderr)
        return 1
    print(f"weights   {folder / 'model'}\npictures  {folder / 'loss.png'}, {folder / 'samples'}")
    print(f"next      python generate.py --run_id {folder.name}")
    return 0


def plan(given: dict[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """Settings of the run and the checkpoint to resume, if any.

    Raises:
        ValueError: for a run that exists already, cannot be found, or is contradicted by a flag.
    """
    settings = args.resolve_train(given)
    resume = given.get("resume")
    output_dir: Path = settings["output_dir"]
    if resume is None or resume == "auto":
        name = args.folder_name(settings) if settings["wb_id"] else None
        exists = name is not None and (output_dir / name / CONFIG).exists()
        if resume is None and exists:
            raise ValueError(
                f"wb_id {settings['wb_id']}: {output_dir / str(name)} exists; add --resume auto or take another id"
            )
        if not exists or given.get("dry_run"):
            if settings["wb_id"] is None:
                settings["wb_id"] = str(100000 + secrets.randbelow(900000))
            return settings, None
        folder, checkpoint = output_dir / str(name), output_dir / str(name) / "checkpoints" / LAST
    elif Path(resume).suffix == ".ckpt":
        checkpoint = Path(resume)
        folder = checkpoint.parent.parent
        if not checkpoint.exists():
            raise ValueError(f"resume {resume}: no such file")
        if not (folder / CONFIG).exists():
            raise ValueError(f"resume {resume}: {folder} is no run folder ({CONFIG} is missing)")
    else:
        folder = find(resume, output_dir)
        checkpoint = folder / "checkpoints" / LAST
    return resumed(given, folder), checkpoint if checkpoint.exists() else None


def resumed(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The stored settings of a run with the given flags that may change.

    Raises:
        ValueError: where a given flag differs and may not.
    """
    stored = read_config(folder)["settings"]
    known = args.defaults(args.TRAIN_FLAGS)
    settings = {**known, **{key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}}
    for key in ("output_dir", "data_dir"):
        settings[key] = Path(settings[key]) if settings[key] else None
    settings["output_dir"] = folder.parent
    explicit = {key: value for key, value in given.items() if key in known}
    if "preset" in given:
        explicit = {**args.PRESETS[given["preset"]], **explicit}
    for key, value in explicit.items():
        if key in args.RESUMABLE:
            settings[key] = value
        elif settings[key] != value:
            raise ValueError(
                f"{key} {value} contradicts the run {folder.name}, which has {settings[key]}; leave it out"
            )
    settings["output_dir"], settings["wb_id"] = folder.parent, stored["wb_id"]
    return settings


def dry_run(module: DiffusionModule, data: DataModule, device: torch.device) -> int:
    """One forward and backward pass on one batch; nothing is written."""
    module.to(device)
    batch = data.transfer_batch_to_device(next(iter(data.val_dataloader())), device, 0)
    t = torch.linspace(module.recipe.t_min, 1, len(batch.images), device=device)
    loss = module._denoiser[0].error(batch.images, t, torch.randn_like(batch.images), batch.labels).mean()
    loss.backward()
    print(f"dry run   one step on {len(batch.images)} images, loss {loss.item():.4f}; nothing written")
    return 0


def environment(argv: Sequence[str] | None) -> str:
    """Versions and command line, for environment.txt."""
    command = " ".join(["train.py", *(sys.argv[1:] if argv is None else argv)])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    return "\n".join(
        [f"# {command}", f"# Python {platform.python_version()} on {platform.platform()}, {device}", *packages, ""]
    )


if __name__ == "__main__":
    raise SystemExit(main())
