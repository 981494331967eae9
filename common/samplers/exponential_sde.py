"""Exponential multistep solvers of the reverse SDE: the exact posterior step, with the joint noise of all components.

With x0_hat held, Z_s given Z_t and x0 = x0_hat is Gaussian, and a step draws it: with Phi the forward map from s to t,

    Z_s = U Z_t + (M_s - U M_t) x0_hat + Q^(1/2) xi,      U = S_s Phi' S_t^-1,   Q = S_s - U Phi S_s

U and Q are also map and noise of the reverse SDE's linear part N = F + G G' S^-1, and so they are computed: as sums of
squares, without a difference of near numbers (:mod:`common.samplers.exponential`, of which this is the other half).

The last step has no noise: it gives the mean of Z at t_end given Z_t and x0_hat, as all stochastic solvers here do.
What is left out is noise that nothing would take away again: given x0, the variance of x at t_end is below that of the
law there, by the share 1 - e^(-2h) on a scalar path, h being the last step in lambda.
"""

from common.samplers.exponential import Exponential1, Exponential2


class ExponentialSDE1(Exponential1):
    """Weak order 1: x0_hat held constant over the step; ancestral sampling (DDPM, arXiv 2006.11239) if A = 1."""

    stochastic = True
    default_steps = 200


class ExponentialSDE2(Exponential2):
    """Weak order 2: x0_hat linear in lambda through the last two evaluations; the first step is of order 1."""

    stochastic = True
    default_steps = 50
