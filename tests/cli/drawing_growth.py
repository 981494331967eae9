"""Peak of memory while generate.py draws samples of 2 kB: prints MB for every number of samples.

``python drawing_growth.py FOLDER DEVICES NUMBER ..``: one after the other in this process, which trains a run first.
With several devices also the mean of the peaks of the processes that draw, which are others every time.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import psutil

import generate
import train
from tests.metrics.growth import peak
from tests.training import tiny

SIDE = 22  # 22 x 22 numbers of 4 bytes


@contextlib.contextmanager
def watched() -> Iterator[dict[int, float]]:
    """Peaks in MB by number of the processes that this one starts."""
    found, over = dict[int, float](), threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for child in psutil.Process().children():
                with contextlib.suppress(OSError, StopIteration):  # it has just ended
                    found[child.pid] = peak(child.pid)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def main(folder: Path, devices: str, counts: list[str]) -> None:
    os.chdir(folder)
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 1), np.uint8))
    flags = {**tiny.FLAGS, "train_steps": 2, "batch_size": 4, "wb_id": "a", "data_name": "arrays", "device": "cpu"}
    assert train.main(tiny.command(**flags, data_dir="images.npy")) == 0
    peaks, of_others = list[str](), list[str]()
    for number, count in enumerate(counts):
        drawn = {"n_samples": count, "batch_size": 500, "steps": 1, "t_end": 0.001 + number * 1e-5, "device": "cpu"}
        with watched() as others:
            assert generate.main(tiny.command(**drawn, run_id="a", devices=devices)) == 0  # another set every time
        peaks.append(f"{peak():.2f}")
        drawing = sorted(others.values())[-int(devices) :]
        of_others.append(f"{sum(drawing) / len(drawing):.2f}" if devices != "1" else "0")
    print("peaks", *peaks)
    print("others", *of_others)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
