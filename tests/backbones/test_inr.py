"""The coordinate network: the published numbers (golden/inr.md), its derivatives, and what a backbone promises."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.backbones import INR
from common.backbones.inr import coordinates, windowed_sine
from common.backbones.resizing import resize_linear, spread_linear
from common.refusal import Refusal
from fdp.flax_names import inr_name, inr_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST: dict[str, dict[str, Any]] = json.loads((GOLDEN / "inr_manifest.json").read_text())
GRIDS = {"mnist_cfg_16x16": (16, 16), "small_lr_8x8": (8, 8)}
ARCHIVES = {torch.float64: "inr_forward_f64.npz", torch.float32: "inr_forward.npz"}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest entry

Array = NDArray[np.float64]


def golden_arrays(case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    with np.load(GOLDEN / ARCHIVES[dtype]) as archive:
        return {key.removeprefix(f"{case}/"): torch.from_numpy(archive[key]) for key in archive.files if case in key}


def golden_weights(case: str) -> dict[str, Array]:
    """The recipe of golden/inr.md, by Flax name."""
    weights = {}
    for i, (name, shape) in enumerate(MANIFEST[case]["params"]):
        n = np.arange(math.prod(shape))
        u = (2 * ((7919 * n * n + 104729 * n + 1299709 * i) % 1000003) / 1000003 - 1).reshape(shape)
        name = name.removeprefix("params/")
        if name.startswith("DenseLR"):
            weights[name] = 0.005 * (1 + 0.9 * u)
        elif name.endswith("bias"):
            weights[name] = 0.01 * u
        else:
            weights[name] = u / shape[0] if name == "Dense_0/kernel" else u * np.sqrt(6 / shape[0]) / 30
    return weights


def published(case: str, grid: tuple[int, ...]) -> INR:
    sizes = MANIFEST[case]["layer_sizes"]
    return INR(grid, sizes[-1], sizes[-1], width=sizes[0], depth=len(sizes) - 1, y_input=MANIFEST[case]["y_input"])


def as_images(points: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, points, C) to (B, C, *grid)."""
    return points.mT.unflatten(-1, grid)


def assert_near(got: Tensor, want: Tensor, tolerance: float) -> None:
    """Largest difference, in units of the largest entry wanted."""
    assert got.shape == want.shape
    got, want = got.detach(), want.detach()
    error = float((got - want).abs().max() / want.abs().max())
    assert error <= tolerance, f"off by {error:.1e} of the scale"


def live_net(shape: tuple[int, ...] = (6, 5), dtype: torch.dtype = torch.float64, **changes: Any) -> INR:
    """A small network with random weights everywhere, also where a fresh one has zeros."""
    config: dict[str, Any] = {"width": 12, "depth": 3, "num_classes": 5} | changes
    net = INR(shape, 2, 3, **config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if not name.endswith(".weight") or "emb" in name:
                value.copy_(0.05 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return net


def small_batch(shape: tuple[int, ...] = (6, 5), dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.tensor([1e-3, 0.4, 1.0], dtype=torch.float64), torch.tensor([0, 3, -1])


def by_the_formula(net: INR, x: Array, t: Array, labels: Array | None, places: list[Array]) -> Array:
    """The network in NumPy, points first, with explicit concatenation. x (B, C, *S), places one axis each."""
    p = {key: value.double().detach().numpy() for key, value in net.state_dict().items()}
    grid = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, len(places))
    rows = []
    for b in range(len(x)):
        parts = [grid, x[b].reshape(len(x[b]), -1).T] if net.y_input else [grid]
        u = np.concatenate([*parts, np.full((len(grid), 1), 2 * t[b] - 1)], axis=1)
        h = u
        for i in range(len(net.hidden)):
            z = h @ p[f"hidden.{i}.weight"].T + p[f"hidden.{i}.bias"]
            if labels is not None and labels[b] >= 0:
                width = z.shape[1]
                z = z + p["label_emb.weight"][labels[b], i * width : (i + 1) * width]
            h = np.concatenate([np.sin(net.frequency * z) * np.exp(-net.decay * z**2), u], axis=1)
        rows.append((h @ p["out.weight"].T + p["out.bias"]).T.reshape(-1, *map(len, places)))
    return np.stack(rows)


# The published network


@pytest.mark.parametrize("case", ["mnist_cfg_16x16", "small_lr_8x8", "celeba", "spoken"])
def test_parameters_are_the_published_ones(case: str) -> None:
    net = published(case, (8,) if case == "spoken" else (8, 8))
    depth = len(net.hidden)
    want = {
        inr_name(name.removeprefix("params/"), depth): tuple(reversed(shape))
        for name, shape in MANIFEST[case]["params"]
        if "DenseLR" not in name
    }
    assert {f"network.{key}": tuple(value.shape) for key, value in net.state_dict().items()} == want
    assert sum(value.numel() for value in net.parameters()) == MANIFEST[case]["total_without_rates"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", GRIDS)
def test_outputs_are_the_published_ones(case: str, dtype: torch.dtype) -> None:
    arrays, grid = golden_arrays(case, dtype), GRIDS[case]
    net = published(case, grid).to(dtype)
    state = inr_state_dict(golden_weights(case))
    net.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    got = net(as_images(arrays["corrupted"], grid), arrays["t"])
    assert_near(got, as_images(arrays["output_before"], grid), TOLERANCE[dtype])


def test_names_of_other_networks_are_refused() -> None:
    for name in ("Dense_4/kernel", "Dense_0/scale", "Conv_0/kernel", "params/Dense_0/kernel"):
        with pytest.raises(ValueError, match="not a parameter of the published INR of 3 hidden layers"):
            inr_name(name, 3)


def test_weights_start_as_published() -> None:
    net = INR((8, 8), 3, 3, num_classes=4)
    for i, layer in enumerate([*net.hidden, net.out]):
        n = 6 + 256 * (i > 0)
        bound = 1 / n if i == 0 else math.sqrt(6 / n) / 30
        assert layer.weight.shape[1] == n
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.06)
        assert not layer.bias.any()
    assert net.label_emb is not None
    assert not net.label_emb.weight.any()


# The formula


@pytest.mark.parametrize("y_input", [True, False])
@pytest.mark.parametrize("shape", [(7,), (6, 5), (2, 3, 4), (1, 4)])
def test_network_is_its_formula(shape: tuple[int, ...], y_input: bool) -> None:
    net, (x, t, labels) = live_net(shape, y_input=y_input, frequency=7.0, decay=2.0), small_batch(shape)
    places = [2 * np.arange(n) / (max(shape) - 1) - 1 for n in shape]
    want = by_the_formula(net, x.numpy(), t.numpy(), labels.numpy(), places)
    assert_near(net(x, t, labels), torch.from_numpy(want), 1e-12)
    unlabelled = by_the_formula(net, x.numpy(), t.numpy(), None, places)
    assert_near(net(x, t), torch.from_numpy(unlabelled), 1e-12)


def test_only_the_longest_axis_reaches_one() -> None:
    got = coordinates((3, 5), torch.device("cpu"), torch.float64)
    np.testing.assert_allclose(got[1, 0], [-1, -0.5, 0, 0.5, 1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got[0, :, 0], [-1, -0.5, 0], rtol=0, atol=1e-15)


def test_windowed_sine_and_its_first_three_derivatives() -> None:
    z = torch.linspace(-0.9, 1.1, 41, dtype=torch.float64, requires_grad=True)
    plain = torch.sin(7 * z) * torch.exp(-3 * z**2)
    got = windowed_sine(z, 7.0, 3.0)
    with torch.no_grad():
        torch.testing.assert_close(windowed_sine(z, 7.0, 3.0), plain, rtol=0, atol=1e-15)
    for order in range(4):
        torch.testing.assert_close(got, plain, rtol=1e-12, atol=1e-12 * 10**order)
        (got,) = torch.autograd.grad(got.sum(), z, create_graph=True)
        (plain,) = torch.autograd.grad(plain.sum(), z, create_graph=True)


def test_windowed_sine_against_finite_differences() -> None:
    z = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def function(z: Tensor) -> Tensor:
        return windowed_sine(z, 5.0, 2.0)

    assert torch.autograd.gradcheck(function, (z,))
    assert torch.autograd.gradgradcheck(function, (z,))


def test_windowed_sine_under_function_transforms() -> None:
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def slope(function: Any) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda row: function(row).square().sum()))(z)

    got = slope(lambda row: windowed_sine(row, 5.0, 2.0))
    want = slope(lambda row: torch.sin(5 * row) * torch.exp(-2 * row**2))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    first, second = (torch.autograd.grad(value.cos().sum(), z)[0] for value in (got, want))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


# Other grids


def test_a_subset_of_points_gives_a_subset_of_the_output() -> None:
    net, (x, t, labels) = live_net((9, 9), y_input=False), small_batch((9, 9))
    fine, coarse = net(x, t, labels), net(x[..., ::2, ::2], t, labels)  # 9 points and every other one of them
    assert_near(coarse, fine[..., ::2, ::2], 1e-12)


@pytest.mark.parametrize("out_shape", [(12, 10), (3, 4), (13, 5)])
@pytest.mark.parametrize("y_input", [True, False])
def test_another_grid_sees_true_coordinates_and_values_between(out_shape: tuple[int, int], y_input: bool) -> None:
    net, (x, t, labels) = live_net(y_input=y_input), small_batch()
    places = [np.linspace(-1, 1, out_shape[0]), np.linspace(-1, -1 + 2 * 4 / 5, out_shape[1])]  # of a grid of 6 x 5
    values = F.interpolate(x, out_shape, mode="bilinear", align_corners=True).numpy()
    want = by_the_formula(net, values, t.numpy(), labels.numpy(), places)
    assert_near(net(x, t, labels, out_shape=out_shape), torch.from_numpy(want), 1e-12)


def test_a_finer_grid_is_the_function_of_the_network_and_holds_the_coarse_one() -> None:
    """One layer without a window is a sum of sines of known frequencies: band-limited, and known everywhere."""
    torch.manual_seed(0)
    net = INR((9,), 1, 1, width=6, depth=1, decay=0.0, frequency=10.0, y_input=False).double()
    t = torch.tensor([0.3], dtype=torch.float64)
    place = torch.linspace(-1, 1, 129, dtype=torch.float64)
    inputs = torch.stack([place, torch.full_like(place, 2 * 0.3 - 1)])
    hidden = (10 * (net.hidden[0].weight @ inputs + net.hidden[0].bias.unsqueeze(1))).sin()
    want = net.out.weight @ torch.cat([hidden, inputs]) + net.out.bias.unsqueeze(1)
    with torch.no_grad():
        fine = net(torch.zeros(1, 1, 9, dtype=torch.float64), t, out_shape=(129,))
        coarse = net(torch.zeros(1, 1, 9, dtype=torch.float64), t)
    assert_near(fine[0], want.detach(), 1e-12)
    assert_near(fine[..., ::16], coarse, 1e-12)


@pytest.mark.parametrize(("old", "new"), [((5,), (9,)), ((5,), (2,)), ((4, 3), (7, 12)), ((1,), (4,))])
def test_values_spread_keep_their_ends(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, *old, dtype=torch.float64)
    mode = {1: "linear", 2: "bilinear"}[len(old)]
    assert_near(spread_linear(x, new), F.interpolate(x, new, mode=mode, align_corners=True), 1e-13)


def test_a_single_new_point_lies_in_the_middle() -> None:
    assert spread_linear(torch.tensor([[0.0, 1.0, 4.0, 9.0]]), (1,)).tolist() == [[2.5]]


def test_its_own_grid_named_changes_nothing() -> None:
    net, batch = live_net(), small_batch()
    torch.testing.assert_close(net(*batch, out_shape=(6, 5)), net(*batch), rtol=0, atol=0)


@pytest.mark.parametrize("case", GRIDS)
def test_coordinates_resize_as_published(case: str) -> None:
    place = coordinates(GRIDS[case], torch.device("cpu"), torch.float64)
    want = golden_arrays(case, torch.float64)["resized_coords_x4_first_column"]
    got = resize_linear(place, [4 * n for n in GRIDS[case]])
    assert_near(got[1, 0], want, 1e-12)
    assert_near(got[0, :, 0], want, 1e-12)


@pytest.mark.parametrize(("shape", "new", "mode"), [((5,), (13,), "linear"), ((3, 4, 2), (5, 8, 7), "trilinear")])
def test_resizing_along_any_number_of_axes(shape: tuple[int, ...], new: tuple[int, ...], mode: str) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    assert_near(resize_linear(x, new), F.interpolate(x, new, mode=mode, align_corners=False), 1e-13)


# Promises of a backbone


def test_fresh_labels_change_nothing_and_live_ones_do() -> None:
    x, t, labels = small_batch()
    fresh, live = INR((6, 5), 2, 3, width=12, depth=3, num_classes=5).double(), live_net()
    torch.testing.assert_close(fresh(x, t, labels), fresh(x, t), rtol=0, atol=0)
    change = (live(x, t, labels) - live(x, t)).abs().amax((1, 2, 3))
    assert (change > 1e-3).tolist() == [True, True, False]  # the last row has no label


def test_an_unconditional_network_ignores_labels() -> None:
    net, (x, t, labels) = live_net(num_classes=None), small_batch()
    torch.testing.assert_close(net(x, t, labels), net(x, t), rtol=0, atol=0)


def test_items_of_a_batch_do_not_mix() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    whole = net(x, t, labels)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(net(x[one], t[one], labels[one]), whole[one], rtol=0, atol=1e-13)


def test_gradient_reaches_every_parameter_and_input() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    x.requires_grad_()
    wanted = dict(net.named_parameters()) | {"x": x}
    grads = torch.autograd.grad(net(x, t, labels).square().sum(), list(wanted.values()))
    assert [name for name, grad in zip(wanted, grads, strict=True) if not float(grad.abs().max()) > 1e-9] == []


def test_half_precision_does_not_reach_the_coordinates() -> None:
    net, (x, t, labels) = live_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(x, t, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, net(x, t, labels), rtol=0, atol=0)


def test_state_dict_round_trip() -> None:
    net, other = live_net(), INR((6, 5), 2, 3, width=12, depth=3, num_classes=5).double()
    other.load_state_dict(net.state_dict(), strict=True)
    torch.testing.assert_close(other(*small_batch()), net(*small_batch()), rtol=0, atol=0)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": ()}, "shape must be sizes of at least 1, the largest at least 2, got ()"),
        ({"shape": (1, 1)}, "shape must be sizes of at least 1, the largest at least 2, got (1, 1)"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"frequency": 0.0}, "frequency must be above 0 and finite, got 0.0"),
        ({"decay": -1.0}, "decay must be at least 0 and finite, got -1.0"),
        ({"num_classes": 0}, "num_classes must be at least 1, or None, got 0"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal) as caught:
        INR(**{"shape": (8, 8), "in_channels": 1, "out_channels": 1, "width": 4, "depth": 1} | change)
    assert str(caught.value) == message


def test_wrong_shapes_are_refused() -> None:
    net: nn.Module = live_net()
    x, t, labels = small_batch()
    for wrong in (x[:, :1], x[..., 0], x.unsqueeze(-1), x[..., :1, :1]):
        with pytest.raises(ValueError, match=r"x must be of shape \(B, 2, S0, S1\), got \(3, "):
            net(wrong, t)
    with pytest.raises(ValueError, match=r"t must be of shape \(B,\)"):
        net(x, t[:1])
    with pytest.raises(ValueError, match=r"labels must be of shape \(B,\)"):
        net(x, t, labels[:1])
    for shape in ((4,), (4, 0)):
        with pytest.raises(ValueError, match="target_shape must be 2 sizes of at least 1"):
            net(x, t, out_shape=shape)
