"""The Inception v3 of 2015 as a variant of torchvision's; imported when it is used, since torchvision takes a while.

Two things differ (pytorch-fid, ``fid_inception_v3``): TensorFlow's averages are over the pixels that are there, not
over padded zeros, and the last block pools by a maximum. Names of weights are torchvision's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.inception import BasicConv2d, Inception3, InceptionE

LOGITS = 1008
AVERAGED = ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b")  # blocks that pool by an average over 3 x 3 pixels


class AfterAverage(BasicConv2d):  # type: ignore[misc]  # torchvision has no types
    """A convolution of averages over 3 x 3 pixels, those at the border counted without the zeros around the image."""

    def forward(self, x: Tensor) -> Tensor:
        share = F.avg_pool2d(torch.ones_like(x[:1, :1]), kernel_size=3, stride=1, padding=1)
        result: Tensor = super().forward(x / share)
        return result


class LastBlock(InceptionE):  # type: ignore[misc]
    """The last block, whose branch of pooling takes a maximum."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))]


def inception(state: dict[str, Tensor]) -> tuple[nn.Module, Tensor]:
    """The network, images (B, 3, 299, 299) in [-1, 1] to features (B, 2048), and what gives logits of these.

    Args:
        state: the published weights.

    Returns:
        The network and the matrix (1008, 2048) of its last layer. Inception scores are taken without its bias, as
        TensorFlow's graph ended (torch-fidelity's ``logits_unbiased``).
    """
    network = Inception3(num_classes=LOGITS, aux_logits=False, init_weights=False)
    for name in AVERAGED:
        block = getattr(network, f"Mixed_{name}")
        conv = block.branch_pool.conv
        block.branch_pool = AfterAverage(conv.in_channels, conv.out_channels, kernel_size=1)
    network.Mixed_7c = LastBlock(2048)
    network.load_state_dict(state)
    last, network.fc = network.fc.weight.detach(), nn.Identity()
    return network.eval().requires_grad_(False), last
