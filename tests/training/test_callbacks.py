"""Kept weights, sample grids and pictures, each with a trainer that is only counters."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.module import Batch
from common.data.spec import DataSpec
from common.media.grids import LINE
from common.runs import RunFolder
from common.training import callbacks
from common.training.callbacks import KeepWeights, LossPicture, SampleGrid, StepProgress
from common.training.csv_log import CsvLog
from common.training.module import DiffusionModule
from tests.training.test_module import make


def trainer(**changes) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "global_step": 0,
            "max_steps": 100,
            "accumulate_grad_batches": 1,
            "world_size": 1,
            "strategy": SimpleNamespace(reduce=lambda value, reduce_op: value),
            "is_global_zero": True,
            "sanity_checking": False,
            "val_check_batch": 10**9,
            "save_checkpoint": lambda path, weights_only: None,
            "loggers": [],
            **changes,
        }
    )


def attached(module: DiffusionModule, **changes) -> DiffusionModule:
    module.trainer = trainer(**changes)
    return module


def end_of(micro_step: int) -> Batch:
    return Batch(torch.zeros(1), torch.zeros(1), micro_step)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_are_kept_every_n_steps_and_once(tmp_path, accumulate, monkeypatch):
    written = []
    monkeypatch.setattr("common.training.callbacks.save", lambda path, state: written.append(path.name))
    keeper, module = KeepWeights(RunFolder(tmp_path), 4), make()
    for micro_step in range(10 * accumulate):
        step = (micro_step + 1) // accumulate
        attached(module, global_step=step, max_steps=10, accumulate_grad_batches=accumulate)
        before = len(written)
        keeper.on_train_batch_end(module.trainer, module, None, end_of(micro_step), 0)
        due = step in (4, 8) and (micro_step + 1) % accumulate == 0
        assert written[before:] == ([f"model-v{step // 4 - 1}.pth", f"ema_model-v{step // 4 - 1}.pth"] if due else [])
    keeper.on_train_end(module.trainer, module)
    assert written[-2:] == ["model-final.pth", "ema_model-final.pth"]


@pytest.mark.parametrize("ema", [(), (0.9,), (0.9, 0.75)])
def test_kept_weights_are_plain_state_dicts(tmp_path, ema):
    module = make(ema_decay=ema)
    with torch.no_grad():
        next(module.network.parameters()).add_(1)
    KeepWeights(RunFolder(tmp_path), 1)._write(attached(module), "v0")
    networks = {"model": module.network}
    for name, average in zip(("ema_model", "ema0.75_model"), module.averages, strict=False):
        networks[name] = average.module
    assert {p.name for p in (tmp_path / "model").iterdir()} == {f"{name}-v0.pth" for name in networks}
    assert len(networks) == 1 + len(ema)
    for name, network in networks.items():
        state = torch.load(tmp_path / "model" / f"{name}-v0.pth", weights_only=True)
        assert list(state) == list(network.state_dict())
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("changes", [{"is_global_zero": False}, {"global_step": 99}])
def test_final_weights_belong_to_a_finished_run_and_one_process(tmp_path, changes):
    module = attached(make(), **{"global_step": 100, **changes})
    KeepWeights(RunFolder(tmp_path), 1).on_train_end(module.trainer, module)
    assert not list(tmp_path.iterdir())


def grid(folder, monkeypatch, solver="exp2", num_classes=10) -> SampleGrid:
    monkeypatch.setattr(callbacks, "GRID_STEPS", 2)
    monkeypatch.setattr(callbacks, "GRID_SAMPLES", 20)
    classes = None if num_classes is None else tuple(map(str, range(num_classes)))
    return SampleGrid(RunFolder(folder), DataSpec("image", (1, 8, 8), classes=classes), solver)


@pytest.mark.parametrize("solver", ["exp2", "em", "euler", "exp1"])
def test_grids_are_drawn_from_the_same_seeds(tmp_path, monkeypatch, solver):
    module, drawer = make(dropout=0.5), grid(tmp_path, monkeypatch, solver)
    for step in (0, 10):
        attached(module, global_step=step)
        torch.manual_seed(step)
        drawer.on_validation_end(module.trainer, module)
    with torch.no_grad():
        for parameter in module.averages[0].module.parameters():
            parameter.mul_(1.5)
    attached(module, global_step=20)
    drawer.on_validation_end(module.trainer, module)
    first, second, changed = (tmp_path / "samples" / f"step-{step:07d}.png" for step in (0, 10, 20))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != changed.read_bytes()  # the average is what is drawn
    with Image.open(first) as image:
        image.verify()
        assert image.size == (10 * (64 + 2) + 2, LINE + 2 * (64 + 2) + 2)


def test_a_grid_is_the_same_in_parts(tmp_path, monkeypatch):
    module = attached(make())
    pictures = []
    for at_once in (20, 7):
        drawer = grid(tmp_path, monkeypatch)
        drawer.at_once = at_once
        drawer.on_validation_end(module.trainer, module)
        with Image.open(tmp_path / "samples" / "step-0000000.png") as image:
            pictures.append(np.asarray(image, np.int16))
    assert abs(pictures[0] - pictures[1]).max() <= 1


def test_a_grid_is_magnified_as_asked(tmp_path, monkeypatch):
    module, drawer = attached(make()), grid(tmp_path, monkeypatch, num_classes=None)
    drawer.scale = 3
    drawer.on_validation_end(module.trainer, module)
    with Image.open(tmp_path / "samples" / "step-0000000.png") as image:
        assert image.size == (10 * (24 + 2) + 2, 2 * (24 + 2) + 2)


def test_a_grid_asks_for_classes_in_turn(tmp_path, monkeypatch):
    asked = {}

    def sample(dynamics, denoiser, shape, **settings):
        asked.update(settings, shape=shape, training=denoiser.denoiser.backbone.training)
        return SimpleNamespace(x=torch.zeros(shape))

    monkeypatch.setattr("common.training.callbacks.sample", sample)
    module = attached(make(ema_decay=()))
    grid(tmp_path, monkeypatch).on_validation_end(module.trainer, module)
    assert asked["labels"].tolist() == [*range(10)] * 2
    assert list(asked["seeds"]) == list(range(20))
    assert asked["shape"] == (20, 1, 8, 8)
    assert not asked["training"]  # dropout off while drawing
    assert module.network.training  # and on again
    grid(tmp_path, monkeypatch, num_classes=None).on_validation_end(module.trainer, module)
    assert asked["labels"] is None


@pytest.mark.parametrize("changes", [{"is_global_zero": False}, {"sanity_checking": True}])
def test_only_one_process_draws_and_not_in_a_sanity_check(tmp_path, monkeypatch, changes):
    module = attached(make(), **changes)
    grid(tmp_path, monkeypatch).on_validation_end(module.trainer, module)
    LossPicture(tmp_path / "loss.png", CsvLog(tmp_path / "x.csv")).on_validation_end(module.trainer, module)
    assert not list(tmp_path.iterdir())


def test_the_loss_picture(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv")
    module = attached(make())
    picture = LossPicture(tmp_path / "loss.png", log)
    picture.on_train_end(module.trainer, module)
    empty = (tmp_path / "loss.png").read_bytes()
    for step in (1, 2):
        log.log_metrics({"train/loss": 1 / step}, step)
    picture.on_validation_end(module.trainer, module)
    assert (tmp_path / "loss.png").read_bytes() != empty
    with Image.open(tmp_path / "loss.png") as image:
        image.verify()


@pytest.mark.parametrize("ema", [(), (0.9, 0.5)])
def test_whose_validation_loss_it_is(tmp_path, monkeypatch, ema):
    """The bar and the loss curve say that the average is validated, if there is one."""
    module = attached(make(ema_decay=ema, use_ema=bool(ema)), global_step=5)
    module.latest = {"train/loss": 0.5, "val/loss": 0.25}
    shown, legends = [], []
    monkeypatch.setattr(
        callbacks,
        "bar",
        lambda *_, **__: SimpleNamespace(n=4, set_postfix=lambda figures, refresh: shown.append(figures), update=int),
    )
    monkeypatch.setattr(
        callbacks, "save_figure", lambda _, figure: legends.append(figure.axes[0].get_legend_handles_labels()[1])
    )
    bar, log = StepProgress(), CsvLog(tmp_path / "metrics.csv")
    log.log_metrics(module.latest, 5)
    bar.on_train_start(module.trainer, module)
    bar.on_train_batch_end(module.trainer, module, None, end_of(4), 0)
    LossPicture(tmp_path / "loss.png", log).on_train_end(module.trainer, module)
    assert shown == [{"loss": "0.5", "val (avg)" if ema else "val": "0.25"}]
    assert legends == [
        ["training (weights)", "validation (average of the weights)"] if ema else ["training", "validation"]
    ]
    assert set(log.rows[0]) == {"step", "train/loss", "val/loss"}


def test_a_grid_goes_to_every_logger(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("common.training.callbacks.log_picture", lambda *arguments: shown.append(arguments))
    module = attached(make(), loggers=["logger"], global_step=7)
    grid(tmp_path, monkeypatch).on_validation_end(module.trainer, module)
    assert shown == [(["logger"], "samples", tmp_path / "samples" / "step-0000007.png", 7)]
