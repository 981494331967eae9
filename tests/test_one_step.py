"""A tuned run as a program of one call: torch alone draws with it what generate.py draws."""

import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config.build import build_denoiser
from common.config.schema import Chosen
from common.config.stored import CONFIG, write_config
from common.files import save, save_safetensors
from common.generation.arrays import generate
from common.runs import Run, RunFolder, copy_to_sample, export_one_step, load
from common.runs.one_step import pickled
from common.samplers import NoiseSource
from scripts import export
from tests.cli.test_flags import fitted
from tests.documents import ROOT, blocks

TUNED = Chosen("consistency", "common.training.consistency:Consistency", {})
UNET = "--channel_mult 1,1 --num_res_blocks 1 --model_channels 16"
UVIT = "--model_name uvit --embed_dim 16 --depth 3 --num_heads 2"
INR = "--dynamics heat --model_name inr --width 16 --depth 2"
IMAGE, COLOURS, SOUND = (1, 8, 8), (3, 8, 12), (1, 32)
CASES = {
    "unet": (f"--dynamics fvp --hurst 0.7 --prediction v {UNET} --attn_resolutions 2", IMAGE, 10),
    "unet1d": (f"--dynamics fve --model_name unet1d --data_name spokendigits {UNET}", SOUND, 4),
    "uvit": (f"--dynamics heat {UVIT}", IMAGE, 10),
    "unlabelled": (f"--dynamics edm {UVIT}", COLOURS, None),
    "inr": (f"{INR} --inner_steps 0", IMAGE, 10),
}
PICKLE = re.compile(rb"PK\x03\x04.*|\x80[\x02-\x05].*\.", re.DOTALL)  # by torch.save, or plain
# a process of its own, which knows torch alone and in which unpickling is an error
ALONE = """
import json, sys
import numpy as np, torch

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickles {arguments}")

path, *sizes = sys.argv[1:]
extra = {"about.json": ""}
sys.addaudithook(refuse)
program = torch.export.load(path, extra_files=extra).module()
inputs = json.loads(extra["about.json"])["inputs"]
for size in sizes:
    given = [torch.from_numpy(np.load(f"{name}-{size}.npy")) for name in inputs]
    np.save(f"x-{size}.npy", program(*given).numpy())
assert not {"common", "gfdm", "fdp", "args"} & set(sys.modules)
"""


def tuned(name: str, folder: Path, *, objective: Chosen = TUNED, more: str = "") -> Run:
    """A run that counts as tuned, with random weights, which start from moments of data unlike noise."""
    words, shape, classes = CASES[name]
    config = fitted(*words.split(), *more.split(), shape=shape, num_classes=classes)
    place = RunFolder(folder / f"{name}_x")
    config = replace(config, objective=objective, prior_values={"file": place.prior.name})
    modes = build_denoiser(replace(config, prior_values={})).dynamics.basis.modes
    moments = {"mean": torch.randn(shape) / 2, "variance": torch.rand(modes) + 0.1}
    save_safetensors(place.prior, moments, {"format": "pt"})
    write_config(place.path, config)
    network = build_denoiser(config, moments).backbone
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    save(place.model / "ema_model-final.pth", network.state_dict())
    return load(name, output_dir=folder)


def noise_of(run: Run, count: int) -> Tensor:
    """What generate.py starts the seeds 0, 1, .. from, (count, C, *S)."""
    source = NoiseSource(range(count), run.data.shape, torch.device("cpu"), torch.float32)
    return source.start(1).squeeze(1)


def drawn(run: Run, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples (count, C, *S) of one evaluation, and their labels, by the program of every day."""
    found = generate(run, count, solver="renoise", nfe=1, progress=False)
    assert found.evaluations == 1
    return np.moveaxis(found.x, -1, 1), found.labels


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Whether samples are those of generate.py, but for rounding."""
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())
    assert np.std(found) > 0.01


def test_a_program_of_one_call(tmp_path, monkeypatch):
    """It draws what generate.py draws, knows what its samples are, and holds no pickle and no path of this machine."""
    run = tuned("uvit", tmp_path / "runs")
    path = export_one_step(run)
    assert path == run.folder.model / "one-step-ema_model-final.pt2"
    assert run.folder.manifest.lists(path)
    assert run.folder.versions() == ["final"]
    extra = {"about.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    for count in (1, 7):
        x, labels = drawn(run, count)
        found = program(noise_of(run, count), torch.from_numpy(labels))
        assert not found.requires_grad
        close(found.numpy(), x)
    monkeypatch.chdir(path.parent)
    (shown,) = blocks((ROOT / "docs" / "guide.md").read_text(), "py")
    names: dict[str, Tensor] = {}
    exec(shown.replace("28, 28", "8, 8"), names)
    assert names["x"].shape == (10, 1, 8, 8)
    about = json.loads(extra["about.json"])
    assert about["run"] == "uvit_x"
    assert about["inputs"]["noise"]["shape"] == ["B", *run.data.shape] == about["output"]["shape"]
    assert about["inputs"]["labels"] == {"shape": ["B"], "dtype": "int64", "low": 0, "high": 9}
    assert about["output"]["range"] == [0, 1]
    assert about["classes"] == list(map(str, range(10)))
    assert about["sha256"] == run.source.sha256(run.kind)
    assert str(ROOT).encode() not in path.read_bytes()
    assert str(tmp_path).encode() not in path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, record in records.items() if PICKLE.fullmatch(record)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_torch_alone_draws_what_generate_draws(name, tmp_path):
    run, sizes = tuned(name, tmp_path / "runs"), (1, 7)
    path = export_one_step(run, tmp_path / "x.pt2")
    wanted = {size: drawn(run, size) for size in sizes}
    for size, (_, labels) in wanted.items():
        np.save(tmp_path / f"noise-{size}.npy", noise_of(run, size).numpy())
        if labels is not None:
            np.save(tmp_path / f"labels-{size}.npy", labels)
    words = [sys.executable, "-I", "-c", ALONE, str(path), *map(str, sizes)]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=300)
    for size, (x, _) in wanted.items():
        close(np.load(tmp_path / f"x-{size}.npy"), x)


@pytest.mark.slow
def test_weights_of_16_bits_are_half_as_large(tmp_path):
    run = tuned("uvit", tmp_path / "runs")
    path, small = export_one_step(run), export_one_step(run, tmp_path / "half.pt2", half=True)
    weights = sum(x.numel() * x.element_size() for x in run.denoiser.backbone.parameters())
    assert small.stat().st_size < path.stat().st_size - 0.45 * weights
    x, rounded = (torch.export.load(one).module()(noise_of(run, 5), torch.arange(5)) for one in (path, small))
    assert rounded.dtype == torch.float32
    assert 0 < (x - rounded).abs().max() < 3e-3


def test_a_pickle_is_seen():
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(3, 2),))
    for example, found in ((program.example_inputs, ["data/sample_inputs/model.pt"]), (None, [])):
        program.example_inputs = example
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        assert pickled(buffer.getvalue()) == found
        with zipfile.ZipFile(buffer) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        assert [name.partition("/")[2] for name, record in records.items() if PICKLE.fullmatch(record)] == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--run_id untuned", "--format one-step: untuned_x is not tuned"),
        ("--run_id untuned", "python train.py --objective consistency --init_from untuned_x --output_dir"),
        ("--run_id adapting", "--format one-step: adapting_x adapts to every sample by gradient steps"),
        ("--run_id adapting --copy_to there", "--copy_to and --format one-step exclude each other"),
    ],
)
def test_refusals(tmp_path, capsys, words, message):
    plain = Chosen("denoise", "common.training.denoising:Denoising", {})
    tuned("inr", tmp_path, objective=plain).folder.path.rename(tmp_path / "untuned_x")
    more = "--inner_steps 2"
    tuned("inr", tmp_path, more=more).folder.path.rename(tmp_path / "adapting_x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        export.main([*words.split(), "--format", "one-step", "--output_dir", str(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert ("--init_from" in line) == (f"--output_dir {tmp_path}" in line)  # what is to be pasted finds the run
    assert sorted(tmp_path.rglob("*")) == before


def test_a_copy_stays_tuned(tmp_path):
    run = tuned("unlabelled", tmp_path / "runs")
    copy = copy_to_sample(run, tmp_path / "boxed")
    again = load("unlabelled", output_dir=tmp_path / "boxed")
    assert (copy.path / CONFIG).is_file()
    assert again.is_consistent
    assert again.config.objective == run.config.objective
    assert np.array_equal(drawn(again, 3)[0], drawn(run, 3)[0])
