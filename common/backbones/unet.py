"""The UNet of ADM (Dhariwal and Nichol, arXiv 2105.05233) in the form used by GFDM (arXiv 2310.17638).

Residual blocks add an embedding of time and label, resampling is convolutional, GroupNorm has 8 groups and attention by
default one head. Module names, their order and all shapes are those of the published GFDM checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.backbones.embeddings import LabelEmbedding, sinusoidal_embedding
from common.refusal import require
from common.sides import Sides, next_multiples, written

GROUPS = 8
TIME_SCALE = 999.0


class UNet(nn.Module):
    """Residual UNet on images of one fixed size.

    Level l works at image_size / 2**l pixels with model_channels * channel_mult[l] channels. A fresh network returns
    zeros, because the last convolution of every residual branch and of the network starts at zero.

    Fused attention has first derivatives in reverse mode only. For second or forward-mode ones (``torch.func.jvp``),
    call the network under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        image_size: height H and width W of x, one number if they are equal; each a multiple of 2**(levels - 1) where
            levels = len(channel_mult).
        in_channels: channels of x, at least 1.
        model_channels: channels of the finest level, a multiple of 8. The time embedding is 4 times as wide. (Take 16
            or more: with one channel per group, the norm removes what the embedding added.)
        out_channels: channels of the output, at least 1; None takes in_channels.
        num_res_blocks: residual blocks of a level in the encoder, at least 1. The decoder has one more per level.
        attention_resolutions: downsampling factors (not pixels) of the levels with attention, out of
            1, 2, 4, .., 2**(levels - 1). May be empty. The middle of the network has attention in any case.
        dropout: probability in [0, 1) of dropping a feature before the last convolution of a residual block.
        channel_mult: width of each level in units of model_channels, finest first, not empty.
        num_classes: number of labels, at least 1, or None for an unconditional network.
        num_heads: number of attention heads, a divisor of the channels wherever there is attention.

    Raises:
        ValueError: if an argument is outside the range given above.
    """

    flag_names: ClassVar[dict[str, str]] = {"attention_resolutions": "attn_resolutions"}

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int,
        model_channels: int = 128,
        out_channels: int | None = None,
        num_res_blocks: int = 4,
        attention_resolutions: Collection[int] = (8,),
        dropout: float = 0.1,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_classes: int | None = None,
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        require(in_channels >= 1, "in_channels", "at least 1", in_channels)
        require(out_channels >= 1, "out_channels", "at least 1", out_channels)
        require(num_res_blocks >= 1, "num_res_blocks", "at least 1", num_res_blocks)
        require(0 <= dropout < 1, "dropout", "in [0, 1)", dropout)
        require(num_classes is None or num_classes >= 1, "num_classes", "at least 1, or None", num_classes)
        sides = Sides.of(image_size)
        factors = _downsampling_factors(sides, channel_mult)
        widths = _level_widths(model_channels, channel_mult)
        _check_attention(attention_resolutions, num_heads, dict(zip(factors, widths, strict=True)))
        self.image_size, self.in_channels, self.out_channels = sides, in_channels, out_channels
        self.model_channels, self.num_classes = model_channels, num_classes
        emb_width = 4 * model_channels
        deepest = widths[-1]

        def stage(in_width: int, out_width: int, level: int, *resample: nn.Module) -> Stage:
            attention = [Attention(out_width, num_heads)] if factors[level] in attention_resolutions else []
            return Stage([ResBlock(in_width, out_width, emb_width, dropout), *attention, *resample])

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width)
        )
        self.label_emb = None if num_classes is None else LabelEmbedding(num_classes, emb_width)

        encoder = [Stage([_conv3(in_channels, model_channels)])]
        skips = [model_channels]
        for level, width in enumerate(widths):
            if level > 0:
                encoder.append(Stage([Downsample(skips[-1])]))
                skips.append(skips[-1])
            for _ in range(num_res_blocks):
                encoder.append(stage(skips[-1], width, level))
                skips.append(width)
        self.input_blocks = nn.ModuleList(encoder)

        self.middle_block = Stage(
            [
                ResBlock(deepest, deepest, emb_width, dropout),
                Attention(deepest, num_heads),
                ResBlock(deepest, deepest, emb_width, dropout),
            ]
        )

        decoder: list[Stage] = []
        below = deepest
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks):
                decoder.append(stage(below + skips.pop(), width, level))
                below = width
            upsample = [Upsample(width)] if level > 0 else []
            decoder.append(stage(below + skips.pop(), width, level, *upsample))
        self.output_blocks = nn.ModuleList(decoder)

        self.out = nn.Sequential(_norm(below), nn.SiLU(), _zero(_conv3(below, out_channels)))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: (B, in_channels, H, W), of the parameters' dtype unless under autocast, in either memory format.
            t: (B,), times in [0, 1], of any floating dtype. Scaled to [0, 999] here.
            labels: (B,) int64 in [0, num_classes), or -1 in a row without a label. None means no label in any row. A
                row without a label gets no label embedding. An unconditional network ignores labels. Other values are
                not checked here (that would wait for the device), but the embedding look-up fails on them.

        Returns:
            (B, out_channels, H, W), in channels_last if the parameters are.

        Raises:
            Refusal: if a shape is not as above.
        """
        self._check_shapes(x, t, labels)
        emb = self._embed(t, labels, x.dtype)
        h, skips = x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.out(h)
        return out

    def _embed(self, t: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B, 4 * model_channels), the embedding of time plus that of the label if there is one."""
        time = t.to(torch.promote_types(t.dtype, torch.float32)) * TIME_SCALE
        emb: Tensor = self.time_embed(sinusoidal_embedding(time, self.model_channels).to(dtype))
        return emb if self.label_emb is None or labels is None else emb + self.label_emb(labels)

    def _check_shapes(self, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
        # messages are put together only where one is needed: a compiler would trace them
        expected = (self.in_channels, *self.image_size)
        if x.shape[1:] != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"UNet: x must be of shape (B, {sizes}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"UNet: t must be of shape (B,), the batch size of x, got {tuple(t.shape)}")
        if self.label_emb is not None and labels is not None and labels.shape != x.shape[:1]:
            raise ValueError(f"UNet: labels must be of shape (B,), the batch size of x, got {tuple(labels.shape)}")


class Stage(nn.ModuleList):
    """Layers applied one after the other, of which the residual blocks also get the embedding."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Map h of shape (B, C, H, W) with emb of shape (B, E)."""
        for layer in self:
            h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
        return h


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions with the embedding added between them, around a skip connection.

    Args:
        in_channels: channels of the input, a multiple of 8.
        out_channels: channels of the output, a multiple of 8. Where it differs, the skip is a 1x1 convolution.
        emb_channels: width of the embedding.
        dropout: probability of dropping a feature before the second convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(_norm(in_channels), nn.SiLU(), _conv3(in_channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            _norm(out_channels), nn.SiLU(), nn.Dropout(dropout), _zero(_conv3(out_channels, out_channels))
        )
        self.skip_connection = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x of shape (B, in_channels, H, W) and emb of shape (B, emb_channels) to (B, out_channels, H, W)."""
        shift = rearrange(self.emb_layers(emb), "b c -> b c 1 1")
        h: Tensor = self.skip_connection(x) + self.out_layers(self.in_layers(x) + shift)
        return h


class Attention(nn.Module):
    """Self-attention over all pixels, around a skip connection.

    The channels of the projection qkv are ordered by head, then query, key, value, then feature.

    Args:
        channels: channels of input and output, a multiple of 8.
        num_heads: number of heads, a divisor of channels.
    """

    def __init__(self, channels: int, num_heads: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.proj_out = _zero(nn.Conv2d(channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, channels, H, W) to the same shape."""
        # Fused kernels need adjacent features: in channels_last they are, otherwise this is the one copy.
        qkv = rearrange(self.qkv(self.norm(x)), "b c h w -> b (h w) c").contiguous()
        q, k, v = rearrange(qkv, "b n (heads three f) -> three b heads n f", heads=self.num_heads, three=3)
        pixels = F.scaled_dot_product_attention(q, k, v)
        h = rearrange(pixels, "b heads (h w) f -> b h w (heads f)", h=x.shape[2])
        out: Tensor = x + self.proj_out(rearrange(h, "b h w c -> b c h w"))
        return out


class Downsample(nn.Module):
    """Halve height and width by a 3x3 convolution of stride 2.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, channels, H / 2, W / 2)."""
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then a 3x3 convolution.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, channels, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)


def _conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def _downsampling_factors(sides: Sides, channel_mult: Sequence[int]) -> list[int]:
    require(
        len(channel_mult) > 0 and min(channel_mult) >= 1,
        "channel_mult",
        "one width of at least 1 per level, for one level or more",
        channel_mult,
    )
    factors = [2**level for level in range(len(channel_mult))]
    require(
        all(side >= 1 and side % factors[-1] == 0 for side in sides),
        "image_size",
        f"a positive multiple of {factors[-1]} = 2**(levels - 1) on each side, for the {len(factors)} levels of "
        "channel_mult",
        sides.short,
        f"the next size that would work is {written(next_multiples(sides, factors[-1]))}; or take fewer levels, or "
        "--model_name uvit with a --patch_size that divides the sides",
    )
    return factors


def _level_widths(model_channels: int, channel_mult: Sequence[int]) -> list[int]:
    require(
        model_channels >= 1 and model_channels % GROUPS == 0,
        "model_channels",
        f"a positive multiple of {GROUPS}, the groups of GroupNorm",
        model_channels,
    )
    return [model_channels * mult for mult in channel_mult]


def _check_attention(attention_resolutions: Collection[int], num_heads: int, width_at: dict[int, int]) -> None:
    require(
        set(attention_resolutions) <= set(width_at),
        "attention_resolutions",
        f"downsampling factors (not pixels) out of {list(width_at)}, the levels of channel_mult",
        attention_resolutions,
    )
    attended = sorted({width_at[factor] for factor in [*attention_resolutions, max(width_at)]})
    require(
        num_heads >= 1 and all(width % num_heads == 0 for width in attended),
        "num_heads",
        f"at least 1 and a divisor of the widths with attention, {attended}",
        num_heads,
    )
