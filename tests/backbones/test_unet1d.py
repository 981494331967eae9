"""The network for functions of one variable: any length, labels, places."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.backbones import UNet1D
from common.refusal import Refusal

SMALL: dict[str, Any] = {
    "shape": (13,), "in_channels": 2, "out_channels": 3, "num_classes": 4, "model_channels": 8,
    "channel_mult": (2, 2, 4), "num_heads": 2,
}  # fmt: skip


def live_net(dtype: torch.dtype = torch.float64, **changes: Any) -> UNet1D:
    """A network with random weights everywhere, also where a fresh one has zeros."""
    net = UNet1D(**SMALL | changes).to(dtype).eval()
    with torch.no_grad():
        for value in net.parameters():
            value += torch.randn_like(value) * (0.3 if value.ndim == 1 else value[0].numel() ** -0.5)
    return net


def batch(length: int = 13, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(3, 2, length, dtype=dtype), torch.tensor([0.1, 0.5, 1.0], dtype=dtype), torch.tensor([0, 3, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 3, 12, 13, 50])
def test_any_length_in_the_type_of_the_weights(length, dtype):
    x, t, labels = batch(length, dtype)
    out = live_net(dtype)(x, t, labels)
    assert out.shape == (3, 3, length)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert not UNet1D(**SMALL).to(dtype)(x, t, labels).any()  # a fresh one returns zeros


def test_every_parameter_is_reached():
    net = live_net()
    net(*batch()).square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_labels_times_and_rows():
    net, (x, t, labels) = live_net(), batch()
    out = net(x, t, labels)
    assert (out - net(x, t, torch.tensor([1, 3, 1])))[0].abs().max() > 1e-3
    assert (out - net(x, t.flip(0), labels))[0].abs().max() > 1e-3
    bare = net(x, t, torch.full((3,), -1))  # no label has no embedding
    assert torch.equal(bare, net(x, t))
    with torch.no_grad():
        assert net.label_emb is not None
        net.label_emb.weight += 1
    assert torch.equal(bare, net(x, t, torch.full((3,), -1)))
    for i in range(3):  # rows do not mix
        alone = net(x[i : i + 1], t[i : i + 1], torch.tensor([-1]))
        assert torch.allclose(alone[0], bare[i], rtol=1e-10, atol=1e-10)


def test_places_matter():
    """A constant function comes out the same everywhere far from its ends, were it not for the places."""
    net, length = live_net(channel_mult=(2,)), 400  # without attention's reach and strides nothing else differs
    x, t = torch.ones(1, 2, length, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    middle = slice(length // 4, -length // 4)
    assert net(x, t)[..., middle].std(-1).min() > 1e-3
    with torch.no_grad():
        net.enter.weight[:, 2:] = 0
    assert net(x, t)[..., middle].std(-1).max() < 1e-9


def test_places_run_from_0_to_1_over_the_given_points():
    """Whatever is filled up behind them: the last point of 13 has place 1, as the last of 16."""
    for length in (13, 16):
        places = UNet1D._places(torch.zeros(1, 2, 16), length)[0]
        assert places[0, 0] == 0
        assert places[0, length - 1] == 1
        assert torch.allclose(places[1, length - 1], torch.tensor(-1.0))  # cos pi


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"shape": (8, 8)}, "model_name"),
        ({"model_channels": 12}, "model_channels"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_heads": 3}, "num_heads"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_refusals(changes, name):
    with pytest.raises(Refusal) as caught:
        UNet1D(**SMALL | changes)
    assert caught.value.argument == name


def test_another_shape_is_no_input():
    with pytest.raises(ValueError, match=r"\(B, 2, L\), got \(3, 1, 13\)"):
        live_net()(torch.zeros(3, 1, 13, dtype=torch.float64), *batch()[1:])
