"""Recordings of one's own: from files of any format, rate and length to samples of one form, and what is said of it."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from common.data import DataOptions, DataUnavailable, reading
from common.data.reading import gather
from common.data.sound_form import PEAK, Recordings, needed, resampled
from common.data.sounds import Sounds

FORMATS = {  # ending -> format and how levels are stored
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_24"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "AIFF": ("AIFF", "FLOAT"), "au": ("AU", "ULAW"), "w64": ("W64", "PCM_16"), "caf": ("CAF", "PCM_16"),
}  # fmt: skip


def load(place, **options):
    return Sounds().load(DataOptions(place, **options))


def refused(place, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, samples, rate=8000, kind=("WAV", "PCM_16")) -> np.ndarray:
    """Write sound (L) or (L, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        soundfile.write(file, samples, rate, format=kind[0], subtype=kind[1])
    return samples


def tone(hertz, rate, seconds=0.5) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def of_tones(folder) -> None:
    """Two classes, each in every format, at several rates."""
    for name, hertz in (("tief 1", 300), ("höher", 700)):
        for i, (ending, kind) in enumerate(FORMATS.items()):
            rate = (16000, 16000, 44100, 22050)[i % 4]
            write(folder / name / f"{i}.{ending}", tone(hertz, rate), rate, kind)


def sounds_of(data) -> list[str]:
    """What is said of the sounds."""
    return [line.partition(" ")[2].strip() for line in data.found if line.startswith(("sounds", "note"))]


def test_every_format_and_rate_keeps_its_tone(tmp_path):
    """huggingface/datasets#3662: files were resampled as if all had the rate of the first."""
    of_tones(tmp_path)
    data = load(tmp_path)
    assert (data.spec.kind, data.sample_rate, data.classes) == ("sound", 16000, ("höher", "tief 1"))
    assert (len(data.train.labels), len(data.held_out.labels), data.value_range) == (15, 1, (-1, 1))
    samples, labels = (
        torch.cat([getattr(part, n) for part in (data.train, data.held_out)]) for n in ("images", "labels")
    )
    assert samples.shape == (16, 1, 8000)
    assert torch.allclose(samples.abs().amax(-1), torch.tensor(PEAK))
    hertz = samples[:, 0].double().mul(torch.hann_window(8000)).numpy()
    found = np.abs(np.fft.rfft(hertz)).argmax(-1) * 2  # half a second: 2 Hz apart
    assert (np.abs(found - np.where(labels == 1, 300, 700)) <= 2).all()
    assert sounds_of(data)[0] == (
        "16,000 points per second; 8 recordings are resampled to that (4 of 44,100, 4 of 22,050); the peak of each at "
        "-0.1 dB"
    )


def test_a_zip_and_what_is_read_late_are_the_same(tmp_path, monkeypatch):
    of_tones(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted((tmp_path / "a").rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path))
    known = load(tmp_path / "a").train
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    for place in (tmp_path / "a", tmp_path / "a.zip"):
        part = load(place).train
        assert isinstance(part.images, Recordings)
        images = pickle.loads(pickle.dumps(part.images))  # as worker processes get it
        assert torch.equal(gather(images, torch.arange(15)), known.images)
        assert torch.equal(part.labels, known.labels)


def test_lengths(tmp_path):
    levels = np.random.default_rng(0).integers(-20000, 20000, 5000).astype(np.int16)
    for i, length in enumerate((100, 900, 1000, 1100, 5000)):
        write(tmp_path / f"{i}.wav", levels[:length])
    data = load(tmp_path)
    assert data.shape == (1, 1200)  # the median, rounded up to a multiple of 400
    assert sounds_of(data)[1] == (
        "1,200 points (0.15 s) of each: 1 are longer and cut, 4 shorter and padded with zeros (--length)"
    )
    samples = load(tmp_path, length=150)
    for sample in torch.cat([samples.train.images, samples.held_out.images])[:, 0]:
        kept = levels[: 100 if not sample[100:].any() else 150]
        assert np.allclose(sample[: len(kept)], kept / np.abs(kept).max() * PEAK, atol=1e-6)
    assert load(tmp_path, sample_rate=4000).shape == (1, 800)


def test_long_recordings_are_cut_and_the_ways_to_more_are_said(tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.flac", np.zeros(44100 * 4), 44100, FORMATS["flac"])
    data = load(tmp_path)
    assert data.shape == (1, 16000)
    assert sounds_of(data)[-1] == (
        "half of the recordings have 176,400 points (4 s) or more, of which only the first 16,000 are taken: "
        "--sample_rate 4000 takes all that time, --length 176400 all points (slow)"
    )
    data = load(tmp_path, sample_rate=4000)
    assert (data.shape, len(sounds_of(data))) == ((1, 16000), 2)
    assert not data.train.images.any()  # silence stays silent


def test_channels(tmp_path):
    left, right = tone(300, 8000), tone(500, 8000) / 2
    write(tmp_path / "a" / "0.wav", np.stack([left, right], 1), kind=("WAV", "FLOAT"))
    write(tmp_path / "a" / "1.wav", left, kind=("WAV", "FLOAT"))
    first, second = (torch.cat([part.images for part in (d.train, d.held_out)]) for d in map_channels(tmp_path))
    mixed = (left + right) / 2
    expected = np.stack([mixed / np.abs(mixed).max(), left / np.abs(left).max()]) * PEAK
    assert np.allclose(sorted(first[:, 0].tolist()), sorted(expected.tolist()), atol=1e-6)
    both = second[second[:, 0].ne(second[:, 1]).any(-1)]
    assert np.allclose(both[0], np.stack([left, right]) / np.abs(left).max() * PEAK, atol=1e-6)
    assert "1 of 2 mixed to one channel (--channels 2 keeps two)" in sounds_of(load(tmp_path))
    assert "1 of 2 have one channel, which is taken twice" in sounds_of(load(tmp_path, channels=2))
    write(tmp_path / "a" / "2.wav", np.zeros((10, 6)))
    assert f"{tmp_path / 'a' / '2.wav'} has 6 channels; --channels 1 mixes all to one" in refused(tmp_path, channels=2)


def map_channels(folder):
    return load(folder), load(folder, channels=2)


def test_no_more_of_a_recording_is_resampled_than_counts():
    sound = torch.randn(2, 60_000)
    for rate, wanted in ((44100, 8000), (8000, 44100), (48000, 16000), (11025, 16000), (96000, 7919)):
        part = sound[:, : needed(1000, rate, wanted)]
        assert part.shape[1] < 13_000
        assert torch.equal(resampled(part, rate, wanted)[:, :1000], resampled(sound, rate, wanted)[:, :1000])


def test_layouts(tmp_path):
    for part, names in (("train", "abc"), ("val", "de")):
        for i, name in enumerate(names):
            write(tmp_path / "parts" / part / f"{i % 2}" / f"{name}.wav", tone(300, 8000))
    (tmp_path / "parts" / "train" / "0" / "notes.txt").write_text("")
    data = load(tmp_path / "parts")
    assert (len(data.train.labels), len(data.held_out.labels), data.classes) == (3, 2, ("0", "1"))
    assert data.found[0] == "found     3 recordings to learn from, 2 held out: val/"
    assert any("1 .txt (train/0/notes.txt)" in line for line in data.found)
    for name in "abc":
        write(tmp_path / "table" / "files" / f"{name}.mp3", tone(300, 8000), kind=FORMATS["mp3"])
    (tmp_path / "table" / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"files/{n}.mp3,x{n}\n" for n in "abc")
    )
    assert load(tmp_path / "table").classes == ("xa", "xb", "xc")
    (tmp_path / "none").mkdir()
    assert f"--data_name sounds: {tmp_path / 'none'}: no recordings in it" in refused(tmp_path / "none")
    for folder in (tmp_path / "none", tmp_path / "parts" / "train" / "0"):  # as phones record
        (folder / "memo 1.m4a").write_bytes(b"")
    message = (
        "1 recordings are of formats that are not read; make another of each, as with: ffmpeg -i memo 1.m4a memo 1.flac"
    )
    assert refused(tmp_path / "none").endswith(f"; {message}")
    assert f"note      {message}" in load(tmp_path / "parts").found
    assert "is not there; point --data_dir at a folder or .zip with recordings" in refused(tmp_path / "nowhere")
    for ending in ("jpg", "heic", "txt"):
        (tmp_path / "photos" / f"a.{ending}").parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / f"a.{ending}").write_bytes(b"")
    assert refused(tmp_path / "photos").endswith("; give --data_name folder for the images there")


def test_what_cannot_be_read_is_counted_and_named(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i:02d}.wav", tone(300, 8000))
    bad = tmp_path / "03.wav"
    bad.write_bytes(bad.read_bytes()[:-5])
    assert refused(tmp_path) == (
        f"--data_name sounds: {bad} is cut short: 7,995 of 8,000 bytes of sound are there; repair or remove the file"
    )
    for i in range(4, 10):
        (tmp_path / f"{i:02d}.wav").write_bytes(b"")
    message = refused(tmp_path)
    assert "; repair or remove the file; 7 such files in all: " in message
    assert message.endswith(" and 2 more")
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 12_000)
    for name in "abcd":
        write(tmp_path / "long" / f"{name}.flac", noise, kind=FORMATS["flac"])
    for name in "bc":  # the header is whole, and so is the beginning
        bad = tmp_path / "long" / f"{name}.flac"
        bad.write_bytes(bad.read_bytes()[:-9000])
    message = refused(tmp_path / "long")
    assert message.endswith(f"; 2 such files in all: {tmp_path / 'long' / 'b.flac'}, {tmp_path / 'long' / 'c.flac'}")
    (tmp_path / "long" / "a.flac").write_bytes(b"")
    assert "3 such files in all" in refused(tmp_path / "long")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(10), 2_000_000, format="WAV")
    (tmp_path / "fast").mkdir()
    for name in "ab":
        (tmp_path / "fast" / f"{name}.wav").write_bytes(file.getvalue())
    assert ".wav has 2,000,000 points per second; at most 768,000 are read" in refused(tmp_path / "fast")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image_size": 8}, "image_size 8: --data_name sounds has samples of shape (1, 4000), which are no images"),
        ({"center_crop": 0.5}, "center_crop 0.5: --data_name sounds has samples of shape"),
        ({"length": 10**8}, "length 100000000: a sample has at most 16,777,216 numbers"),
        ({"channels": 3}, "channels 3: --data_name sounds reads 1 (mixed) or 2 (stereo)"),
    ],
)
def test_options_of_others_are_refused(tmp_path, options, problem):
    for i in range(2):
        write(tmp_path / f"{i}.wav", tone(300, 8000))
    assert refused(tmp_path, **options).startswith(problem)
