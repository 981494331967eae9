"""Meta-learning: a network that fits itself to every sample before it answers (FDP, arXiv 2303.00800, section 4).

The weights take a few gradient steps towards reproducing the noisy function they are given (MAML, arXiv 1703.03400),
at one rate for all or at rates learned per weight (Meta-SGD, arXiv 1707.09835). Training differentiates through these
steps; sampling takes them at every evaluation.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from common.backbones.resizing import check_grid
from common.dynamics.basis import Basis
from common.refusal import Refusal, require

Weights = dict[str, Tensor]

COMMON_RATE = 1e-2
LEARNED_START = 5e-4


def starting_rate(learned_rates: bool) -> float:
    """Learning rate of the inner steps if none is given: a common one, or the one that learned rates start from."""
    return LEARNED_START if learned_rates else COMMON_RATE


class MetaLearned(nn.Module):
    """A backbone whose weights adapt to every sample on its own, with the call of a backbone.

    For sample x and weights theta, with F the transform of the basis and G the number of points:

        L(theta) = 1/G sum_modes sum_channels metric |F(network_theta(x, t) - x)|^2
        theta <- theta - rate clip(dL/dtheta, -clip, clip)         one rate for all weights
        theta <- theta - clip(rates, 0, 1) dL/dtheta               rates learned, one per weight

    ``steps`` times, from the common weights; the answer is network_theta(x, t). The target is the noisy x itself.
    Gradients of the answer flow through the steps, so training is of second order. Works under no_grad and
    inference_mode.

    Args:
        network: any backbone with as many output as input channels. It is called on one sample at a time inside
            :func:`torch.func.vmap`, so rows must not mix and Python must not branch on values.
        basis: where the distance is taken, that of a dynamics.
        metric: weight of the squared error per mode (*modes of the basis), that of a dynamics; not negative.
        steps: gradient steps, at least 1.
        rate: learning rate of the inner steps, above 0; if rates are learned, the start of all of them, at most 1
            (default: 0.01; 0.0005 if learned). Learned rates move by gradients that are not clipped, and from 2e-3 on
            the steps raise the loss of a fresh published colour network (15 x 256).
        clip: largest entry of the gradient in the inner steps, under a common rate, above 0.
        learned_rates: learn an inner rate for every weight (Meta-SGD). They are parameters: call :meth:`clamp_rates`
            after each step of the optimiser.
        checkpointing: compute the steps again in the backward pass instead of keeping what they leave, which trades
            about a third more time for the memory of all steps but one. In training alone: it needs ``backward()``,
            not ``autograd.grad``.
        paper: double learned rates after every step (r, 2r, 4r, each at most 1), as the published code does and
            released weights expect.

    Raises:
        ValueError: if an argument is outside the range given above, or ``paper`` comes without learned rates.
    """

    flag_names: ClassVar[dict[str, str]] = {"steps": "inner_steps", "rate": "inner_lr", "clip": "inner_clip"}
    root_metric: Tensor

    def __init__(
        self,
        network: nn.Module,
        basis: Basis,
        metric: Tensor,
        *,
        steps: int = 3,
        rate: float | None = None,
        clip: float = 1.0,
        learned_rates: bool = False,
        checkpointing: bool = False,
        paper: bool = False,
    ) -> None:
        super().__init__()
        require(tuple(metric.shape) == basis.modes, "metric", f"of shape {basis.modes}", tuple(metric.shape))
        require(bool((metric >= 0).all()), "metric", "nowhere negative", float(metric.min()))
        require(steps >= 1, "steps", "at least 1", steps)
        rate = starting_rate(learned_rates) if rate is None else rate
        require(0 < rate < math.inf, "rate", "above 0 and finite", rate)
        require(rate <= 1 or not learned_rates, "rate", "at most 1 if rates are learned", rate)
        require(clip > 0, "clip", "above 0", clip)
        require(learned_rates or not paper, "paper", "False without learned_rates, which it is about", paper)
        self.network, self.basis = network, basis
        self.steps, self.rate, self.clip, self.checkpointing, self.paper = steps, rate, clip, checkpointing, paper
        self.register_buffer("root_metric", metric.detach().sqrt(), persistent=False)
        rates = {_key(name): torch.full_like(weight, rate) for name, weight in network.named_parameters()}
        self.rates = nn.ParameterDict(rates) if learned_rates else None

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, out_shape: Sequence[int] | None = None
    ) -> Tensor:
        """The answer of the adapted network.

        Args:
            x: (B, C, *S), on the grid of the basis.
            t: times (B,).
            labels: classes (B,) int64, or None; as the network takes them.
            out_shape: another grid to answer on, for networks that can. The network adapts to x and answers on its
                grid; what it is given on the new one is that answer, interpolated by the network.

        Returns:
            (B, C, *S), or (B, C, *out_shape).

        Raises:
            Refusal: for an ``out_shape`` that the network cannot serve, or another number of channels out than in.
        """
        if out_shape is not None:
            self.check_grid(out_shape)
        weights, _ = self.adapt(x, t, labels)
        answer = vmap(self._call, (0, 0, 0, _axis(labels), None), randomness="different")
        output: Tensor = answer(weights, x, t, labels, None)
        return output if out_shape is None else answer(weights, output, t, labels, out_shape)

    def check_grid(self, out_shape: Sequence[int]) -> None:
        """Refuse a grid that the network cannot answer on."""
        check_grid(self.network, out_shape)

    def adapt(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Weights, Tensor]:
        """Take the inner steps.

        Args:
            x: (B, C, *S), on the grid of the basis.
            t: times (B,).
            labels: classes (B,) int64, or None.

        Returns:
            The weights of every sample by name, each (B, *shape), and the mean loss of the batch before each step,
            (steps,), detached.
        """
        # in inference mode the torch.func of torch before 2.13 silently gives gradients of zero (its issue 177318)
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                return self.adapt(x.clone(), t.clone(), None if labels is None else labels.clone())
        names, weights = map(list, zip(*self.network.named_parameters(), strict=True))
        rates = [] if self.rates is None else [self.rates[_key(name)].clamp(0, 1) for name in names]
        # while sampling gradients may be asked for too, but by autograd.grad
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        # torch.func does not work under the hooks of the other kind of checkpoint
        step = partial(checkpoint, self._step, use_reentrant=True) if recompute else self._step
        losses = []
        for i in range(self.steps):
            # the first step starts from weights that all samples share
            *weights, loss = step(i == 0, x, t, labels, *weights, *rates)
            losses.append(loss.detach())
            if self.paper:
                rates = [(2 * rate).clamp(max=1) for rate in rates]
        return dict(zip(names, weights, strict=True)), torch.stack(losses)

    @torch.no_grad()
    def clamp_rates(self) -> None:
        """Bring learned rates back to [0, 1], after a step of the optimiser; nothing to do under a common rate."""
        for rate in [] if self.rates is None else self.rates.values():
            rate.clamp_(0, 1)

    def _step(self, shared: bool, x: Tensor, t: Tensor, labels: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        """One inner step: weights, then learned rates if there are any, to new weights and the loss before."""
        names = [name for name, _ in self.network.named_parameters()]
        weights, rates = tensors[: len(names)], tensors[len(names) :]
        axes = (None if shared else 0, 0, 0, _axis(labels))
        gradient = vmap(grad_and_value(self._loss), axes, randomness="different")
        gradients, loss = gradient(dict(zip(names, weights, strict=True)), x, t, labels)
        if rates:
            updates = [rate * gradients[name] for name, rate in zip(names, rates, strict=True)]
        else:
            updates = [self.rate * gradients[name].clamp(-self.clip, self.clip) for name in names]
        return *(weight - update for weight, update in zip(weights, updates, strict=True)), loss.mean()

    def _loss(self, weights: Weights, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """L of one sample (C, *S) for its weights."""
        output = self._call(weights, x, t, label)
        if output.shape != x.shape:
            raise Refusal(
                f"{type(self.network).__name__} must have as many output as input channels, on the grid of x, "
                f"{tuple(x.shape)}, got {tuple(output.shape)}",
                "model_name",
            )
        difference = (output.to(x.dtype) - x).unsqueeze(0)
        weighted = self.basis.scale(self.root_metric.unsqueeze(0), difference)
        return weighted.square().sum() / x[0].numel()

    def _call(
        self,
        weights: Weights,
        x: Tensor,
        t: Tensor,
        label: Tensor | None,
        out_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """The network with the weights given on one sample (C, *S)."""
        batch = (x.unsqueeze(0), t.unsqueeze(0), None if label is None else label.unsqueeze(0))
        grid = {} if out_shape is None else {"out_shape": out_shape}
        # fused attention has no second derivatives, and those of half precision are too coarse to be of use
        with torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            output: Tensor = functional_call(self.network, weights, batch, grid)
        return output.squeeze(0)


def _axis(labels: Tensor | None) -> int | None:
    return None if labels is None else 0


def _key(name: str) -> str:
    """What a weight's rate is kept under: dots are not allowed there, and dashes do not occur in the name."""
    return name.replace(".", "-")
