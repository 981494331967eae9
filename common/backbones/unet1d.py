"""A convolutional U-Net over functions of one variable: the 2-D UNet's residual blocks along one axis, with a position.

A convolution alone cannot tell where it is, so functions whose law changes along the axis (a decay, a trend, an onset)
would be learned as if it did not. Here every point also has features of its place in [0, 1].
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.backbones.embeddings import LabelEmbedding, sinusoidal_embedding
from common.refusal import Refusal, require

GROUPS = 8
KERNEL = 5
TIME_SCALE = 999.0
WAVES = 4  # the fastest wave of a position turns 4 times from one end to the other


class UNet1D(nn.Module):
    """Residual U-Net on functions of any length.

    Level l works on every 2**l-th point with model_channels * channel_mult[l] channels; the coarsest one has
    self-attention between its blocks. A length that is no multiple of 2**(levels - 1) is filled up at its end by
    repeating the last value, and the output is cut back. Places run from 0 to 1 over the given points whatever their
    number, so the network may be called on another grid than it was trained on.

    A fresh network returns zeros, because the last convolution of every residual branch and of the network starts at
    zero. Fused attention has first derivatives in reverse mode only (see :class:`~common.backbones.UNet`).

    Args:
        shape: (L,), the grid of the data. (Other lengths work too; two axes are refused.)
        in_channels: channels of x, at least 1.
        out_channels: channels of the output, at least 1.
        num_classes: number of labels, at least 1, or None for an unconditional network.
        model_channels: channels of the finest level, a positive multiple of 8. The time embedding is 4 times as wide.
        channel_mult: width of each level in units of model_channels, finest first, not empty.
        num_res_blocks: residual blocks of a level in the encoder, and of one in the decoder, at least 1.
        dropout: probability in [0, 1) of dropping a feature before the last convolution of a residual block.
        num_heads: number of attention heads, a divisor of the coarsest level's channels.

    Raises:
        Refusal: for an argument outside the range given above.
    """

    def __init__(
        self,
        shape: Sequence[int],
        in_channels: int,
        out_channels: int,
        num_classes: int | None = None,
        model_channels: int = 32,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 1,
        dropout: float = 0.0,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise Refusal("unet1d works on functions of one variable; for images take unet or uvit", "model_name")
        require(in_channels >= 1, "in_channels", "at least 1", in_channels)
        require(out_channels >= 1, "out_channels", "at least 1", out_channels)
        require(num_classes is None or num_classes >= 1, "num_classes", "at least 1, or None", num_classes)
        is_wide = model_channels >= 1 and model_channels % GROUPS == 0
        require(is_wide, "model_channels", f"a positive multiple of {GROUPS}", model_channels)
        has_levels = len(channel_mult) > 0 and min(channel_mult) >= 1
        require(has_levels, "channel_mult", "one width of at least 1 per level, for one level or more", channel_mult)
        require(num_res_blocks >= 1, "num_res_blocks", "at least 1", num_res_blocks)
        require(0 <= dropout < 1, "dropout", "in [0, 1)", dropout)
        widths = [model_channels * mult for mult in channel_mult]
        splits = num_heads >= 1 and widths[-1] % num_heads == 0
        require(splits, "num_heads", f"at least 1 and a divisor of {widths[-1]}, the coarsest channels", num_heads)
        self.in_channels, self.model_channels, self.stride = in_channels, model_channels, 2 ** (len(widths) - 1)
        width = 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, width), nn.SiLU(), nn.Linear(width, width))
        self.label_emb = None if num_classes is None else LabelEmbedding(num_classes, width)

        def blocks(first: int, out: int) -> Blocks:
            return Blocks(ResBlock(out if i else first, out, width, dropout) for i in range(num_res_blocks))

        pairs = list(zip([model_channels, *widths], widths, strict=False))
        self.enter = _conv(in_channels + 1 + 2 * WAVES, model_channels)
        self.encoder = nn.ModuleList(blocks(below, level) for below, level in pairs)
        self.down = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in widths[:-1])
        deepest = widths[-1]
        self.middle = nn.ModuleList([ResBlock(deepest, deepest, width, dropout) for _ in range(2)])
        self.attention = Attention(deepest, num_heads)
        self.decoder = nn.ModuleList(blocks(2 * level, below) for below, level in reversed(pairs))
        self.up = nn.ModuleList(_conv(c, c) for c in reversed(widths[:-1]))
        self.leave = nn.Sequential(_norm(model_channels), nn.SiLU(), _zero(_conv(model_channels, out_channels)))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: (B, in_channels, L) of any L >= 1, of the parameters' dtype unless under autocast.
            t: (B,), times in [0, 1], of any floating dtype. Scaled to [0, 999] here.
            labels: (B,) int64 in [0, num_classes), or -1 in a row without a label, which gets no label embedding. None
                means no label in any row. An unconditional network ignores labels.

        Returns:
            (B, out_channels, L).

        Raises:
            ValueError: if x is of another shape.
        """
        if x.ndim != 3 or x.shape[1] != self.in_channels:
            raise ValueError(f"UNet1D: x must be of shape (B, {self.in_channels}, L), got {tuple(x.shape)}")
        emb = self._embed(t, labels, x.dtype)
        length = x.shape[-1]
        padded = F.pad(x, (0, -length % self.stride), mode="replicate")
        h = self.enter(torch.cat([padded, self._places(padded, length)], dim=1))
        skips = []
        for level, blocks in enumerate(self.encoder):
            h = self.down[level - 1](h) if level else h
            h = blocks(h, emb)
            skips.append(h)
        first, second = self.middle
        h = second(self.attention(first(h, emb)), emb)
        for level, blocks in enumerate(self.decoder):
            h = self.up[level - 1](F.interpolate(h, scale_factor=2.0, mode="nearest")) if level else h
            h = blocks(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.leave(h)[..., :length]
        return out

    def _embed(self, t: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B, 4 * model_channels), the embedding of time plus that of the label if there is one."""
        time = t.to(torch.promote_types(t.dtype, torch.float32)) * TIME_SCALE
        emb: Tensor = self.time_embed(sinusoidal_embedding(time, self.model_channels).to(dtype))
        return emb if self.label_emb is None or labels is None else emb + self.label_emb(labels)

    @staticmethod
    def _places(x: Tensor, length: int) -> Tensor:
        """Features (B, 1 + 2 WAVES, L) of places: u, then cos and sin of pi u 2^j; u is 1 at the last given point."""
        u = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / max(length - 1, 1)
        angle = math.pi * u * 2 ** torch.arange(WAVES, device=x.device, dtype=x.dtype).unsqueeze(1)
        return torch.cat([u.unsqueeze(0), angle.cos(), angle.sin()]).expand(x.shape[0], -1, -1)


class Blocks(nn.ModuleList):
    """Residual blocks one after the other."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Map h of shape (B, C, L) with emb of shape (B, E)."""
        for block in self:
            h = block(h, emb)
        return h


class ResBlock(nn.Module):
    """Two normalised convolutions with the embedding added between them, around a skip connection.

    Args:
        in_channels: channels of the input, a multiple of 8.
        out_channels: channels of the output, a multiple of 8. Where it differs, the skip is a convolution of width 1.
        emb_channels: width of the embedding.
        dropout: probability of dropping a feature before the second convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(_norm(in_channels), nn.SiLU(), _conv(in_channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            _norm(out_channels), nn.SiLU(), nn.Dropout(dropout), _zero(_conv(out_channels, out_channels))
        )
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x (B, in_channels, L) and emb (B, emb_channels) to (B, out_channels, L)."""
        h: Tensor = self.in_layers(x) + self.emb_layers(emb).unsqueeze(-1)
        out: Tensor = self.skip(x) + self.out_layers(h)
        return out


class Attention(nn.Module):
    """Self-attention over all points, around a skip connection.

    Args:
        channels: channels of input and output, a multiple of 8.
        num_heads: number of heads, a divisor of channels.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.leave = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, channels, L) to the same shape."""
        q, k, v = rearrange(
            self.qkv(self.norm(x)), "b (three heads f) n -> three b heads n f", three=3, heads=self.num_heads
        )
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n f -> b (heads f) n")
        out: Tensor = x + self.leave(h)
        return out


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)


def _conv(in_channels: int, out_channels: int) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, KERNEL, padding=KERNEL // 2)


def _zero(conv: nn.Conv1d) -> nn.Conv1d:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
