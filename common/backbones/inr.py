"""A coordinate network: the image as a function of the point (FDP, arXiv 2303.00800, section 4 and appendix).

A multilayer perceptron with a windowed sine as activation (after SIREN, arXiv 2006.09661) maps the coordinates of a
point, the noisy value there and the time to the clean value, at every point on its own. Nothing in it knows the grid,
so it can be asked on any other; what it knows of one image as a whole comes from adapting its weights to it
(:mod:`common.meta`).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.backbones.embeddings import LabelEmbedding
from common.backbones.resizing import TARGET, spread_linear
from common.refusal import require


class INR(nn.Module):
    """Coordinate network on grids of any number of axes.

    With u the inputs of a point (coordinates, x there if ``y_input``, time), h_0 = u and layers i = 1 .. depth:

        z_i = W_i h_{i-1} + b_i + s_i(label),    h_i = [sin(frequency z_i) exp(-decay z_i^2), u],    output = W h + b

    The shifts s_i exist in a network with labels only and start at zero, as modulations of each layer do in functa
    (arXiv 2201.12204). Coordinates would not survive half precision: under autocast the network computes in the dtype
    of its parameters all the same.

    Args:
        shape: the grid of the data, one size or more, the largest at least 2. Fixes the number of axes only.
        in_channels: channels of x, at least 1.
        out_channels: channels of the output, at least 1.
        width: features of a hidden layer, at least 1.
        depth: number of hidden layers, at least 1.
        frequency: frequency of the sine, above 0.
        decay: decay of the sine's window, at least 0.
        y_input: give the network the value of x at each point; without, x enters through adapted weights only.
        num_classes: number of labels, at least 1, or None for an unconditional network.

    Raises:
        ValueError: if an argument is outside the range given above.
    """

    default_inner_steps = 3  # it learns what it shall denoise by adapting to it
    input_switch = "y_input"  # the argument without which it does not see x

    def __init__(
        self,
        shape: Sequence[int],
        in_channels: int,
        out_channels: int,
        *,
        width: int = 256,
        depth: int = 15,
        frequency: float = 30.0,
        decay: float = 10.0,
        y_input: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        shape = tuple(shape)
        require(is_grid(shape), "shape", "sizes of at least 1, the largest at least 2", shape)
        require(in_channels >= 1, "in_channels", "at least 1", in_channels)
        require(out_channels >= 1, "out_channels", "at least 1", out_channels)
        require(width >= 1, "width", "at least 1", width)
        require(depth >= 1, "depth", "at least 1", depth)
        require(0 < frequency < math.inf, "frequency", "above 0 and finite", frequency)
        require(0 <= decay < math.inf, "decay", "at least 0 and finite", decay)
        require(num_classes is None or num_classes >= 1, "num_classes", "at least 1, or None", num_classes)
        self.shape, self.in_channels, self.out_channels = shape, in_channels, out_channels
        self.frequency, self.decay = float(frequency), float(decay)
        self.y_input, self.num_classes = y_input, num_classes
        inputs = len(shape) + in_channels * y_input + 1
        self.hidden = nn.ModuleList(Affine(width * (i > 0) + inputs, width) for i in range(depth))
        self.out = Affine(width + inputs, out_channels)
        self.label_emb = None if num_classes is None else LabelEmbedding(num_classes, depth * width)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the published start: U(-1, 1) / n in the first layer, U(-1, 1) sqrt(6 / n) / frequency in all others,
        n the inputs of the layer; biases and shifts zero."""
        for i, layer in enumerate([*self.hidden, self.out]):
            n = layer.in_features
            bound = math.sqrt(6 / n) / self.frequency if i > 0 else 1 / n
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        if self.label_emb is not None:
            nn.init.zeros_(self.label_emb.weight)

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, out_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Evaluate the network at every point of a grid.

        Args:
            x: (B, in_channels, *S), S any grid with the axes of ``shape``: its coordinates span [-1, 1] whatever its
                size.
            t: (B,), times in [0, 1], of any floating dtype. Shifted to [-1, 1] here.
            labels: (B,) int64 in [0, num_classes), or -1 in a row without a label; None means no label in any row. An
                unconditional network ignores labels.
            out_shape: another grid to evaluate on, with as many axes, whose outermost points lie on those of S. Its
                coordinates are true, and x is interpolated linearly to them. (The published code resizes coordinates
                like the pixels of an image, so that the first two and the last two points of a grid that is four times
                finer are the same, and all others lie closer together than they should.)

        Returns:
            (B, out_channels, *S), or (B, out_channels, *out_shape).

        Raises:
            Refusal: if a shape is not as above.
        """
        self._check_shapes(x, t, labels, out_shape)
        with torch.autocast(x.device.type, enabled=False):
            inputs = self._inputs(x.to(self.out.weight.dtype), t, out_shape)
            shifts = self._shifts(labels)
            h = inputs
            for i, layer in enumerate(self.hidden):
                z = layer(h, None if shifts is None else shifts[i])
                h = torch.cat([windowed_sine(z, self.frequency, self.decay), inputs], dim=1)
            y: Tensor = self.out(h).unflatten(-1, tuple(out_shape or x.shape[2:]))
        return y

    def _inputs(self, x: Tensor, t: Tensor, out_shape: Sequence[int] | None) -> Tensor:
        """(B, inputs + 1, points), the last of them ones, which the biases multiply.

        Features come first, so that to concatenate them is to copy whole blocks.
        """
        place = coordinates(x.shape[2:], x.device, x.dtype)
        if out_shape is not None:
            place = spread_linear(place, out_shape)
            x = spread_linear(x, out_shape) if self.y_input else x
        place = place.flatten(1)  # (axes, points)
        time = (2 * t - 1).to(x.dtype).reshape(-1, 1, 1).expand(-1, 1, place.shape[-1])
        values = [x.flatten(2)] if self.y_input else []
        return torch.cat([place.expand(x.shape[0], -1, -1), *values, time, torch.ones_like(time)], dim=1)

    def _shifts(self, labels: Tensor | None) -> Sequence[Tensor] | None:
        """What the label adds before each activation, depth times (B, width)."""
        if self.label_emb is None or labels is None:
            return None
        shifts: Tensor = self.label_emb(labels)
        return shifts.chunk(len(self.hidden), dim=1)

    def _check_shapes(self, x: Tensor, t: Tensor, labels: Tensor | None, out_shape: Sequence[int] | None) -> None:
        axes = len(self.shape)
        if x.ndim != 2 + axes or x.shape[1] != self.in_channels or not is_grid(x.shape[2:]):
            sizes = ", ".join(f"S{i}" for i in range(axes))
            raise ValueError(f"INR: x must be of shape (B, {self.in_channels}, {sizes}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"INR: t must be of shape (B,), the batch size of x, got {tuple(t.shape)}")
        if self.label_emb is not None and labels is not None and labels.shape != x.shape[:1]:
            raise ValueError(f"INR: labels must be of shape (B,), the batch size of x, got {tuple(labels.shape)}")
        if out_shape is not None:
            self.check_grid(out_shape)

    def check_grid(self, out_shape: Sequence[int]) -> None:
        """Refuse a grid on which it cannot answer: one of another number of axes."""
        axes = len(self.shape)
        sizes = "one size" if axes == 1 else f"{axes} sizes"
        require(len(out_shape) == axes and min(out_shape) >= 1, TARGET, f"{sizes} of at least 1", tuple(out_shape))


class Affine(nn.Linear):
    """A linear layer on features first, the last of them ones, which its bias multiplies.

    One product then does weights and bias, and one their gradients: a sum over points is a pass over memory, of which
    an inner loop that is differentiated has many.
    """

    def forward(self, h: Tensor, shift: Tensor | None = None) -> Tensor:
        """Map h (B, in_features + 1, points) to (B, out_features, points); shift (B, out_features) adds to the bias."""
        weight, bias = self.weight.expand(h.shape[0], -1, -1), self.bias.expand(h.shape[0], -1)
        bias = bias if shift is None else bias + shift
        return torch.bmm(torch.cat([weight, bias.unsqueeze(-1)], dim=-1), h)


def coordinates(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Where the points of a grid lie: index over the largest index of all axes, taken from [0, 1] to [-1, 1].

    One spacing for all axes: on a grid that is not square, only the longest axis reaches 1.

    Args:
        shape: the grid.
        device: of the result.
        dtype: of the result.

    Returns:
        (axes, *shape).
    """
    steps = max(shape) - 1
    axes = [2 * (torch.arange(n, device=device, dtype=dtype) / steps - 0.5) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def windowed_sine(z: Tensor, frequency: float, decay: float) -> Tensor:
    """sin(frequency z) exp(-decay z^2), cheap to differentiate any number of times."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return (frequency * z).sin() * (-decay * z.square()).exp()
    f: Tensor = _WindowedSine.apply(z, frequency, decay)[0]
    return f


class _WindowedSine(torch.autograd.Function):
    """f(z) together with f'(z), for f = sin(w z) exp(-a z^2).

    An inner loop differentiates f three times over: once for its step and twice when that is differentiated. As f
    solves f'' = -4 a z f' - (w^2 + 2 a + 4 a^2 z^2) f, one sine, cosine and exponential serve all of these; and f' as
    an output of its own makes the derivative of f an ordinary product, whose derivatives follow.
    """

    @staticmethod
    def forward(z: Tensor, frequency: float, decay: float) -> tuple[Tensor, Tensor]:
        window = z.square().mul_(-decay).exp_()
        phase = frequency * z
        f = phase.sin().mul_(window)
        slope = phase.cos_().mul_(window).mul_(frequency).addcmul_(z, f, value=-2 * decay)
        return f, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: tuple[Tensor, Tensor]) -> None:
        z, ctx.frequency, ctx.decay = inputs
        ctx.save_for_backward(z, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_slope: Tensor | None) -> tuple[Tensor | None, None, None]:
        z, f, slope = ctx.saved_tensors
        w, a = ctx.frequency, ctx.decay
        total = None if grad is None else grad * slope
        if grad_slope is not None:
            # f'' = -(w^2 + 2 a) f - 4 a z (f' + a z f), in few passes over memory
            curvature = torch.addcmul(-(w**2 + 2 * a) * f, z, torch.addcmul(slope, z, f, value=a), value=-4 * a)
            total = grad_slope * curvature if total is None else torch.addcmul(total, grad_slope, curvature)
        return total, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], z: Tensor, frequency: float, decay: float
    ) -> tuple[Any, tuple[int | None, int | None]]:
        return _WindowedSine.apply(z, frequency, decay), (in_dims[0], in_dims[0])


def is_grid(shape: Sequence[int]) -> bool:
    """Whether coordinates can be laid on a grid: at least one axis, and one with more than a point."""
    return len(shape) >= 1 and min(shape) >= 1 and max(shape) >= 2
