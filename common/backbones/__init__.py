"""Networks of (x, t, labels) with t in [0, 1]. They know no dynamics, and any of them fits under any dynamics."""

from common.backbones.embeddings import sinusoidal_embedding
from common.backbones.inr import INR
from common.backbones.unet import UNet
from common.backbones.unet1d import UNet1D
from common.backbones.uvit import UViT

__all__ = ["INR", "UNet", "UNet1D", "UViT", "sinusoidal_embedding"]
