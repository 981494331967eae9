"""The order that people count in: v9 before v10."""

import re


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key to sort names by, in which runs of digits count as numbers, and come before letters."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not digits, int(digits or 0), digits or letters) for digits, letters in parts]
