"""The time grid that was measured on a run's network, as its folder keeps it."""

import json
from itertools import pairwise
from typing import Any, TypeGuard

from common.files import atomic_write, read_json
from common.refusal import Refusal
from common.runs.folder import RunFolder

NodeDensity = tuple[tuple[float, ...], tuple[float, ...]]
MOST, HUGE = 10_000, 1e300  # nodes, and what no number of theirs reaches


def read_time_grid(folder: RunFolder) -> NodeDensity | None:
    """Positions and density of the grid of a run; None if none was measured.

    Raises:
        Refusal: naming the file, if it is damaged or holds something else.
    """
    path = folder.time_grid
    if not path.is_file():
        return None
    folder.manifest.check(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise Refusal(f"{path} is not readable ({error}); {folder.mend(path)}") from error
    parts = [content.get(name) for name in ("nodes", "density")] if isinstance(content, dict) else []
    if not _is_density(parts):
        raise Refusal(f"{path} holds no density of times; {folder.mend(path)}")
    nodes, density = (tuple(map(float, part)) for part in parts)
    return nodes, density


def write_time_grid(folder: RunFolder, found: NodeDensity, weights: str) -> None:
    """Keep a grid with a run, atomically.

    Args:
        folder: the run's folder.
        found: positions and density.
        weights: which weights it was measured on, in words.
    """
    with folder.manifest.renewing(folder.time_grid):
        content = json.dumps({"weights": weights, "nodes": found[0], "density": found[1]}, allow_nan=False)
        atomic_write(folder.time_grid, f"{content}\n".encode())


def _is_density(parts: list[Any]) -> TypeGuard[list[list[float]]]:
    """Whether values, perhaps of a foreign file, are rising positions and densities above 0 there."""
    if len(parts) != 2 or not all(isinstance(part, list) and 2 <= len(part) <= MOST for part in parts):
        return False
    nodes, density = parts
    if not all(type(value) in (int, float) and abs(value) < HUGE for value in (*nodes, *density)):
        return False
    return len(nodes) == len(density) and all(a < b for a, b in pairwise(nodes)) and min(density) > 0
