"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

import os
import platform
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

import args
from common.config import flags as cli
from common.data import DataModule, DataSet, DataUnavailable
from common.files import UNREADABLE, atomic_write, save_safetensors, write_json
from common.runs import (
    CONFIG,
    PRIOR,
    RunNotFound,
    build_denoiser,
    build_dynamics,
    choose_weights,
    find,
    is_released,
    load_weights,
    read_config,
    read_prior,
    versions,
)
from common.training.callbacks import SampleGrid, Stopped, write_weights
from common.training.csv_log import CsvLog
from common.training.loggers import close_loggers, make_loggers
from common.training.module import DiffusionModule, NonFiniteLoss, Recipe
from common.training.trainer import LAST, Hardware, make_trainer

GRID_STEPS, GRID_SAMPLES, SOUNDS = 20, 50, 8  # of the sample grids drawn while training; sounds are long
RUN_ID_VARIABLE = "DIFFUSION_RUN_ID"  # how the processes of one run agree on a random id


def main(argv: Sequence[str] | None = None) -> int:
    """Run train.py; returns the exit code."""
    started = time.monotonic()
    cli.read_env_file()
    args.load_plugins("train.py", argv)
    given = vars(args.train_parser().parse_args(argv))
    command = ["train.py", *cli.redacted(sys.argv[1:] if argv is None else argv)]
    hide_key(given)
    if given.get("list_presets"):
        print(args.preset_table())
        return 0
    with args.user_errors("train.py"):
        settings, folder, checkpoint = plan(given)
        device = args.check_device(settings["device"])
        if settings["precision"] == "16-mixed" and device.type == "cpu":
            raise ValueError("precision 16-mixed needs CUDA; on a CPU use --precision bf16-mixed or 32-true")
        set_tf32(device, settings["tf32"])
        dataset = args.load_data(settings)
        config = args.make_config(
            settings,
            dataset.shape,
            dataset.num_classes,
            value_range=dataset.value_range,
            samples=len(dataset.train.labels),
            sample_rate=dataset.sample_rate,
        )
        if checkpoint:  # what it is made of stays as it was, also where defaults have changed since
            config |= stored_parts(folder)
        if checkpoint and (config["prior"] != {"file": PRIOR} or (folder / PRIOR).is_file()):
            prior = read_prior(folder, config)
        else:
            prior = prior_of_data(config, dataset) if settings["prior"] == "data" else None
        weights = None
        if checkpoint:
            check_same_data(config["data"], folder)
        elif settings["init_from"] is not None and is_first_process():  # DDP gives the others the same weights
            weights = initial_weights(settings["init_from"], settings)
            config["settings"]["init_from"] = str(weights)
        module, data = build(settings, config, dataset, weights, prior)
        resume_step = checkpoint_step(checkpoint, module) if checkpoint else 0
    config["prediction"] = module.prediction
    steps, batch = settings["train_steps"], settings["batch_size"] * settings["accumulate_grad_batches"]
    shape = "x".join(map(str, dataset.shape))
    say(f"dynamics  {module.dynamics}, {module.prediction}-prediction")
    say(f"network   {settings['model_name']}, {module.parameter_count:,} parameters, on {device}")
    say(f"data      {settings['data_name']}, {len(dataset.train.labels):,} samples of {shape}")
    say(f"training  {steps:,} steps of {batch} samples per device")
    for flag in ("warmup_steps", "time_warmup"):
        if settings[flag] >= steps:
            say(f"note      --{flag} {settings[flag]:,} is not over when training ends; lower it, or train longer")
    if given.get("dry_run"):
        return dry_run(module, data, device)

    say(f"run       {folder}" + (f", resumed from {checkpoint}" if checkpoint else ""))
    if checkpoint and resume_step >= steps:
        say(f"already finished at step {resume_step}")
        return keep_final_weights(module, checkpoint, folder)
    with args.user_errors("train.py"):
        deadline = None if settings["max_time"] is None else started + settings["max_time"]
        trainer = build_trainer(settings, config, folder, device, module, resume_step, deadline)
        if data.val_samples < trainer.world_size:
            raise ValueError(
                f"val_samples: {data.val_samples} held-out samples are too few for {trainer.world_size} processes; "
                "each needs one: give more, or lower --devices"
            )
        loggers = make_loggers(
            settings["logger"], folder, run_name=folder.name, config=config, project=settings["wb_project"]
        )
    trainer.loggers += loggers
    code = 1
    try:
        if is_first_process():
            if prior and not (folder / PRIOR).exists():
                save_safetensors(folder / PRIOR, prior, {"format": "pt"})
            if not checkpoint:
                write_json(folder / CONFIG, config)
            note_environment(folder / "environment.txt", command)
        code = fit(trainer, module, data, checkpoint, folder, given.get("plugin", ()))
    finally:
        close_loggers(loggers, code)
    return code


def check_same_data(data: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with other data.

    Args:
        data: the section of the config that was made from the data at hand.
        folder: the run folder.

    Raises:
        ValueError: naming what differs.
    """
    stored = read_config(folder)["data"]
    for key, found in data.items():
        if key in stored and stored[key] != found:
            raise ValueError(
                f"data_dir: the data is not what {folder.name} was trained on: {key} is {found}, was {stored[key]}"
            )


def stored_parts(folder: Path) -> dict[str, Any]:
    """Dynamics, prior and network of a run, as its config has them."""
    stored = read_config(folder)
    return {key: stored[key] for key in ("dynamics", "prior", "backbone", "adaptation") if key in stored}


def keep_final_weights(module: DiffusionModule, checkpoint: Path, folder: Path) -> int:
    """Write the final weights of a run that was cut off between its last checkpoint and them; returns the exit code."""
    if "final" not in versions(folder) and is_first_process():
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        write_weights(folder / "model", module, "final")
        say(f"weights   {folder / 'model'}")
    return 0


def hide_key(given: dict[str, Any]) -> None:
    """Move --wb_key from the command line (which W&B notes) into the environment (which nothing writes down)."""
    if "wb_key" in given:
        os.environ["WANDB_API_KEY"] = given["wb_key"]
        given["wb_key"] = True  # that there was one
        sys.argv[:] = cli.without_secret(sys.argv)


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Let CUDA multiply and convolve float32 in TF32, or not; a CPU stays exact."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


def is_first_process() -> bool:
    """Whether this process speaks and writes for the run; the others (DDP) only compute."""
    return getattr(rank_zero_only, "rank", None) in (None, 0)


def say(line: str) -> None:
    """Print from the first process, at once."""
    if is_first_process():
        print(line, flush=True)


def complain(message: str) -> None:
    """Print an error from the first process."""
    if is_first_process():
        print(f"train.py: error: {message}", file=sys.stderr)


# -- which run -------------------------------------------------------------------------------------------------------


def plan(given: dict[str, Any]) -> tuple[dict[str, Any], Path, Path | None]:
    """Settings of the run, its folder, and the checkpoint to resume, if any.

    Raises:
        ValueError: for a run that exists already, cannot be found, or is contradicted by a flag.
    """
    resume = given.get("resume")
    output_dir: Path = given.get("output_dir", args.OUTPUT_DIR.default)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir {output_dir} is a file, not a folder")
    if resume == "auto" and "wb_id" not in given:
        raise ValueError("resume auto needs --wb_id, the id it looks for; or name a run: --resume ID")
    if resume is None or resume == "auto":
        settings = args.resolve_train(given)
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
    if RUN_ID_VARIABLE not in os.environ:
        raise ValueError("wb_id is needed where processes are started from outside (torchrun, srun): they must agree")
    return os.environ[RUN_ID_VARIABLE]


def resumed(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The stored settings of a run, with those given flags that may change.

    Raises:
        ValueError: where a given flag differs and may not.
    """
    if is_released(folder):
        raise ValueError(
            f"resume: {folder.name} holds weights only and cannot go on; start from them with --init_from {folder.name}"
        )
    config = read_config(folder)
    stored, shape = config["settings"], config["data"]["shape"]
    resolved = {"channels": shape[0], "image_size": shape[-1], "num_classes": config["data"]["num_classes"]}
    resolved |= {"length": shape[-1], "prediction": config["prediction"]}
    resolved = {**config["dynamics"]["arguments"], **config["backbone"]["arguments"], **resolved}
    known = {key: value for key, value in cli.defaults(args.TRAIN_FLAGS).items() if key != "wb_key"}
    settings = {**known, **{key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}}
    settings["data_dir"] = Path(settings["data_dir"]) if settings["data_dir"] else None
    explicit = {key: value for key, value in given.items() if key in known}
    if "preset" in given:
        explicit = {**args.PRESETS[given["preset"]], **explicit}
    if "wb_key" in given:
        explicit.setdefault("logger", "wandb")
    for key, value in explicit.items():
        found = resolved[key] if settings[key] in (None, "auto") and key in resolved else settings[key]
        if key in args.RESUMABLE:
            settings[key] = value
        elif value != "auto" and found != value:
            longer = "; to train longer, start a new run with --init_from" if key == "train_steps" else ""
            raise ValueError(
                f"{key} {value} contradicts the run {folder.name}, which has {found}; leave it out{longer}"
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


def build(
    settings: dict[str, Any],
    config: dict[str, Any],
    dataset: DataSet,
    weights: Path | None = None,
    prior: dict[str, Tensor] | None = None,
) -> tuple[DiffusionModule, DataModule]:
    """Network with its training recipe, and the data module.

    Args:
        settings: values of all flags.
        config: the run's config.
        dataset: what to learn from.
        weights: a file of weights to start from.
        prior: mean function and spectrum of the data, where sampling starts from those.

    Raises:
        ValueError: where parts do not fit together, or --init_from does not fit the network.
    """
    if settings["flip"] and not dataset.is_image:
        raise ValueError(f"flip True mirrors images; --data_name {settings['data_name']} holds 1-D functions")
    torch.manual_seed(settings["seed"])
    recipe = Recipe(
        train_steps=settings["train_steps"],
        lr=settings["lr"],
        optimizer=settings["optimizer"],
        weight_decay=settings["weight_decay"],
        lr_schedule=settings["lr_schedule"],
        warmup_steps=settings["warmup_steps"],
        decay_steps=settings["decay_steps"],
        lr_end=settings["lr_end"],
        t_min=settings["t_min"],
        time_warmup=settings["time_warmup"],
        time_sampling=settings["time_sampling"],
        loss_weight=settings["loss_weight"],
        loss_reduction=settings["loss_reduction"],
        label_dropout=settings["label_dropout"],
        ema_decays=tuple(settings["ema_decay"]) if settings["use_ema"] else (),
        ema_every=settings["ema_every"],
        seed=settings["seed"],
        log_every=settings["log_every"],
    )
    data = DataModule(
        dataset,
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        flip=settings["flip"],
        val_samples=settings["val_samples"],
        num_workers=settings["num_workers"],
    )
    denoiser = build_denoiser(config, prior)
    if settings["time_sampling"] != "uniform" and not denoiser.dynamics.is_monotone:
        raise ValueError(
            f"time_sampling {settings['time_sampling']} needs a noise level that rises, which it does not under "
            f"{denoiser.dynamics}; take --time_sampling uniform or --marginals exact"
        )
    if weights is not None:
        load_weights(denoiser.backbone, weights)
    module = DiffusionModule(denoiser, recipe)
    if settings["compile"]:
        module.network.compile()  # in place: names in checkpoints stay those of the plain network
    return module, data


def prior_of_data(config: dict[str, Any], dataset: DataSet) -> dict[str, Tensor] | None:
    """Put the mean and variance of the data into the config: as numbers, or the name of the file they go to.

    Args:
        config: the run's config; its section ``prior`` is set.
        dataset: what to learn from.

    Returns:
        Mean function and spectrum, where the dynamics has modes; None where the numbers are in the config.
    """
    basis = build_dynamics(config).basis
    if not basis.modes:
        mean, variance = dataset.statistics()
        config["prior"] = {"mean": mean, "variance": variance}
        return None
    config["prior"] = {"file": PRIOR}
    return dict(zip(("mean", "variance"), dataset.spectral_statistics(basis), strict=True))


def initial_weights(source: str, settings: dict[str, Any]) -> Path:
    """The file that --init_from names: a file itself, or the newest weights of a run, averaged where it has those.

    Args:
        source: a run or a file.
        settings: values of all flags.

    Raises:
        ValueError: where there is none, or a run's network predicts something else.
    """
    if Path(source).is_file():
        return Path(source).resolve()
    folder = find(source, settings["output_dir"], flag="init_from")
    learnt = "eps" if is_released(folder) else read_config(folder)["prediction"]
    if settings["prediction"] != learnt and (settings["prediction"], learnt) != ("auto", "eps"):
        raise ValueError(f"init_from {source}: its network predicts {learnt}; add --prediction {learnt}")
    kept = versions(folder)
    if not kept:
        raise RunNotFound(f"--init_from {source}: {folder / 'model'} holds no weights yet")
    version = "final" if "final" in kept else kept[-1]
    return choose_weights(folder, version, averaged=None, decay=None, decays=[])[1].resolve()


def build_trainer(
    settings: dict[str, Any],
    config: dict[str, Any],
    folder: Path,
    device: torch.device,
    module: DiffusionModule,
    resume_step: int,
    deadline: float | None,
) -> pl.Trainer:
    """Lightning's trainer for the run folder; writes nothing yet."""
    grids = SampleGrid(
        folder / "samples",
        tuple(config["data"]["shape"]),
        num_classes=config["data"]["num_classes"],
        solver="exp2" if module.dynamics.is_monotone else "em",
        steps=GRID_STEPS,
        count=SOUNDS if config["data"]["sample_rate"] else GRID_SAMPLES,
        clip=len(config["data"]["shape"]) == 3,
        sample_rate=config["data"]["sample_rate"],
    )
    hardware = Hardware(
        accelerator=device.type,
        devices=settings["devices"] or (torch.cuda.device_count() if device.type == "cuda" else 1),
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
        clip_by=settings["clip_by"],
        accumulate=settings["accumulate_grad_batches"],
        deadline=deadline,
        sanity_steps=settings["num_sanity_val_steps"],
        callbacks=[grids],
    )


def note_environment(path: Path, command: Sequence[str]) -> None:
    """Add command line and versions to environment.txt, below those of earlier parts of the run."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    earlier = path.read_text() if path.exists() else ""
    lines = [
        f"# {shlex.join(command)}",
        f"# Python {platform.python_version()} on {platform.platform()}, {device}",
        *packages,
        "",
    ]
    atomic_write(path, (earlier + "\n".join(lines)).encode())


# -- going -----------------------------------------------------------------------------------------------------------


def dry_run(module: DiffusionModule, data: DataModule, device: torch.device) -> int:
    """One forward and backward pass on one batch; nothing is written."""
    module.to(device)
    batch = data.transfer_batch_to_device(next(iter(data.val_dataloader())), device, 0)
    t = module.times(torch.linspace(0, 1, len(batch.images), dtype=torch.float64, device=device))
    loss = module.errors(module.denoiser, batch.images, t, torch.randn_like(batch.images), batch.labels).mean()
    loss.backward()
    say(f"dry run   one step on {len(batch.images)} images, loss {loss.item():.4f}; nothing written")
    return 0


def fit(
    trainer: pl.Trainer,
    module: DiffusionModule,
    data: DataModule,
    checkpoint: Path | None,
    folder: Path,
    plugins: Sequence[str],
) -> int:
    """Train to the end, or to a signal; returns the exit code."""
    plugin = ["--plugin", ",".join(plugins)] if plugins else []
    again = shlex.join(["python", "train.py", "--resume", folder.name, "--output_dir", str(folder.parent), *plugin])
    elsewhere = [] if folder.parent == args.OUTPUT_DIR.default else ["--output_dir", str(folder.parent)]
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        say(f"{stop}\ngo on with: {again}")
        return 0 if stop.planned else 130
    except NonFiniteLoss as error:
        last = folder / "checkpoints" / LAST
        good = f"last good checkpoint: {last}" if last.exists() else "no checkpoint was written yet"
        complain(f"{error}; {good}")
        return 1
    except DataUnavailable as error:
        complain(f"{args.with_flags(str(error))}; go on with: {again}")
        return 2
    say(f"weights   {folder / 'model'}\npictures  {folder / 'loss.png'}, {folder / 'samples'}")
    say(f"next      {shlex.join(['python', 'generate.py', '--run_id', folder.name, *elsewhere, *plugin])}")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        complain("interrupted before anything could be saved since the last checkpoint")
        raise SystemExit(130) from None
