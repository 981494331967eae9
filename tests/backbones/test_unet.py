"""The UNet: the published names and numbers (golden/unet.md), and what a backbone promises."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.backbones import UNet
from common.backbones.embeddings import sinusoidal_embedding
from common.backbones.unet import Attention

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "unet_manifest.json").read_text())

Array = NDArray[np.float64]
Config = dict[str, Any]

SMALL: Config = {
    "image_size": 8,
    "in_channels": 2,
    "model_channels": 16,
    "out_channels": 3,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "num_classes": 5,
}


def published_config(name: str) -> Config:
    config = MANIFEST[name]["config"]
    kept = {
        key: config[key] for key in ("image_size", "model_channels", "num_res_blocks", "channel_mult", "num_classes")
    }
    return dict(
        kept,
        in_channels=config["channels"],
        out_channels=config["channels"],
        attention_resolutions=config["attn_resolutions"],
        dropout=config["dropout"],
    )


def golden_config(name: str) -> Config:
    if name == "mnist":
        return published_config("mnist")
    return {
        "image_size": 32,
        "in_channels": 3,
        "model_channels": 32,
        "out_channels": 3,
        "num_res_blocks": 1,
        "attention_resolutions": [8],
        "channel_mult": [1, 2, 2, 2],
        "num_classes": 10 if name == "cifar_small" else None,
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    with np.load(GOLDEN / "unet_forward.npz") as archive:
        return {key: archive[key] for key in archive.files}


@torch.no_grad()
def fill(net: nn.Module, amplitude: float = 0.05) -> None:
    """The weights of golden/unet.md."""
    for i, (name, value) in enumerate(net.state_dict().items()):
        wave = amplitude * np.sin(0.1 * i + np.arange(value.numel()))
        is_norm_scale = value.ndim == 1 and name.endswith(".weight")
        value.copy_(torch.from_numpy((wave + is_norm_scale).reshape(tuple(value.shape))))


def golden_run(name: str) -> tuple[UNet, Tensor, dict[str, float]]:
    """The filled network, its output for the inputs of golden/unet.md, and the norm of each block's output by name."""
    config = golden_config(name)
    net = UNet(**config).double().eval()
    fill(net)
    norms: dict[str, float] = {}
    blocks = {f"input_blocks.{i}": block for i, block in enumerate(net.input_blocks)}
    blocks |= {"middle_block": net.middle_block}
    blocks |= {f"output_blocks.{i}": block for i, block in enumerate(net.output_blocks)}
    for key, block in blocks.items():
        block.register_forward_hook(lambda _, __, out, key=key: norms.update({key: out.norm().item()}))
    shape = (3, config["in_channels"], config["image_size"], config["image_size"])
    x = torch.from_numpy(np.sin(np.arange(math.prod(shape))).reshape(shape))
    out = net(x, torch.tensor([1e-5, 0.5, 1.0], dtype=torch.float64), torch.tensor([0, 3, 9]))
    return net, out, norms


def cos_loss(out: Tensor) -> Tensor:
    return (out.flatten() * torch.arange(out.numel(), dtype=out.dtype).cos()).sum()


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).detach().norm() / want.detach().double().norm())


def live_net(dtype: torch.dtype = torch.float64, **changes: Any) -> UNet:
    """A small network in evaluation mode with random weights everywhere, also where a fresh one has zeros."""
    generator = torch.Generator().manual_seed(0)
    net = UNet(**SMALL | changes).double().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            is_norm_scale = value.ndim == 1 and name.endswith(".weight")
            value.copy_(noise / value[0].numel() ** 0.5 if value.ndim > 1 else 0.1 * noise + is_norm_scale)
    return net.to(dtype)


def small_batch(dtype: torch.dtype = torch.float64, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 2, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.rand(batch, generator=generator, dtype=torch.float64).to(dtype)
    return x, t, torch.arange(batch) + 1


@torch.no_grad()
def test_height_and_width_are_alike_and_may_differ() -> None:
    """A network whose kernels are transposed gives the transposed answer to a transposed image."""
    upright, lying = live_net(image_size=(12, 8)), live_net(image_size=(8, 12))
    for name, value in upright.state_dict().items():
        lying.state_dict()[name].copy_(value.mT if value.ndim == 4 else value)
    _, t, labels = small_batch()
    x = torch.randn(3, 2, 12, 8, dtype=torch.float64)
    out = upright(x, t, labels)
    assert out.shape == (3, 3, 12, 8)
    assert out.std() > 0.1
    torch.testing.assert_close(lying(x.mT, t, labels), out.mT, rtol=0, atol=1e-12)
    square = live_net(image_size=(8, 8))
    torch.testing.assert_close(square(x[:, :, :8], t, labels), live_net()(x[:, :, :8], t, labels), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"of shape \(B, 2, 12, 8\), got \(3, 2, 8, 12\)"):
        upright(x.mT, t, labels)


# The published network


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_state_dict_has_the_published_names_order_and_shapes(name: str, conditional: bool) -> None:
    config = published_config(name)
    expected = [(key, tuple(shape)) for key, shape in MANIFEST[name]["state_dict"]]
    if not conditional:
        config["num_classes"] = None
        expected.remove(("label_emb.weight", (config_classes(name), 4 * config["model_channels"])))
    with torch.device("meta"):
        net = UNet(**config)
    assert [(key, tuple(value.shape)) for key, value in net.state_dict().items()] == expected
    total = MANIFEST[name]["params_total" if conditional else "params_total_unconditional"]
    assert sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad) == total


def config_classes(name: str) -> int:
    return int(MANIFEST[name]["config"]["num_classes"])


def test_the_published_convolutions_and_no_others_start_at_zero() -> None:
    net = UNet(**published_config("mnist"))
    zero = [key for key, value in net.state_dict().items() if value.ndim == 4 and not value.any()]
    assert zero == MANIFEST["mnist"]["zero_init_convs"]


@pytest.mark.parametrize("name", ["mnist", "cifar_small"])
def test_outputs_and_gradients_are_the_published_ones(name: str, golden: dict[str, Array]) -> None:
    net, out, norms = golden_run(name)
    assert list(norms) == golden[f"{name}/block_names"].tolist()
    np.testing.assert_allclose(list(norms.values()), golden[f"{name}/block_l2_f64"], rtol=1e-10)
    want = golden[f"{name}/out_f64"]
    np.testing.assert_allclose(out.detach().numpy(), want, rtol=0, atol=1e-10 * np.abs(want).max())
    loss = cos_loss(out)
    np.testing.assert_allclose(loss.item(), golden[f"{name}/loss_cos_f64"], rtol=1e-10)
    grads = torch.autograd.grad(loss, list(net.parameters()))
    norms_of_grads = [grad.norm().item() for grad in grads]
    np.testing.assert_allclose(norms_of_grads, golden[f"{name}/grad_l2_f64"], rtol=1e-10, atol=1e-17)


def test_unconditional_output_is_the_published_one(golden: dict[str, Array]) -> None:
    _, out, _ = golden_run("cifar_small_uncond")
    out = out.detach()
    digits = 5.1e-9  # eight decimals were recorded
    np.testing.assert_allclose(out.flatten()[:4], golden["cifar_small_uncond/first"], rtol=0, atol=digits)
    np.testing.assert_allclose(cos_loss(out), golden["cifar_small_uncond/loss_cos_f64"], rtol=0, atol=digits)
    np.testing.assert_allclose(out.abs().max(), golden["cifar_small_uncond/max_abs"], rtol=0, atol=5.1e-5)
    np.testing.assert_allclose(out.std(), golden["cifar_small_uncond/std"], rtol=0, atol=5.1e-5)


# Attention, against an implementation with explicit sums


def naive_attention(block: Attention, x: Array, order: tuple[int, int, int] = (0, 1, 2), scaled: bool = True) -> Array:
    """The attention block in NumPy. ``order`` says where query, key and value stand among a head's channels."""
    p = {key: value.double().numpy() for key, value in block.state_dict().items()}
    batch, channels = x.shape[:2]
    groups = x.reshape(batch, 8, -1)
    groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    h = groups.reshape(batch, channels, -1) * p["norm.weight"][:, None] + p["norm.bias"][:, None]
    qkv = np.einsum("oc,bcn->bon", p["qkv.weight"][:, :, 0, 0], h) + p["qkv.bias"][:, None]
    size = channels // block.num_heads
    heads = []
    for part in np.split(qkv, block.num_heads, axis=1):
        q, k, v = (part[:, i * size : (i + 1) * size] for i in order)
        weights = np.exp(np.einsum("bcn,bcm->bnm", q, k) * (size**-0.5 if scaled else 1.0))
        heads.append(np.einsum("bnm,bcm->bcn", weights / weights.sum(-1, keepdims=True), v))
    projection = p["proj_out.weight"][:, :, 0, 0]
    out = np.einsum("oc,bcn->bon", projection, np.concatenate(heads, axis=1)) + p["proj_out.bias"][:, None]
    return np.asarray(x + out.reshape(x.shape))


def attn16(num_heads: int) -> tuple[Attention, Array]:
    block = Attention(16, num_heads).double()
    fill(block, amplitude=0.5)
    return block, np.cos(0.3 * np.arange(512.0) ** 1.1).reshape(2, 16, 4, 4)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_equals_explicit_sums(num_heads: int) -> None:
    block, x = attn16(num_heads)
    out = block(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(out, naive_attention(block, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("mistake", "order", "scaled"),
    [
        ("query_key_swapped", (1, 0, 2), True),
        ("key_value_swapped", (0, 2, 1), True),
        ("no_scale", (0, 1, 2), False),
    ],
)
def test_attention_differs_from_each_mistake_as_published(
    mistake: str, order: tuple[int, int, int], scaled: bool, golden: dict[str, Array]
) -> None:
    block, x = attn16(num_heads=1)
    out = block(torch.from_numpy(x)).detach().numpy()
    change = np.abs(naive_attention(block, x, order, scaled) - out).max() / np.abs(out).max()
    np.testing.assert_allclose(change, golden[f"attn16/change_{mistake}"], rtol=1e-12)


# Time


@pytest.mark.parametrize("dim", [2, 6, 32])
def test_embedding_is_cosines_then_sines(dim: int) -> None:
    position, half = [0.0, 0.37, 999.0], dim // 2
    angles = [[p * 10_000 ** (-j / half) for j in range(half)] for p in position]
    want = [[*map(math.cos, row), *map(math.sin, row)] for row in angles]
    got = sinusoidal_embedding(torch.tensor(position, dtype=torch.float64), dim)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_embedding_of_a_short_float_is_computed_in_float32() -> None:
    position = torch.tensor([0.3, 17.25, 998.0], dtype=torch.bfloat16)
    got = sinusoidal_embedding(position, 32)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), sinusoidal_embedding(position.double(), 32), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dim", [0, 7])
def test_embedding_refuses_an_odd_or_empty_width(dim: int) -> None:
    with pytest.raises(ValueError, match=rf"dim must be even and at least 2, got {dim}"):
        sinusoidal_embedding(torch.zeros(1), dim)


# Promises of a backbone


def test_a_fresh_network_returns_zero() -> None:
    x, t, labels = small_batch(torch.float32)
    assert not UNet(**SMALL)(x, t, labels).any()


def test_state_dict_round_trip() -> None:
    net, other = live_net(), UNet(**SMALL).double().eval()
    other.load_state_dict(net.state_dict(), strict=True)
    batch = small_batch()
    torch.testing.assert_close(other(*batch), net(*batch), rtol=0, atol=0)


def test_no_label_means_no_embedding() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    unlabelled = net(x, t)
    assert relative_error(net(x, t, labels), unlabelled) > 1e-2
    without = copy.deepcopy(net)
    assert without.label_emb is not None
    nn.init.zeros_(without.label_emb.weight)
    torch.testing.assert_close(unlabelled, without(x, t, labels), rtol=0, atol=1e-13)


def test_label_minus_one_is_no_label_in_its_row() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    mixed = net(x, t, torch.tensor([1, -1, 3]))
    torch.testing.assert_close(mixed[1], net(x, t)[1], rtol=0, atol=1e-13)
    torch.testing.assert_close(mixed[::2], net(x, t, labels)[::2], rtol=0, atol=1e-13)


def test_an_unconditional_network_ignores_labels() -> None:
    net, (x, t, labels) = live_net(num_classes=None), small_batch()
    torch.testing.assert_close(net(x, t, labels), net(x, t), rtol=0, atol=0)


def test_items_of_a_batch_do_not_mix() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    before = net(x, t, labels)
    x[1], t[1], labels[1] = -x[1], 1 - t[1], 0
    after = net(x, t, labels)
    torch.testing.assert_close(after[::2], before[::2], rtol=0, atol=1e-13)
    assert relative_error(after[1], before[1]) > 1e-2


def test_a_batch_of_one_equals_its_row() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    whole = net(x, t, labels)
    for row in range(len(x)):
        one = slice(row, row + 1)
        torch.testing.assert_close(net(x[one], t[one], labels[one]), whole[one], rtol=0, atol=1e-13)


def test_gradient_reaches_every_parameter_and_input() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    x.requires_grad_()
    inputs = dict(net.named_parameters()) | {"x": x}
    grads = torch.autograd.grad(cos_loss(net(x, t, labels)), list(inputs.values()), allow_unused=True)
    reached = [grad is not None and bool(grad.isfinite().all() and grad.abs().max() > 1e-9) for grad in grads]
    assert [name for name, ok in zip(inputs, reached, strict=True) if not ok] == []


def test_dropout_acts_in_training_only() -> None:
    net, batch = live_net(dropout=0.5), small_batch()
    torch.testing.assert_close(net(*batch), live_net(dropout=0.0)(*batch), rtol=0, atol=0)
    net.train()
    assert relative_error(net(*batch), net(*batch)) > 1e-2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # from PyTorch's own forward mode
def test_second_and_forward_mode_derivatives_under_unfused_attention() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    direction = x.cos()

    def output(x: Tensor) -> Tensor:
        out: Tensor = net(x, t, labels)
        return out

    def slope(x: Tensor) -> Tensor:
        grad: Tensor = torch.func.grad(lambda x: cos_loss(output(x)))(x)
        return grad

    with sdpa_kernel(SDPBackend.MATH):
        for function in (output, slope):
            got = torch.func.jvp(function, (x,), (direction,))[1]
            want = (function(x + 1e-5 * direction) - function(x - 1e-5 * direction)) / 2e-5
            assert relative_error(got, want) < 1e-6


# Formats, precision, compilation


def spatial_outputs(net: UNet, run: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Every image-like tensor that a layer returns during ``run``, by the layer's name."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out} if out.ndim == 4 else {}))
        for name, module in net.named_modules()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def test_channels_last_is_kept_throughout_and_changes_nothing() -> None:
    net, (x, t, labels) = live_net(), small_batch()
    want = net(x, t, labels)
    net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    seen = spatial_outputs(net, lambda: net(x, t, labels))
    assert {"", "input_blocks.3.1.qkv", "output_blocks.1.2.conv"} <= set(seen)
    assert [name for name, out in seen.items() if not out.is_contiguous(memory_format=torch.channels_last)] == []
    torch.testing.assert_close(seen[""], want, rtol=0, atol=1e-13)


def test_contiguous_stays_contiguous() -> None:
    net, batch = live_net(), small_batch()
    assert net(*batch).is_contiguous()


def test_autocast_to_bfloat16_is_close() -> None:
    net, batch = live_net(torch.float32), small_batch(torch.float32)
    want = net(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(*batch)
    assert got.dtype == torch.bfloat16
    assert 1e-5 < relative_error(got, want) < 3e-2


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_shorter_parameters_give_nearly_the_float64_output(dtype: torch.dtype, bound: float) -> None:
    x, t, labels = small_batch()
    got = live_net(dtype)(x.to(dtype), t, labels)
    assert got.dtype == dtype
    assert relative_error(got, live_net()(x, t, labels)) < bound


def test_runs_without_reading_any_value() -> None:
    """A meta tensor has no values, so a branch on data or a transfer to the host fails here."""
    x, t, labels = (tensor.to("meta") for tensor in small_batch())
    with torch.device("meta"):
        net = UNet(**SMALL).double()
    assert net(x, t, labels).shape == (3, 3, 8, 8)


@pytest.mark.slow
def test_compiles_without_graph_breaks_for_any_batch_size() -> None:
    net = live_net()
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=True)
    for batch in (3, 2, 1):
        x, t, labels = small_batch(batch=batch)
        torch.testing.assert_close(compiled(x, t, labels), net(x, t, labels), rtol=0, atol=1e-13)
        torch.testing.assert_close(compiled(x, t), net(x, t), rtol=0, atol=1e-13)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 9}, r"image_size must be a positive multiple of 2 .* got 9; .* would work is 10x10; .*uvit.*"),
        ({"image_size": 0}, r"image_size must be a positive multiple of 2 .* got 0; .* would work is 2x2; .*"),
        (
            {"image_size": 28, "channel_mult": (1, 2, 2, 2)},
            r"image_size must be a positive multiple of 8 .* got 28; .*",
        ),
        ({"image_size": (12, 9)}, r"image_size must be a positive multiple of 2 .* got 12x9; .* is 12x10; .*"),
        ({"image_size": (8,)}, r"image_size must be a number, or height and width, got \(8,\)"),
        ({"in_channels": 0}, r"in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, r"out_channels must be at least 1, got 0"),
        ({"model_channels": 12}, r"model_channels must be a positive multiple of 8.* got 12"),
        ({"model_channels": 0}, r"model_channels must be a positive multiple of 8.* got 0"),
        ({"num_res_blocks": 0}, r"num_res_blocks must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0\.1"),
        ({"dropout": math.nan}, r"dropout must be in \[0, 1\), got nan"),
        ({"channel_mult": ()}, r"channel_mult must be .* one level or more, got \(\)"),
        ({"channel_mult": (1, 0)}, r"channel_mult must be one width of at least 1 per level.* got \(1, 0\)"),
        (
            {"attention_resolutions": (2, 16)},
            r"attention_resolutions must be downsampling factors \(not pixels\) out of \[1, 2\].* got \(2, 16\)",
        ),
        ({"num_classes": 0}, r"num_classes must be at least 1, or None, got 0"),
        ({"num_heads": 0}, r"num_heads must be at least 1 and a divisor of .* \[32\], got 0"),
        ({"num_heads": 3}, r"num_heads must be at least 1 and a divisor of .* \[32\], got 3"),
        ({"num_heads": 32, "attention_resolutions": (1,)}, r"num_heads must be .* a divisor of .* \[16, 32\], got 32"),
    ],
)
def test_construction_refuses(changes: Config, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        UNet(**SMALL | changes)


@pytest.mark.parametrize(
    ("x_shape", "t_shape", "labels_shape", "message"),
    [
        ((3, 2, 8, 16), (3,), (3,), r"x must be of shape \(B, 2, 8, 8\), got \(3, 2, 8, 16\)"),
        ((3, 2, 16, 16), (3,), (3,), r"x must be of shape \(B, 2, 8, 8\), got \(3, 2, 16, 16\)"),
        ((3, 1, 8, 8), (3,), (3,), r"x must be of shape \(B, 2, 8, 8\), got \(3, 1, 8, 8\)"),
        ((2, 8, 8), (2,), (2,), r"x must be of shape \(B, 2, 8, 8\), got \(2, 8, 8\)"),
        ((3, 1, 8000), (3,), (3,), r"x must be of shape \(B, 2, 8, 8\), got \(3, 1, 8000\)"),
        ((3, 2, 8, 8), (3, 1), (3,), r"t must be of shape \(B,\), .* got \(3, 1\)"),
        ((3, 2, 8, 8), (1,), (3,), r"t must be of shape \(B,\), .* got \(1,\)"),
        ((3, 2, 8, 8), (), (3,), r"t must be of shape \(B,\), .* got \(\)"),
        ((3, 2, 8, 8), (3,), (3, 1), r"labels must be of shape \(B,\), .* got \(3, 1\)"),
        ((3, 2, 8, 8), (3,), (1,), r"labels must be of shape \(B,\), .* got \(1,\)"),
    ],
)
def test_forward_refuses(
    x_shape: tuple[int, ...], t_shape: tuple[int, ...], labels_shape: tuple[int, ...], message: str
) -> None:
    net = UNet(**SMALL)
    with pytest.raises(ValueError, match=f"^UNet: {message}$"):
        net(torch.zeros(x_shape), torch.zeros(t_shape), torch.zeros(labels_shape, dtype=torch.int64))
