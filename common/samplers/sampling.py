"""The sampling loop, written once for every dynamics, network and solver."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.denoiser import X0Denoiser, process_of
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.base import Posterior, Solver
from common.samplers.grids import Grid
from common.samplers.noise import NoiseSource
from common.samplers.register import SOLVERS

Callback = Callable[[int, float, Tensor, Tensor], None]


@dataclass(frozen=True)
class SampleResult:
    """What :func:`sample` returns.

    Attributes:
        x: data component at t_end (B, C, *S), or the denoised state where that was asked for.
        z: whole state at t_end (B, A, C, *S).
        nfe: number of denoiser calls.
    """

    x: Tensor
    z: Tensor
    nfe: int


@torch.no_grad()
def sample(
    dynamics: LinearDynamics,
    denoiser: X0Denoiser,
    shape: tuple[int, ...],
    *,
    solver: str | Solver,
    steps: int,
    seeds: Sequence[int] | None = None,
    init: Tensor | None = None,
    labels: Tensor | None = None,
    grid: Grid | None = None,
    t_end: float | None = None,
    denoise_last: bool = False,
    allow_other_process: bool = False,
    callback: Callback | None = None,
) -> SampleResult:
    """Draw samples by reversing a dynamics; memory does not grow with the number of steps.

    Args:
        dynamics: what is reversed: a dynamics, or its ``scalar_path()``.
        denoiser: any callable (v, t, labels) to x0_hat.
        shape: data shape (B, C, *S).
        solver: a name of ``SOLVERS`` or a :class:`Solver`.
        steps: number of solver steps, at least 1.
        seeds: one integer per sample; drawn from torch's global generator where None.
        init: start state (B, A, C, *S) instead of a draw from the prior.
        labels: classes (B,) int64, or None.
        grid: time grid; the solver's own choice where None.
        t_end: time at which sampling ends, in [dynamics.t_min, T); None takes what suits the dynamics.
        denoise_last: return as x what the denoiser makes of the state at t_end (one more call), instead of its data
            component, which still has the noise of t_end.
        allow_other_process: take a denoiser that was trained under another process all the same, one that brings its
            input to the noise levels it knows.
        callback: called after every step with (step, time, z, data component).

    Returns:
        A :class:`SampleResult`.

    Raises:
        Refusal: for arguments out of range, a solver that does not apply, or a denoiser of another process.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise Refusal(f"must be one of {', '.join(SOLVERS)}, got {solver!r}", "solver")
        solver = SOLVERS[solver]()
    if steps < 1:
        raise Refusal(f"must be at least 1, got {steps}", "steps")
    t_end = dynamics.default_t_end if t_end is None else t_end
    if not dynamics.t_min <= t_end < dynamics.horizon:
        raise Refusal(f"must lie in [{dynamics.t_min}, {dynamics.horizon}), got {t_end}", "t_end")
    if seeds is None:
        seeds = torch.randint(2**62, (shape[0],)).tolist()
    if len(seeds) != shape[0]:
        raise ValueError(f"seeds must hold one integer per sample ({shape[0]}), got {len(seeds)}")
    if labels is not None and tuple(labels.shape) != (shape[0],):
        raise ValueError(f"labels must have shape ({shape[0]},), got {tuple(labels.shape)}")
    state = (shape[0], dynamics.num_components, *shape[1:])
    if init is not None and tuple(init.shape) != state:
        raise ValueError(f"init must have shape {state}, got {tuple(init.shape)}")
    trained = None if allow_other_process else process_of(denoiser)
    if trained is not None and not dynamics.shares_law(trained):
        raise Refusal(
            f"was trained under {trained} and would see other noise levels under {dynamics}; sample under the former, "
            "or pass allow_other_process=True if it brings its input to the levels it knows",
            "denoiser",
        )
    solver.check(dynamics)

    device = dynamics.device if init is None else init.device
    dtype = torch.get_default_dtype() if init is None else init.dtype
    source = NoiseSource(seeds, tuple(shape[1:]), device, dtype, solver.draws(dynamics.num_components))
    z = dynamics.prior.sample(tuple(shape), source.start(dynamics.num_components)) if init is None else init
    times = (grid or solver.default_grid(dynamics))(dynamics, t_end, steps)
    readable = times.tolist()
    solver.prepare(dynamics, times)
    posterior = Posterior(dynamics, denoiser, labels)
    for i in range(steps):
        t, s = times[i : i + 1], times[i + 1 : i + 2]
        noise = source.step() if solver.stochastic and i < steps - 1 else None
        z = solver.step(dynamics, posterior, z, t, s, noise)
        if callback is not None:
            callback(i, readable[i + 1], z, z[:, 0])
    x = posterior(z, times[-1:]) if denoise_last else z[:, 0]
    return SampleResult(x=x, z=z, nfe=posterior.calls)
