"""The U-ViT: the published parameters and numbers (golden/uvit.md), and what a backbone promises."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.backbones import UViT
from common.backbones.positions import resize, sine_cosine_table
from common.backbones.uvit import Attention
from fdp.flax_names import torch_layout, uvit_name, uvit_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "uvit_manifest.json").read_text())
RECORDED = ["uvit2d", "uvit2d_patch1_img8", "uvit2d_old8_img16", "uvit2d_old16_img8", "uvit1d"]

Array = NDArray[Any]
Config = dict[str, Any]

PLANE: Config = {
    "shape": (4, 6),
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": 2,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
}
SEQUENCE: Config = PLANE | {"shape": (12,), "patch_size": 3, "position": "learned"}
PUBLISHED_SEQUENCE: Config = SEQUENCE | {"in_channels": 1, "out_channels": 1, "paper": True}
BOTH = pytest.mark.parametrize("config", [PLANE, SEQUENCE], ids=["plane", "sequence"])


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    with np.load(GOLDEN / "uvit_forward.npz") as archive:
        return {key: archive[key] for key in archive.files}


def published_weights(name: str) -> dict[str, Array]:
    """The weights of golden/uvit.md, by their published names."""
    params = {}
    for i, (key, shape) in enumerate(MANIFEST[name]["params"]):
        wave = 0.05 * np.sin(0.1 * i + np.arange(math.prod(shape)))
        params[key] = (wave + key.endswith("scale")).reshape(shape).astype(np.float32)
    return params


def published_net(name: str, paper: bool = True) -> UViT:
    net = UViT(**MANIFEST[name]["config"], paper=paper)
    net.load_state_dict(uvit_state_dict(published_weights(name)))
    return net.eval()


def published_inputs(name: str, golden: dict[str, Array]) -> tuple[Tensor, Tensor]:
    size, channels = MANIFEST[name]["run_on"], MANIFEST[name]["config"]["in_channels"]
    sines = np.sin(np.arange(2 * math.prod(size) * channels)).reshape(2, -1, channels).astype(np.float32)
    y, t = golden.get(f"{name}/y", sines), golden.get(f"{name}/t", np.array([0.3, 0.9], np.float32))
    return torch.from_numpy(y).transpose(1, 2).reshape(len(y), channels, *size), torch.from_numpy(t)


def by_points(out: Tensor) -> Array:
    return out.detach().flatten(2).transpose(1, 2).numpy()


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).detach().norm() / want.detach().double().norm())


def cos_loss(out: Tensor) -> Tensor:
    return (out.flatten() * torch.arange(out.numel(), dtype=out.dtype).cos()).sum()


def live_net(config: Config, dtype: torch.dtype = torch.float64, **changes: Any) -> UViT:
    """A small network with random weights everywhere, also where a fresh one has zeros."""
    generator = torch.Generator().manual_seed(0)
    net = UViT(**config | changes).double()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            is_norm_scale = value.ndim == 1 and name.endswith(".weight")
            value.copy_(noise / value[0].numel() ** 0.5 if value.ndim > 1 else 0.1 * noise + is_norm_scale)
    return net.to(dtype)


def small_batch(
    config: Config, dtype: torch.dtype = torch.float64, batch: int = 3, shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (batch, config["in_channels"], *(shape or config["shape"]))
    x = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.rand(batch, generator=generator, dtype=torch.float64).to(dtype)
    return x, t, torch.arange(batch) + 1


# The published network


@pytest.mark.parametrize("name", MANIFEST)
def test_every_published_parameter_has_its_own_place(name: str) -> None:
    with torch.device("meta"):
        net = UViT(**MANIFEST[name]["config"], paper=True)
    published = [(uvit_name(key), torch_layout(key, np.empty(shape)).shape) for key, shape in MANIFEST[name]["params"]]
    assert sorted(published) == sorted((key, tuple(value.shape)) for key, value in net.state_dict().items())
    assert sum(parameter.numel() for parameter in net.parameters()) == MANIFEST[name]["total"]


@pytest.mark.parametrize(
    "name", ["Dense_2/kernel", "norm/weight", "mid_block_0/Dense_0/kernel", "in_block_0/norm/bias"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is not a parameter of the published U-ViT$"):
        uvit_name(name)


def test_two_parameters_for_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^two parameters of the published U-ViT go to norm\.weight$"):
        uvit_state_dict({"norm/scale": np.ones(4), "norm/kernel": np.ones((4, 4))})


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_are_the_published_ones(name: str, golden: dict[str, Array]) -> None:
    out = published_net(name)(*published_inputs(name, golden))
    np.testing.assert_allclose(by_points(out), golden[f"{name}/output"], rtol=0, atol=2e-7)


def test_published_sequences_alone(golden: dict[str, Array]) -> None:
    net, (x, t) = published_net("uvit1d"), published_inputs("uvit1d", golden)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(by_points(alone), golden["uvit1d/output_each_alone"], rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", ["uvit2d", "uvit2d_patch1_img8", "uvit2d_old8_img16"])
def test_without_the_published_shift_the_output_is_another(name: str, golden: dict[str, Array]) -> None:
    out = published_net(name, paper=False)(*published_inputs(name, golden))
    assert np.abs(by_points(out) - golden[f"{name}/output"]).max() > 1e-4


# Positions


@pytest.mark.parametrize("grid", [(4,), (3, 5), (1, 2)])
def test_table_is_sines_and_cosines_of_the_last_axis_then_the_first(grid: tuple[int, ...]) -> None:
    width = 8
    half = width // (2 * len(grid))
    want = []
    for point in np.ndindex(*grid):
        row: list[float] = []
        for index, size in reversed(list(zip(point, grid, strict=True))):
            angles = [index / max(size - 1, 1) * 64 / 10_000 ** (j / half) for j in range(half)]
            row += [*map(math.sin, angles), *map(math.cos, angles)]
        want.append(row)
    np.testing.assert_allclose(sine_cosine_table(grid, width), want, rtol=0, atol=1e-12)


def test_table_is_the_published_one(golden: dict[str, Array]) -> None:
    np.testing.assert_allclose(sine_cosine_table((8, 8), 64), golden["uvit2d/pos_encoding_table"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("new", [(10, 8), (14, 15), (3, 5), (7, 2), (1, 1)])
def test_resizing_a_plane_gives_the_recorded_numbers(new: tuple[int, int], golden: dict[str, Array]) -> None:
    rows = torch.from_numpy(golden["resize/rows"])
    got = resize(rows.flatten(0, 1), (7, 5), new).reshape(*new, 2)
    np.testing.assert_allclose(got, golden[f"resize/{new[0]}x{new[1]}"], rtol=0, atol=2e-7)


def test_resizing_a_sequence_is_linear_between_cell_centres() -> None:
    rows = torch.tensor([[0.0, 1.0], [4.0, 2.0], [2.0, 7.0]], dtype=torch.float64)
    at = (np.arange(6) + 0.5) / 2 - 0.5
    want = np.stack([np.interp(at, np.arange(3), column) for column in rows.t().numpy()], axis=1)
    np.testing.assert_allclose(resize(rows, (3,), (6,)), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(2, 3), (4, 9)])
def test_patch_i_gets_position_i_and_time_none(grid: tuple[int, int]) -> None:
    rows = resize(sine_cosine_table((2, 3), 16).float(), (2, 3), grid)
    none = torch.zeros(1, 16)
    torch.testing.assert_close(UViT(**PLANE).position(grid), torch.cat([none, rows]), rtol=0, atol=0)
    torch.testing.assert_close(UViT(**PLANE, paper=True).position(grid), torch.cat([rows, none]), rtol=0, atol=0)


def test_learned_positions_are_per_patch_and_time_keeps_its_own_on_another_grid() -> None:
    position = live_net(SEQUENCE).position
    torch.testing.assert_close(position((4,)), position.weight, rtol=0, atol=0)
    longer = position((8,))
    torch.testing.assert_close(longer[0], position.weight[0], rtol=0, atol=0)
    torch.testing.assert_close(longer[1:], resize(position.weight[1:], (4,), (8,)), rtol=0, atol=0)


@pytest.mark.parametrize("paper", [False, True])
def test_only_positions_tell_patches_apart(paper: bool) -> None:
    """Patches that move along with their positions come out moved, unless the positions are those of others."""
    net, (x, t, labels) = live_net(PLANE | {"patch_size": 1}, paper=paper), small_batch(PLANE)
    nn.init.dirac_(net.final.weight)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    want = net(x, t, labels).flatten(2)[..., order]
    moved = x.flatten(2)[..., order].reshape(x.shape)
    assert relative_error(net(moved, t, labels).flatten(2), want) > 1e-2
    net.position.table = net.position.table[order]
    error = relative_error(net(moved, t, labels).flatten(2), want)
    assert error > 1e-2 if paper else error < 1e-13


# Attention and patches


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_equals_explicit_sums(num_heads: int) -> None:
    width, tokens = 8, 5
    block = Attention(width, num_heads).double()
    h = np.cos(0.3 * np.arange(2.0 * tokens * width) ** 1.1).reshape(2, tokens, width)
    p = {key: value.numpy() for key, value in block.state_dict().items()}
    q, k, v = np.split(h @ p["qkv.weight"].T, 3, axis=-1)
    heads = []
    for part in np.split(np.arange(width), num_heads):
        weights = np.exp(np.einsum("bnc,bmc->bnm", q[..., part], k[..., part]) / len(part) ** 0.5)
        heads.append(np.einsum("bnm,bmc->bnc", weights / weights.sum(-1, keepdims=True), v[..., part]))
    want = np.concatenate(heads, axis=-1) @ p["proj.weight"].T + p["proj.bias"]
    np.testing.assert_allclose(block(torch.from_numpy(h)).detach(), want, rtol=0, atol=1e-12)


def test_mlp_has_the_tanh_form_of_gelu() -> None:
    """The recorded numbers come from inputs so small that they do not tell it from the exact one."""
    mlp = live_net(PLANE).mid_block.mlp
    h = np.linspace(-6, 6, 5 * 16).reshape(5, 16)
    p = {key: value.numpy() for key, value in mlp.state_dict().items()}
    inner = h @ p["0.weight"].T + p["0.bias"]
    inner = 0.5 * inner * (1 + np.tanh((2 / np.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    want = inner @ p["2.weight"].T + p["2.bias"]
    np.testing.assert_allclose(mlp(torch.from_numpy(h)).detach(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "shape"),
    [(PLANE, (4, 6)), (PLANE | {"patch_size": 3}, (3, 9)), (SEQUENCE, (12,))],
    ids=["plane", "wide_patches", "sequence"],
)
def test_a_patch_comes_out_where_it_went_in(config: Config, shape: tuple[int, ...]) -> None:
    side = config["patch_size"]
    net, (x, t, _) = live_net(config, shape=shape, depth=1), small_batch(config, shape=shape)
    nn.init.dirac_(net.final.weight)
    for layer in (net.mid_block.attention.proj, net.mid_block.mlp[2]):  # no token learns of another
        nn.init.zeros_(layer.weight)
    before = net(x, t)
    for pixel in np.ndindex(*shape):
        changed = x.clone()
        changed[(0, 0, *pixel)] += 1
        difference = (net(changed, t) - before).detach()
        own = tuple(slice(i // side * side, i // side * side + side) for i in pixel)
        assert difference[(0, slice(None), *own)].abs().min() > 1e-6
        difference[(0, slice(None), *own)] = 0
        assert difference.abs().max() < 1e-13


# Promises of a backbone


@BOTH
def test_a_fresh_network_returns_zero(config: Config) -> None:
    assert not UViT(**config)(*small_batch(config, torch.float32)).any()


def test_a_fresh_network_learns_from_the_first_step() -> None:
    net, (x, t, labels) = UViT(**PLANE), small_batch(PLANE, torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (net(x, t, labels) - x.mean()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(value.grad is not None and value.grad.any() for value in net.parameters())


def test_published_start() -> None:
    torch.manual_seed(0)
    net = UViT((32, 32), 3, 3, patch_size=4, embed_dim=192, depth=3, num_classes=200, position="learned", paper=True)
    std = {key: float(value.std(correction=0)) for key, value in net.state_dict().items()}
    lecun = {"patch_embed": 48, "in_blocks.0.attention.qkv": 192, "out_blocks.0.block.attention.proj": 192}
    xavier = {"time_embed.0": 192 * 5, "time_embed.2": 192 * 5, "mid_block.mlp.0": 192 * 5, "mid_block.mlp.2": 192 * 5}
    want = {f"{name}.weight": fan_in**-0.5 for name, fan_in in lecun.items()}
    want |= {f"{name}.weight": (2 / fans) ** 0.5 for name, fans in xavier.items()}
    want |= {f"{name}.weight": 0.02 for name in ("out_blocks.0.join", "decoder", "position", "label_emb")}
    assert {key: std[key] for key in want} == pytest.approx(want, rel=0.03)
    assert std["final.weight"] == pytest.approx(27**-0.5, rel=0.3)
    assert {value for key, value in std.items() if key.endswith("bias")} == {0.0}


@BOTH
def test_state_dict_round_trip(config: Config) -> None:
    net, other = live_net(config), UViT(**config).double()
    assert not [key for key in net.state_dict() if "table" in key]
    other.load_state_dict(net.state_dict(), strict=True)
    batch = small_batch(config)
    torch.testing.assert_close(other(*batch), net(*batch), rtol=0, atol=0)


def test_names_and_shapes_are_the_same_under_paper_on_planes() -> None:
    ours, published = UViT(**PLANE).state_dict(), UViT(**PLANE, paper=True).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in published.items()}


@BOTH
def test_no_label_means_no_embedding(config: Config) -> None:
    net, (x, t, labels) = live_net(config), small_batch(config)
    unlabelled = net(x, t)
    assert relative_error(net(x, t, labels), unlabelled) > 1e-2
    assert net.label_emb is not None
    nn.init.zeros_(net.label_emb.weight)
    torch.testing.assert_close(unlabelled, net(x, t, labels), rtol=0, atol=1e-13)


def test_label_minus_one_is_no_label_in_its_row() -> None:
    net, (x, t, labels) = live_net(PLANE), small_batch(PLANE)
    mixed = net(x, t, torch.tensor([1, -1, 3]))
    torch.testing.assert_close(mixed[1], net(x, t)[1], rtol=0, atol=1e-13)
    torch.testing.assert_close(mixed[::2], net(x, t, labels)[::2], rtol=0, atol=1e-13)


def test_an_unconditional_network_ignores_labels() -> None:
    net, (x, t, labels) = live_net(PLANE, num_classes=None), small_batch(PLANE)
    torch.testing.assert_close(net(x, t, labels), net(x, t), rtol=0, atol=0)


@BOTH
def test_items_of_a_batch_do_not_mix(config: Config) -> None:
    net, (x, t, labels) = live_net(config), small_batch(config)
    before = net(x, t, labels)
    x[1], t[1], labels[1] = -x[1], 1 - t[1], 0
    after = net(x, t, labels)
    torch.testing.assert_close(after[::2], before[::2], rtol=0, atol=1e-13)
    assert relative_error(after[1], before[1]) > 1e-2


def test_items_of_a_batch_of_published_sequences_mix_with_their_neighbours() -> None:
    net, (x, t, _) = live_net(PUBLISHED_SEQUENCE), small_batch(PUBLISHED_SEQUENCE, batch=4)
    before = net(x, t)
    x[0] = -x[0]
    after = net(x, t)
    assert relative_error(after[1], before[1]) > 1e-2
    torch.testing.assert_close(after[2:], before[2:], rtol=0, atol=1e-13)


@BOTH
def test_time_matters_and_may_be_of_another_dtype(config: Config) -> None:
    net, (x, t, labels) = live_net(config, torch.float32), small_batch(config, torch.float32)
    assert relative_error(net(x, 1 - t, labels), net(x, t, labels)) > 1e-2
    torch.testing.assert_close(net(x, t.double(), labels), net(x, t, labels), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (PLANE, (8, 12)),
        (PLANE, (2, 4)),
        (PLANE | {"position": "learned"}, (10, 6)),
        (SEQUENCE, (3,)),
        (SEQUENCE | {"position": "sincos"}, (30,)),
        (PLANE | {"shape": (5, 7), "patch_size": 1, "depth": 1}, (5, 7)),
        (PUBLISHED_SEQUENCE, (27,)),
    ],
)
def test_works_on_any_grid_of_whole_patches(config: Config, shape: tuple[int, ...]) -> None:
    out = live_net(config)(*small_batch(config, shape=shape))
    assert out.shape == (3, config["out_channels"], *shape)
    assert out.isfinite().all()
    assert out.std() > 1e-2


@pytest.mark.parametrize("position", ["sincos", "learned"])
def test_another_grid_sees_the_answer_resized(position: str) -> None:
    net = live_net(PLANE | {"out_channels": 2, "position": position})
    x, t, labels = small_batch(PLANE)
    own, fine = net(x, t, labels), (8, 18)
    torch.testing.assert_close(net(x, t, labels, out_shape=x.shape[2:]), own, rtol=0, atol=0)

    def resized(y: Tensor, grid: tuple[int, ...]) -> Tensor:
        return torch.nn.functional.interpolate(y, grid, mode="bilinear", align_corners=False, antialias=True)

    there = net(resized(own, fine), t, labels)
    want = there + resized(own - resized(there, (4, 6)), fine)
    torch.testing.assert_close(net(x, t, labels, out_shape=fine), want, rtol=0, atol=1e-12)


def test_grids_that_patches_do_not_fill_are_refused() -> None:
    net, (x, t, labels) = live_net(PLANE | {"out_channels": 2}), small_batch(PLANE)
    for shape in ((5, 6), (4,), (0, 6)):
        with pytest.raises(ValueError, match="target_shape must be 2 multiples of 2, the side of a patch"):
            net(x, t, labels, out_shape=shape)
    with pytest.raises(ValueError, match="another number of channels"):
        live_net(PLANE).check_grid((8, 8))


def test_a_finer_grid_of_a_smooth_field_gives_nearly_the_same() -> None:
    """Positions move with the field: a table of other places would give something else."""
    net, (_, t, labels) = live_net(PLANE, patch_size=1, depth=1), small_batch(PLANE)
    nn.init.dirac_(net.final.weight)
    nn.init.zeros_(net.mid_block.attention.proj.weight)  # each patch knows of its own place only
    coarse = torch.ones(3, 2, 4, 6, dtype=torch.float64)
    fine = torch.ones(3, 2, 12, 18, dtype=torch.float64)
    torch.testing.assert_close(net(fine, t, labels)[..., 1::3, 1::3], net(coarse, t, labels), rtol=0, atol=1e-6)


@BOTH
def test_gradient_reaches_every_parameter_and_input(config: Config) -> None:
    net, (x, t, labels) = live_net(config), small_batch(config)
    x.requires_grad_()
    inputs = dict(net.named_parameters()) | {"x": x}
    grads = torch.autograd.grad(cos_loss(net(x, t, labels)), list(inputs.values()), allow_unused=True)
    reached = [grad is not None and bool(grad.isfinite().all() and grad.abs().max() > 1e-9) for grad in grads]
    assert [name for name, ok in zip(inputs, reached, strict=True) if not ok] == []


@BOTH
def test_checkpointing_recomputes_the_blocks_and_changes_no_gradient(config: Config) -> None:
    grads, calls = {}, {}
    for checkpointing in (False, True):
        net, batch = live_net(config, checkpointing=checkpointing), small_batch(config)
        seen: list[str] = []
        for name in ("in_blocks.0", "mid_block", "out_blocks.0"):
            net.get_submodule(name).register_forward_pre_hook(lambda *_, name=name, seen=seen: seen.append(name))
        cos_loss(net(*batch)).backward()
        grads[checkpointing] = [parameter.grad for parameter in net.parameters()]
        calls[checkpointing] = seen
    torch.testing.assert_close(grads[True], grads[False], rtol=0, atol=0)
    assert calls[True] == calls[False] + calls[False][::-1]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # from PyTorch's own forward mode
@BOTH
def test_second_and_forward_mode_derivatives_under_unfused_attention(config: Config) -> None:
    net, (x, t, labels) = live_net(config), small_batch(config)
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


@pytest.mark.parametrize("config", [PLANE, SEQUENCE, PUBLISHED_SEQUENCE], ids=["plane", "sequence", "published"])
def test_channels_last_changes_nothing(config: Config) -> None:
    net, (x, t, labels) = live_net(config), small_batch(config)
    want = net(x, t, labels)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x, t, labels), want, rtol=0, atol=1e-13)
    if x.ndim == 4:
        out = net(x.contiguous(memory_format=torch.channels_last), t, labels)
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, want, rtol=0, atol=1e-13)


@BOTH
def test_autocast_to_bfloat16_is_close(config: Config) -> None:
    net, batch = live_net(config, torch.float32), small_batch(config, torch.float32)
    want = net(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(*batch)
    assert got.dtype == torch.bfloat16
    assert 1e-5 < relative_error(got, want) < 3e-2


@BOTH
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_shorter_parameters_give_nearly_the_float64_output(
    config: Config, scale: int, dtype: torch.dtype, bound: float
) -> None:
    x, t, labels = small_batch(config, shape=tuple(scale * size for size in config["shape"]))
    got = live_net(config, dtype)(x.to(dtype), t, labels)
    assert got.dtype == dtype
    assert relative_error(got, live_net(config)(x, t, labels)) < bound


@BOTH
@pytest.mark.parametrize("scale", [1, 2])
def test_runs_without_reading_any_value(config: Config, scale: int) -> None:
    """A meta tensor has no values, so a branch on data or a transfer to the host fails here."""
    shape = tuple(scale * size for size in config["shape"])
    x, t, labels = (tensor.to("meta") for tensor in small_batch(config, shape=shape))
    with torch.device("meta"):
        net = UViT(**config).double()
    assert net(x, t, labels).shape == (3, 3, *shape)


@pytest.mark.parametrize(
    "config", [PLANE, PUBLISHED_SEQUENCE | {"checkpointing": True}], ids=["plane", "published_sequence"]
)
@pytest.mark.slow
def test_compiles_without_graph_breaks_for_any_batch_size_and_grid(config: Config) -> None:
    torch.compiler.reset()  # compilations of other networks of this class count towards one limit
    net = live_net(config)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for batch, scale in ((3, 1), (2, 1), (4, 1), (2, 2)):
        shape = tuple(scale * size for size in config["shape"])
        x, t, labels = small_batch(config, batch=batch, shape=shape)
        torch.testing.assert_close(compiled(x, t, labels), net(x, t, labels), rtol=0, atol=1e-13)
    torch.testing.assert_close(compiled(x, t), net(x, t), rtol=0, atol=1e-13)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ()}, r"shape must be one or two positive sizes, got \(\)"),
        ({"shape": (4, 4, 4)}, r"shape must be one or two positive sizes, got \(4, 4, 4\)"),
        ({"shape": (4, 5)}, r"patch_size must be a divisor of every side of \(4, 5\), got 2; .* would work is 4x6"),
        ({"shape": (0, 4)}, r"shape must be one or two positive sizes, got \(0, 4\)"),
        ({"patch_size": 0}, r"patch_size must be at least 1, got 0"),
        ({"in_channels": 0}, r"in_channels must be at least 1, got 0"),
        ({"out_channels": 0}, r"out_channels must be at least 1, got 0"),
        ({"num_heads": 0}, r"num_heads must be at least 1, got 0"),
        ({"embed_dim": 0}, r"embed_dim must be a positive multiple of 4 and of num_heads = 2, got 0"),
        ({"embed_dim": 18}, r"embed_dim must be a positive multiple of 4 and of num_heads = 2, got 18"),
        ({"num_heads": 3}, r"embed_dim must be a positive multiple of 4 and of num_heads = 3, got 16"),
        ({"depth": 4}, r"depth must be odd and at least 1, got 4"),
        ({"depth": -1}, r"depth must be odd and at least 1, got -1"),
        ({"mlp_dim": 0}, r"mlp_dim must be at least 1, or None, got 0"),
        ({"position": "rope"}, r"position must be one of sincos, learned, got 'rope'"),
        ({"num_classes": 0}, r"num_classes must be at least 1, or None, got 0"),
        (
            {"shape": (8,), "paper": True},
            r"paper is defined for in_channels = out_channels = 1 on sequences, got in_channels 2 and out_channels 3",
        ),
    ],
)
def test_construction_refuses(changes: Config, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        UViT(**PLANE | changes)


@pytest.mark.parametrize(
    ("config", "x_shape", "t_shape", "labels_shape", "message"),
    [
        (PLANE, (3, 2, 4, 5), (3,), (3,), r"x must be of shape \(B, 2, H, W\) .* multiples of 2, got \(3, 2, 4, 5\)"),
        (PLANE, (3, 2, 0, 4), (3,), (3,), r"x must be of shape \(B, 2, H, W\) .* multiples of 2, got \(3, 2, 0, 4\)"),
        (PLANE, (3, 1, 4, 6), (3,), (3,), r"x must be of shape \(B, 2, H, W\) .* got \(3, 1, 4, 6\)"),
        (PLANE, (3, 2, 4), (3,), (3,), r"x must be of shape \(B, 2, H, W\) .* got \(3, 2, 4\)"),
        (SEQUENCE, (3, 2, 4, 6), (3,), (3,), r"x must be of shape \(B, 2, L\) .* multiples of 3, got \(3, 2, 4, 6\)"),
        (SEQUENCE, (3, 2, 10), (3,), (3,), r"x must be of shape \(B, 2, L\) .* multiples of 3, got \(3, 2, 10\)"),
        (PLANE, (3, 2, 4, 6), (3, 1), (3,), r"t must be of shape \(B,\), .* got \(3, 1\)"),
        (PLANE, (3, 2, 4, 6), (1,), (3,), r"t must be of shape \(B,\), .* got \(1,\)"),
        (PLANE, (3, 2, 4, 6), (), (3,), r"t must be of shape \(B,\), .* got \(\)"),
        (PLANE, (3, 2, 4, 6), (3,), (3, 1), r"labels must be of shape \(B,\), .* got \(3, 1\)"),
        (PLANE, (3, 2, 4, 6), (3,), (1,), r"labels must be of shape \(B,\), .* got \(1,\)"),
    ],
)
def test_forward_refuses(
    config: Config, x_shape: tuple[int, ...], t_shape: tuple[int, ...], labels_shape: tuple[int, ...], message: str
) -> None:
    net = UViT(**config)
    with pytest.raises(ValueError, match=f"^UViT: {message}$"):
        net(torch.zeros(x_shape), torch.zeros(t_shape), torch.zeros(labels_shape, dtype=torch.int64))
