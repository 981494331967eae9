"""Dynamics of any number of components whose law is solved from their SDE once and tabulated."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from common.dynamics.base import LinearDynamics
from common.dynamics.closed_form import ClosedForm
from common.dynamics.prior import Prior
from common.dynamics.propagator import RATE, accumulate, propagate
from common.dynamics.tables import TimeTable, time_nodes
from common.refusal import Refusal

# FVP (0.3, 3) and FVE stand still in places (slopes down to 3e-12): what rounding leaves of that is not a fall
FALL_TOLERANCE = 1e-8
# relative error that rounding may leave of the variance of v given x0: it is what S_xx keeps once Y is known
LOSS_LIMIT = 1e-7


def complement_basis(mean: Tensor) -> Tensor:
    """Columns that span the complement of M: the last A - 1 of a Householder reflection, smooth in M (M_1 > 0).

    Args:
        mean: M, (B, A).

    Returns:
        N, (B, A, A - 1) with N'M = 0 and N'N = 1.
    """
    size = mean.shape[-1]
    normal = mean / mean.norm(dim=-1, keepdim=True)
    first = torch.eye(size, dtype=mean.dtype, device=mean.device)[0]
    axis = normal + first
    axis = axis / axis.norm(dim=-1, keepdim=True)
    reflection = torch.eye(size, dtype=mean.dtype, device=mean.device) - 2 * axis.unsqueeze(-1) * axis.unsqueeze(-2)
    found: Tensor = reflection[..., 1:]
    return found


def schur_form(mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split S^-1 = psi psi' / sigma^2 + R with M' psi = 1 and R M = 0.

    Args:
        mean: M, (B, A); M / m gives w in place of psi and sc in place of sigma, without underflow where m is tiny.
        cov: S, (B, A, A).

    Returns:
        (psi (B, A), log_sigma (B,), R (B, A, A)).
    """
    normal = complement_basis(mean)
    across = normal.mT @ cov @ normal
    complement = normal @ torch.linalg.solve(across, normal.mT)
    complement = (complement + complement.mT) / 2
    along = (mean / mean.square().sum(-1, keepdim=True)).unsqueeze(-1)
    psi = along - complement @ (cov @ along)
    variance = (psi.mT @ cov @ psi).flatten()
    return psi.squeeze(-1), variance.log() / 2, complement


class Tabulated(LinearDynamics):
    """Base of dynamics given by F, G and initial covariance alone (pixel basis).

    A member sets its parameters, then calls :meth:`tabulate` at the end of its constructor.

    Attributes:
        remedy: the argument to change, and how, if the variance of v given x0 is lost in rounding.

    Args:
        num_components: A.
        rate: fastest rate of F, which sets how finely the SDE is solved.
    """

    remedy: ClassVar[tuple[str | None, str]] = (None, "take fewer components")

    def __init__(self, num_components: int, rate: float = RATE) -> None:
        super().__init__()
        self.num_components, self.rate = num_components, rate

    @abstractmethod
    def initial_cov(self) -> Tensor:
        """Covariance of Z_0 given x0, (A, A) float64."""

    def marginal_cov(self, t: Tensor, propagator: Tensor, noise_cov: Tensor) -> Tensor:
        """Covariance S of Z_t given x0 from the map and the noise since t = 0; each (N, A, A)."""
        return propagator @ self.initial_cov() @ propagator.mT + noise_cov

    def tabulate(self) -> None:
        """Solve the moment equations on a grid of times and fit the tables.

        Raises:
            Refusal: if the scale vanishes, or the variance of v given x0 is lost in rounding.
        """
        nodes = time_nodes(self.t_min, self.horizon)
        t = torch.from_numpy(nodes)
        before = torch.cat([torch.zeros(1, dtype=torch.float64), t[:-1]])
        phi, noise = accumulate(*propagate(self.drift_matrix, self.diffusion_vector, before, t, self.rate))
        scale = phi[:, 0, 0]
        gone = ~(scale > 0)
        if bool(gone.any()):
            first = int(gone.nonzero()[0])
            raise Refusal(
                f"{type(self).__name__}: the scale is {float(scale[first]):.4g} at t = {float(t[first]):.4g}, where it "
                "must be above 0: nothing of the data would be left there"
            )
        log_scale = scale.log()
        mean = phi[:, :, 0] / phi[:, :1, 0]
        cov = self.marginal_cov(t, phi, noise)
        weight, log_std, complement = schur_form(mean, cov)
        self._check_digits(weight, cov, log_std, complement)
        log_sigma = log_std - log_scale
        deviation = cov.diagonal(dim1=-2, dim2=-1).sqrt()
        pairs = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)

        def table(values: Tensor) -> TimeTable:
            return TimeTable(nodes, values.flatten(1))

        self._monotone = bool((log_sigma.diff() >= -FALL_TOLERANCE).all())
        # the scale falls below any float32 under fast members; everything else is of moderate size
        self.level_table = table(torch.stack([log_scale, log_sigma], dim=1))
        self.mean_table = table(mean)
        self.deviation_table = table(deviation.log())
        self.correlation_table = table(cov / pairs)
        self.weight_table = table(weight)
        self.complement_table = table(complement * pairs)

    def _check_digits(self, weight: Tensor, cov: Tensor, log_std: Tensor, complement: Tensor) -> None:
        """Refuse arguments under which w'S w, or S times R, is a small rest of large terms, at some time (N, ..)."""
        rest, size = (2 * log_std).exp(), cov.abs()
        terms = torch.einsum("ni,nij,nj->n", weight.abs(), size, weight.abs())
        across = (complement.abs() @ size).amax((1, 2))
        lost = torch.finfo(torch.float64).eps * torch.maximum(terms / rest, across)
        if not bool((lost < LOSS_LIMIT).all()):
            argument, cure = self.remedy
            raise Refusal(f"rounding would leave too few digits of the variance of {self} given x0; {cure}", argument)

    @property
    def is_monotone(self) -> bool:
        return self._monotone

    def _square(self, flat: Tensor) -> Tensor:
        found: Tensor = flat.unflatten(1, (self.num_components, self.num_components))
        return found

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, log_sigma = self.level_table(t).unbind(1)
        return log_scale.exp(), log_sigma

    def _mean(self, t: Tensor) -> Tensor:
        found: Tensor = self.mean_table(t) * self._level(t)[0].unsqueeze(1)
        return found

    def _pairs(self, t: Tensor) -> Tensor:
        log_deviation = self.deviation_table(t)
        found: Tensor = (log_deviation.unsqueeze(-1) + log_deviation.unsqueeze(-2)).exp()
        return found

    def _cov(self, t: Tensor) -> Tensor:
        return self._square(self.correlation_table(t)) * self._pairs(t)

    def _weight(self, t: Tensor) -> Tensor:
        found: Tensor = self.weight_table(t)
        return found

    def _complement(self, t: Tensor) -> Tensor:
        return self._square(self.complement_table(t)) / self._pairs(t)

    def _root(self, t: Tensor) -> Tensor:
        # S = sigma^2 M M' + S R S, and S R S = (S N C^-T)(S N C^-T)' with C C' = N'S N
        mean, cov = self.mean_table(t), self._cov(t)  # M over m, which may be tiny
        normal = complement_basis(mean)
        factor = torch.linalg.cholesky_ex(normal.mT @ cov @ normal).L
        rest = torch.linalg.solve_triangular(factor, normal.mT @ cov, upper=False).mT
        along = mean * self._std(*self._level(t)).unsqueeze(1)
        return torch.cat([along.unsqueeze(-1), rest], dim=-1)

    def scalar_path(self) -> LinearDynamics:
        """The one-component dynamics of v = w . z, with the same scale and std.

        Raises:
            Refusal: if the noise level is not monotone in time.
        """
        self.require_monotone("scalar_path")
        return self if self.num_components == 1 else ScalarPath(self)


# what a process says about its law holds for its scalar path too, which has the same one
OF_THE_LAW = (
    *("t_min", "horizon", "default_t_end", "default_time_sampling", "default_prediction", "default_grid"),
    *("data_std", "decision_level", "node_density"),
)


class ScalarPath(ClosedForm):
    """The statistic v = w . Z as a diffusion of its own: same scale and std as its parent, no auxiliary component.

    dV = (d log m / dt) V dt + sc sqrt(2 d log sigma / dt) dW has exactly these moments.
    """

    def __init__(self, parent: Tabulated) -> None:
        super().__init__()
        self.parent = parent
        for name in OF_THE_LAW:
            setattr(self, name, getattr(parent, name))
        self.prior = Prior(self, parent.prior.mean, parent.prior.variance)

    def admit(self) -> None:
        """Its parent was admitted."""

    def drift(self, t: Tensor) -> Tensor:
        mean: Tensor = self.parent.mean_table(t)  # over the scale
        return (self.parent.drift_matrix(t)[:, 0] * mean).sum(1)

    def diffusion(self, t: Tensor) -> Tensor:
        rate = self.parent.level_table.derivative(t)[:, 1].clamp_min(0)
        scale, log_sigma = self.parent._level(t)
        return scale * log_sigma.exp() * (2 * rate).sqrt()

    def log_scale(self, t: Tensor) -> Tensor:
        log_scale: Tensor = self.parent.level_table(t)[:, 0]
        return log_scale

    def noise_level(self, t: Tensor) -> Tensor:
        return self.parent._level(t)[1]

    def extra_repr(self) -> str:
        return f"of {self.parent}"
