"""Inputs of a task from files are what the data of the run would have made of the same files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.config.build import load_data
from common.config.schema import DataConfig
from common.generation.inputs import clean_inputs, levels_of, measured
from common.generation.sections import InputConfig
from common.guidance.tasks.inpaint import Inpaint
from common.media.audio import write_wav
from common.refusal import Refusal
from common.runs import Run
from tests.test_conditional import COLOURS, SOUND, untrained


def run_of(data: DataConfig, network: str = "unet") -> Run:
    """A run of random weights on 8x8 images in colour, or on sounds, that says its data is this."""
    run = untrained("fvp", network, COLOURS if network == "unet" else SOUND)
    return replace(run, config=replace(run.config, data=data))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("celeba", {}),  # cut as published, though no flag says so
        ("celeba", {"center_crop": 0.9}),
        ("folder", {}),
        ("folder", {"levels": (100, 4095)}),  # of cameras that write 12 bits
    ],
)
def test_images_are_cropped_and_scaled_as_those_of_the_data(tmp_path, name, more):
    ramp = np.linspace(0, 4095, 40 * 30).astype(np.uint16).reshape(40, 30)
    for i, part in enumerate(("a", "b", "c")):
        place = tmp_path / f"{part}.png"
        Image.fromarray(np.roll(ramp, 7 * i, 1) if more.get("levels") else (ramp >> 4).astype(np.uint8)).save(place)
    data = DataConfig(data_name=name, data_dir=tmp_path, image_size=8, **more)
    dataset = load_data(data)
    wanted = dataset.spec.to_network(torch.cat([part.read()[0] for part in (dataset.train, dataset.held_out)]))
    found = clean_inputs(InputConfig(input=tmp_path), run_of(data)).truth
    assert found.shape == wanted.shape
    assert sorted(map(bytes, found.numpy())) == sorted(map(bytes, wanted.numpy()))


def test_levels_of_the_data_hold_for_measurements_in_a_picture(tmp_path):
    path = tmp_path / "seen.png"
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(path)
    for levels, white in (((0.0, 4095.0), 1.0), (None, 16 / 255)):
        data = DataConfig(data_name="folder", levels=levels)
        y, *_ = measured(path, None, Inpaint(), run_of(data).data, levels_of(data))
        assert float(y.max()) == pytest.approx(white, abs=1e-3)


@pytest.mark.parametrize("network", ["unet", "unet1d"])
def test_no_advice_names_a_flag_that_generate_has_not(tmp_path, network):
    """Messages of the readers of data sets name their flags: --data_name, --levels, --channels."""
    if network == "unet":
        path = tmp_path / "x.tif"
        Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    else:
        path = tmp_path / "x.wav"
        write_wav(path, torch.zeros(3, 16), 16)
    with pytest.raises(Refusal) as error:
        clean_inputs(InputConfig(input=path), two_channels(run_of(DataConfig(data_name="folder"), network)))
    assert path.name in str(error.value)
    assert "--" not in str(error.value)
    assert "as an array (.npy)" in str(error.value)


def two_channels(run: Run) -> Run:
    """The same run with sounds of two channels; images stay as they are."""
    return run if run.data.is_image else replace(run, data=replace(run.data, shape=(2, *run.data.grid)))
