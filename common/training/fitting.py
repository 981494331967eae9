"""Training, from a command line's order to weights."""

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from common import stopping
from common.cluster.meeting import Meeting
from common.config.build import check_device
from common.config.parser import mendable, redacted
from common.config.plugins import class_of
from common.config.rehearsal import rehearse
from common.config.resolve import fit_to_data
from common.config.schema import PROJECT, RunConfig
from common.config.stored import to_json, write_config
from common.data import DataUnavailable
from common.data.module import DataModule
from common.data.source import DataSet
from common.files import atomic_write, locked, remove_leftovers, replacing, save_safetensors
from common.refusal import Refusal
from common.runs import RunFolder, read_prior
from common.runs.folder import BEST, FINAL
from common.runs.log import read_metrics
from common.runs.real import write_real
from common.runs.versions import PLAIN, Checkpoint, average_kinds
from common.training.batches import change_of_batches, check_exchange, shared_out
from common.training.build import (
    build_data,
    build_module,
    build_trainer,
    check_compiler,
    check_output,
    initial_weights,
    with_statistics,
)
from common.training.callbacks import draw_losses, write_weights
from common.training.check_data import check_data
from common.training.checkpoints import Checkpoints, Stopped
from common.training.csv_log import keep_aside
from common.training.data_told import paragraph, table_of_classes
from common.training.dry_run import dry_run, require_memory
from common.training.introduction import introduce, question_steps
from common.training.judging import Judging, check_judging
from common.training.loggers import ask_before_sending, close_loggers, make_loggers
from common.training.module import LOSS, VALIDATION, DiffusionModule, NonFiniteLoss
from common.training.once import fetched, with_shared_statistics
from common.training.restored import Restored
from common.training.resume import Plan, TrainOrder, check_fits, check_same_data, plan
from common.training.session import PROGRAM, complain, hide_key, is_first_process, note_environment, say, set_tf32
from common.training.starting import noted
from common.training.together import check_count, meeting_of, shared
from common.training.trainer import check_rank, process_count, run_trainer


def train(order: TrainOrder) -> int:
    """Do what a command line of train.py asks for; returns the exit code.

    Raises:
        Refusal: for whatever a user can mend.
    """
    started = time.monotonic()
    stopping.begin_work()
    hide_key(order.command.wb_key)
    meeting = meeting_of(order)
    with meeting.held():
        if meeting.here.from_outside:
            meeting.open(meeting.here)
        code = _begin(order, started, meeting)
        meeting.end(0)  # whatever has to be told was told
    return code


def deadline_of(order: TrainOrder, started: float) -> float | None:
    """When a training stops, on the clock ``time.monotonic``; None for no limit, and for what only looks.

    Raises:
        Refusal: if that is the limit of a job, and none can be told.
    """
    if order.command.only_looks:
        return None
    limit = order.command.seconds()
    if limit is None and order.command.max_time is not None:
        say(f"note      the job has no limit, so --max_time {order.command.max_time} has no effect")
    return None if limit is None else started + limit


def _begin(order: TrainOrder, started: float, meeting: Meeting) -> int:
    deadline = deadline_of(order, started)
    found = plan(order)
    if meeting.watch:
        meeting.watch.folder = found.folder.path
    writes = not order.command.only_looks and is_first_process()
    other = "take another id" if found.is_new else "wait for it, or stop it"
    with locked(found.folder.path, PROGRAM, other) if writes else nullcontext():
        if writes:
            claim(found)
        return _train(order, found, deadline, meeting)


def claim(found: Plan) -> None:
    """Make sure that a folder, now that no other process writes it, is what it was thought to be.

    Raises:
        Refusal: if a new run was started in it meanwhile, a folder lies where a file is to be written, or a symbolic
            link inside leads out of it.
    """
    folder = found.folder
    if found.is_new and folder.is_ours:
        raise Refusal(f"{folder.path} exists; add --resume auto or take another id", "wb_id")
    folder.refuse_links()
    for path in (
        folder.metrics,
        folder.environment,
        folder.data,
        folder.real,
        folder.loss_picture,
        folder.last_checkpoint,
    ):
        if path.is_dir():
            raise Refusal(f"{path} is a folder, where a file is to be written; move it away")
    remove_leftovers(folder.path, folder.checkpoints, folder.model, folder.samples)


def _train(order: TrainOrder, found: Plan, deadline: float | None, meeting: Meeting) -> int:
    config, folder, checkpoint = found.config, found.folder, found.checkpoint()
    check_judging(config, order.given)
    for remark in checkpoint.remarks if checkpoint else ():
        say(f"note      {remark}")
    if not found.is_new and "logger" not in order.given and is_first_process():
        ask_before_sending(config.keeping.logger)
    device = check_device(config.hardware.device)
    check_rank(config.hardware, device)
    if meeting.here.from_outside:
        check_count(meeting.here, config.hardware, device)
    processes = process_count(config.hardware, device)
    config = shared_out(config, processes, order.given)
    remarks = check_exchange(config, processes, order.given)
    for remark in remarks + ([] if found.is_new else change_of_batches(found.config, config)):
        say(f"note      {remark}")
    if config.hardware.precision == "16-mixed" and device.type == "cpu":
        raise Refusal("16-mixed needs CUDA; on a CPU use --precision bf16-mixed or 32-true", "precision")
    set_tf32(device, config.hardware.tf32)
    if not found.is_new and config.data.data_dir and "data_dir" not in order.given:
        say(f"note      data is read from {config.data.data_dir}, as config.json says")
    dataset = fetched(config.data, meeting)
    if processes > 1:
        meeting.agree(*shared(device, dataset))
    if order.command.check_data:
        return check_data(config, dataset) if is_first_process() else 0
    fitted = fit_to_data(config, dataset.spec, class_of(config.dynamics), class_of(config.network))
    if found.is_new:
        config, prior = with_shared_statistics(fitted, dataset, folder, meeting)
    else:  # the stored classes and arguments stay, even if defaults have changed since
        check_same_data(config.sample, fitted.sample, folder)
        config, prior = _stored_prior(config, folder, dataset)
    weights = None
    if config.recipe.init_from is not None and checkpoint is None and is_first_process():
        weights = initial_weights(config, config.recipe.init_from)  # DDP gives the other processes the same ones
        source = noted(weights, config.keeping.output_dir)
        config = replace(config, recipe=replace(config.recipe, init_from=source))
    rehearse(config, checkpoint.path if checkpoint else None)
    module, data = build_module(config, weights, prior), build_data(config, dataset)
    config = replace(config, model=replace(config.model, prediction=module.prediction))
    if checkpoint:
        check_fits(checkpoint, module.state_dict())
    resume_step = checkpoint.step if checkpoint else 0
    introduce(config, module, device, dataset)
    if is_first_process():  # the others compute on devices of their own
        check_output(config, module, device)
        if config.hardware.compile:
            check_compiler(device)
    if found.is_new and "train_steps" not in order.given:
        question_steps(config)
    if order.command.dry_run:
        return dry_run(config, dataset, module, data, device, meeting)

    if found.is_new:
        going_on = ""
    elif checkpoint:
        going_on = f", goes on at step {resume_step:,} ({checkpoint.path})"
    else:
        going_on = ", no checkpoint is there: starts at step 0"
    say(f"run       {folder.path}{going_on}")
    if checkpoint and resume_step >= config.recipe.train_steps:
        say(f"already finished at step {resume_step}")
        if is_first_process():
            begin(config, folder, prior, dataset, checkpoint)
        return finish(module, checkpoint, folder)
    if is_first_process():
        require_memory(config, dataset, module, device)
    judges = [Judging(folder, config, dataset)] if config.keeping.eval_every else []
    trainer = build_trainer(config, folder, device, module, resume_step, deadline, judges, meeting)
    if data.val_samples < trainer.world_size:
        raise Refusal(
            f"leaves {data.val_samples} held-out samples for {trainer.world_size} processes, and each needs one: give "
            "more, or lower --devices",
            "val_samples",
        )
    for judge in judges if is_first_process() else ():
        for line in judge.prepare():
            say(line)
    loggers = make_loggers(
        config.keeping.logger,
        folder.path,
        run_name=folder.name,
        config=to_json(config),
        project=config.keeping.wb_project or PROJECT,
    )
    trainer.loggers += loggers
    code = 1
    try:
        if is_first_process():
            begin(config, folder, prior, dataset, checkpoint)
            note_environment(folder.environment, [PROGRAM, *redacted(order.words)])
        code = fit(trainer, module, data, checkpoint, folder, order.command.plugin, meeting)
    finally:
        close_loggers(loggers, code)
    return code


def begin(
    config: RunConfig,
    folder: RunFolder,
    prior: dict[str, Tensor] | None,
    dataset: DataSet,
    checkpoint: Checkpoint | None,
) -> None:
    """Write what a run folder has from the first step on; of a run that goes on, what was lost or damaged.

    What its log is about to lose is kept aside, unless it is the steps since last.ckpt, which come again.
    """
    missing = [path for path in (folder.prior, folder.config, folder.real) if not is_whole(folder, path)]
    tell_mended(folder, missing)
    folder.manifest.begin(checkpoint.run if checkpoint else "")
    with folder.manifest.renewing(*missing):
        if prior and folder.prior in missing:
            save_safetensors(folder.prior, prior, {"format": "pt"})
        if not folder.config.is_file():
            write_config(folder.path, config)
        if not folder.data.is_file():
            atomic_write(
                folder.data, "\n".join([*paragraph(dataset, config), *table_of_classes(dataset)]).encode() + b"\n"
            )
        if folder.real in missing:
            with suppress(DataUnavailable):  # a sample that cannot be read is the training's to report, if it comes
                write_real(folder.real, dataset.train, config.sample)
    step = checkpoint.step if checkpoint else 0
    if (checkpoint is None or checkpoint.path != folder.last_checkpoint) and (kept := keep_aside(folder.metrics, step)):
        say(f"note      the log goes back to step {step:,}, since later ones are gone; all of it is kept in {kept}")


def is_whole(folder: RunFolder, path: Path) -> bool:
    """Whether a file of a run is there and is the one that was written."""
    try:
        return folder.manifest.check(path)
    except Refusal:
        return False


def tell_mended(folder: RunFolder, paths: Sequence[Path]) -> None:
    """Say which of the files that are now written were there before, but are missing or damaged."""
    for path in paths:
        if folder.manifest.lists(path):
            say(f"note      {path} {'was damaged' if path.exists() else 'was missing'}; it is made again")


def _stored_prior(config: RunConfig, folder: RunFolder, dataset: DataSet) -> tuple[RunConfig, dict[str, Tensor] | None]:
    """What a run that goes on starts sampling from; a file of it that was lost or damaged is made again."""
    names_file = dict(config.prior_values) == {"file": folder.prior.name}
    if names_file and not (folder.prior.is_file() and (is_whole(folder, folder.prior) or not folder.begun)):
        return with_statistics(config, dataset, folder.prior.name)
    return config, read_prior(folder, config)


def last_losses(rows: Sequence[Mapping[str, float]], averaged: bool) -> list[str]:
    """The last losses of a log in one line, or none if it has none; a validation of an earlier step is said to be one.

    Args:
        rows: lines of ``metrics.csv``.
        averaged: whether the average of the weights is validated.
    """
    last = {name: row for row in rows for name in row}
    if LOSS not in last:
        return []
    found = f"loss      {last[LOSS][LOSS]:.4g} training"
    if VALIDATION in last:
        row = last[VALIDATION]
        earlier = f" at step {row['step']:,.0f}" if row["step"] < last[LOSS]["step"] else ""
        found += f", {row[VALIDATION]:.4g} validation{earlier}{' (average of the weights)' if averaged else ''}"
    return [found]


def finish(module: DiffusionModule, checkpoint: Checkpoint, folder: RunFolder) -> int:
    """Write what comes after the last checkpoint, the picture of the losses and the final weights, unless it is whole.

    A ``last.ckpt`` that is missing or damaged is made again from the numbered one.

    Returns:
        The exit code.
    """
    if not is_first_process():
        return 0
    if folder.last_checkpoint in checkpoint.passed_over:
        with replacing(folder.last_checkpoint) as place:
            shutil.copyfile(checkpoint.path, place)
        say(f"note      {folder.last_checkpoint} is now a copy of {checkpoint.path.name}")
    wanted = [folder.weights(kind, FINAL) for kind in (PLAIN, *average_kinds(module.recipe.averages))]
    if missing := [path for path in wanted if not is_whole(folder, path)]:
        tell_mended(folder, missing)
        folder.manifest.begin(checkpoint.run)
        module.load_state_dict(checkpoint.state)
        draw_losses(folder.loss_picture, read_metrics(folder.metrics), module)
        write_weights(folder, module, FINAL)
        say(f"weights   {folder.model}")
    return 0


def interrupted(trainer: pl.Trainer) -> str:
    """What to say when a training was stopped at once."""
    keeper, step = trainer.checkpoint_callback, trainer.global_step
    lost = keeper.lost_steps(trainer) if isinstance(keeper, Checkpoints) else 0
    if not lost:
        return f"stopped at step {step:,}; nothing was lost"
    which = f"steps {step - lost + 1:,} to {step:,} are" if lost > 1 else f"step {step:,} is"
    return f"stopped at step {step:,} before a checkpoint could be written; {which} lost"


def fit(
    trainer: pl.Trainer,
    module: DiffusionModule,
    data: DataModule,
    checkpoint: Checkpoint | None,
    folder: RunFolder,
    plugins: Sequence[str],
    meeting: Meeting,
) -> int:
    """Train to the end, or to a signal; returns the exit code.

    Raises:
        KeyboardInterrupt: if it was stopped at once, saying whether something is lost.
        Refusal: if the checkpoint does not hold the state of such a training.
    """
    plugin = f" {shlex.join(['--plugin', ','.join(plugins)])}" if plugins else ""
    again = f"python {PROGRAM} {folder.words('resume')}{plugin}"
    restored = Restored(checkpoint) if checkpoint else None
    if restored:
        trainer.callbacks.insert(0, restored)  # type: ignore[attr-defined]  # Lightning's own list
    going_on = f"the same command with {folder.words('resume')} goes on"
    meeting.follow(folder.path, lambda: trainer.global_step, going_on)
    try:
        run_trainer(trainer, module, data, checkpoint.path if checkpoint else None)
    except Stopped as stop:
        say(f"{stop}\ngo on with: {again}")
        return 0 if stop.planned else stopping.exit_code()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{interrupted(trainer)}; go on with: {again}") from None
    except NonFiniteLoss as error:  # it is one in all processes
        last = Checkpoint.newest(folder, module.recipe.averages)
        good = f"last good checkpoint: {last.path}" if last else "no checkpoint was written yet"
        complain(f"{error}; {good}")
        return 1
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        halve = "double" if module.recipe.global_batch else "halve it and double"
        return meeting.refuse(
            f"--batch_size {data.batch_size} is too large for the device ({reason}); {halve} "
            f"--accumulate_grad_batches in a new run, or go on on a larger one with: {again}"
        )
    except OSError as error:
        if (line := mendable(error)) is None:
            raise
        since = "steps since the last checkpoint come again" if folder.checkpoint_files() else "it starts at step 0"
        return meeting.refuse(f"{line}; then {since} with: {again}")
    except Refusal as error:
        return meeting.refuse(f"{error.line({str(error.argument): str(error.argument)})}; go on with: {again}")
    except Exception as error:
        if lost := meeting.blame(error):
            raise lost from error
        if restored and (refusal := restored.blame(error)):
            raise refusal from error
        raise
    drawn_from = " (drawn from the average of the weights)" if module.is_averaged else ""
    for line in last_losses(read_metrics(folder.metrics), module.is_averaged):
        say(line)
    for judge in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(judge, Judging) and judge.best:
            say(f"best      step {judge.best.step:,}, by {judge.figure} {judge.best.value:.4g}, is --version {BEST}")
    grids = f", {folder.samples}{drawn_from}" if folder.samples.exists() else ""
    say(f"weights   {folder.model}\npictures  {folder.loss_picture}{grids}")
    say(f"next      python generate.py {folder.words('run_id')}{plugin}")
    return 0
