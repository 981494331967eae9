"""Peak of memory while metrics look at samples of 2 kB that are made when they are read: prints MB for every number.

``python growth.py CACHE METRICS NUMBER ..``: one after the other in this process: what all need counts once.
"""

import gc
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from common.data import DataSet, Split
from common.memory import give_back_large
from common.metrics import METRICS, Evidence, evaluate
from common.metrics.drawn import AT_ONCE, Drawn
from common.metrics.extraction import Extractor
from common.metrics.features import Wanted

SHAPE, CLASSES = (1, 16, 32), 3


def images(count: int, seed: int) -> Tensor:
    levels = torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    levels[:, :, :4] //= 1 + torch.arange(count).reshape(-1, 1, 1, 1) % CLASSES
    return levels


def peak(process: int | str = "self") -> float:
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main(cache: Path, names: list[str], counts: list[int]) -> None:
    give_back_large()
    train, held_out = (Split(images(count, count), torch.arange(count) % CLASSES) for count in (900, 300))
    data = DataSet(train, held_out, CLASSES)
    extractor = Extractor(Wanted(data, cache, cache), "pixels")
    metrics = [METRICS[name]() for name in names]
    known: dict[Hashable, Any] = {}
    for count in counts:

        def read(count: int = count) -> Iterator[Tensor]:
            for start in range(0, count, AT_ONCE):
                yield data.spec.to_network(images(min(AT_ONCE, count - start), start))

        drawn = Drawn(read, torch.arange(count) % CLASSES, "made")
        evaluate(Evidence(drawn, data, extractor, known=known), metrics, say=lambda _: None)
        del drawn
        gc.collect()  # what the other number leaves is none of its own
        print(f"{peak():.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), list(map(int, sys.argv[3:])))
