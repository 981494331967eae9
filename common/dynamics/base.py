"""One family for both papers: linear SDEs that are block-diagonal in a spatial basis.

    dZ = F(t) Z dt + G(t) dW,      Z = (Z^1 .. Z^A),  Z^1 the data,  one Brownian motion W for all components

A member states F, G, its basis and its initial covariance. Written once, here: the law of Z_t given x0, the scalar
statistic a network sees, the score, the reverse process, transitions and the prior (score-SDE, arXiv 2011.13456;
general linear diffusions as in gDDIM, arXiv 2206.05564).

The law, with M the mean factor and S the covariance (both per mode):

    Z_t | x0 ~ N(M x0, S),         dM/dt = F M,   dS/dt = F S + S F' + G G'
    v = w . Z_t | x0 ~ N(m x0, sc^2),   m = M_1,  w = m psi,  sc = m sigma,  sigma = (M' S^-1 M)^(-1/2)
    S^-1 = psi psi' / sigma^2 + R,  M' psi = 1,  R M = 0        (Schur form: no step ever inverts S)
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.dynamics.admission import then_admit
from common.dynamics.basis import Basis, Pixel, apply, times
from common.dynamics.prior import Prior
from common.dynamics.propagator import RATE, propagate
from common.refusal import Refusal

BISECTIONS = 64  # halvings of log t: past double precision for any interval of times
ADMISSION_TIMES = 9  # at which a law is looked at when a dynamics is made
LAW_TIMES, LAW_TOLERANCE = 8, 1e-6  # at which two laws are compared, and how closely
VANISHING_SCALE = 1e-3  # below this share of the data left at T, dividing by the scale amplifies a network's error


class Moments:
    """The law of Z_t given x0; every field is computed when it is asked for, in float64.

    Attributes (B times, A components, ``*modes`` of the basis):
        mean: M, (B, A, *modes).
        cov: S, (B, A, A, *modes).
        weight: w with v = w . z, (B, A, *modes).
        scale: m = M_1, (B, *modes).
        std: sc, deviation of v given x0, (B, *modes).
        log_sigma: log(sc / m), the primary noise level, (B, *modes).
        sigma: sc / m, (B, *modes).
        complement: R with S^-1 = w w' / sc^2 + R, (B, A, A, *modes).
    """

    def __init__(self, dynamics: "LinearDynamics", t: Tensor) -> None:
        self._dynamics = dynamics
        self._t = t.double()

    @cached_property
    def mean(self) -> Tensor:
        return self._dynamics._mean(self._t)

    @cached_property
    def cov(self) -> Tensor:
        return self._dynamics._cov(self._t)

    @cached_property
    def weight(self) -> Tensor:
        return self._dynamics._weight(self._t)

    @cached_property
    def complement(self) -> Tensor:
        return self._dynamics._complement(self._t)

    @cached_property
    def _level(self) -> tuple[Tensor, Tensor]:
        return self._dynamics._level(self._t)

    @property
    def scale(self) -> Tensor:
        return self._level[0]

    @property
    def log_sigma(self) -> Tensor:
        return self._level[1]

    @cached_property
    def sigma(self) -> Tensor:
        return self.log_sigma.exp()

    @cached_property
    def std(self) -> Tensor:
        return self._dynamics._std(self.scale, self.log_sigma)


class LinearDynamics(nn.Module, ABC):
    """A linear SDE from data (t = 0) to noise (t = T = 1).

    Subclasses give the SDE (:meth:`drift_matrix`, :meth:`diffusion_vector`) and its law, the latter by inheriting
    from :class:`~common.dynamics.closed_form.ClosedForm` (one component, formulas) or
    :class:`~common.dynamics.tabulated.Tabulated` (any number of components, tables solved from the SDE).

    Attributes:
        num_components: A.
        basis: the spatial basis in which F and G are per-mode numbers.
        t_min: the smallest time at which the law is known; smaller times are read as this one.
        horizon: T.
        rate: fastest rate of F, which sets in how many steps transitions are solved.
        data_std: deviation of the data, root mean square over its entries, as far as it is known; for time grids.
        decision_level: noise level around which samples are told apart, if the data is known.
        node_density: positions and density of the time grid that was measured on a trained network, if one was.
        default_t_end: where sampling ends unless one says otherwise.
        default_time_sampling: law of training times that suits the process.
        default_prediction: what a network predicts by default; None is eps, or x0 if the scale vanishes at T.
        default_grid: time grid of solvers that take Euler steps, a name of ``GRIDS``: uniform if time is a schedule.
        default_ema_decay: decay of the averaged weights.
        default_prior: start of sampling, ``zero`` as published or ``data``.
        more_noise: what to change if too little noise is left at T.
        run_label: last part of a run folder's name; arguments of the class, ``dynamics`` and ``model`` fill it in.
        flag_names: arguments whose published flag has another name.
    """

    num_components: int
    basis: Basis
    t_min: float = 1e-6
    horizon: float = 1.0
    rate: float = RATE
    data_std: float = 0.5  # of data on [-1, 1], unless it is known (sigma_data of EDM, arXiv 2206.00364)
    decision_level: float | None = None
    node_density: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    default_t_end: ClassVar[float] = 1e-3
    default_time_sampling: ClassVar[str] = "uniform"
    default_prediction: ClassVar[str | None] = None
    default_grid: ClassVar[str] = "uniform"
    default_ema_decay: ClassVar[float] = 0.9999
    default_prior: ClassVar[str] = "zero"
    more_noise: ClassVar[str] = "take another --dynamics, or other values of its flags"
    run_label: ClassVar[str] = "{dynamics}_{model}"
    flag_names: ClassVar[dict[str, str]] = {}
    _place: Tensor

    @then_admit
    def __init__(self) -> None:
        super().__init__()
        self.basis = Pixel()
        self.prior = Prior(self)
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @classmethod
    def defaults_for(cls, grid: tuple[int, ...]) -> dict[str, object]:
        """Defaults of arguments that follow the grid *S of the data; none unless a member says otherwise."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the tables lie and samples are drawn; times must be given on this device."""
        return self._place.device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # coefficients stay float64 whatever a network beside them is cast to: only the device follows
        return super()._apply(  # type: ignore[no-untyped-call]
            lambda buffer: buffer.to(fn(buffer.new_empty(0)).device), recurse
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("__init__", "__post_init__"):  # the second of dataclasses, whose __init__ is made after this
            if name in vars(cls):
                setattr(cls, name, then_admit(vars(cls)[name]))

    def admit(self) -> None:
        """Check that the law is a law: scale and noise level are finite, and the scale above 0, from t_min to T.

        Raises:
            Refusal: saying what is wrong and where.
        """
        inside = torch.linspace(self.t_min, self.horizon, ADMISSION_TIMES, dtype=torch.float64)
        scale, log_sigma = self._level(inside)
        for name, values, ok in (
            ("scale", scale, scale.isfinite() & (scale > 0)),
            ("noise level", log_sigma, log_sigma.isfinite()),
        ):
            if values.shape != (len(inside), *self.basis.modes):
                raise Refusal(
                    f"{type(self).__name__}: the {name} of {len(inside)} times must be of shape "
                    f"{(len(inside), *self.basis.modes)}, got {tuple(values.shape)}"
                )
            wrong = (~ok).reshape(len(inside), -1)
            if bool(wrong.any()):
                where = int(wrong.any(1).nonzero()[0])
                value = float(values.reshape(len(inside), -1)[where][wrong[where]][0])
                log = "log of its " if name == "noise level" else ""
                raise Refusal(
                    f"{type(self).__name__}: the {log}{name} is {value:g} at t = {float(inside[where]):.6g}, where it "
                    f"must be finite{'' if log else ' and above 0'}. If the data vanishes at the end, give the class "
                    f"an end of time just before that (horizon = 0.995); t_min is {self.t_min:g}, T {self.horizon:g}"
                )

    # -- the SDE ------------------------------------------------------------------------------------------------

    @abstractmethod
    def drift_matrix(self, t: Tensor) -> Tensor:
        """F(t): times (B,) float64 to (B, A, A, *modes)."""

    @abstractmethod
    def diffusion_vector(self, t: Tensor) -> Tensor:
        """G(t): times (B,) float64 to (B, A, *modes)."""

    # -- the law, supplied by ClosedForm or Tabulated -------------------------------------------------------------

    @abstractmethod
    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(m, log sigma), each (B, *modes): all that training needs."""

    @abstractmethod
    def _mean(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _cov(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _weight(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _complement(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _root(self, t: Tensor) -> Tensor:
        """A square root of S whose first column is M sigma: (B, A, A, *modes), root root' = S."""

    @abstractmethod
    def scalar_path(self) -> "LinearDynamics":
        """The one-component dynamics of v = w . z: the same scale and std, so the same network, without Y.

        Raises:
            Refusal: if the noise level is not monotone in time.
        """

    def _std(self, scale: Tensor, log_sigma: Tensor) -> Tensor:
        return scale * log_sigma.exp()

    def moments(self, t: Tensor | float) -> Moments:
        """The law of Z_t given x0 at times t (B,) in [t_min, T], any float dtype, or at one; see :class:`Moments`."""
        at = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device=self.device)
        return Moments(self, torch.atleast_1d(at))

    # -- training: one scalar problem, whatever A is ---------------------------------------------------------------

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw what a network sees: v = m x0 + sc eps in the basis.

        Args:
            x0: clean data (B, C, *S).
            t: times (B,).
            noise: white noise (B, C, *S).

        Returns:
            v, (B, C, *S), in the dtype of x0.
        """
        return self.perturb_by(self.moments(t), x0, noise)

    def perturb_by(self, law: Moments, x0: Tensor, noise: Tensor) -> Tensor:
        """As :meth:`perturb`, from a law that is known already."""
        return self.basis.combine((law.scale, x0), (law.std, noise))

    @property
    def metric(self) -> Tensor:
        """Weight of the data-space squared error per mode (*modes): 1 unless a member says otherwise."""
        return torch.ones(self.basis.modes, dtype=torch.float64, device=self.device)

    # -- the full state ---------------------------------------------------------------------------------------------

    def statistic(self, z: Tensor, t: Tensor) -> Tensor:
        """v = w . z, the part of the state (B, A, C, *S) that knows x0: (B, C, *S)."""
        return self.basis.mix(self.moments(t).weight.unsqueeze(1), z).squeeze(1)

    def sample_state(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw the full state Z_t given x0.

        Args:
            x0: clean data (B, C, *S).
            t: times (B,).
            noise: white noise in the shape of the state (B, A, C, *S).

        Returns:
            z, (B, A, C, *S).
        """
        t, basis = t.double(), self.basis
        mean = apply(self._mean(t).unsqueeze(2), basis.analysis(x0).unsqueeze(1))
        return basis.synthesis(mean + apply(self._root(t), basis.analysis(noise)))

    def score(self, z: Tensor, t: Tensor, x0_hat: Tensor) -> Tensor:
        """Gradient of log p_t(z) implied by the posterior mean of x0.

        Args:
            z: state (B, A, C, *S).
            t: times (B,).
            x0_hat: posterior mean of the data given v (B, C, *S).

        Returns:
            -psi (u - x0_hat) / sigma^2 - R z, (B, A, C, *S). Under heat dynamics this is the gradient itself,
            without the factor r of the published code.
        """
        return self.basis.synthesis(self._score(self.basis.analysis(z), t, self.basis.analysis(x0_hat)))

    def _score(self, z: Tensor, t: Tensor, x0_hat: Tensor) -> Tensor:
        """As :meth:`score`, from and to coefficients of the basis."""
        law = self.moments(t)
        v = apply(law.weight.unsqueeze(1), z).squeeze(1)
        residual = times(1 / law.std, v) - times(law.scale / law.std, x0_hat)
        score = -apply((law.weight / law.std.unsqueeze(1)).unsqueeze(2), residual.unsqueeze(1))
        return score - apply(law.complement, z) if self.num_components > 1 else score

    def attraction(self, z: Tensor, t: Tensor, x0_hat: Tensor) -> Tensor:
        """G G' s, the score as the noise sees it, (B, A, C, *S); under heat dynamics 2 beta r times the gradient."""
        return self.basis.synthesis(self._attraction(self.basis.analysis(z), t, self.basis.analysis(x0_hat)))

    def _attraction(self, z: Tensor, t: Tensor, x0_hat: Tensor) -> Tensor:
        """As :meth:`attraction`, from and to coefficients of the basis."""
        g = self.diffusion_vector(t.double())
        return apply(g.unsqueeze(2), apply(g.unsqueeze(1), self._score(z, t, x0_hat)))

    # -- the reverse process -----------------------------------------------------------------------------------------

    def apply_drift(self, z: Tensor, t: Tensor) -> Tensor:
        """F(t) z, (B, A, C, *S)."""
        return self.basis.mix(self.drift_matrix(t.double()), z)

    def apply_diffusion(self, noise: Tensor, t: Tensor) -> Tensor:
        """G(t) times white noise (B, C, *S): one draw per pixel drives all components, (B, A, C, *S)."""
        return self.basis.mix(self.diffusion_vector(t.double()).unsqueeze(2), noise.unsqueeze(1))

    def reverse_drift(self, z: Tensor, t: Tensor, x0_hat: Tensor, *, stochastic: bool) -> Tensor:
        """Drift of the time reversal, to be multiplied by dt < 0.

        Args:
            z: state (B, A, C, *S).
            t: times (B,).
            x0_hat: posterior mean of the data (B, C, *S).
            stochastic: True for the reverse SDE, F z - G G' s; False for the probability-flow ODE,
                F z - 1/2 G G' s (score-SDE, eqs. 6 and 13).

        Returns:
            (B, A, C, *S).
        """
        t, factor = t.double(), 1.0 if stochastic else 0.5
        state = self.basis.analysis(z)
        drift = apply(self.drift_matrix(t), state)
        return self.basis.synthesis(drift - factor * self._attraction(state, t, self.basis.analysis(x0_hat)))

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The exact linear map from time s to time t.

        Args:
            s: start times (B,).
            t: end times (B,), either side of s.

        Returns:
            (U, Q), each (B, A, A, *modes), with Z_t = U Z_s + N(0, Q) forward in time. Backward (t < s) U is the
            inverse map and Q = S_t - U S_s U' is negative semi-definite: the noise that is taken out again.
        """
        return propagate(self.drift_matrix, self.diffusion_vector, s.double(), t.double(), self.rate)

    # -- noise level and time ----------------------------------------------------------------------------------------

    def representative(self, per_mode: Tensor) -> Tensor:
        """One number (B,) for per-mode values (B, *modes), used to lay time grids; modes are alike by default."""
        return per_mode

    @property
    def is_monotone(self) -> bool:
        """Whether sigma never falls in t, so that noise level and time name each other."""
        return True

    def require_monotone(self, purpose: str) -> None:
        """Raise a ValueError where sigma is not monotone in t, naming what it was needed for."""
        if not self.is_monotone:
            raise Refusal(
                f"{purpose} needs a noise level that never falls in time; that of {self} does. "
                "Use marginals='exact', or a solver on the augmented state."
            )

    def log_sigma(self, t: Tensor) -> Tensor:
        """Noise level of the representative mode at times (B,): the variable that grids are laid in."""
        return self.representative(self._level(t.double())[1])

    def time_at(self, log_sigma: Tensor) -> Tensor:
        """Inverse of :meth:`log_sigma` by bisection in log t.

        Args:
            log_sigma: (B,); values outside the range of the dynamics give its end times.

        Returns:
            Times (B,) float64 in [t_min, T].

        Raises:
            Refusal: if the noise level is not monotone.
        """
        self.require_monotone("time_at")
        log_sigma = log_sigma.double()
        low, high = (torch.full_like(log_sigma, math.log(end)) for end in (self.t_min, self.horizon))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.log_sigma(middle.exp()) < log_sigma
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).exp()

    def shows_the_law_of(self, other: "LinearDynamics") -> bool:
        """Whether a network sees the same law of v given x0 at every time under another dynamics."""
        if other is self:
            return True
        if other.basis.modes != self.basis.modes or other.horizon != self.horizon:
            return False
        times = torch.linspace(0.05, 1, LAW_TIMES, dtype=torch.float64) * self.horizon
        own, others = self._level(times.to(self.device)), other._level(times.to(other.device))
        return all(torch.allclose(a.cpu(), b.cpu(), rtol=LAW_TOLERANCE) for a, b in zip(own, others, strict=True))

    @cached_property
    def scale_vanishes(self) -> bool:
        """Whether some mode keeps so little of x0 at T that a noise prediction could not be turned into x0_hat."""
        scale = self._level(torch.tensor([self.horizon], dtype=torch.float64, device=self.device))[0]
        return bool(scale.min() < VANISHING_SCALE)
