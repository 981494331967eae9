"""Optimisers and learning rates, against their formulas."""

import math

import pytest
import torch
from torch import Tensor, nn

from common.training.optimizers import OPTIMIZERS, SCHEDULERS, Schedule

LR, DECAY = 3e-3, 0.1


def walk(name: str, gradients: Tensor) -> Tensor:
    """The weight after each gradient, (steps,)."""
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([weight], LR, DECAY)
    path = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        path.append(weight.detach().clone())
    return torch.stack(path)


def by_hand(name: str, gradients: Tensor) -> Tensor:
    """Algorithm 2 of arXiv 1711.05101 (AdamW; Adam with the decay in the gradient), of 2010.07468 and of 1908.03265."""
    weight, mean, second, path = 2.0, 0.0, 0.0, []
    for k, raw in enumerate(gradients.tolist(), 1):
        gradient = raw + DECAY * weight if name in ("adam", "radam") else raw
        mean = 0.9 * mean + 0.1 * gradient
        deviation = gradient - mean if name == "adabelief" else gradient
        eps = 1e-16 if name == "adabelief" else 1e-8
        second = 0.999 * second + 0.001 * deviation**2 + (eps if name == "adabelief" else 0)
        if name not in ("adam", "radam"):
            weight -= LR * DECAY * weight
        step = LR * (mean / (1 - 0.9**k))
        rectified = 2 / (1 - 0.999) - 1 - 2 * k * 0.999**k / (1 - 0.999**k)  # rho_t, of the most that it may be, 1999
        if name != "radam":
            weight -= step / (math.sqrt(second / (1 - 0.999**k)) + eps)
        elif rectified > 5:
            share = (rectified - 4) * (rectified - 2) * 1999 / ((1999 - 4) * (1999 - 2) * rectified)
            weight -= step * math.sqrt(share) * math.sqrt(1 - 0.999**k) / (math.sqrt(second) + eps)
        else:
            weight -= step
        path.append(weight)
    return torch.tensor(path, dtype=torch.float64)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_follow_their_papers(name):
    gradients = torch.randn(30, dtype=torch.float64)
    assert torch.allclose(walk(name, gradients), by_hand(name, gradients), rtol=1e-10, atol=0)


def rates(name: str, schedule: Schedule, steps: int) -> list[float]:
    optimizer = OPTIMIZERS["adam"]([nn.Parameter(torch.zeros(1))], schedule.peak, 0.0)
    scheduler = SCHEDULERS[name](optimizer, schedule)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warmup_cosine_is_the_published_one():
    # FDP's INR on MNIST, scaled down: peak 3.3e-5, end 1e-5; decay steps count from the start
    found = rates("warmup_cosine", Schedule(3.3e-5, 60, warmup_steps=6, decay_steps=30, end=1e-5), 60)
    assert found[0] == 0
    assert found[3] == pytest.approx(3.3e-5 / 2)
    assert found[6] == pytest.approx(3.3e-5)
    assert found[18] == pytest.approx((3.3e-5 + 1e-5) / 2)  # half of the cosine
    assert found[24] == pytest.approx(1e-5 + 2.3e-5 * (1 + math.cos(math.pi * 0.75)) / 2)
    assert found[30:] == pytest.approx([1e-5] * 30)


def test_warmup_cosine_ends_with_the_training_by_default():
    found = rates("warmup_cosine", Schedule(1.0, 50, warmup_steps=10), 50)
    assert found[49] == pytest.approx((1 + math.cos(math.pi * 39 / 40)) / 2)
    assert max(found) == 1.0


def test_constant_is_constant():
    assert rates("constant", Schedule(0.5, 5), 5) == [0.5] * 5
