"""The order that people count in: v9 before v10."""

import re


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key to sort names by, in which runs of digits count as numbers, and come before letters."""
    parts = re.split(r"([0-9]+)", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
