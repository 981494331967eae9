"""The covariance of x0 given v, by vector-Jacobian products of a denoiser.

With v = m x0 + sc eps in every mode (MMPS, arXiv 2405.13712, for one noise level; here for one per mode),

    V = Cov[x0 | v] = (sc^2 / m) J',      J = d x0_hat / d v

Under heat dynamics sc^2 / m reaches 1e18 in modes that are gone, where J' is rounding or a network's mistake, and long
before it multiplies errors of a network beyond anything that V can be: as one is wrong by a share of its answer, V is
wrong by that share of sigma / s in a mode whose data has the deviation s. There V is what the prior knows; filters on
both sides keep it symmetric:

    V = f (sc^2 / m) J' f + (1 - f^2) s^2 sc^2 / (m^2 s^2 + sc^2),     f = min(1, m / 0.01, 4 s / sigma)

The second bound is known only where the prior knows s of every mode.
"""

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics

GONE = 0.01  # share of the data below which a mode counts as gone
TRUSTED = 4.0  # noise level, in deviations of the data, up to which derivatives count alone in a mode


class Covariance:
    """x0_hat of a state, and V there.

    Attributes:
        x0: x0_hat, (B, C, *S), detached.
        law: the law at the times of the call.

    Args:
        denoiser: any callable (v, t, labels) to x0_hat; it is asked once, and remembered for its derivatives.
        dynamics: what the state is of.
        v: (B, C, *S).
        t: (B,).
        labels: (B,) or None.
    """

    def __init__(
        self, denoiser: X0Denoiser, dynamics: LinearDynamics, v: Tensor, t: Tensor, labels: Tensor | None
    ) -> None:
        # tensors of inference mode cannot be remembered
        with torch.inference_mode(False), torch.enable_grad():
            self._v = remembered(v).detach().requires_grad_()
            labels = None if labels is None else remembered(labels)
            self._output = denoiser(self._v, remembered(t), labels)
        self.x0 = self._output.detach().to(v.dtype)
        self._basis, self.law = dynamics.basis, dynamics.moments(t)
        scale, std = self.law.scale, self.law.std
        # the pixel basis has one m for all, so that no mode is gone before the others
        spread = dynamics.prior.variance
        self._filter = (scale / GONE).clamp_max(1) if dynamics.basis.modes else torch.ones_like(scale)
        if spread.ndim:
            self._filter = torch.minimum(self._filter, TRUSTED * spread.sqrt() * scale / std)
        self._back = self._filter * std * (std / scale)
        self._known = (1 - self._filter.square()) * spread * std.square() / (scale.square() * spread + std.square())

    def __call__(self, q: Tensor) -> Tensor:
        """V q, (B, C, *S)."""
        basis = self._basis
        if not basis.modes:
            return basis.scale(self._back, self._pulled(q))
        return basis.combine((self._back, self._pulled(basis.scale(self._filter, q))), (self._known, q))

    def _pulled(self, q: Tensor) -> Tensor:
        """J' q."""
        with torch.inference_mode(False), torch.enable_grad():
            q = remembered(q)
            (found,) = torch.autograd.grad(self._output, self._v, q.to(self._output.dtype), retain_graph=True)
        return found.to(q.dtype)


def remembered(x: Tensor) -> Tensor:
    """The tensor, or a copy if it is of inference mode, which automatic differentiation does not remember."""
    return x.clone() if x.is_inference() else x
