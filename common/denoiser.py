"""From a network's output to x0_hat: the one thing a solver calls.

A network is trained on v = m x0 + sc eps and may predict the noise, the data, or a mixture of both. Each choice is a
:class:`Prediction`; :class:`Denoiser` joins one with a network and a dynamics. Wrappers have the same call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from common.backbones.resizing import TARGET, check_grid
from common.dynamics import LinearDynamics, Moments
from common.refusal import Refusal

LossWeight = Callable[[Tensor], Tensor]
X0Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
SIGMA_DATA = 0.5  # deviation of the data that EDM's scalings assume


class Imposes(Protocol):
    """What the sampling loop calls of a method that acts on states (``sample(observation=..)``)."""

    def impose(self, z: Tensor, t: Tensor, noise: Tensor, step: tuple[Tensor, Tensor]) -> Tensor:
        """The state z (B, A, C, *S) at time t (1,) made to agree with an observation.

        Args:
            z: state.
            t: its time (1,) float64.
            noise: white noise in the shape of z; zeros in the last step.
            step: times (1,) at which the present step of the solver starts and ends.
        """

    def finish(self, x: Tensor) -> Tensor:
        """The result (B, C, *S) made to agree with it."""


@dataclass(frozen=True)
class InMetric:
    """A loss weight beside the metric of the dynamics: under heat every mode counts b / r more.

    Without it a weight says all of how modes are weighed. Most should: sigma of a mode holds sqrt(r / b) already, so
    that 1 / sigma^2 has the metric in it.

    Attributes:
        weight: from log sigma to the weight.
    """

    weight: LossWeight

    def __call__(self, log_sigma: Tensor) -> Tensor:
        """The weight, without the metric."""
        return self.weight(log_sigma)


class Prediction(ABC):
    """What a network's output means, given the law of v | x0.

    Attributes:
        normalised: whether input and output are scaled to about unit variance in every mode. Errors then need no
            metric: under heat dynamics b / r would weight some of the equally large modes a hundred times more.
    """

    normalised: bool = False

    def input(self, dynamics: LinearDynamics, law: Moments, v: Tensor) -> Tensor:
        """The network's input; v itself unless a member rescales it."""
        return v

    @abstractmethod
    def target(self, dynamics: LinearDynamics, law: Moments, x0: Tensor, noise: Tensor) -> Tensor:
        """What the network should put out, (B, C, *S)."""

    @abstractmethod
    def x0(self, dynamics: LinearDynamics, law: Moments, v: Tensor, output: Tensor) -> Tensor:
        """x0_hat from v and the network's output, (B, C, *S)."""

    @abstractmethod
    def gain(self, law: Moments) -> Tensor:
        """What an error of the network's output is multiplied with on its way to x0_hat, (B, *modes)."""


class Noise(Prediction):
    """eps: the white noise in v (GFDM, arXiv 2310.17638, eq. 23): x0_hat = (v - sc eps_hat) / m."""

    def target(self, dynamics: LinearDynamics, law: Moments, x0: Tensor, noise: Tensor) -> Tensor:
        return noise

    def x0(self, dynamics: LinearDynamics, law: Moments, v: Tensor, output: Tensor) -> Tensor:
        return dynamics.basis.combine((1 / law.scale, v), (-law.sigma, output))

    def gain(self, law: Moments) -> Tensor:
        return law.sigma


class Data(Prediction):
    """x0: the data itself (FDP, arXiv 2303.00800)."""

    def target(self, dynamics: LinearDynamics, law: Moments, x0: Tensor, noise: Tensor) -> Tensor:
        return x0

    def x0(self, dynamics: LinearDynamics, law: Moments, v: Tensor, output: Tensor) -> Tensor:
        return output

    def gain(self, law: Moments) -> Tensor:
        return torch.ones_like(law.scale)


class Velocity(Prediction):
    """v: the rotation c eps - s x0 with c = m / r, s = sc / r, r^2 = m^2 + sc^2 (arXiv 2202.00512, section 4)."""

    normalised = True

    @staticmethod
    def _angle(law: Moments) -> tuple[Tensor, Tensor, Tensor]:
        radius = (law.scale.square() + law.std.square()).sqrt()
        return law.scale / radius, law.std / radius, radius

    def input(self, dynamics: LinearDynamics, law: Moments, v: Tensor) -> Tensor:
        return dynamics.basis.scale(1 / self._angle(law)[2], v)

    def target(self, dynamics: LinearDynamics, law: Moments, x0: Tensor, noise: Tensor) -> Tensor:
        cosine, sine, _ = self._angle(law)
        return dynamics.basis.combine((cosine, noise), (-sine, x0))

    def x0(self, dynamics: LinearDynamics, law: Moments, v: Tensor, output: Tensor) -> Tensor:
        cosine, sine, radius = self._angle(law)
        return dynamics.basis.combine((cosine / radius, v), (-sine, output))

    def gain(self, law: Moments) -> Tensor:
        return self._angle(law)[1]


class Preconditioned(Prediction):
    """edm: x0_hat = c_skip u + c_out F(c_in u), u = v / m (EDM, arXiv 2206.00364, table 1)."""

    normalised = True

    @staticmethod
    def _scalings(law: Moments) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip / m, c_out, c_in / m): factors on v and on the network's output."""
        # with s = m sigma_data: c_in / m = 1 / sqrt(sc^2 + s^2), free of the overflow of sigma where m is tiny
        s = law.scale * SIGMA_DATA
        radius = (law.std.square() + s.square()).sqrt()
        return s * SIGMA_DATA / radius.square(), law.std * SIGMA_DATA / radius, 1 / radius

    def input(self, dynamics: LinearDynamics, law: Moments, v: Tensor) -> Tensor:
        return dynamics.basis.scale(self._scalings(law)[2], v)

    def target(self, dynamics: LinearDynamics, law: Moments, x0: Tensor, noise: Tensor) -> Tensor:
        skip, out, _ = self._scalings(law)
        # (x0 - c_skip u) / c_out with u = x0 + sigma eps
        return dynamics.basis.combine(((1 - skip * law.scale) / out, x0), (-skip * law.std / out, noise))

    def x0(self, dynamics: LinearDynamics, law: Moments, v: Tensor, output: Tensor) -> Tensor:
        skip, out, _ = self._scalings(law)
        return dynamics.basis.combine((skip, v), (out, output))

    def gain(self, law: Moments) -> Tensor:
        return self._scalings(law)[1]


PREDICTIONS: dict[str, Prediction] = {"eps": Noise(), "x0": Data(), "v": Velocity(), "edm": Preconditioned()}


class Denoiser(nn.Module):
    """A network under a dynamics: (v, t, labels) to the posterior mean of the data.

    Args:
        backbone: network of (x, t, labels), t in [0, 1], labels (B,) int64 or None.
        dynamics: gives the law of v | x0.
        prediction: ``eps``, ``x0``, ``v``, ``edm`` or ``auto``: eps, or x0 if the scale vanishes at T.

    Raises:
        Refusal: for an unknown prediction, or eps if the scale vanishes.
    """

    def __init__(self, backbone: nn.Module, dynamics: LinearDynamics, prediction: str = "auto") -> None:
        super().__init__()
        if prediction == "auto":
            prediction = dynamics.default_prediction or ("x0" if dynamics.scale_vanishes else "eps")
        if prediction not in PREDICTIONS:
            raise Refusal(f"must be auto or one of {', '.join(PREDICTIONS)}, got {prediction!r}", "prediction")
        if prediction == "eps" and dynamics.scale_vanishes:
            raise Refusal(f"eps cannot be turned into data under {dynamics}: its scale vanishes; use x0", "prediction")
        self.backbone, self.dynamics = backbone, dynamics
        self.prediction = prediction
        self._rule = PREDICTIONS[prediction]

    def forward(
        self, v: Tensor, t: Tensor, labels: Tensor | None = None, *, out_shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """Posterior mean of the data.

        Args:
            v: noisy data (B, C, *S), as :meth:`LinearDynamics.perturb` or ``statistic`` give it.
            t: times (B,).
            labels: classes (B,) int64, or None.
            out_shape: another grid to give x0_hat on, for networks that predict x0 and take it; None takes that of v.

        Returns:
            x0_hat, (B, C, *S), or (B, C, *out_shape).

        Raises:
            Refusal: for an ``out_shape`` that network or prediction cannot serve.
        """
        if out_shape is not None:
            return self._on_grid(v, t, labels, out_shape)
        law = self.dynamics.moments(t)
        output = self.backbone(self._rule.input(self.dynamics, law, v), t, labels)
        return self._rule.x0(self.dynamics, law, v, output.to(v.dtype))

    def check_grid(self, out_shape: tuple[int, ...]) -> None:
        """Refuse a grid that x0_hat cannot be given on: any, unless the network predicts x0 and takes ``out_shape``.

        Other predictions say little more than the noisy data where sampling ends, which are known on one grid alone.
        """
        check_grid(self.backbone, out_shape)
        if self.prediction != "x0":
            raise Refusal(
                f"{out_shape}: only x0 is known on other grids than that of v, not what "
                f"{type(self.backbone).__name__} predicts ({self.prediction}); it takes a run with --prediction x0",
                TARGET,
            )

    def _on_grid(self, v: Tensor, t: Tensor, labels: Tensor | None, out_shape: tuple[int, ...]) -> Tensor:
        self.check_grid(out_shape)
        output: Tensor = self.backbone(v, t, labels, out_shape=out_shape)
        return output.to(v.dtype)

    def error(
        self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None, *, weight: LossWeight | None = None
    ) -> Tensor:
        """Squared error, mean over entries: (B,).

        Args:
            x0: clean data (B, C, *S).
            t: times (B,).
            noise: white noise (B, C, *S).
            labels: classes (B,) int64, or None.
            weight: None takes the error of the network's own output (under eps-prediction GFDM's loss, arXiv
                2310.17638, eq. 24), in the dynamics' metric unless the output is normalised. A function takes that of
                x0_hat, every mode times what it gives for its log sigma, in no metric unless it is an ``InMetric``:
                the same error whatever the network predicts.
        """
        law, basis = self.dynamics.moments(t), self.dynamics.basis
        v = self.dynamics.perturb_by(law, x0, noise)
        output = self.backbone(self._rule.input(self.dynamics, law, v), t, labels)
        difference = output.to(v.dtype) - self._rule.target(self.dynamics, law, x0, noise)
        if weight is not None:
            # weight and gain are multiplied in float64: one may overflow float32 where their product is moderate
            factor = self._rule.gain(law) * weight(law.log_sigma).sqrt()
            difference = basis.scale(factor, difference)
        in_metric = isinstance(weight, InMetric) if weight is not None else not self._rule.normalised
        if basis.modes and in_metric:
            difference = basis.scale(self.dynamics.metric.sqrt().unsqueeze(0), difference)
        found: Tensor = difference.square().flatten(1).mean(1)
        return found


class Clipped(nn.Module):
    """A denoiser whose x0_hat is clipped to the range of the data.

    Args:
        denoiser: any callable (v, t, labels) to x0_hat.
        low: smallest value of the data.
        high: largest value of the data.
    """

    def __init__(self, denoiser: X0Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"low must be below high, got low={low}, high={high}")
        self.denoiser, self.low, self.high = denoiser, low, high

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x0_hat in [low, high], (B, C, *S)."""
        return self.denoiser(v, t, labels).clamp(self.low, self.high)
