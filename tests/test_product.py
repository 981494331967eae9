"""Any dynamics with any network: every pair trains a step and samples, and nothing in the program names a pair."""

import pytest
import torch
from torch import Tensor

from common.config.build import build_denoiser
from common.denoiser import Denoiser
from common.refusal import Refusal
from common.samplers import sample
from tests.cli.test_flags import fitted

DYNAMICS = {
    "fvp": "--hurst 0.9 --num_aug 2",
    "fve": "--hurst 0.7 --num_aug 2",
    "vp": "",
    "cld": "",
    "heat": "--energy_norm 8",
}
NETWORKS = {
    "unet": "--model_channels 16 --channel_mult 1,1 --num_res_blocks 1 --attn_resolutions 2",
    "uvit": "--embed_dim 16 --depth 3 --num_heads 2",
    "inr": "--width 16 --depth 2",
}
OF_FUNCTIONS = {
    "unet1d": "--model_channels 8 --channel_mult 2,2",
    "uvit": NETWORKS["uvit"],
    "inr": NETWORKS["inr"],
}


def make(dynamics: str, network: str, shape: tuple[int, ...] = (1, 8, 8), more: str = "") -> Denoiser:
    """The denoiser that train.py would make."""
    words = f"--dynamics {dynamics} {DYNAMICS[dynamics]} --model_name {network} "
    words += f"{(NETWORKS | OF_FUNCTIONS)[network]} {more}"
    return build_denoiser(fitted(*words.split(), shape=shape))


def step(denoiser: Denoiser, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Loss on one batch before and after one small step of gradient descent on it."""
    t, noise, labels = torch.linspace(0.1, 1, len(x0)), torch.randn_like(x0), torch.arange(len(x0))

    def loss() -> Tensor:
        return denoiser.error(x0, t, noise, labels).mean()

    optimizer = torch.optim.SGD(denoiser.backbone.parameters(), lr=1.0)
    before = loss()
    before.backward()
    slope = sum(float(p.grad.square().sum()) for p in denoiser.backbone.parameters() if p.grad is not None)
    assert slope > 0
    optimizer.param_groups[0]["lr"] = 1e-3 * float(before.detach()) / slope  # a thousandth of the loss, to first order
    optimizer.step()
    return before.detach(), loss().detach()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_every_pair_trains_and_samples(dynamics, network):
    denoiser = make(dynamics, network)
    before, after = step(denoiser, torch.rand(3, 1, 8, 8) * 2 - 1)
    assert 0.998 * before < after < before
    process = denoiser.dynamics
    for path, solver in ((process.scalar_path(), "exp2"), (process, "em")):
        result = sample(path, denoiser.eval(), (4, 1, 8, 8), solver=solver, steps=3, seeds=range(4),
                        labels=torch.arange(4))  # fmt: skip
        assert result.x.shape == (4, 1, 8, 8)
        assert result.x.isfinite().all()
        assert result.nfe == 3
        assert (result.x[0] - result.x[1]).abs().max() > 1e-3


@pytest.mark.parametrize("network", OF_FUNCTIONS)
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_functions_of_one_variable(dynamics, network):
    denoiser = make(dynamics, network, (2, 12))
    before, after = step(denoiser, torch.rand(3, 2, 12) * 2 - 1)
    assert 0.998 * before < after < before
    path = denoiser.dynamics.scalar_path()
    assert sample(path, denoiser, (2, 2, 12), solver="exp1", steps=2).x.isfinite().all()


@pytest.mark.parametrize(("network", "more"), [("unet", "--dropout 0"), ("uvit", "")])
def test_any_network_can_adapt_to_its_input(network, more):
    """Meta-learning is no part of the coordinate network."""
    denoiser = make("heat", network, more=f"{more} --inner_steps 2 --learned_rates True")
    plain = make("heat", network, more=more)
    assert sum(p.numel() for p in denoiser.backbone.parameters()) == 2 * sum(
        p.numel() for p in plain.backbone.parameters()
    )


def test_a_unet_is_refused_on_functions():
    with pytest.raises(ValueError, match="model_name unet works on images; --data_name digits has samples of 12"):
        make("heat", "unet", (1, 12))


def test_a_network_for_functions_is_refused_on_images():
    with pytest.raises(Refusal, match="unet1d works on functions of one variable; for images take unet or uvit"):
        make("fvp", "unet1d")
