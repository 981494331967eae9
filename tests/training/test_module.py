"""The Lightning module: what a step computes, what it never waits for, what the optimiser gets."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.backbones import UNet
from common.config.schema import Recipe
from common.data.module import Batch
from common.denoiser import Denoiser
from common.dynamics import CLD, VE, VP, LinearDynamics
from common.seeding import NOISE, TIMES, StepRandomness
from common.training.module import DiffusionModule, NonFiniteLoss
from common.training.objectives import Consistency, Denoising, Objective
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP

DYNAMICS = {
    "vp": VP,
    "ve": VE,
    "cld": CLD,
    "fvp": lambda: FVP(0.9, 2),
    "fve": lambda: FVE(0.3, 1),
    "fvp-paper": lambda: FVP(0.9, 2, marginals="paper"),
    "heat": lambda: HeatSubVP((8, 8), x_norm=8, energy_norm=1.0),
}


def make(
    dynamics: LinearDynamics | None = None,
    prediction: str = "auto",
    dropout: float = 0.1,
    objective: Callable[[LinearDynamics, Recipe], Objective] = Denoising,
    **changed,
):
    network = UNet(8, 1, 16, 1, 1, (2,), dropout, (1, 1), 10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    dynamics = dynamics or VP()
    recipe = Recipe(**{"train_steps": 10, "lr": 1e-3, "ema_decay": (0.9999,), **changed})
    module = DiffusionModule(Denoiser(network, dynamics, prediction), recipe, objective(dynamics, recipe))
    module.trainer = trainer()
    return module.train()


def trainer(rank: int = 0, world_size: int = 1, step: int = 3) -> SimpleNamespace:
    return SimpleNamespace(global_rank=rank, world_size=world_size, global_step=step, accumulate_grad_batches=1)


def batch(micro_step: int = 3, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.arange(count) % 10, micro_step)


def guided(dynamics: LinearDynamics, recipe: Recipe) -> Consistency:
    """Consistency with all that a step of it may have."""
    return Consistency(dynamics, recipe, guidance_scale=2.0)


MADE = {
    **{name: {"dynamics": make_dynamics} for name, make_dynamics in DYNAMICS.items()},
    "consistency": {"dynamics": lambda: FVP(0.9, 2), "objective": guided, "label_dropout": 0.1},
    "consistency-heat": {"dynamics": DYNAMICS["heat"], "objective": Consistency},
}


class Waited(AssertionError):
    """A step asked for a number on the host."""


class NoWaiting(TorchDispatchMode):
    """Refuses every operation whose result must reach the host before the next one starts."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "allclose")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed = args[1] if name in ("index", "index_put", "index_put_") else []
        by_mask = any(index is not None and index.dtype == torch.bool for index in indexed)
        if name in self.REFUSED or by_mask:
            raise Waited(str(func))
        return func(*args, **(kwargs or {}))


def refuse(*_args, **_kwargs):
    raise Waited("a tensor was read on the host")


READS = ("item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__")


@pytest.fixture
def no_waiting(monkeypatch):
    for name in READS:
        monkeypatch.setattr(Tensor, name, refuse)
    with NoWaiting():
        yield


def test_the_guard_against_waiting_works(no_waiting):
    x = torch.arange(3.0)
    for read in (
        lambda: x[0].item(),
        lambda: bool(x[1] > 0),
        lambda: float(x[0]),
        lambda: x.tolist(),
        lambda: x[x > 1],
        lambda: torch.full((2,), x[0]),
        lambda: torch.equal(x, x),
        lambda: x.cpu(),
    ):
        with pytest.raises(Waited):
            read()


@pytest.mark.parametrize("name", MADE)
def test_a_step_waits_for_nothing(name, request):
    module = make(**{**MADE[name], "dynamics": MADE[name]["dynamics"]()})
    module.training_step(batch(0), 0)  # what is built once may read
    request.getfixturevalue("no_waiting")
    for micro_step in (1, 2):
        module.training_step(batch(micro_step), micro_step)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MADE)
def test_a_step_waits_for_nothing_on_a_gpu(name):
    module = make(**{**MADE[name], "dynamics": MADE[name]["dynamics"]()}).cuda()
    batches = [Batch(*(part.cuda() for part in batch(step)[:2]), step) for step in range(3)]
    module.training_step(batches[0], 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for micro_step in (1, 2):
            module.training_step(batches[micro_step], micro_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_loss_is_the_noise_error_at_the_times_of_the_step():
    """Against the formula written out (GFDM, eq. 24) on draws made here."""
    module = make(dropout=0.0, seed=9)
    data = batch(micro_step=5)
    draws = StepRandomness(9, 5, 6, 0, 1, "cpu")
    t = 1e-5 + (1 - 1e-5) * draws.uniform(TIMES)
    noise = draws.normal(NOISE, (1, 8, 8))
    integral = 0.1 * t + (20 - 0.1) * t.square() / 2
    scale, std = (-integral / 2).exp(), (-torch.expm1(-integral)).sqrt()
    v = scale.reshape(-1, 1, 1, 1).float() * data.x0 + std.reshape(-1, 1, 1, 1).float() * noise
    expected = (module.network(v, t, data.labels) - noise).square().mean()
    assert module.training_step(data, 0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("objective", [Denoising, Consistency])
def test_a_step_is_a_function_of_seed_and_micro_step(objective):
    module = make(objective=objective)
    losses = [module.training_step(batch(step), 0).item() for step in (0, 1, 2, 1, 0)]
    torch.manual_seed(123)
    assert module.training_step(batch(2), 7).item() == losses[2]  # dropout, too
    assert losses[3:] == [losses[1], losses[0]]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("objective", [Denoising, Consistency])
def test_ranks_share_times_and_noise_but_not_dropout(objective):
    module, data = make(dropout=0.0, objective=objective), batch(count=8)
    whole = module.training_step(data, 0)
    halves = []
    for rank in range(2):
        module.trainer = trainer(rank, 2)
        part = slice(4 * rank, 4 * rank + 4)
        halves.append(module.training_step(Batch(data.x0[part], data.labels[part], data.micro_step), 0))
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-5)

    module, seen = make(dropout=0.5), []
    module.network.register_forward_pre_hook(lambda *_: seen.append(torch.rand(3)))
    for rank in range(2):
        module.trainer = trainer(rank, 2)
        module.training_step(data, 0)
    assert not torch.equal(*seen)


def test_the_optimiser_gets_the_network_only():
    module = make()
    found = module.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in module.network.parameters()}
    assert len(parameters) == len(list(module.network.parameters()))
    assert all(p.requires_grad for p in parameters)
    assert schedule["interval"] == "step"
    assert schedule["scheduler"].total_steps == 10
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 25)


@pytest.mark.parametrize("ema_decay", [(), (0.9,), (0.9, 0.5)])
def test_the_best_network(ema_decay):
    module = make(ema_decay=ema_decay)
    assert module.best_network is (module.averages[0].module if ema_decay else module.network)
    assert [average.decay for average in module.averages] == list(ema_decay)
    assert module.best_denoiser().backbone is module.best_network
    assert module.best_denoiser().prediction == module.prediction
    names = {name.split(".")[0] for name in module.state_dict()}
    assert ("averages" in names) == bool(ema_decay)
    assert not any(name.startswith("_denoiser") for name in module.state_dict())  # the network is kept once


def test_validation_is_by_the_average_without_randomness():
    module = make(ema_decay=(0.9,), dropout=0.5)
    with torch.no_grad():
        for parameter in module.averages[0].parameters():
            parameter.mul_(4)  # the trained network would give another loss
    module.eval()
    losses = []
    for shuffled in (0, 1):
        torch.manual_seed(shuffled)
        for index in range(3):
            module.validation_step(batch(index), index)
        losses.append(module.val_loss.compute().item())
        module.val_loss.reset()
    assert losses[0] == losses[1]
    for network, same in ((module.averages[0].module, True), (module.network, False)):
        denoiser, losses_here = Denoiser(network.eval(), module.dynamics, module.prediction), []
        for index in range(3):
            draws = StepRandomness(0, -1 - index, 6, 0, 1, "cpu")
            t = 1e-5 + (1 - 1e-5) * draws.uniform(TIMES)
            losses_here.append(denoiser.error(batch().x0, t, draws.normal(NOISE, (1, 8, 8)), batch().labels))
        assert (torch.stack(losses_here).mean().item() == pytest.approx(losses[0], rel=1e-4)) == same


def test_validation_weighs_every_sample_alike():
    module = make().eval()
    values = iter([torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([6.0])])
    module.best_denoiser = lambda: SimpleNamespace(error=lambda *_, weight: next(values))
    for index, count in enumerate((4, 1)):
        module.validation_step(batch(index, count), index)
    assert module.val_loss.compute().item() == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_bad_step_is_remembered(bad):
    module = make()
    for step, value in enumerate((0.5, 0.5, bad, 0.5, bad)):
        module.trainer = trainer(step=step)
        errors = torch.full((4,), value)
        module._record(torch.rand(4, dtype=torch.float64), errors, errors.mean())
    assert module.first_bad_step.item() == 2


def test_the_noise_levels_of_the_first_bad_step_are_remembered():
    module = make(VE())
    t = torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64)
    for step, bad in enumerate(([], [1, 2], [0])):
        module.trainer = trainer(step=step)
        errors = torch.ones(4)
        errors[bad] = math.nan
        module._record(t, errors, errors.mean())
    low, high = module.dynamics.log_sigma(t[1:3]).tolist()
    assert (-module.bad_levels).tolist()[0] == pytest.approx(low)
    assert module.bad_levels.tolist()[1] == pytest.approx(high)
    module.trainer.strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    with pytest.raises(NonFiniteLoss, match=f"at step 1, noise levels sigma from {math.exp(low):.3g} to"):
        module.require_finite()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_label_dropout(share):
    """The share of null labels is that of the recipe, the same ones for the same step, and validation has none."""
    module, seen = make(label_dropout=share), []
    error = module.denoiser.error

    def spy(images, t, noise, labels, *, weight):
        seen.append(labels)
        return error(images, t, noise, labels, weight=weight)

    module.denoiser.error = spy
    for _ in range(2):
        module.training_step(batch(3, 600), 0)
    assert torch.equal(*seen)
    kept = seen[0] != -1
    assert torch.equal(seen[0][kept], batch(3, 600).labels[kept])
    assert (~kept).float().mean().item() == pytest.approx(share, abs=0.06)
    module.training_step(batch(4, 600), 0)
    assert share == 0 or not torch.equal(seen[2], seen[0])


@pytest.mark.parametrize("setting", [{"time_sampling": "lognormal"}, {"loss_weight": "edm"}])
def test_times_and_weights_of_the_recipe_reach_the_loss(setting):
    plain, other = make(), make(**setting)
    other.network.load_state_dict(plain.network.state_dict())
    assert plain.training_step(batch(), 0).item() != other.training_step(batch(), 0).item()


def test_loss_by_level_is_the_mean_at_that_noise_level():
    module = make(VE())
    t = torch.rand(512, dtype=torch.float64)
    level = module.dynamics.log_sigma(t)
    for _ in range(3):
        module._record(t, level.float(), torch.tensor(0.0))  # a loss that is the noise level itself
    points = module.loss_by_level()
    assert len(points) > 20
    width = points[1][0] - points[0][0]
    assert all(abs(loss - middle) < width / 2 + 1e-3 for middle, loss in points)
    low, high = module.dynamics.log_sigma(torch.tensor([1e-5, 1.0])).tolist()
    assert points[0][0] > low
    assert points[-1][0] < high


def test_recent_losses_count_more():
    module = make()
    t = torch.full((8,), 0.5, dtype=torch.float64)
    for value in (1.0, 0.0):
        for _ in range(3000):
            module.level_loss.mul_(1)  # nothing but the loop itself
            module._record(t, torch.full((8,), value), torch.tensor(value))
    ((_, loss),) = module.loss_by_level()
    assert loss == pytest.approx(0.999**3000 * (1 - 0.999**3000) / (1 - 0.999**6000), rel=1e-3)


def test_the_average_is_updated_with_the_step_that_was_taken(monkeypatch):
    """A checkpoint taken after optimiser step n holds the average after step n."""
    module, seen = make(ema_decay=(0.9,)), []
    monkeypatch.setattr(DiffusionModule.__mro__[1], "optimizer_step", lambda self, *a, **k: seen.append("stepped"))
    monkeypatch.setattr(
        module.averages[0], "update", lambda network, step: seen.append((network is module.network, step))
    )
    module.trainer = trainer(step=41)  # Lightning counts the step after the hook
    module.optimizer_step()
    assert seen == ["stepped", (True, 42)]


def test_channels_last_keeps_names_and_values():
    network = UNet(8, 1, 16, 1, 1, (2,), 0.0, (1, 1), 10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = Recipe(train_steps=2, lr=1.0)
    module = DiffusionModule(Denoiser(network, VP()), recipe, Denoising(VP(), recipe))
    after = module.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert isinstance(module.network, nn.Module)
