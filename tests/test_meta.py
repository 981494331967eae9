"""The inner loop: the published numbers (golden/inr.md), and a loop over samples with plain autograd."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.backbones import INR, UNet
from common.backbones.resizing import resize_linear
from common.dynamics.basis import Fourier, Pixel
from common.meta import MetaLearned
from fdp.dynamics import HeatSubVP
from fdp.flax_names import inr_name, inr_state_dict
from tests.backbones.test_inr import (
    GRIDS,
    MANIFEST,
    TOLERANCE,
    as_images,
    assert_near,
    golden_arrays,
    golden_weights,
    published,
)

GRID = (6, 5)


class Convolutions(nn.Module):
    """The smallest network with the common call."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.last = nn.Conv2d(4, channels, 3, padding=1)
        self.label_emb = nn.Embedding(5, 4)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.first(x) + t.to(x.dtype).reshape(-1, 1, 1, 1)
        if labels is not None:
            known = labels >= 0
            h = h + (self.label_emb(labels * known) * known.unsqueeze(-1)).unsqueeze(-1).unsqueeze(-1)
        return self.last(h.tanh())


def our_layout(flax_name: str, value: Tensor) -> Tensor:
    """A kernel is (.., in, out) there and (.., out, in) here."""
    return value.mT if flax_name.endswith("/kernel") else value


def inr() -> INR:
    return INR(GRID, 2, 2, width=10, depth=2, frequency=7.0, num_classes=5)


def unet() -> UNet:
    return UNet(8, 2, 16, 2, 1, (2,), 0.0, (1, 2), num_classes=5)


def learner(network: nn.Module, grid: tuple[int, int] = GRID, **changes: Any) -> MetaLearned:
    """In float64, with random weights and rates everywhere, under heat dynamics."""
    dynamics = HeatSubVP(grid, x_norm=5.0, energy_norm=1.0)
    config: dict[str, Any] = {"rate": 0.05, "clip": 0.02} | changes
    learned = MetaLearned(network, dynamics.basis, dynamics.metric, **config).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in learned.named_parameters():
            if name.startswith("rates"):
                value.copy_(0.05 * torch.rand(value.shape, generator=generator, dtype=torch.float64))
            else:
                value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return learned


def batch(grid: tuple[int, int] = GRID) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, *grid, generator=generator, dtype=torch.float64)
    return x, torch.tensor([1e-3, 0.4, 1.0], dtype=torch.float64), torch.tensor([0, 3, -1])


def one_by_one(
    learned: MetaLearned, x: Tensor, t: Tensor, labels: Tensor | None
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Answers, adapted weights and losses by definition: no vmap, the full spectrum, rates as they are in the paper."""
    dynamics = HeatSubVP(tuple(x.shape[2:]), x_norm=5.0, energy_norm=1.0)
    half, n = dynamics.metric, x.shape[-1]
    # the rest of the spectrum of a real field: f and -f share a weight
    flipped = half[..., 1 : (n + 1) // 2].flip(-1)
    full = torch.cat([half, flipped.flip(0).roll(1, 0)], dim=-1)
    answers, weights, losses = [], [], []
    for row in range(len(x)):
        one = slice(row, row + 1)
        inputs = (x[one], t[one], None if labels is None else labels[one])
        theta = dict(learned.network.named_parameters())
        rates = {name: None if learned.rates is None else learned.rates[name.replace(".", "-")] for name in theta}
        losses.append([])
        for _ in range(learned.steps):
            with sdpa_kernel(SDPBackend.MATH):  # the other kinds of attention have no second derivatives
                error = functional_call(learned.network, theta, inputs) - x[one]
            spectrum = torch.fft.fftn(error, dim=(-2, -1), norm="ortho").abs().square()
            loss = (full * spectrum).sum() / full.numel()
            grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True, allow_unused=True)
            losses[-1].append(loss.detach())
            for (name, value), grad in zip(list(theta.items()), grads, strict=True):
                if grad is None:
                    continue
                rate = rates[name]
                step = 0.05 * grad.clamp(-0.02, 0.02) if rate is None else rate.clamp(0, 1) * grad
                theta[name] = value - step
        answers.append(functional_call(learned.network, theta, inputs))
        weights.append(theta)
    stacked = {name: torch.stack([theta[name] for theta in weights]) for name in weights[0]}
    return torch.cat(answers), stacked, torch.tensor(losses).T.mean(1)


def outer_gradients(learned: MetaLearned, answer: Tensor) -> dict[str, Tensor]:
    """By ``backward``: recomputed steps do not take ``autograd.grad``."""
    learned.zero_grad()
    (answer * torch.arange(answer.numel(), dtype=answer.dtype).cos().view_as(answer)).sum().backward()
    zero = torch.zeros(())
    return {name: zero if p.grad is None else p.grad.clone() for name, p in learned.named_parameters()}


# The published numbers


def golden_learner(case: str, dtype: torch.dtype) -> tuple[MetaLearned, dict[str, Tensor], Tensor]:
    """The network of golden/inr.md, its arrays, and sqrt(metric) on the half spectrum."""
    arrays, grid, config = golden_arrays(case, dtype), GRIDS[case], MANIFEST[case]
    root = arrays["psm"][0, ..., : grid[-1] // 2 + 1, 0].double()
    learned = config["learned_rates"]
    network = MetaLearned(
        published(case, grid),
        Fourier(grid),
        root.square(),
        rate=config["rate"],
        learned_rates=learned,
        paper=learned,
    ).to(dtype)
    network.load_state_dict(inr_state_dict(golden_weights(case)))
    return network, arrays, root


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", GRIDS)
def test_inner_loop_is_the_published_one(case: str, dtype: torch.dtype) -> None:
    learned, arrays, _ = golden_learner(case, dtype)
    weights, losses = learned.adapt(as_images(arrays["corrupted"], GRIDS[case]), arrays["t"])
    assert_near(losses, arrays["inner_losses"], TOLERANCE[dtype])
    depth = len(MANIFEST[case]["layer_sizes"]) - 1
    compared = 0
    for key, want in arrays.items():
        name = key.removeprefix("adapted/params/")
        if key.startswith("adapted/") and "LR" not in name:
            got = weights[inr_name(name, depth).removeprefix("network.")]
            assert_near(got, torch.as_tensor(our_layout(name, want)), TOLERANCE[dtype])
            compared += 1
    assert compared == 2


def published_resize(learned: MetaLearned) -> MetaLearned:
    """The same network, which resizes coordinates as pixels, as the published code does; ours are true ones."""

    class Resized(INR):
        def _inputs(self, x: Tensor, t: Tensor, out_shape: Sequence[int] | None) -> Tensor:
            inputs = super()._inputs(x, t, None)
            if out_shape is None:
                return inputs
            return resize_linear(inputs.unflatten(-1, x.shape[2:]), out_shape).flatten(2)

    learned.network.__class__ = Resized
    return learned


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", GRIDS)
def test_answers_are_the_published_ones(case: str, dtype: torch.dtype) -> None:
    learned, arrays, _ = golden_learner(case, dtype)
    grid = GRIDS[case]
    x, t = as_images(arrays["corrupted"], grid), arrays["t"]
    fine = tuple(4 * n for n in grid)
    with torch.no_grad():
        assert_near(learned(x, t), as_images(arrays["output_after"], grid), TOLERANCE[dtype])
        finer = as_images(arrays["super_resolution_x4"], fine)
        assert_near(published_resize(learned)(x, t, out_shape=fine), finer, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", GRIDS)
def test_outer_loss_and_its_gradients_are_the_published_ones(case: str, dtype: torch.dtype) -> None:
    learned, arrays, root = golden_learner(case, dtype)
    grid, tolerance = GRIDS[case], TOLERANCE[dtype]
    error = learned(as_images(arrays["corrupted"], grid), arrays["t"]) - as_images(arrays["clean"], grid)
    squared = learned.basis.scale(root.unsqueeze(0), error).square()
    loss = squared.flatten(1).sum(1).mean() / error.shape[1]
    assert_near(loss, arrays["outer_loss_sum"], tolerance)
    loss.backward()
    depth = len(MANIFEST[case]["layer_sizes"]) - 1
    grads = {name: value.grad for name, value in learned.named_parameters()}
    compared = set()
    for key, want in arrays.items():
        kind, _, name = key.partition("/params/")
        if kind not in ("outer_grad", "outer_grad_norm"):
            continue
        ours = inr_name(name, depth)
        got = grads[ours]
        assert got is not None
        compared.add(ours)
        if kind == "outer_grad":
            assert_near(got, torch.as_tensor(our_layout(name, want)), tolerance)
        else:
            assert_near(got.norm(), want, tolerance)
    assert compared == set(grads)


@pytest.mark.parametrize("case", ["celeba", "small_lr_8x8"])
def test_learned_rates_double_the_parameters(case: str) -> None:
    network = published(case, (8, 8))
    learned = MetaLearned(network, Pixel(), torch.ones(()), learned_rates=True)
    assert sum(value.numel() for value in learned.parameters()) == MANIFEST[case]["total"]
    depth = len(MANIFEST[case]["layer_sizes"]) - 1
    names = [inr_name(name.removeprefix("params/"), depth) for name, _ in MANIFEST[case]["params"]]
    assert set(learned.state_dict()) == set(names)


# The definition, one sample at a time


@pytest.mark.parametrize("learned_rates", [False, True])
@pytest.mark.parametrize(("make", "grid"), [(inr, GRID), (Convolutions, GRID), (unet, (8, 8))])
def test_batch_is_a_loop_over_samples(
    make: Callable[[], nn.Module], grid: tuple[int, int], learned_rates: bool
) -> None:
    torch.manual_seed(0)
    learned, inputs = learner(make(), grid, learned_rates=learned_rates), batch(grid)
    answer, weights, losses = one_by_one(learned, *inputs)
    got_weights, got_losses = learned.adapt(*inputs)
    assert not got_losses.requires_grad
    torch.testing.assert_close(got_losses, losses, rtol=1e-10, atol=0)
    for name, want in weights.items():
        torch.testing.assert_close(got_weights[name], want, rtol=0, atol=1e-12)
    got = learned(*inputs)
    torch.testing.assert_close(got, answer, rtol=0, atol=1e-11)
    want_grads, got_grads = outer_gradients(learned, answer), outer_gradients(learned, got)
    scale = max(float(grad.abs().max()) for grad in want_grads.values())
    for name, want in want_grads.items():
        torch.testing.assert_close(got_grads[name], want.expand_as(got_grads[name]), rtol=1e-9, atol=1e-11 * scale)


def test_clip_bites_in_that_loop() -> None:
    """So that the test above would see a missing one."""
    inputs = batch()
    clipped, free = learner(inr(), clip=0.02), learner(inr(), clip=10.0)
    free.load_state_dict(clipped.state_dict())
    assert not torch.allclose(clipped(*inputs), free(*inputs), rtol=1e-2)


def test_loss_under_the_pixel_basis_is_the_squared_distance() -> None:
    network, (x, t, labels) = inr().double(), batch()
    learned = MetaLearned(network, Pixel(), torch.ones(()), steps=1)
    _, losses = learned.adapt(x, t, labels)
    want = (network(x, t, labels) - x).square().sum(1).mean()
    torch.testing.assert_close(losses, want.detach().unsqueeze(0), rtol=1e-12, atol=0)


def test_samples_do_not_see_each_other() -> None:
    learned, (x, t, labels) = learner(inr()), batch()
    whole = learned(x, t, labels)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(learned(x[one], t[one], labels[one]), whole[one], rtol=0, atol=1e-12)
    assert not torch.allclose(learned(x, t), whole, rtol=1e-3)  # labels reach the loop


@pytest.mark.parametrize("learned_rates", [False, True])
def test_fresh_steps_lower_the_loss(learned_rates: bool) -> None:
    torch.manual_seed(0)
    dynamics = HeatSubVP((16, 16), x_norm=16, energy_norm=1, beta_max=5)
    network = INR((16, 16), 1, 1, width=64, depth=15 if learned_rates else 8, y_input=learned_rates)
    learned = MetaLearned(network, dynamics.basis, dynamics.metric, learned_rates=learned_rates)
    x, t = torch.rand(2, 1, 16, 16) * 2 - 1, torch.tensor([0.2, 0.9])
    _, losses = learned.adapt(dynamics.perturb(x, t, torch.randn_like(x)), t)
    assert losses[0] > losses[1] > losses[2]


# Learned rates


def test_rates_outside_their_range_act_as_its_ends() -> None:
    learned, inputs = learner(inr(), learned_rates=True, steps=1), batch()
    assert learned.rates is not None
    with torch.no_grad():
        for low, high in ((-0.5, 0.0), (1.5, 1.0)):
            answers = []
            for value in (low, high):
                for rate in learned.rates.values():
                    rate.fill_(value)
                answers.append(learned(*inputs))
            torch.testing.assert_close(*answers, rtol=0, atol=0)


def test_clamping_brings_rates_back() -> None:
    learned = learner(inr(), learned_rates=True)
    before = {name: value.detach().clone() for name, value in learned.named_parameters()}
    with torch.no_grad():
        for name, value in learned.named_parameters():
            value.add_(before[name].sign() * (3 if name.endswith("bias") else -3))
    outside = {name: value.detach().clone() for name, value in learned.named_parameters()}
    learned.clamp_rates()
    for name, value in learned.named_parameters():
        want = outside[name].clamp(0, 1) if name.startswith("rates.") else outside[name]
        torch.testing.assert_close(value.detach(), want, rtol=0, atol=0)
    plain = learner(inr())
    plain.clamp_rates()


# Where it is called


def test_same_answer_without_gradients() -> None:
    learned, inputs = learner(inr()), batch()
    want = learned(*inputs).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = learned(*inputs)
            assert not got.requires_grad
            torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
            clone = tuple(value.clone() for value in inputs)  # made in this mode
            torch.testing.assert_close(learned(*clone), want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", [inr, Convolutions])
def test_recomputed_steps_give_the_same_gradients(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    kept, inputs = learner(make(), learned_rates=True), batch()
    again = learner(make(), learned_rates=True, checkpointing=True)
    again.load_state_dict(kept.state_dict())
    want, got = (outer_gradients(learned, learned(*inputs)) for learned in (kept, again))
    assert want["network.label_emb.weight"].any()
    for name, grad in want.items():
        torch.testing.assert_close(got[name], grad, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs), kept(*inputs), rtol=0, atol=0)


def test_recomputed_steps_draw_the_same_dropout() -> None:
    torch.manual_seed(0)
    network = UNet(8, 2, 16, 2, 1, (), 0.5, (1,), num_classes=5)
    kept = learner(network, (8, 8)).train()
    again = learner(network, (8, 8), checkpointing=True).train()
    again.load_state_dict(kept.state_dict())
    grads = []
    for learned in (kept, again, kept):
        torch.manual_seed(len(grads) // 2)
        grads.append(outer_gradients(learned, learned(*batch((8, 8))))["network.out.2.weight"])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(grads[2], grads[0], rtol=1e-3)  # another seed is another dropout


def test_under_autocast() -> None:
    for network in (inr(), Convolutions()):
        learned = learner(network).float()
        x, t, labels = batch()
        with torch.autocast("cpu", torch.bfloat16):
            answer = learned(x.float(), t, labels)
        answer.float().square().sum().backward()
        torch.testing.assert_close(answer.float(), learned(x.float(), t, labels), rtol=0.1, atol=0.1)
        assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inside the compiler
def test_inside_a_compiled_loss() -> None:
    learned, (x, t, _) = learner(INR(GRID, 2, 2, width=4, depth=1), steps=1), batch()
    got = torch.compile(learned, backend="eager", fullgraph=True)(x, t)
    want, grads = outer_gradients(learned, learned(x, t)), outer_gradients(learned, got)
    for name, grad in want.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-9, atol=1e-12)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": torch.ones(())}, r"metric must be of shape \(6, 3\), got \(\)"),
        ({"metric": -torch.ones(6, 3)}, "metric must be nowhere negative, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rate": 0.0}, "rate must be above 0 and finite, got 0.0"),
        ({"rate": 2.0, "learned_rates": True}, "rate must be at most 1 if rates are learned, got 2.0"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"paper": True}, "paper must be False without learned_rates, which it is about, got True"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    config: dict[str, Any] = {"network": inr(), "basis": Fourier(GRID), "metric": torch.ones(6, 3)}
    with pytest.raises(ValueError, match=message):
        MetaLearned(**config | change)


def test_wrong_networks_are_refused() -> None:
    x, t, labels = batch()
    with pytest.raises(ValueError, match=r"as many output as input channels, on the grid of x, \(2, 6, 5\), got \(1, "):
        learner(Convolutions(channels=1))(x, t, labels)
    with pytest.raises(ValueError, match="Convolutions works on one grid"):
        learner(Convolutions())(x, t, labels, out_shape=(12, 10))
