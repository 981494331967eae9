"""A folder, or a zip file, of recordings of one's own, in one of the layouts of :mod:`common.data.layout`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

import torch
from torch import Tensor

from common.data.damage import Unreadable, sorted_out, with_others
from common.data.folder import another_source
from common.data.layout import Layout, lay_out
from common.data.reading import gather, is_small, spread
from common.data.resize import fit
from common.data.sound_form import Headers, Recordings, SoundForm, header, take
from common.data.source import DataOptions, DataSet, DataUnavailable, Source, Split
from common.data.spec import LARGEST
from common.data.trees import Files, Tree, open_tree
from common.media.recordings import ENDINGS

WHAT = "recordings"
LENGTHS = 400  # a length that is not asked for is a multiple of it
MOST_POINTS = 16_000  # and no longer than this: what one core learns from in hours
CHANNELS = (1, 2)
UNREAD = frozenset((".m4a", ".aac", ".mp4", ".wma", ".amr", ".3gp", ".webm", ".mka", ".ape", ".wv"))  # of phones, ..
RATES_NAMED = 3


class Sounds(Source):
    """Recordings of any format, rate and length, brought to one rate, one length and one peak."""

    name, kind = "sounds", "sound"

    def load(self, options: DataOptions) -> DataSet:
        channels = options.channels or 1
        if channels not in CHANNELS:
            raise DataUnavailable(f"{channels}: --data_name {self.name} reads 1 (mixed) or 2 (stereo)", "channels")
        tree = open_tree(self.name, options.data_dir, ENDINGS, WHAT)
        try:
            layout = lay_out(tree, options.class_order, WHAT)
        except DataUnavailable as error:
            raise DataUnavailable(
                "; ".join([f"--data_name {self.name}: {error}{another_source(tree)}", *unread(tree)])
            ) from None
        layout = replace(layout, found=(*layout.found, *(f"note      {line}" for line in unread(tree))))
        try:
            data = self._read(layout, channels, options)
        except Unreadable as error:
            files = (layout.train[0], layout.held_out[0])
            raise with_others(
                error, files, partial(take, form=self._form_of_whole(files, channels, options))
            ) from error
        asked = replace(options, channels=None, length=None, sample_rate=None, class_order="natural")
        return fit(data, asked, f"--data_name {self.name}")

    def _read(self, layout: Layout, channels: int, options: DataOptions) -> DataSet:
        parts = (layout.train, layout.held_out)
        headers = torch.cat([all_of(Headers(files, self.name), f"headers of {WHAT}") for files, _ in parts])
        form, found = self._form(headers, channels, options)
        train, held_out = (Split(Recordings(files, form), labels) for files, labels in parts)
        if is_small(train.images, held_out.images):
            train = Split(*train.read(title=f"reading {WHAT}"))
            held_out = Split(*held_out.read(title=f"reading held-out {WHAT}"))
        return DataSet(
            train,
            held_out,
            value_range=(-1.0, 1.0),
            sample_rate=form.rate,
            classes=layout.classes,
            found=(*layout.found, *found),
        )

    def _form_of_whole(self, parts: Sequence[Files], channels: int, options: DataOptions) -> SoundForm:
        """The form that recordings would have without those whose headers cannot be read."""
        whole = [sorted_out(files, partial(header, source=self.name))[0] for files in parts]
        headers = torch.cat([all_of(Headers(files, self.name), f"headers of {WHAT}") for files in whole])
        return self._form(headers, channels, options)[0] if len(headers) else SoundForm(self.name, channels, 8000, 1)

    def _form(self, headers: Tensor, channels: int, options: DataOptions) -> tuple[SoundForm, list[str]]:
        """How recordings will be, and that in words.

        Args:
            headers: (N, 3), points, channels and points per second of each.
            channels: how many are wanted.
            options: what was asked for.
        """
        points, of_file, rates = headers.T
        rate = options.sample_rate or most_frequent(rates)[0][0]
        lengths = ((points.double() * rate / rates).ceil()).long()
        usual = -int(-lengths.median() // LENGTHS) * LENGTHS
        length = options.length or min(usual, MOST_POINTS)
        if length * channels > LARGEST:
            raise DataUnavailable(f"{length}: a sample has at most {LARGEST:,} numbers", "length")
        found = [f"sounds    {rate:,} points per second{resampling(rates, rate)}; the peak of each at -0.1 dB"]
        if channels == 1 and (mixed := int((of_file > 1).sum())):
            found.append(f"sounds    {mixed:,} of {len(of_file):,} mixed to one channel (--channels 2 keeps two)")
        if channels == 2 and (doubled := int((of_file == 1).sum())):
            found.append(f"sounds    {doubled:,} of {len(of_file):,} have one channel, which is taken twice")
        cut, padded = int((lengths > length).sum()), int((lengths < length).sum())
        found.append(
            f"sounds    {length:,} points ({length / rate:.3g} s) of each: {cut:,} are longer and cut, {padded:,} "
            "shorter and padded with zeros (--length)"
        )
        if options.length is None and usual > length:
            slower = max(1, length * rate // usual)
            found.append(
                f"note      half of the recordings have {usual:,} points ({usual / rate:.3g} s) or more, of which only "
                f"the first {length:,} are taken: --sample_rate {slower} takes all that time, --length {usual} all "
                "points (slow)"
            )
        return SoundForm(self.name, channels, rate, length), found


def unread(tree: Tree) -> list[str]:
    """What to do with recordings of formats that are not read, in words: a line, or none."""
    first, *more = [name for name, reason in tree.passed if reason in UNREAD] or [""]
    if not first:
        return []
    new = PurePosixPath(first).with_suffix(".flac").name
    return [
        f"{1 + len(more):,} recordings are of formats that are not read; make another of each, as with: ffmpeg -i "
        f"{PurePosixPath(first).name} {new}"
    ]


def all_of(images: Headers, title: str) -> Tensor:
    """The headers of all files."""
    return gather(images, spread(images.shape[0], None), title)


def most_frequent(values: Tensor) -> list[tuple[int, int]]:
    """Values and how many have them, the most frequent ones first; of several the largest."""
    found, counts = values.unique(return_counts=True)
    return sorted(zip(found.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], -pair[0]))


def resampling(rates: Tensor, wanted: int) -> str:
    """What has another rate, in words; empty if nothing has."""
    others = [(rate, count) for rate, count in most_frequent(rates) if rate != wanted]
    if not others:
        return ""
    named = ", ".join(f"{count:,} of {rate:,}" for rate, count in others[:RATES_NAMED])
    more = ", .." if len(others) > RATES_NAMED else ""
    return f"; {sum(count for _, count in others):,} recordings are resampled to that ({named}{more})"
