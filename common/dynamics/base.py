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
from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.dynamics.basis import Basis, Pixel, mixed, scaled
from common.dynamics.propagator import propagate
from common.refusal import Refusal

BISECTIONS = 64  # halvings of log t: past double precision for any interval of times
VANISHING_SCALE = 1e-3  # below this share of the data left at T, dividing by the scale amplifies a network's error
LAW_TOLERANCE = 1e-6  # up to which scale and log sigma count as the same: tables are good to 1e-9
ADMISSION_TIMES = 33  # at which a law is looked at once it is made


def then_admit(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that admits the member it has made (:meth:`LinearDynamics.admit`).

    It leaves that to the constructor of a subclass, if it was called by one: the member is not ready before.
    """

    @wraps(constructor)
    def construct(self: "LinearDynamics", *args: Any, **kwargs: Any) -> None:
        constructor(self, *args, **kwargs)
        if getattr(type(self), constructor.__name__) is construct:
            self.admit()

    return construct


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

    def perturb(self, x0: Tensor, noise: Tensor) -> Tensor:
        """v = m x0 + sc eps in the basis: x0 and white noise, each (B, C, *S), to (B, C, *S) in their dtype."""
        return self._dynamics.basis.combine((self.scale, x0), (self.std, noise))


class LinearDynamics(nn.Module, ABC):
    """A linear SDE from data (t = 0) to noise (t = T).

    Subclasses give the SDE (:meth:`drift_matrix`, :meth:`diffusion_vector`) and its law, by inheriting from
    :class:`~common.dynamics.closed_form.ClosedForm` (one component, formulas) or
    :class:`~common.dynamics.tabulated.Tabulated` (any number of components, tables solved from the SDE). Every member
    is admitted once its constructor is done (:meth:`admit`).

    Attributes:
        num_components: A.
        basis: the spatial basis in which F and G are per-mode numbers.
        t_min: the smallest time at which the law is known; smaller times are read as this one.
        horizon: T, at most 1, which is the largest time that networks are made for. A little less than 1, if the
            law has no scale or no noise level at 1. The law must go on a little beyond T (published predictors
            re-noise past it).

    Class attributes with what suits a member, which those who configure a run read without an instance:
        default_t_end: time at which sampling ends.
        default_time_sampling: law of the training times, a name of ``TIME_SAMPLINGS``.
        default_prediction: what a network predicts, a name of ``PREDICTIONS``; None takes eps, or x0 if the scale
            vanishes at T.
        default_grid: time grid of solvers that take Euler steps, a name of ``GRIDS``: uniform if time itself is the
            schedule.
        default_ema_decay: decay of the average of the weights.
        default_prior: start of sampling, ``zero`` (N(0, S(T)), as published) or ``data`` (:class:`Prior`).
        run_label: what a run folder is called after, a format of constructor arguments and of ``dynamics`` and
            ``model``, the names of dynamics and network.
        flag_names: constructor arguments to the names of their flags, if these have others.
    """

    num_components: int
    basis: Basis
    t_min: float = 1e-6
    horizon: float = 1.0

    default_t_end: float = 1e-3
    default_time_sampling: str = "uniform"
    default_prediction: str | None = None
    default_grid: str = "uniform"
    default_ema_decay: float = 0.9999
    default_prior: str = "zero"
    run_label: str = "{dynamics}_{model}"
    flag_names: ClassVar[dict[str, str]] = {}

    _place: Tensor

    @then_admit
    def __init__(self) -> None:
        super().__init__()
        self.basis = Pixel()
        self.prior = Prior(self)
        self.register_buffer("_place", torch.empty(0), persistent=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("__init__", "__post_init__"):  # the latter of dataclasses, whose __init__ is made later
            if name in vars(cls):
                setattr(cls, name, then_admit(vars(cls)[name]))

    @classmethod
    def defaults_for(cls, grid: tuple[int, ...]) -> dict[str, object]:
        """Constructor arguments that follow the data, by name.

        Args:
            grid: sizes of the data grid *S.

        Returns:
            Defaults of arguments that have no other one.
        """
        return {}

    def admit(self) -> None:
        """Refuse a law that no sampler could use; runs by itself once a member is made.

        Raises:
            Refusal: if scale or noise level is not finite and above 0 somewhere in [t_min, T], saying which, at what
                time, and what to do; or if they are not of shape (B, *modes).
        """
        t = self._admission_times()
        scale, log_sigma = self._level(t)
        for name, values, zero in (("scale m", scale, 0.0), ("noise level sigma", log_sigma, -math.inf)):
            if values.shape != (len(t), *self.basis.modes):
                raise Refusal(
                    f"{self}: the {name} of {len(t)} times must have shape {(len(t), *self.basis.modes)}, "
                    f"got {tuple(values.shape)}"
                )
            rows = values.reshape(len(t), -1)
            wrong = ~(rows.isfinite() & (rows > zero)).all(1)
            if not wrong.any():
                continue
            first = int(wrong.nonzero()[0])
            fault = rows[first][~(rows[first].isfinite() & (rows[first] > zero))][0].item()
            word = "NaN" if math.isnan(fault) else "0" if fault == zero else "infinite" if fault > 0 else "negative"
            raise Refusal(f"{self}: the {name} is {word} at t = {t[first].item():g}; {self._advice(wrong)}")

    def _admission_times(self) -> Tensor:
        """Times from t_min to T, denser towards 0, (ADMISSION_TIMES,) float64."""
        share = torch.linspace(0, 1, ADMISSION_TIMES, dtype=torch.float64, device=self.device)
        return (self.horizon * share**3).clamp_min(self.t_min)

    def _advice(self, wrong: Tensor) -> str:
        """What to do about a law that is wrong at some of the admission times, (ADMISSION_TIMES,) bool."""
        if wrong[-1] and not wrong[:-1].any():
            earlier = f"horizon = {self.horizon * (1 - 1e-3):g}"
            return f"let the process end a little earlier, by {earlier} in its class, or change its arguments"
        if wrong[0] and not wrong[1:].any():
            later = f"t_min = {10 * self.t_min:g}"
            return f"let the process begin a little later, by {later} in its class, or change its arguments"
        return (
            f"it must be finite and above 0 from t = {self.t_min:g} to {self.horizon:g}: change formulas or arguments"
        )

    @property
    def device(self) -> torch.device:
        """Where the tables lie and samples are drawn; times must be given on this device."""
        return self._place.device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # coefficients stay float64 whatever a network beside them is cast to: only the device follows
        return super()._apply(lambda buffer: buffer.to(fn(buffer.new_empty(0)).device), recurse)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

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

    def moments(self, t: Tensor) -> Moments:
        """The law of Z_t given x0 at times t (B,), any float dtype, in [t_min, T]; see :class:`Moments`."""
        return Moments(self, t)

    # -- training: one scalar problem, whatever A is ---------------------------------------------------------------

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw what a network sees: v = m x0 + sc eps in the basis (:meth:`Moments.perturb`).

        Args:
            x0: clean data (B, C, *S).
            t: times (B,).
            noise: white noise (B, C, *S).

        Returns:
            v, (B, C, *S), in the dtype of x0.
        """
        return self.moments(t).perturb(x0, noise)

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
        t = t.double()
        return self.basis.combine_mixed((self._mean(t).unsqueeze(2), x0.unsqueeze(1)), (self._root(t), noise))

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
        """:meth:`score` of and as coefficients in the basis."""
        law = self.moments(t)
        v = mixed(law.weight.unsqueeze(1), z).squeeze(1)
        residual = scaled(1 / law.std, v) - scaled(law.scale / law.std, x0_hat)
        weight = law.weight / law.std.unsqueeze(1)
        score = -mixed(weight.unsqueeze(2), residual.unsqueeze(1))
        return score - mixed(law.complement, z) if self.num_components > 1 else score

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
        t = t.double()
        z, x0_hat = self.basis.analysis(z), self.basis.analysis(x0_hat)
        factor = 1.0 if stochastic else 0.5
        return self.basis.synthesis(mixed(self.drift_matrix(t), z) - factor * self._attraction(z, t, x0_hat))

    def attraction(self, z: Tensor, t: Tensor, x0_hat: Tensor) -> Tensor:
        """G G' s, the score as the noise sees it; under heat dynamics 2 beta r times the gradient.

        Args:
            z: state (B, A, C, *S).
            t: times (B,).
            x0_hat: posterior mean of the data (B, C, *S).

        Returns:
            (B, A, C, *S).
        """
        z, x0_hat = self.basis.analysis(z), self.basis.analysis(x0_hat)
        return self.basis.synthesis(self._attraction(z, t.double(), x0_hat))

    def _attraction(self, z: Tensor, t: Tensor, x0_hat: Tensor) -> Tensor:
        """:meth:`attraction` of and as coefficients in the basis."""
        g = self.diffusion_vector(t)
        along = mixed(g.unsqueeze(1), self._score(z, t, x0_hat))  # G' s, (B, 1, C, ..)
        return mixed(g.unsqueeze(2), along)

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The exact linear map from time s to time t.

        Args:
            s: start times (B,).
            t: end times (B,), either side of s.

        Returns:
            (U, Q), each (B, A, A, *modes), with Z_t = U Z_s + N(0, Q) forward in time. Backward (t < s) U is the
            inverse map and Q = S_t - U S_s U' is negative semi-definite: the noise that is taken out again.
        """
        return propagate(self.drift_matrix, self.diffusion_vector, s.double(), t.double())

    # -- noise level and time ----------------------------------------------------------------------------------------

    def representative(self, per_mode: Tensor) -> Tensor:
        """One number (B,) for per-mode values (B, *modes), used to lay time grids; modes are alike by default."""
        return per_mode

    @property
    def is_monotone(self) -> bool:
        """Whether sigma never falls in t, so that noise level and time name each other."""
        return True

    def shares_law(self, other: "LinearDynamics") -> bool:
        """Whether v has the same law given x0 under both, by values: a network then sees the same under either.

        A dynamics shares its law with its scalar path, and with any other of the same class and arguments.
        """
        if self is other:
            return True
        if self.basis.modes != other.basis.modes or self.horizon != other.horizon:
            return False
        t = self._admission_times()[::8].cpu()
        levels = zip(self._level(t.to(self.device)), other._level(t.to(other.device)), strict=True)
        return all(torch.allclose(a.cpu(), b.cpu(), rtol=LAW_TOLERANCE, atol=LAW_TOLERANCE) for a, b in levels)

    def require_monotone(self, purpose: str) -> None:
        """Refuse a sigma that is not monotone in t, naming what it was needed for."""
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
        low = torch.full_like(log_sigma, math.log(self.t_min))
        high = torch.full_like(log_sigma, math.log(self.horizon))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.log_sigma(middle.exp()) < log_sigma
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).exp()

    @cached_property
    def scale_vanishes(self) -> bool:
        """Whether some mode keeps so little of x0 at T that a noise prediction could not be turned into x0_hat."""
        scale = self._level(torch.tensor([self.horizon], dtype=torch.float64, device=self.device))[0]
        return bool(scale.min() < VANISHING_SCALE)


class Prior(nn.Module):
    """Where sampling starts: the law of Z_T.

    With mean and variance zero this is N(0, S(T)), as both papers have it. With the data's own mean and variance it
    is N(M(T) mean, S(T) + M M' variance), which is right also where sigma(T) is small (large K) or some modes still
    hold a good part of the data at T (heat dynamics: up to a third of it). Channels share one variance; what they have
    in common is left out.

    Args:
        dynamics: the dynamics whose end it is.
        mean: mean of the data: one number, or a function (C, *S).
        variance: variance of the data: one number, or one per mode (*modes).

    Raises:
        ValueError: for a negative variance, or one of another shape.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dynamics: LinearDynamics, mean: float | Tensor = 0.0, variance: float | Tensor = 0.0) -> None:
        super().__init__()
        # copies on the CPU in float64: a prior may be made from what another one, on a device, holds
        mean, variance = (
            torch.as_tensor(value, dtype=torch.float64, device="cpu").clone() for value in (mean, variance)
        )
        if variance.ndim and tuple(variance.shape) != dynamics.basis.modes:
            raise ValueError(
                f"variance of the prior must be one number or one per mode {dynamics.basis.modes}, got shape "
                f"{tuple(variance.shape)}"
            )
        if not (variance >= 0).all():
            raise ValueError(f"variance of the prior must be at least 0, got {variance.min():g}")
        self.register_buffer("mean", mean, False)
        self.register_buffer("variance", variance, False)
        self._owner: tuple[LinearDynamics] = (dynamics,)  # a tuple, so that nn.Module sees no cycle

    def sample(self, shape: tuple[int, ...], noise: Tensor) -> Tensor:
        """Turn white noise into a start state.

        Args:
            shape: data shape (B, C, *S).
            noise: (B, A, C, *S).

        Returns:
            z, (B, A, C, *S), on the device and in the dtype of the noise.
        """
        dynamics = self._owner[0]
        expected = (shape[0], dynamics.num_components, *shape[1:])
        if tuple(noise.shape) != expected:
            raise ValueError(f"noise of the prior must have shape {expected}, got {tuple(noise.shape)}")
        t = torch.full((1,), dynamics.horizon, dtype=torch.float64, device=noise.device)
        root = dynamics._root(t).clone()
        sigma_squared = dynamics.moments(t).sigma.square()
        # the first column of the root is M sigma: the data's own variance adds to sigma^2
        root[:, :, 0] *= (1 + self.variance.to(noise.device) / sigma_squared).sqrt().unsqueeze(1)
        mean = self.mean.to(noise).expand(shape)
        return dynamics.basis.combine_mixed((dynamics._mean(t).unsqueeze(2), mean.unsqueeze(1)), (root, noise))

    def extra_repr(self) -> str:
        if self.mean.ndim or self.variance.ndim:
            return f"mean of {self.mean.mean():g}, variance per mode of {self.variance.mean():g}, on average"
        return f"mean={self.mean:g}, variance={self.variance:g}"

    def tensors(self) -> dict[str, Tensor]:
        """Mean and variance, float64, as a run folder keeps them."""
        return {"mean": self.mean, "variance": self.variance}
