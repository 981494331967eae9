"""Classifier-free guidance (arXiv 2207.12598)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from common.denoiser import X0Denoiser
from common.labels import NULL_LABEL
from common.refusal import require


class ClassifierFree(nn.Module):
    """x0_hat = x0_null + scale (x0_label - x0_null).

    Both come from one call of the denoiser with twice the batch. In the paper's notation scale = 1 + w; 1 is no
    guidance, 0 ignores the labels.

    Args:
        denoiser: any callable (v, t, labels) to x0_hat that was trained with label dropout.
        scale: strength of classifier-free guidance, for runs with --label_dropout; 1 is none, 0 ignores the labels.

    Raises:
        Refusal: for a negative scale.
        ValueError: for a call without labels.
    """

    flag_names: ClassVar[dict[str, str]] = {"scale": "guidance_scale"}
    needs_null_labels = True

    def __init__(self, denoiser: X0Denoiser, scale: float = 1.0) -> None:
        super().__init__()
        require(scale >= 0, "scale", "at least 0", scale)
        self.denoiser, self.scale = denoiser, scale

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Guided x0_hat, (B, C, *S)."""
        if labels is None:
            raise ValueError("guidance needs labels")
        both = torch.cat([labels, torch.full_like(labels, NULL_LABEL)])
        with_label, without = self.denoiser(torch.cat([v, v]), torch.cat([t, t]), both).chunk(2)
        return without + self.scale * (with_label - without)
