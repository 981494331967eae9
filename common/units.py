"""Amounts of memory and time in words."""


def in_bytes(amount: float) -> str:
    """An amount of memory in two digits, e.g. ``350 MB`` or ``1.2 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= 0.995 * size:
            return f"{_two_digits(amount / size)} {unit}"
    return f"{amount:.0f} bytes"


def in_time(seconds: float) -> str:
    """A time in two digits, e.g. ``45 ms``, ``12 min``, ``3.4 h`` or ``2.1 years``."""
    units = (("years", 31557600), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for unit, size in units:
        if seconds >= 0.995 * size * (1 if unit == "s" else 1.5):
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds * 1000)} ms"


def _two_digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{float(f'{value:.2g}') if value < 100 else round(value):,.0f}"
