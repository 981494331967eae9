"""The average of the weights: the decay of the published runs, the recurrence, what it never touches."""

import copy

import pytest
import torch
from torch import nn

from common.training import ema
from common.training.ema import NetworkAverage, warm_decay


class PublishedCounter:
    """The schedule of ema-pytorch 0.7.7 with its defaults, which the published runs used.

    It counts its calls before it computes a decay, averages on every tenth call from the first, and only copies up to
    call 101: decay(call) = 1 - (1 + call - 101)^(-2/3), at most beta.
    """

    def __init__(self, beta: float, every: int = 10) -> None:
        self.beta, self.every, self.calls = beta, every, 0

    def call(self) -> float | None:
        """The decay of this call's average; None where there is none, 0 for a copy."""
        before, self.calls = self.calls, self.calls + 1
        if before % self.every:
            return None
        epoch = max(self.calls - 101, 0)
        return 0.0 if epoch == 0 else min(self.beta, 1 - (1 + epoch) ** (-2 / 3))


@pytest.mark.parametrize("beta", [0.9999, 0.999, 0.95])
def test_decays_are_those_of_the_published_runs(beta):
    counter = PublishedCounter(beta)
    published = [decay for decay in (counter.call() for _ in range(20001)) if decay is not None]
    # its first average copies the initial weights; ours begin after step 10
    ours = [warm_decay(step, beta) for step in range(10, 20001, 10)]
    assert ours == pytest.approx(published[1:], abs=1e-12)


@pytest.mark.parametrize(
    ("step", "decay", "tolerance"),
    [(1, 0, 0), (50, 0, 0), (100, 0, 0), (1000, 0.9893, 5e-5), (10000, 0.9978, 5e-5), (50000, 0.99926, 5e-6)],
)
def test_published_values_of_the_decay(step, decay, tolerance):
    assert warm_decay(step, 0.9999) == pytest.approx(decay, abs=tolerance)


def test_decay_is_capped_and_never_falls():
    decays = [warm_decay(step, 0.98) for step in range(2000)]
    assert decays == sorted(decays)
    assert max(decays) == 0.98
    assert all(decay < 0.98 for decay in decays[:150])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def shake(net: nn.Module) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize(("every", "decay"), [(1, 0.9), (5, 0.6), (7, 0.99)])
def test_average_is_the_recurrence(every, decay):
    net = network()
    average = NetworkAverage(net, decay=decay, every=every)
    expected = {name: value.double() for name, value in net.state_dict().items()}
    for step in range(1, 161):
        shake(net)
        average.update(net, step)
        if step % every == 0:
            keep = 0.0 if step <= 100 else min(decay, 1 - (step - 99) ** (-2 / 3))
            expected = {k: keep * v + (1 - keep) * net.state_dict()[k].double() for k, v in expected.items()}
    for name, value in average.module.state_dict().items():
        assert torch.allclose(value.double(), expected[name], rtol=1e-5, atol=1e-5), name
    assert int(average.n_averaged) == 160 // every


def test_updates_happen_every_n_steps_only():
    net = network()
    average = NetworkAverage(net, decay=0.9, every=4)
    start = copy.deepcopy(average.module.state_dict())
    for step in (1, 2, 3):
        shake(net)
        average.update(net, step)
        assert all(torch.equal(value, start[name]) for name, value in average.module.state_dict().items())
    average.update(net, 4)  # up to step 100 the weights are copied
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in average.module.state_dict().items())


def test_first_update_late_in_training_copies():
    """With n > 100 there is nothing to average with at step n: the initial weights say nothing."""
    net = network()
    average = NetworkAverage(net, decay=0.9, every=150)
    shake(net)
    average.update(net, 150)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in average.module.state_dict().items())


def test_average_is_apart_from_the_network():
    net = network()
    average = NetworkAverage(net, decay=0.9, every=1)
    addresses = {parameter.data_ptr() for parameter in net.parameters()}
    assert not any(parameter.data_ptr() in addresses for parameter in average.parameters())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    before = copy.deepcopy(net.state_dict())
    average.update(net, 1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dropout_stays_off():
    average = NetworkAverage(network().train(), decay=0.9, every=1)
    wrapped = nn.ModuleDict({"average": average})
    wrapped.train()  # what Lightning does before every epoch and after every validation
    assert not any(part.training for part in average.modules())
    x = torch.randn(8, 3)
    assert torch.equal(average(x), average(x))


def test_state_survives_a_checkpoint():
    net = network()
    average = NetworkAverage(net, decay=0.9, every=1)
    for step in (101, 102, 103):
        shake(net)
        average.update(net, step)
    other = NetworkAverage(network(), decay=0.9, every=1)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    shake(net)
    for part in (average, other):
        part.update(net, 104)
    assert int(other.n_averaged) == 4
    assert all(torch.equal(value, average.state_dict()[name]) for name, value in other.state_dict().items())


def test_warm_up_begins_where_the_published_one_does():
    assert (ema.START, ema.POWER) == (100, 2 / 3)


@pytest.mark.gpu
def test_count_of_updates_stays_on_the_cpu():
    net = network().cuda()
    average = NetworkAverage(net, decay=0.9, every=1).cuda()
    assert average.n_averaged.device.type == "cpu"
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (1, 2, 101, 102):
            average.update(net, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(average.n_averaged) == 4
    assert all(parameter.is_cuda for parameter in average.parameters())
