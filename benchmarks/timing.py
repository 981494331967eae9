"""How long a call takes."""

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median time of a call, waiting for the device, after one call that does not count."""
    times = []
    for _ in range(repeats + 1):  # the first is warm-up
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
