"""The law of every member to thirty digits and more, with mpmath: what float64 code is measured against.

Reads no code of the library. One function a member, by the member's name and with the member's own arguments, gives
the law at some times. One component: formulas. CLD: the exponential of a 2 x 2 matrix with a double eigenvalue, and
integrals of t^n exp(-2 a t). Fractional members: the covariance of Y is a formula, and what is left are scalar
linear equations, solved panel by panel in Chebyshev coefficients (the integrated form, whose matrices are banded).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath as mp
import numpy as np
from mpmath import mpf
from numpy.typing import NDArray

Exact = NDArray[np.object_]  # of mpf
Series = list[mpf]  # Chebyshev coefficients on [-1, 1]

DIGITS = 65  # the conditional variance cancels up to 25 of them
NODES = 56  # Chebyshev coefficients a panel
REACH = 10  # width of a panel over the time constant of what changes fastest in it
GONE = 130  # exponent from which on a transient is below the last digit
GROWTH = 0.8  # later panels are no wider than this share of their start


@dataclass(frozen=True)
class Law:
    """The law of Z_t given x0 at one time: the fields of the library's ``Moments``, without the axis of times."""

    mean: Exact
    cov: Exact
    weight: Exact
    scale: Exact
    std: Exact
    log_sigma: Exact
    complement: Exact


def array(values: object) -> Exact:
    return np.array(values, dtype=object)


def schur_law(mean: Exact, cov: Exact) -> Law:
    """The law with mean M (A,), M_1 > 0, and covariance S (A, A)."""
    size = len(mean)
    along, normal = np.full(size, mpf(0), dtype=object), np.full((size, size - 1), mpf(0), dtype=object)
    along[0] = 1 / mean[0]
    normal[0] = -mean[1:] / mean[0]
    for j in range(1, size):
        normal[j, j - 1] = mpf(1)
    complement = np.full((size, size), mpf(0), dtype=object)
    if size > 1:
        across = normal.T @ cov @ normal
        unit = array([mp.sqrt(across[j, j]) for j in range(size - 1)])
        pairs = np.multiply.outer(unit, unit)
        inverse = array(mp.inverse(mp.matrix((across / pairs).tolist())).tolist()) / pairs
        complement = normal @ inverse @ normal.T
    psi = along - complement @ (cov @ along)
    sigma = mp.sqrt(psi @ cov @ psi)
    scale = mean[0]
    return Law(mean, cov, scale * psi, array(scale), array(scale * sigma), array(mp.log(sigma)), complement)


def scalar_law(scale: Exact, std: Exact) -> Law:
    """The law of one component, mode by mode: scale m and deviation sc (*modes)."""
    scale, std = array(scale), array(std)
    level = np.vectorize(mp.log, otypes=[object])(std / scale)
    one, none = np.full_like(scale, mpf(1)), np.full_like(scale, mpf(0))
    return Law(scale[None], array(std**2)[None, None], one[None], scale, std, array(level), none[None, None])


# -- one component -----------------------------------------------------------------------------------------------------


def _integral(t: mpf, beta_min: float, beta_max: float) -> mpf:
    return t * (mpf(beta_min) + (mpf(beta_max) - mpf(beta_min)) * t / 2)


def vp(times: Sequence[float], beta_min: float = 0.1, beta_max: float = 20.0) -> list[Law]:
    totals = [_integral(mpf(t), beta_min, beta_max) for t in times]
    return [scalar_law(mp.exp(-total / 2), mp.sqrt(-mp.expm1(-total))) for total in totals]


def subvp(times: Sequence[float], beta_min: float = 0.1, beta_max: float = 20.0) -> list[Law]:
    totals = [_integral(mpf(t), beta_min, beta_max) for t in times]
    return [scalar_law(mp.exp(-total / 2), -mp.expm1(-total)) for total in totals]


def ve(times: Sequence[float], sigma_min: float = 0.01, sigma_max: float = 50.0) -> list[Law]:
    low, high = mpf(sigma_min), mpf(sigma_max)
    return [scalar_law(mpf(1), low * (high / low) ** mpf(t)) for t in times]


def edm(times: Sequence[float], sigma_max: float = 80.0) -> list[Law]:
    return [scalar_law(mpf(1), mpf(sigma_max) * mpf(t)) for t in times]


def flow(times: Sequence[float]) -> list[Law]:
    return [scalar_law(1 - mpf(t), mpf(t)) for t in times]


def heat(
    times: Sequence[float],
    shape: tuple[int, ...],
    *,
    beta_min: float = 0.1,
    beta_max: float = 10.0,
    const: float = 0.02,
    x_norm: float,
    energy_norm: float = 1.0,
) -> list[Law]:
    half = (*shape[:-1], shape[-1] // 2 + 1)
    squared = np.empty(half, dtype=object)
    for index in np.ndindex(*half):
        cycles = [mpf(min(i, n - i)) / n for i, n in zip(index, shape, strict=True)]
        squared[index] = sum(f**2 for f in cycles) * mpf(x_norm) ** 2
    root = np.vectorize(mp.sqrt, otypes=[object])
    damping = 1 / (squared + mpf(3) / 10) + root(root((squared + 2) / mpf(33) ** 2))
    noise = 4096 / (mpf(2327) / 100) / (squared + 2) / mpf(energy_norm)
    rate = mp.log((mpf(beta_min) + mpf(beta_max)) / 2 / mpf(const) + 1)
    laws = []
    for t in times:
        exponent = damping * mpf(const) * mp.expm1(rate * mpf(t))
        scale = np.vectorize(lambda x: mp.exp(-x), otypes=[object])(exponent)
        kept = np.vectorize(lambda x: -mp.expm1(-2 * x), otypes=[object])(exponent)
        laws.append(scalar_law(scale, root(noise / damping * kept)))
    return laws


# -- CLD ---------------------------------------------------------------------------------------------------------------


def cld(times: Sequence[float], beta: float = 4.0, mass: float = 0.25, initial_share: float = 0.04) -> list[Law]:
    with mp.extradps(4 * DIGITS):  # the integrals cancel like (a t)^3
        return [_cld(mpf(t), mpf(beta), mpf(mass), mpf(initial_share)) for t in times]


def _cld(t: mpf, beta: mpf, mass: mpf, share: mpf) -> Law:
    a = beta / mp.sqrt(mass)  # minus the double eigenvalue
    coupling = beta / mass
    zeroth = -mp.expm1(-2 * a * t) / (2 * a)  # integrals of s^n exp(-2 a s) from 0 to t
    first = (zeroth - t * mp.exp(-2 * a * t)) / (2 * a)
    second = (2 * first - t**2 * mp.exp(-2 * a * t)) / (2 * a)
    mixed = coupling * (first - a * second)
    noise = array([[coupling**2 * second, mixed], [mixed, zeroth - 2 * a * first + a**2 * second]])
    phi = mp.exp(-a * t) * array([[1 + a * t, coupling * t], [-beta * t, 1 - a * t]])
    start = array([[mpf(0), mpf(0)], [mpf(0), share * mass]])
    return schur_law(phi[:, 0], phi @ start @ phi.T + 4 * mp.sqrt(mass) * beta * noise)


# -- scalar linear equations in Chebyshev coefficients -----------------------------------------------------------------


@functools.cache
def _cosines() -> tuple[Series, list[Series]]:
    """Chebyshev points on [-1, 1], and rows that turn values there into coefficients."""
    angles = [mp.pi * (2 * q + 1) / (2 * NODES) for q in range(NODES)]
    rows = [[(2 if i else 1) * mp.cos(i * angle) / NODES for angle in angles] for i in range(NODES)]
    return [mp.cos(angle) for angle in angles], rows


@functools.cache
def _powers(degree: int) -> NDArray[np.float64]:
    """Matrices from y to 2 i times coefficient i of the integral of x^k y, k = 0 .. degree (last axis); exact."""
    size = NODES + degree + 2  # so that what is cut off does not come back
    times_x = (np.eye(size, k=1) + np.eye(size, k=-1)) / 2
    times_x[1, 0] = 1
    integral = np.eye(size, k=-1) - np.eye(size, k=1)
    integral[1, 0] = 2
    powers = [integral @ np.linalg.matrix_power(times_x, k) for k in range(degree + 1)]
    return np.stack([power[:NODES, :NODES] for power in powers], axis=-1)


def solve_panel(rate: Series, sources: Sequence[Series], starts: Sequence[mpf]) -> list[Series]:
    """Solutions of y' = rate(x) y + f on [-1, 1] for several f and y(-1); the rate in powers of x.

    Row i = 1 .. says that coefficient i of y is that of the integral of y'; coefficient 0 follows from the start. Stiff
    or not, the band is eliminated without pivots: there are digits to spare.
    """
    powers, band, size = _powers(len(rate) - 1), len(rate), NODES - 1
    known: dict[bytes, mpf] = {}  # all rows but the first and last few are alike

    def entry(i: int, j: int) -> mpf:
        key = powers[i, j].tobytes()
        if key not in known:
            known[key] = mp.fdot(rate, map(float, powers[i, j]))
        return (2 * i if i == j else 0) - known[key]

    rows = [[entry(i, j) if 1 <= j < NODES else mpf(0) for j in range(i - band, i + band + 1)] for i in range(1, NODES)]
    right = [
        [-entry(i, 0), *((2 if i == 1 else 1) * f[i - 1] - (f[i + 1] if i + 1 < NODES else 0) for f in sources)]
        for i in range(1, NODES)
    ]
    for upper in range(size):
        for shift in range(1, min(band, size - 1 - upper) + 1):
            lower = upper + shift
            factor = rows[lower][band - shift] / rows[upper][band]  # the diagonal of a row is at place `band`
            for j in range(1, band + 1):
                rows[lower][band - shift + j] -= factor * rows[upper][band + j]
            right[lower] = [x - factor * y for x, y in zip(right[lower], right[upper], strict=True)]
    columns = []
    for column in zip(*right, strict=True):
        found: Series = []  # from the last on
        for i in reversed(range(size)):
            rest = mp.fdot(rows[i][band + 1 :], [*found[: -band - 1 : -1], *[0] * band][:band])
            found.append((column[i] - rest) / rows[i][band])
        columns.append(found[::-1])
    signs = [(-1) ** i for i in range(1, NODES)]
    fundamental, *particular = columns
    solutions = []
    for start, column in zip(starts, particular, strict=True):
        first = (start - mp.fdot(signs, column)) / (1 + mp.fdot(signs, fundamental))
        solutions.append([first, *(x + first * u for x, u in zip(column, fundamental, strict=True))])
    return solutions


def _times_linear(series: Series, constant: mpf, slope: mpf) -> Series:
    """Coefficients of (constant + slope x) times a series, cut to its length."""
    shifted = [mpf(0), *series[:-1]]
    shifted[1] *= 2
    return [constant * a + slope * (b + c) / 2 for a, b, c in zip(series, shifted, [*series[1:], 0], strict=True)]


# -- fractional members ------------------------------------------------------------------------------------------------


def rates(num_aug: int, gamma_max: float) -> Series:
    """Geometric around 1, from 1 / gamma_max to gamma_max; 1 alone for one process."""
    if num_aug <= 1:
        return [mpf(1)] * num_aug
    return [mpf(gamma_max) ** (mpf(2 * k - num_aug - 1) / (num_aug - 1)) for k in range(1, num_aug + 1)]


def omegas(gamma: Series, hurst: float) -> Series:
    """Best weights in mean square over [0, 1]."""
    if not gamma:
        return []
    low, high = mpf(hurst) + mpf(1) / 2, mpf(hurst) + mpf(3) / 2
    with mp.extradps(DIGITS):

        def below(order: mpf, g: mpf) -> mpf:
            return g**-order * mp.gammainc(order, 0, g, regularized=True)

        gram = mp.matrix([[(1 + mp.expm1(-(a + b)) / (a + b)) / (a + b) for a in gamma] for b in gamma])
        return list(mp.lu_solve(gram, mp.matrix([below(low, g) - low * below(high, g) for g in gamma])))


@dataclass(frozen=True)
class Drive:
    """dX = (fixed - damping g^2) X dt + g sum_k w_k dY^k, where g^2 is linear in t from g(0) to g(1).

    Panels lie in the variable x in [0, 1] in which g is linear and t quadratic: then every coefficient is a polynomial.
    """

    first: mpf
    last: mpf
    fixed: mpf
    damping: mpf

    def g(self, x: mpf) -> mpf:
        return self.first + (self.last - self.first) * x

    def time(self, x: mpf) -> mpf:
        return x * (self.first + self.g(x)) / (self.first + self.last)

    def place(self, t: mpf) -> mpf:
        """x at a time."""
        g = mp.sqrt(self.first**2 + (self.last**2 - self.first**2) * t)
        return t * (self.first + self.last) / (self.first + g)

    def edges(self, gamma: Series, times: Series) -> Series:
        """Ends of panels: the times, and between them whatever resolves the transients that are still there."""
        every = sorted({*gamma, *(a + b for a in gamma for b in gamma)})
        edges = [mpf(0)]
        for stop in map(self.place, times):
            while (x := edges[-1]) < stop:
                t = self.time(x)
                lost = -2 * self.fixed * t + self.damping * t * (self.first**2 + self.g(x) ** 2)  # of Var X_0
                alive = self._reach(x, [c for c in every if c * t < GONE], lost < GONE)
                width = max(self._reach(x, every, True), min(alive, GROWTH * x))
                parts = mp.ceil((stop - x) / width)
                edges.append(stop if parts == 1 else x + min(width, (stop - x) / 2))
        return edges

    def _reach(self, x: mpf, gamma: Series, decays: bool) -> mpf:
        """Width from x on in which the fastest of increasing rates, or the decay of Var X, does its share."""
        low, high = mpf(0), mpf(1)
        for _ in range(30):
            width = (low + high) / 2
            g = self.g(x + width)
            decay = -2 * (self.fixed - self.damping * g**2)
            rate = max([*gamma[-1:], *([decay] if decays else []), mpf(1)])
            fits = width * 2 * g * rate < REACH * (self.first + self.last)
            low, high = (width, high) if fits else (low, width)
        return low

    def moments(self, gamma: Series, omega: Series, times: Series) -> list[tuple[Series, mpf, Series]]:
        """At increasing times in (0, 1]: Cov(X, Y^k) and Var X of the noise since t = 0, and the maps of Y_0 to X."""
        count = len(gamma)
        total = mp.fsum(omega) if gamma else mpf(1)
        pull = [w * c for w, c in zip(omega, gamma, strict=True)]
        cross, variance, maps = [mpf(0)] * count, mpf(0), [mpf(0)] * count
        points, rows = _cosines()
        stops = {self.place(t) for t in times}
        found = []

        def series(values: Series) -> Series:
            return [mp.fdot(row, values) for row in rows]

        for left, right in itertools.pairwise(self.edges(gamma, times)):
            middle, half = (left + right) / 2, (right - left) / 2
            g = (self.g(middle), (self.last - self.first) * half)  # in powers of the panel's variable
            speed = 2 * half / (self.first + self.last)  # dt is speed g times the change of that variable

            def rate(rest: mpf, g: tuple[mpf, mpf] = g, speed: mpf = speed) -> Series:
                """speed g (rest - damping g^2) in powers."""
                a, b = g
                if not b:
                    return [speed * a * (rest - self.damping * a**2)]
                cube = [a**3, 3 * a**2 * b, 3 * a * b**2, b**3]
                return [speed * (rest * x - self.damping * y) for x, y in zip((a, b, 0, 0), cube, strict=True)]

            squared = [speed * (g[0] + g[1] * x) ** 2 for x in points]  # g dt
            decays = [[mp.exp(-c * self.time(middle + half * x)) for x in points] for c in gamma]
            together = list(zip(*decays, strict=True))
            between = []
            for k, c in enumerate(gamma):
                falls = [p / (c + other) for p, other in zip(pull, gamma, strict=True)]
                level = total - mp.fsum(falls)
                force = [y * (level + e[k] * mp.fdot(falls, e)) for y, e in zip(squared, together, strict=True)]
                between += solve_panel(rate(self.fixed - c), [series(force)], [cross[k]])
            if gamma:
                forces = [
                    series([-y * pull[k] * e for y, e in zip(squared, decays[k], strict=True)]) for k in range(count)
                ]
                maps = [mp.fsum(y) for y in solve_panel(rate(self.fixed), forces, maps)]
            cross = [mp.fsum(y) for y in between]
            mixed = [-2 * mp.fdot(pull, y) for y in zip(*between, strict=True)] or [mpf(0)] * NODES
            kick = [total**2 * g[0], total**2 * g[1]]
            force = _times_linear([x + y for x, y in itertools.zip_longest(mixed, kick, fillvalue=mpf(0))], *g)
            force = [speed * x for x in _times_linear(force, *g)]
            variance = mp.fsum(solve_panel([2 * x for x in rate(self.fixed)], [force], [variance])[0])
            if right in stops:
                found.append((cross, variance, maps))
        return found


def _fractional(
    times: Sequence[float],
    drive: Drive,
    scale: Callable[[mpf], mpf],
    unit: Callable[[mpf], mpf],
    normaliser: Callable[[mpf], mpf],
    data_var: mpf,
    *,
    hurst: float,
    num_aug: int,
    gamma_max: float,
    normalize: bool,
    marginals: str,
    aug_init_var: float,
) -> list[Law]:
    """Laws of X = unit(t) times what ``drive`` makes; ``normaliser`` is the factor on the weights given Var X_T."""
    gamma = rates(num_aug, gamma_max)
    marks = sorted({*map(mpf, times), mpf(1)})
    moments = dict(zip(marks, drive.moments(gamma, omegas(gamma, hurst), marks), strict=True))
    factor = normaliser(moments[mpf(1)][1] * unit(mpf(1)) ** 2) if normalize and num_aug else mpf(1)
    start = mpf(aug_init_var)
    laws = []
    for t in map(mpf, times):
        size = factor * unit(t)
        cross, variance, maps = (array(x) * size for x in moments[t])
        variance = variance * size
        decays = array([mp.exp(-c * t) for c in gamma])
        cov = np.full((num_aug + 1, num_aug + 1), mpf(0), dtype=object)
        for j, k in np.ndindex(num_aug, num_aug):
            cov[j + 1, k + 1] = -mp.expm1(-(gamma[j] + gamma[k]) * t) / (gamma[j] + gamma[k])
            if j == k:
                cov[j + 1, k + 1] += start * decays[k] ** 2
        if marginals == "exact" and num_aug:
            cross = cross + start * maps * decays
            variance += start * (maps @ maps)
        cov[0, 0] = variance + data_var * scale(t) ** 2
        cov[0, 1:] = cov[1:, 0] = cross
        laws.append(schur_law(array([scale(t), *[mpf(0)] * num_aug]), cov))
    return laws


def fvp(
    times: Sequence[float],
    hurst: float = 0.9,
    num_aug: int = 2,
    *,
    gamma_max: float = 20.0,
    normalize: bool = True,
    marginals: str = "exact",
    aug_init_var: float = 1e-4,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
) -> list[Law]:
    return _fractional(
        times,
        Drive(mp.sqrt(mpf(beta_min)), mp.sqrt(mpf(beta_max)), mpf(0), mpf(1) / 2),
        lambda t: mp.exp(-_integral(t, beta_min, beta_max) / 2),
        lambda t: mpf(1),
        lambda variance: 1 / mp.sqrt(variance),
        mpf(0),
        hurst=hurst,
        num_aug=num_aug,
        gamma_max=gamma_max,
        normalize=normalize,
        marginals=marginals,
        aug_init_var=aug_init_var,
    )


def fve(
    times: Sequence[float],
    hurst: float = 0.9,
    num_aug: int = 2,
    *,
    gamma_max: float = 20.0,
    normalize: bool = True,
    marginals: str = "exact",
    aug_init_var: float = 1e-4,
    sigma_min: float = 0.01,
    sigma_max: float = 50.0,
) -> list[Law]:
    low, high = mpf(sigma_min), mpf(sigma_max)
    growth = mp.log(high / low)
    return _fractional(
        times,
        Drive(mpf(1), mpf(1), -growth, mpf(0)),  # of X / g
        lambda t: mpf(1),
        lambda t: low * mp.sqrt(2 * growth) * mp.exp(growth * t),
        lambda variance: high / mp.sqrt(variance + low**2),
        low**2,
        hurst=hurst,
        num_aug=num_aug,
        gamma_max=gamma_max,
        normalize=normalize,
        marginals=marginals,
        aug_init_var=aug_init_var,
    )


MEMBERS: dict[str, Callable[..., list[Law]]] = {
    "fvp": fvp,
    "fve": fve,
    "vp": vp,
    "subvp": subvp,
    "ve": ve,
    "cld": cld,
    "edm": edm,
    "flow": flow,
    "heat": heat,
}


def laws(member: str, times: Sequence[float], *positional: object, **arguments: object) -> list[Law]:
    """The laws of a member at times in (0, T], in any order; arguments as its constructor has them."""
    with mp.workdps(DIGITS):
        return MEMBERS[member](times, *positional, **arguments)
