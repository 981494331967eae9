"""Recordings of one's own from the command line."""

import numpy as np
import soundfile

import args
from common.data import reading
from common.runs import load
from tests.training import tiny


def test_training_and_samples(cli, tmp_path, monkeypatch):
    """From a folder to .wav files, read from the disk in every step, at the rate of the recordings."""
    for name, hertz in (("tief 1", 300), ("höher", 700)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for ending, rate in (("flac", 16000), ("wav", 16000), ("aiff", 44100)):
            tone = 0.4 * np.sin(2 * np.pi * hertz * np.arange(1000) / rate)
            soundfile.write(str(tmp_path / "data" / name / f"a.{ending}"), tone, rate)
    monkeypatch.setattr(reading, "RESIDENT_LIMIT", 0)
    order = args.parse_train(["--data_name", "sounds", "--data_dir", str(tmp_path / "data")])
    assert (order.config.network.name, order.config.dynamics.name, order.config.recipe.batch_size) == (
        "uvit",
        "heat",
        32,
    )
    flags = {
        **{"data_name": "sounds", "data_dir": "data", "sample_rate": 11025, "length": 400, "channels": 2},
        **{
            "embed_dim": 16,
            "depth": 3,
            "num_heads": 2,
            "train_steps": 2,
            "batch_size": 4,
            "val_samples": 1,
            "wb_id": "s",
        },
    }
    result = cli("train", *tiny.command(**flags))
    assert result.code == 0, result.err
    run = load("s")
    assert (run.data.sample_rate, run.data.shape, run.data.classes) == (11025, (2, 400), ("höher", "tief 1"))
    assert cli("train", "--resume", "s", "--sample_rate", 11025, "--length", 400).code == 0
    result = cli("train", "--resume", "s", "--sample_rate", 8000)
    assert (result.code, result.written) == (2, [])
    assert "--sample_rate 8000 contradicts the run" in result.err
    assert cli("generate", "--run_id", "s", "--n_samples", 2, "--steps", 2).code == 0
    (wav,) = (tmp_path / "runs").glob("s_*/generated_data/*/*/audio/audio_000001.wav")
    found = soundfile.info(str(wav))
    assert (found.samplerate, found.channels, found.frames) == (11025, 2, 400)
