"""Networks of (x, t, labels) with t in [0, 1]. They know no dynamics, and any of them fits under any dynamics."""

from common.backbones.embeddings import sinusoidal_embedding
from common.backbones.unet import UNet

__all__ = ["UNet", "sinusoidal_embedding"]
