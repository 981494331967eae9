"""Features of the diffusion time and of labels."""

import math

import torch
from torch import Tensor, nn

from common.labels import NULL_LABEL


def sinusoidal_embedding(position: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    r"""Cosines, then sines, of a position at geometrically spaced frequencies.

    With :math:`h = \text{dim} / 2` and frequencies :math:`f_j = \text{max\_period}^{-j / h}`, j = 0, .., h - 1, the row
    of position p is :math:`(\cos p f_0, .., \cos p f_{h-1}, \sin p f_0, .., \sin p f_{h-1})`: the form of the ADM UNet
    (Dhariwal and Nichol, arXiv 2105.05233), after Vaswani et al., arXiv 1706.03762, section 3.5.

    Args:
        position: (B,), of any floating dtype and any range.
        dim: number of features, even and at least 2.
        max_period: the frequencies run from 1 down to (almost) the inverse of this.

    Returns:
        (B, dim), on the position's device, float64 for float64 positions and float32 for every shorter dtype.

    Raises:
        ValueError: if dim is odd or below 2.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"sinusoidal_embedding: dim must be even and at least 2, got {dim!r}")
    # A half-precision position of some hundreds has lost its fraction, and the fastest wave has period 2 pi.
    position = position.to(torch.promote_types(position.dtype, torch.float32))
    half = dim // 2
    index = torch.arange(half, device=position.device, dtype=position.dtype)
    angle = position.unsqueeze(-1) * torch.exp(-math.log(max_period) / half * index)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LabelEmbedding(nn.Embedding):
    """An embedding in which a row without a label (-1) is zero."""

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (B,) int64 to (B, embedding_dim)."""
        known = labels != NULL_LABEL
        return super().forward(labels * known) * known.unsqueeze(-1)
