"""Spoken digits: files and arrays as they are published, cut, padded and brought to one peak."""

import wave

import numpy as np
import pytest
import soundfile
import torch

from common.data import DataOptions, DataUnavailable
from common.data.spoken_digits import SpokenDigits

PEAK = 10 ** (-0.1 / 20)  # -0.1 dB


def load(place, **options):
    return SpokenDigits().load(DataOptions(place, **options))


def refused(place, **options) -> str:
    with pytest.raises(DataUnavailable) as caught:
        load(place, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path, levels, *, rate=8000, channels=1, width=2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(levels).astype({1: "u1", 2: "<i2"}[width]).tobytes())


def recording(length: int) -> np.ndarray:
    return np.random.randint(-3000, 3000, length)


def of_recordings(folder, digits=(0, 3, 9), indices=(0, 4, 5, 6), speakers=("theo", "a_b")) -> dict:
    """Files of random length; levels by (digit, index, speaker)."""
    found = {}
    for digit in digits:
        for speaker in speakers:
            for index in indices:
                levels = recording(np.random.randint(50, 200))
                write(folder / f"{digit}_{speaker}_{index}.wav", levels)
                found[digit, index, speaker] = levels
    return found


def expected(levels, length) -> np.ndarray:
    values = np.zeros(length)
    values[: len(levels)] = levels[:length]
    return values / np.abs(values).max() * PEAK


def check(part, wanted: dict, length: int) -> None:
    """The samples are those of ``wanted``: levels by (digit, ..)."""
    assert len(part.labels) == len(wanted)
    left = [(key[0], expected(levels, length)) for key, levels in wanted.items()]
    for sample, label in zip(part.images, part.labels.tolist(), strict=True):
        match = [i for i, (digit, x) in enumerate(left) if digit == label and np.allclose(x, sample[0], atol=1e-6)]
        assert len(match) == 1
        del left[match[0]]


@pytest.mark.parametrize("place", [".", "recordings", "fsdd", "free-spoken-digit-dataset/recordings"])
def test_recordings(tmp_path, place):
    found = of_recordings(tmp_path / place)
    (tmp_path / place / "README.md").write_text("no sound")
    (tmp_path / place / "._0_theo_1.wav").write_text("no sound")
    data = load(tmp_path, length=120)
    assert (data.shape, data.num_classes, data.value_range, data.sample_rate) == ((1, 120), 10, (-1, 1), 8000)
    assert (data.spec.kind, data.spec.classes) == ("sound", tuple("0123456789"))
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64
    check(data.train, {key: levels for key, levels in found.items() if key[1] >= 5}, 120)
    check(data.held_out, {key: levels for key, levels in found.items() if key[1] < 5}, 120)


def test_one_second_unless_told(tmp_path):
    write(tmp_path / "1_a_0.wav", recording(9000))
    write(tmp_path / "1_a_5.wav", recording(3000))
    data = load(tmp_path)
    assert data.shape == (1, 8000)
    assert not data.train.images[0, 0, 3000:].any()
    assert torch.allclose(data.to_unit_range(data.train.images), data.train.images, atol=1e-7)


def test_the_peak_is_that_of_what_is_kept(tmp_path):
    write(tmp_path / "1_a_0.wav", [100, -200, 30000, 5])
    write(tmp_path / "2_a_5.wav", [1, -2, 0, 1])
    data = load(tmp_path, length=2)
    assert torch.allclose(data.held_out.images[0, 0], torch.tensor([0.5, -1.0]) * PEAK)
    assert torch.allclose(data.train.images[0, 0], torch.tensor([0.5, -1.0]) * PEAK)
    assert data.train.images.abs().max() == pytest.approx(0.98855, abs=1e-5)


def test_silence_stays_silent(tmp_path):
    write(tmp_path / "1_a_0.wav", [0] * 10)
    write(tmp_path / "1_a_7.wav", [0] * 5 + [9])
    data = load(tmp_path, length=5)
    assert not data.held_out.images.any()  # no NaN either
    assert not data.train.images.any()


def test_several_channels_are_averaged_and_bytes_read(tmp_path):
    write(tmp_path / "1_a_0.wav", [100, 300, -400, 0], channels=2)
    write(tmp_path / "1_a_5.wav", [128, 129, 126], width=1)
    data = load(tmp_path, length=4)
    assert torch.allclose(data.held_out.images[0, 0], torch.tensor([1.0, -1, 0, 0]) * PEAK)
    assert torch.allclose(data.train.images[0, 0], torch.tensor([0.0, 0.5, -1, 0]) * PEAK)


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 44100])
def test_another_rate_becomes_8_khz(tmp_path, rate):
    """A tone stays the tone it is."""
    for index in (0, 5):
        write(tmp_path / f"1_a_{index}.wav", np.sin(2 * np.pi * 440 * np.arange(rate) / rate) * 20000, rate=rate)
    found = load(tmp_path).train.images[0, 0, 500:-500].numpy()  # the ends are filtered
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)[500:-500]
    scale = found @ tone / (tone @ tone)
    assert scale == pytest.approx(PEAK, abs=0.03)
    assert np.abs(found - scale * tone).max() < 0.01


def test_what_was_done_is_said_and_files_of_any_program_are_read(tmp_path):
    for index in (0, 5, 6):
        write(tmp_path / f"1_a_{index}.wav", recording(300), rate=8000 if index else 16000, channels=1 + index % 2)
    soundfile.write(tmp_path / "2_a_5.wav", recording(200).astype(np.int16), 8000, format="WAVEX", subtype="PCM_24")
    data = load(tmp_path, length=100)
    assert data.shape == (1, 100)
    assert data.found == (
        "sounds    1 of 4 resampled to 8,000 points per second",
        "sounds    1 of 4 mixed to one channel",
    )


# -- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fsdd.npz", "fsdd/fsdd.npz", "mine.npz"])
def test_an_array_with_an_index(tmp_path, name):
    audio = np.stack([recording(100) for _ in range(12)]).astype(np.int16)
    label, index = np.arange(12) % 10, np.arange(12) % 7
    (tmp_path / name).parent.mkdir(exist_ok=True)
    np.savez(tmp_path / name, audio=audio, label=label, index=index, speaker=np.array(["a"] * 12))
    data = load(tmp_path / name if name == "mine.npz" else tmp_path, length=130)
    rows = {(int(digit), i): levels for i, (digit, levels) in enumerate(zip(label, audio, strict=True))}
    check(data.train, {key: levels for key, levels in rows.items() if index[key[1]] >= 5}, 130)
    check(data.held_out, {key: levels for key, levels in rows.items() if index[key[1]] < 5}, 130)
    assert data.num_classes == 10


def test_the_quietest_level_is_not_lost(tmp_path):
    """-32768 has no positive counterpart in 16 bits."""
    np.savez(tmp_path / "a.npz", audio=np.array([[-32768, 16384]] * 2, np.int16), label=[0, 1], index=[0, 9])
    assert torch.allclose(load(tmp_path / "a.npz", length=2).train.images, torch.tensor([-1.0, 0.5]) * PEAK)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_plain_arrays(tmp_path, dtype):
    x = (np.random.randn(20, 60) * 1000).astype(dtype)
    y = np.arange(20) % 10
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load(tmp_path / "a.npz", length=60)
    assert (len(data.train.labels), len(data.held_out.labels)) == (18, 2)
    check(data.held_out, {(4,): x[4], (5,): x[5]}, 60)  # the same samples always
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:3], y_test=y[:3])
    data = load(tmp_path / "a.npz", length=60)
    assert len(data.train.labels) == 20
    check(data.held_out, {(i,): x[i] for i in range(3)}, 60)


# -- wrong input ------------------------------------------------------------------------------------------------------

GOOD = {"audio": np.ones((4, 8), np.int16), "label": np.arange(4), "index": np.arange(3, 7)}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"audio": None}, "no array named x"),
        ({"label": None}, "no array named label"),
        ({"audio": None, "x": np.ones((4, 8))}, "no array named y"),
        ({"audio": np.ones((4, 8), np.uint8)}, "audio of uint8 (4, 8): recordings are"),
        ({"audio": np.ones((4, 2, 8))}, "(4, 2, 8)"),
        ({"audio": np.ones((4, 0))}, "(4, 0)"),
        ({"audio": np.full((4, 8), np.nan)}, "NaN"),
        ({"label": np.arange(4) + 7}, "label 10; digits are 0 to 9"),
        ({"label": np.arange(5)}, "5 labels for 4 samples"),
        ({"label": np.arange(4) / 2}, "labels are integers"),
        ({"label": np.array(["0", "one", "two", "3"])}, "labels are integers"),
        ({"index": np.arange(3)}, "index has 3"),
        ({"index": np.arange(4)}, "no recording to learn from"),
        ({"index": np.arange(4) + 5}, "no recording to hold out"),
        ({"audio": np.array([None] * 4)}, "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused_by_name(tmp_path, change, problem):
    content = {key: array for key, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **content)
    message = refused(tmp_path / "a.npz")
    assert problem in message
    assert message.startswith(f"--data_name spokendigits: {tmp_path / 'a.npz'}: ")


def test_wrong_recordings_are_named(tmp_path):
    of_recordings(tmp_path)
    for name in ("three_theo_0.wav", "3_theo.wav", "3_theo_x.wav"):
        write(tmp_path / name, [1])
        message = refused(tmp_path)
        assert message.startswith(f"--data_name spokendigits: {tmp_path / name}: recordings are named")
        (tmp_path / name).unlink()
    bad = tmp_path / "3_theo_5.wav"
    for content in (b"", b"no sound", bad.read_bytes()[:-5]):
        bad.write_bytes(content)
        message = refused(tmp_path)
        assert message.startswith(f"--data_name spokendigits: {bad} ")
        assert message.count(str(bad)) == 1


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        message = refused(place)
        for part in (str(place), "free-spoken-digit-dataset", "--data_dir", "fsdd.npz"):
            assert part in message
    (tmp_path / "a.txt").write_text("")
    assert "a.txt: is no .npz file" in refused(tmp_path / "a.txt")


@pytest.mark.parametrize(("option", "value"), [("image_size", 8), ("center_crop", 0.5), ("channels", 3)])
def test_options_for_images_are_refused(tmp_path, option, value):
    of_recordings(tmp_path)
    assert refused(tmp_path, **{option: value}).startswith(f"{option} {value}: --data_name spokendigits")
