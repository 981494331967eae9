"""The U-ViT (Bao et al., arXiv 2209.12152) in the form used by FDP (arXiv 2303.00800), on sequences and images.

Patches and the time are tokens of a transformer whose later blocks also see what the earlier ones returned. FDP's form
has sine-cosine or learned positions, and a convolution over the joined patches at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.backbones.embeddings import LabelEmbedding
from common.backbones.positions import MAX_PERIOD, POSITIONS, waves
from common.backbones.resizing import TARGET, resize_linear
from common.refusal import Refusal, require
from common.sides import divisors, next_multiples, written

TIME_SCALE = 999.0
EPS = 1e-6

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


class UViT(nn.Module):
    """Transformer over patches with long skip connections, on grids of one or two axes.

    The first token is the time (with the label added, if there is one), then come the patches in row-major order.
    The network works on other grids than ``shape`` too: positions are interpolated.

    A fresh network returns zeros, because its decoder starts at zero; the convolution behind it starts as the identity.
    (After 400 steps on 8x8 digits the squared error was 0.17, with a convolution at zero or a random one 0.20 to 0.25.)
    Under ``paper`` both start as published, at random. All else starts as published: Xavier-uniform in the time
    embedding and the MLPs, LeCun-normal in the patch embedding and the attention, normal with deviation 0.02 where
    skips join and in learned positions, zero biases. (Labels, which FDP has not, start like learned positions.)

    Fused attention has first derivatives in reverse mode only. For second or forward-mode ones (``torch.func.jvp``),
    call the network under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Attributes:
        on_other_grids: what a user should know of its answers there.

    Args:
        shape: (*S), the grid of x: one or two sizes, each a positive multiple of patch_size. They may differ.
        in_channels: channels of x, at least 1.
        out_channels: channels of the output, at least 1.
        patch_size: side of a patch, at least 1.
        embed_dim: width E of a token, a positive multiple of 4 and of num_heads.
        depth: number of blocks, odd: half of the others before and half after the middle one.
        num_heads: attention heads, at least 1.
        mlp_dim: hidden width of a block's MLP, at least 1 (default: 4 times embed_dim).
        position: how a patch is told where it is: ``sincos`` (a fixed table; the time token has none) or ``learned``
            (the time token has its own).
        num_classes: number of labels, at least 1, or None for an unconditional network.
        checkpointing: recompute the blocks in the backward pass instead of keeping what is inside them. Same gradients,
            less memory, a third more time. Not under ``torch.func`` transforms, which refuse it.
        paper: repeat two errors of the published code, for weights that were trained with them. The sine-cosine table
            is shifted by one: the time token gets the position of the first patch, patch i that of patch i + 1, the
            last patch none. On sequences the last convolution runs over the batch too (``BatchConv``), so that a result
            depends on its batch; there must be one channel.

    Raises:
        ValueError: if an argument is outside the range given above.
    """

    on_other_grids = "they look like samples enlarged linearly, with traces of patches of a size that it never saw"

    def __init__(
        self,
        shape: Sequence[int],
        in_channels: int,
        out_channels: int,
        *,
        patch_size: int = 2,
        embed_dim: int = 512,
        depth: int = 13,
        num_heads: int = 8,
        mlp_dim: int | None = None,
        position: Literal["sincos", "learned"] = "sincos",
        num_classes: int | None = None,
        checkpointing: bool = False,
        paper: bool = False,
    ) -> None:
        super().__init__()
        mlp_dim = 4 * embed_dim if mlp_dim is None else mlp_dim
        axes = len(shape)
        require(patch_size >= 1, "patch_size", "at least 1", patch_size)
        require(axes in CONVOLUTIONS and min(shape) >= 1, "shape", "one or two positive sizes", shape)
        require(
            all(size % patch_size == 0 for size in shape),
            "patch_size",
            f"a divisor of every side of {tuple(shape)}",
            patch_size,
            f"such are {', '.join(map(str, divisors(shape)))}; with {patch_size} the next size that would work is "
            f"{written(next_multiples(shape, patch_size))}",
        )
        require(in_channels >= 1, "in_channels", "at least 1", in_channels)
        require(out_channels >= 1, "out_channels", "at least 1", out_channels)
        require(num_heads >= 1, "num_heads", "at least 1", num_heads)
        require(
            embed_dim >= 1 and embed_dim % math.lcm(4, num_heads) == 0,
            "embed_dim",
            f"a positive multiple of 4 and of num_heads = {num_heads}",
            embed_dim,
        )
        require(depth >= 1 and depth % 2 == 1, "depth", "odd and at least 1", depth)
        require(mlp_dim >= 1, "mlp_dim", "at least 1, or None", mlp_dim)
        require(position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}", position)
        require(num_classes is None or num_classes >= 1, "num_classes", "at least 1, or None", num_classes)
        over_batch = paper and axes == 1
        if over_batch and (in_channels, out_channels) != (1, 1):
            raise Refusal(
                "is defined for in_channels = out_channels = 1 on sequences, "
                f"got in_channels {in_channels} and out_channels {out_channels}",
                "paper",
            )
        self.axes, self.in_channels, self.out_channels = axes, in_channels, out_channels
        self.patch_size, self.embed_dim, self.num_classes = patch_size, embed_dim, num_classes
        self.checkpointing = checkpointing
        grid = tuple(size // patch_size for size in shape)
        convolution = CONVOLUTIONS[axes]

        self.patch_embed = convolution(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.time_embed = nn.Sequential(
            nn.Linear(embed_dim, 4 * embed_dim), nn.SiLU(), nn.Linear(4 * embed_dim, embed_dim)
        )
        self.label_emb = None if num_classes is None else LabelEmbedding(num_classes, embed_dim)
        self.position = POSITIONS[position](grid, embed_dim, paper)
        self.in_blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_dim) for _ in range(depth // 2))
        self.mid_block = Block(embed_dim, num_heads, mlp_dim)
        self.out_blocks = nn.ModuleList(SkipBlock(embed_dim, num_heads, mlp_dim) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.decoder = nn.Linear(embed_dim, patch_size**axes * out_channels)
        self.final = BatchConv() if over_batch else convolution(out_channels, out_channels, kernel_size=3, padding=1)

        _start(_lecun_normal, self.patch_embed)
        _start(nn.init.xavier_uniform_, self.time_embed[0], self.time_embed[2])
        if self.label_emb is not None:
            _start(_normal, self.label_emb)
        _start(_normal if paper else nn.init.zeros_, self.decoder)
        _start(_lecun_normal if paper else nn.init.dirac_, self.final)

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, out_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Evaluate the network.

        Args:
            x: (B, in_channels, *S) with as many axes S as ``shape`` has, each a positive multiple of patch_size, of the
                parameters' dtype unless under autocast, in any memory format.
            t: (B,), times in [0, 1], of any floating dtype. Scaled to [0, 999] here.
            labels: (B,) int64 in [0, num_classes), or -1 in a row without a label. None means no label in any row. A
                row without a label gets no label embedding. An unconditional network ignores labels. Other values are
                not checked here (that would wait for the device), but the embedding look-up fails on them.
            out_shape: another grid to answer on. The network answers on S first; that answer, resized linearly, is its
                input there, at positions in between, so it must give as many channels as it takes. What it says there
                of S is set right, linearly too: alone it loses colours (faces of 32x32 at 128x128, resized back: error
                0.054, with it 0.011).

        Returns:
            (B, out_channels, *S), or (B, out_channels, *out_shape).

        Raises:
            Refusal: if a shape is not as above.
        """
        out = self._answer(x, t, labels)
        if out_shape is None or tuple(out_shape) == tuple(x.shape[2:]):
            return out
        self.check_grid(out_shape)
        there = self._answer(resize_linear(out, out_shape), t, labels)
        return there + resize_linear(out - resize_linear(there, x.shape[2:]), out_shape)

    def check_grid(self, out_shape: Sequence[int]) -> None:
        """Refuse a grid on which it cannot answer: one that patches do not fill, or any if channels do not fit."""
        fits = len(out_shape) == self.axes and all(n >= 1 and n % self.patch_size == 0 for n in out_shape)
        sizes = "one multiple" if self.axes == 1 else f"{self.axes} multiples"
        require(fits, TARGET, f"{sizes} of {self.patch_size}, the side of a patch", tuple(out_shape))
        if self.in_channels != self.out_channels:
            raise Refusal("cannot be had of a network that gives another number of channels than it takes", TARGET)

    def _answer(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The network on the grid of x."""
        self._check_shapes(x, t, labels)
        grid = tuple(size // self.patch_size for size in x.shape[2:])
        time = rearrange(self._embed(t, labels, x.dtype), "b e -> b 1 e")
        patches = rearrange(self.patch_embed(x), "b e ... -> b (...) e")
        h = torch.cat([time, patches], dim=1) + self.position(grid)
        skips = []
        for block in self.in_blocks:
            h = self._run(block, h)
            skips.append(h)
        h = self._run(self.mid_block, h)
        for block in self.out_blocks:
            h = self._run(block, h, skips.pop())
        out: Tensor = self.final(self._join(self.decoder(self.norm(h[:, 1:])), grid))
        return out

    def _embed(self, t: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B, E), the embedding of time plus that of the label if there is one."""
        time = t.to(torch.promote_types(t.dtype, torch.float32)) * TIME_SCALE
        half = self.embed_dim // 2
        index = torch.arange(half, device=t.device, dtype=time.dtype)
        frequency = torch.exp(-math.log(MAX_PERIOD) / (half - 1) * index)
        emb: Tensor = self.time_embed(waves(time, frequency).to(dtype))
        return emb if self.label_emb is None or labels is None else emb + self.label_emb(labels)

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        recompute = self.checkpointing and torch.is_grad_enabled()
        out: Tensor = (
            checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False) if recompute else block(*inputs)
        )
        return out

    def _join(self, h: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Put patches (B, L, patch_size**axes * C) next to each other: (B, C, *S)."""
        if self.axes == 1:
            return rearrange(h, "b l (p c) -> b c (l p)", p=self.patch_size)
        return rearrange(h, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=self.patch_size, q=self.patch_size)

    def _check_shapes(self, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
        # messages are put together only where one is needed: a compiler would trace them
        sizes = x.shape[2:]
        if (
            x.ndim != 2 + self.axes
            or x.shape[1] != self.in_channels
            or any(size < 1 or size % self.patch_size for size in sizes)
        ):
            grid = {1: "L", 2: "H, W"}[self.axes]
            raise ValueError(
                f"UViT: x must be of shape (B, {self.in_channels}, {grid}) with {grid} positive multiples of "
                f"{self.patch_size}, got {tuple(x.shape)}"
            )
        if t.shape != x.shape[:1]:
            raise ValueError(f"UViT: t must be of shape (B,), the batch size of x, got {tuple(t.shape)}")
        if self.label_emb is not None and labels is not None and labels.shape != x.shape[:1]:
            raise ValueError(f"UViT: labels must be of shape (B,), the batch size of x, got {tuple(labels.shape)}")


class Block(nn.Module):
    """Self-attention, then an MLP for each token, both behind a LayerNorm and around a skip connection.

    Args:
        embed_dim: width E of a token.
        num_heads: attention heads, a divisor of embed_dim.
        mlp_dim: hidden width of the MLP.
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=EPS)
        self.attention = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=EPS)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, mlp_dim), nn.GELU(approximate="tanh"), nn.Linear(mlp_dim, embed_dim)
        )
        _start(nn.init.xavier_uniform_, self.mlp[0], self.mlp[2])

    def forward(self, h: Tensor) -> Tensor:
        """Map tokens (B, N, E) to (B, N, E)."""
        h = h + self.attention(self.norm1(h))
        out: Tensor = h + self.mlp(self.norm2(h))
        return out


class SkipBlock(nn.Module):
    """A block on tokens joined with those of an earlier block.

    Args:
        embed_dim: width E of a token.
        num_heads: attention heads, a divisor of embed_dim.
        mlp_dim: hidden width of the MLP.
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * embed_dim, embed_dim)
        self.block = Block(embed_dim, num_heads, mlp_dim)
        _start(_normal, self.join)

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:
        """Map tokens h (B, N, E) and skip (B, N, E) to (B, N, E)."""
        out: Tensor = self.block(self.join(torch.cat([h, skip], dim=-1)))
        return out


class Attention(nn.Module):
    """Self-attention over all tokens.

    The features of the projection qkv are ordered by query, key, value, then head, then feature.

    Args:
        embed_dim: width E of a token.
        num_heads: number of heads, a divisor of embed_dim.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.proj = nn.Linear(embed_dim, embed_dim)
        _start(_lecun_normal, self.qkv, self.proj)

    def forward(self, h: Tensor) -> Tensor:
        """Map tokens (B, N, E) to (B, N, E)."""
        q, k, v = rearrange(self.qkv(h), "b n (three heads f) -> three b heads n f", three=3, heads=self.num_heads)
        tokens = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(tokens, "b heads n f -> b n (heads f)"))
        return out


class BatchConv(nn.Conv2d):
    """The published last layer on sequences: a 3x3 convolution over (batch, length), taken for height and width.

    Each result so depends on its neighbours in the batch, with zeros beyond the first and the last.
    """

    def __init__(self) -> None:
        super().__init__(1, 1, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, L) to (B, 1, L)."""
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


def _start(init: Callable[[Tensor], Tensor], *layers: Any) -> None:
    """Draw the weights of layers, with zero biases."""
    for layer in layers:
        init(layer.weight)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)


def _normal(weight: Tensor) -> Tensor:
    return nn.init.normal_(weight, std=0.02)


def _lecun_normal(weight: Tensor) -> Tensor:
    """Normal numbers cut at two deviations, of variance 1 / fan-in after the cut."""
    deviation = 1 / math.sqrt(weight[0].numel()) / 0.87962566103423978  # of a standard normal cut at +-2
    return nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
