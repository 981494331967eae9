"""What evaluate.py judges: samples, the real data, and what a reader of the figures must know of both."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from common.data.source import DataSet
from common.files import read_json
from common.metrics.base import Evidence
from common.metrics.drawn import Drawn, read_over
from common.metrics.extraction import Extractor

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "torchmetrics")
TRUTHS = "truths"  # what figures of completions are compared with
KNOWN_BY = 64  # samples, evenly spaced, by which real data is told from other data


@dataclass(frozen=True, eq=False)
class Judged:
    """Samples and the real data they are compared with.

    Attributes:
        drawn: the samples.
        data: the real data.
        extractor: gives the features that metrics compare.
        figures: the file that figures are written to.
        beside: folder of one's own samples, where their features are kept; None if they are another program's.
        remarks: what a user should know before any figure.
        lines: what was drawn and from what, as it is printed.
        origin: the same for metrics.json: weights, solver, seeds and so on.
        grid: a picture of the samples; None if there is none.
    """

    drawn: Drawn
    data: DataSet
    extractor: Extractor
    figures: Path
    beside: Path | None = None
    remarks: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)
    grid: Path | None = None

    @property
    def told(self) -> list[str]:
        """What is printed before any figure."""
        return [*(f"note      {remark}" for remark in self.remarks), *self.lines]


def about(judged: Judged, evidence: Evidence) -> dict[str, Any]:
    """What figures rest on, for metrics.json: samples, real data, features with their weights, versions.

    There is no date, so that the same command writes the same file.
    """
    return {
        "samples": {"from": judged.drawn.name, "count": len(judged.drawn), **judged.origin},
        "real": of_real(judged.data, evidence),
        "features": {
            asked: {"name": features.name, "identity": features.identity, "source": features.source}
            for asked, features in evidence.features.items()
        },
        "default_features": None if evidence.extractor is None else evidence.extractor.default,
        "versions": {"python": python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def together(path: Path, figures: Mapping[str, float | None], basis: dict[str, Any]) -> dict[str, Any]:
    """Figures with those that a file holds already, if they rest on the same samples, real data, features and versions.

    Args:
        path: the file of figures, which may not be there.
        figures: the new ones, which win.
        basis: what they rest on, as :func:`about` gives it.
    """
    try:
        kept = read_json(path)
        earlier = dict(kept.pop("about"))
        features = {**earlier["features"], **basis["features"]}
        is_same = earlier | {"features": 0} == json.loads(json.dumps(basis | {"features": 0})) and all(
            features[name] == known for name, known in earlier["features"].items()
        )
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):  # none, or of an earlier version
        is_same = False
    return {**kept, **figures, "about": basis | {"features": features}} if is_same else {**figures, "about": basis}


def part_of(path: Path) -> str | None:
    """What the figures in a file compare with: a part of the real data, or truths; None if nobody knows."""
    try:
        return str(read_json(path)["about"]["real"]["part"])
    except (OSError, ValueError, LookupError, TypeError):  # none, or damaged
        return None


def of_real(data: DataSet, evidence: Evidence) -> dict[str, Any]:
    """What samples are compared with, and what other real data is told from it by: SHA-256 of some of its samples.

    Of data that moments alone are known of, that of the moments.
    """
    digest = hashlib.sha256()
    if evidence.statistics is not None:
        for moment in evidence.statistics:
            digest.update(moment.numpy().tobytes())
        return {"part": "moments", "sha256": digest.hexdigest()}
    for some in read_over(evidence.compared, evidence.spec, KNOWN_BY):
        digest.update(some.contiguous().numpy().tobytes())
    compared, others = (sum(len(part.labels) for part in parts) for parts in (evidence.compared, evidence.others))
    return {
        "shape": list(data.shape),
        "treatment": data.treatment,
        "part": evidence.part,
        "count": evidence.count,
        "of": compared,
        "others": min(evidence.most_others, others),
        "sha256": digest.hexdigest(),
    }
