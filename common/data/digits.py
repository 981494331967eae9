"""The built-in set: 1,797 real 8x8 scans of handwritten digits that come with scikit-learn (UCI ML repository)."""

import torch

from common.data.resize import fit
from common.data.source import DataOptions, DataSet, Source, Split

HELD_OUT = 297
GREY_LEVELS = 16  # the scans count ink in 4x4 blocks: 0 .. 16


class Digits(Source):
    """8x8 digits, ten classes, no download; 1,500 scans to learn from, 297 held out (the same ones always)."""

    name = "digits"

    def load(self, options: DataOptions) -> DataSet:
        # only here: scikit-learn takes a while to import
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        images = torch.from_numpy(bunch.images / GREY_LEVELS * 255).round().to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(bunch.target).long()
        train, held_out = train_test_split(
            torch.arange(len(labels)).numpy(), test_size=HELD_OUT, random_state=0, stratify=bunch.target
        )
        data = DataSet(
            train=Split(images[train], labels[train]),
            held_out=Split(images[held_out], labels[held_out]),
            num_classes=10,
        )
        return fit(data, options, "--data_name digits")
