"""Data sets and the data module."""

from common.data.digits import Digits
from common.data.mnist import Mnist
from common.data.module import Batch, DataModule, to_unit_range
from common.data.source import Arrays, DataUnavailable, Source, Split

SOURCES: dict[str, type[Source]] = {source.name: source for source in (Digits, Mnist)}

__all__ = ["SOURCES", "Arrays", "Batch", "DataModule", "DataUnavailable", "Source", "Split", "to_unit_range"]
