"""Does a model copy its training set? Distance to the nearest training sample, generated against held-out real ones."""

import math

from common.metrics.base import Evidence, Metric


class Nearest(Metric):
    """Mean distance of samples to their nearest training sample, over that of held-out real samples."""

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        from common.metrics.accumulated import NearestRatio  # only here: torchmetrics takes a while to import

        ratio = NearestRatio(evidence.train.x, evidence.held_out.x)
        for part in evidence.drawn.chunks():
            ratio.update(part)
        return {"nearest": float(ratio.compute())}

    def lines(self, figures: dict[str, float], evidence: Evidence) -> list[str]:
        if math.isnan(figures["nearest"]):
            held_out = len(evidence.held_out.x)
            why = f"all {held_out:,} held-out samples are training samples too" if held_out else "nothing is held out"
            return [f"nearest   undefined: {why}, so there is no distance to compare with"]
        return [
            f"nearest   {figures['nearest']:.3f} distance to the nearest training image, relative to held-out images",
            "          (near 1: as new as fresh data; near 0: copies)",
        ]
