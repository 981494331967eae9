"""Vision transformers that read published weights: patches, a token in front of them, blocks that normalise first."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

HEAD = 64  # channels of a head of attention, in all networks that are read here


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), CLIP's nonlinearity."""
    return x * (1.702 * x).sigmoid()


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. (2021): images (B, 3, H, W) to what the token in front of the patches has become, (B, D).

    Args:
        state: weights by names of this class; see :meth:`block` for those of ``blocks``. ``before``, normalisation
            ahead of the blocks, and ``head``, a matrix behind them, may be missing. They tell all sizes.
        activation: nonlinearity of the blocks.
        eps: what layers that normalise add to the variance.
    """

    def __init__(self, state: dict[str, Tensor], activation: Callable[[Tensor], Tensor], eps: float) -> None:
        super().__init__()
        width, _, patch, _ = state["patches.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        with torch.device("meta"):  # what is read takes the place of these
            self.patches = nn.Conv2d(3, width, patch, stride=patch, bias="patches.bias" in state)
            self.token = nn.Parameter(torch.empty(1, 1, width))
            self.positions = nn.Parameter(torch.empty_like(state["positions"]))
            self.before = nn.LayerNorm(width, eps) if "before.weight" in state else nn.Identity()
            self.blocks = nn.Sequential(
                *(
                    nn.TransformerEncoderLayer(
                        width, width // HEAD, 4 * width, 0.0, activation, eps, batch_first=True, norm_first=True
                    )
                    for _ in range(depth)
                )
            )
            self.after = nn.LayerNorm(width, eps)
            has_head = "head.weight" in state
            self.head = nn.Linear(width, len(state["head.weight"]), bias=False) if has_head else nn.Identity()
        self.load_state_dict(state, assign=True)
        self.eval().requires_grad_(False)

    @staticmethod
    def block(number: int, **layers: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Weights of one block by the names of torch's layer.

        Args:
            number: its place, from 0 on.
            layers: weight and bias of ``norm1``, ``attention_in`` (queries, keys and values, one below the other),
                ``attention_out``, ``norm2``, ``linear1`` and ``linear2``.
        """
        names = {"attention_in": "self_attn.in_proj_", "attention_out": "self_attn.out_proj."}
        return {
            f"blocks.{number}.{names.get(layer, f'{layer}.')}{part}": value
            for layer, pair in layers.items()
            for part, value in zip(("weight", "bias"), pair, strict=True)
        }

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W), normalised as the network wants them."""
        patches = self.patches(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(patches), -1, -1), patches], 1) + self.positions
        features: Tensor = self.head(self.after(self.blocks(self.before(x))[:, 0]))
        return features
