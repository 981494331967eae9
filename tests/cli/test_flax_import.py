"""Checkpoints of the published FDP code become runs: the recorded numbers, every preset, and files that are none."""

import io
import itertools
import json
import pickle
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from PIL import Image

from common import runs
from common.config.stored import read_config
from common.files import load_state, sha256
from common.refusal import Refusal
from common.runs.folder import RunFolder
from fdp import flax_import
from fdp.flax_file import read_checkpoint, read_stream
from fdp.presets import PRESETS
from tests import flax_files
from tests.cli.conftest import Result
from tests.flax_files import INR, UVIT, array, content, packed

GOLDEN = Path(__file__).parents[1] / "golden" / "flax"
FILE = GOLDEN / "checkpoint_2"
OUT = Path("runs/mine")
OF_INR = f"--preset fdp-celeba-inr {INR}"
OF_UVIT = f"--preset fdp-celeba-uvit {UVIT} --image_size 16"


@pytest.fixture
def imports(capsys) -> Callable[..., Result]:
    """Run the program as its own process would: ``imports(file, "--preset ..")``."""

    def run(file: Path, words: str, out: Path = OUT) -> Result:
        capsys.readouterr()
        code: int | str | None
        try:
            code = flax_import.main([str(file), "--out", str(out), *words.split()])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err, [])

    return run


def written(tree: Any, name: str = "checkpoint_7") -> Path:
    Path(name).write_bytes(tree if isinstance(tree, bytes) else packed(tree))
    return Path(name)


def difference(run: runs.Run, record: str, times: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Largest error of the network alone, without inner steps, against the recorded forward pass."""
    with np.load(GOLDEN / record) as archive:
        x, want = (torch.from_numpy(archive[key]) for key in ("input", "output"))
    network = run.denoiser.backbone
    network = getattr(network, "network", network)
    values = x[..., 2:5].mT.unflatten(-1, run.data.grid)
    with torch.no_grad():
        got = network(values, times(x[:, 0, 5]))
    return float((got.flatten(2).mT - want).abs().max())


# -- the recorded numbers ----------------------------------------------------------------------------------------------


def test_a_file_of_their_program_answers_as_theirs(imports, cli):
    """From the file to an image; weights are the averages, not those that were trained."""
    result = imports(FILE, OF_INR)
    assert result.code == 0, result.err
    assert "of step 20,000" in result.out
    assert "learned rates double" in result.out
    assert "--prior zero" in result.out
    assert "34.5% of a frequency" in result.out
    run = runs.load("mine")
    assert difference(run, "inr_ema_forward.npz", lambda t: (t + 1) / 2) < 1e-7
    assert run.denoiser.backbone.paper
    state = run.denoiser.backbone.state_dict()
    assert len(state) == 16
    np.testing.assert_array_equal(state["rates.out-weight"].T, flax_files.inr()["DenseLR_3/kernel"])
    words = "--run_id latest --n_samples 2 --solver pc --mode ode --steps 2 --factor 1"
    drawn = cli("generate", *words.split())
    assert drawn.code == 0, drawn.err
    (grid,) = OUT.rglob("grid.png")
    assert Image.open(grid).size[0] > 16
    samples = np.concatenate([np.load(file) for file in OUT.rglob("data/*.npy")])
    assert samples.shape == (2, 8, 8, 3)
    assert np.isfinite(samples).all()


def test_a_uvit_answers_as_theirs(imports, cli):
    file = written(content(flax_files.uvit()))
    result = imports(file, OF_UVIT)
    assert result.code == 0, result.err
    assert "shifted by one patch" in result.out
    run = runs.load("mine")
    assert difference(run, "uvit_ema_forward.npz", lambda t: t) < 1e-7
    drawn = cli("generate", "--run_id", "mine", "--n_samples", 2, "--nfe", 2)
    assert drawn.code == 0, drawn.err
    imports(file, f"{OF_UVIT} --paper False", Path("runs/ours"))
    assert difference(runs.load("ours"), "uvit_ema_forward.npz", lambda t: t) > 1e-4


def test_the_folder_is_that_of_an_ordinary_run(imports, cli):
    assert imports(FILE, f"{OF_INR} --beta_max 4").code == 0
    folder, config = RunFolder(OUT), read_config(OUT)
    assert folder.manifest.files == {folder.config, folder.weights("ema_model", "final")}
    assert all(folder.manifest.check(file) for file in folder.manifest.files)
    origin = json.loads((OUT / "origin.json").read_text())
    assert (origin["file"], origin["step"], origin["preset"]) == ("checkpoint_2", 20000, "fdp-celeba-inr")
    assert origin["sha256"] == sha256(FILE)
    assert (config.keeping.wb_id, config.dynamics.arguments["beta_max"]) == ("mine", 4)
    assert config.recipe.averages == (0.9999,)
    assert [path.name for path in Path("runs").iterdir()] == ["mine"]
    resumed = cli("train", "--resume", "mine")
    assert resumed.code == 2
    assert "--init_from mine" in resumed.err


def test_the_start_of_sampling_from_data(imports):
    """--prior data takes mean and spectrum from pictures, as a training would have."""
    Path("faces").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(f"faces/{i:02}.png")
    result = imports(FILE, f"{OF_INR} --prior data --data_dir faces")
    assert result.code == 0, result.err
    assert "--prior zero" not in result.out
    prior = runs.load("mine").dynamics.prior
    assert prior.mean.shape == (3, 8, 8)
    assert float(prior.variance.min()) > 0
    missing = imports(FILE, f"{OF_INR} --prior data --data_dir nowhere", Path("runs/other"))
    assert missing.code == 2
    assert len(missing.err.splitlines()) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_its_network(imports, preset):
    """Tiny networks in the place of those of the presets; sounds have 64 points of one channel."""
    sounds = "audio" in preset
    if "inr" in PRESETS[preset]["model_name"]:
        learned = bool(PRESETS[preset].get("learned_rates"))
        y = PRESETS[preset].get("y_input", True)
        inputs = (1 if sounds else 2) + 3 * y + 1
        average = {
            name: value[:inputs] if name.endswith("_0/kernel") else np.resize(value, (32 + inputs, value.shape[1]))
            if name.endswith("kernel") else value
            for name, value in flax_files.inr(learned).items()
        }  # fmt: skip
        words = "--width 32 --depth 3 " + ("--length 16" if sounds else "--image_size 8")
    else:
        average = flax_files.uvit("uvit1d" if sounds else "uvit2d")
        words = f"{UVIT} " + ("--length 64 --position learned" if sounds else "--image_size 16")
    result = imports(written(content(average)), f"--preset {preset} {words}")
    assert result.code == 0, result.err
    run = runs.load("mine")
    assert run.denoiser.backbone.state_dict().keys() == load_state(run.weights).keys()
    assert run.data.kind == ("sound" if sounds else "image")
    assert run.data.num_classes is None
    assert run.denoiser.prediction == "x0"
    with torch.no_grad():
        answer = run.denoiser(torch.ones(2, *run.data.shape), torch.tensor([0.5, 0.9], dtype=torch.float64), None)
    assert torch.isfinite(answer).all()


# -- ways of Flax to write the same ------------------------------------------------------------------------------------


def chunked(value: np.ndarray, parts: int) -> dict[str, Any]:
    flat = np.array_split(value.reshape(-1), parts)
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(value.shape)},
        "chunks": {str(i): array(part) for i, part in enumerate(flat)},
    }


def test_arrays_in_parts_and_of_other_precisions():
    tree, want = content(flax_files.inr()), flax_files.inr()
    place = tree["ema_params"]["params"]
    place["Dense_1"]["kernel"] = chunked(want["Dense_1/kernel"], 3)
    place["Dense_2"]["kernel"] = array(want["Dense_2/kernel"].astype(np.float64))
    place["Dense_3"]["bias"] = array(want["Dense_3/bias"].astype(np.float16))
    upper = (want["Dense_2/bias"].view(np.uint32) >> 16).astype(np.uint16)
    place["Dense_2"]["bias"] = array(upper, kind="bfloat16")
    tree["step"] = array(np.array(7, np.int64), code=3)  # a scalar of NumPy
    found = read_checkpoint(written(tree))
    assert found.step == 7
    for name, value in want.items():
        exact = {"Dense_3/bias": 1e-3, "Dense_2/bias": 2**-7}.get(name, 0)
        np.testing.assert_allclose(found.average[name], value, rtol=exact, atol=0)
        assert found.average[name].dtype == np.float32
    tree["step"] = 8  # a number of Python
    assert read_checkpoint(written(tree)).step == 8


def test_only_the_averages_are_held_in_memory():
    """The other copies are passed over: a file of 40 MB with 1 MB of averages takes a few MB."""
    tree = content(flax_files.inr())
    tree["params"] = {str(i): array(np.ones(2**18, np.float32)) for i in range(40)}
    file = written(tree)
    del tree
    tracemalloc.start()
    try:
        read_checkpoint(file)
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 40 * 2**20


# -- files that are none -----------------------------------------------------------------------------------------------

BYTES = FILE.read_bytes()


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[], bytes]:
    """A file with another content."""

    def make() -> bytes:
        tree = content(flax_files.inr())
        change(tree)
        return packed(tree)

    return make


def leaf(value: Any, module: str = "Dense_1", name: str = "kernel") -> Callable[[], bytes]:
    return changed(lambda tree: tree["ema_params"]["params"][module].__setitem__(name, value))


KERNEL = flax_files.inr()["Dense_1/kernel"]
BROKEN_NUMBERS = KERNEL.copy()
BROKEN_NUMBERS[3, 3] = np.nan
HEAD = b"\x82\xa4step\x07\xaaema_params"  # two entries, the second one to follow

MUTATIONS: dict[str, tuple[Callable[[], bytes] | bytes, str]] = {
    "empty": (b"", "it ends too early"),
    "cut in the head": (BYTES[:10], "it ends too early"),
    "cut in passed copies": (BYTES[: len(BYTES) // 2], "it ends too early"),
    "cut in the averages": (BYTES[:-2000], "it ends too early"),
    "cut by one byte": (BYTES[:-1], "it ends too early"),
    "something behind": (BYTES + b"\x00", "it goes on behind its end"),
    "twice the same": (BYTES + BYTES, "it goes on behind its end"),
    "text": (b"PyTorch checkpoints are zip archives", "is no whole checkpoint of Flax"),
    "pickle": (pickle.dumps({"ema_params": print}), "is no whole checkpoint of Flax"),
    "a flipped head": (bytes([BYTES[0] ^ 0x40]) + BYTES[1:], "is no whole checkpoint of Flax"),
    "a flipped key": (BYTES.replace(b"ema_params", b"emb_params"), "holds no ema_params"),
    "a flipped type": (BYTES.replace(b"\x90\xa5int32", b"\x90\xa5int33", 1), "an array is of type 'int33'"),
    "no averages": (changed(lambda tree: tree.pop("ema_params")), "holds no ema_params"),
    "no step": (changed(lambda tree: tree.pop("step")), "holds no step"),
    "a step of text": (changed(lambda tree: tree.update(step="7")), "after which step"),
    "a negative step": (changed(lambda tree: tree.update(step=-7)), "after which step"),
    "averages that are no map": (changed(lambda tree: tree.update(ema_params=3)), "something else in ema_params"),
    "no parameters": (changed(lambda tree: tree.update(ema_params={"params": {}})), "no parameters in ema_params"),
    "another extension": (leaf(msgpack.ExtType(9, b"x")), "an extension of code 9"),
    "a complex number": (leaf(array(KERNEL, code=2)), "an extension of code 2"),
    "a date": (leaf(msgpack.Timestamp(1)), "no real numbers in Dense_1/kernel"),
    "integers": (leaf(array(KERNEL.astype(np.int32))), "no real numbers in Dense_1/kernel"),
    "objects": (leaf(array(KERNEL, kind="object")), "an array is of type 'object'"),
    "a list": (leaf([1.0, 2.0]), "is no whole checkpoint of Flax"),
    "bytes": (leaf(b"\x00" * 8), "is no whole checkpoint of Flax"),
    "too few numbers": (leaf(array(KERNEL, raw=KERNEL.tobytes()[:-4])), "an array of shape (38, 32) has 1,215 numbers"),
    "half a number": (leaf(array(KERNEL, raw=KERNEL.tobytes()[:-1])), "ends within a number"),
    "no shape": (leaf(msgpack.ExtType(1, msgpack.packb(["x", "float32", b""]))), "an array has no shape"),
    "no array": (leaf(msgpack.ExtType(1, b"\xff\xff")), "is no whole checkpoint of Flax"),
    "an absurd shape": (
        leaf(msgpack.ExtType(1, msgpack.packb([[2**60, 2**60], "float32", b""]))),
        "has 0 numbers",
    ),
    "NaN": (leaf(array(BROKEN_NUMBERS)), "NaN or infinite"),
    "too large a number": (leaf(array(np.full((38, 32), 1e300))), "NaN or infinite"),
    "another shape": (leaf(array(KERNEL[:-1])), "network.hidden.1.weight is (32, 37) where (32, 38) was expected"),
    "a weight is missing": (
        changed(lambda tree: tree["ema_params"]["params"]["Dense_1"].pop("bias")),
        "1 missing (e.g. network.hidden.1.bias)",
    ),
    "a weight of another network": (
        changed(lambda tree: tree["ema_params"]["params"].update(Conv_0={"bias": array(KERNEL)})),
        "holds something else (Conv_0/bias, ..)",
    ),
    "another network": (lambda: packed(content(flax_files.uvit())), "holds a U-ViT, but preset fdp-celeba-inr has"),
    "no rates": (lambda: packed(content(flax_files.inr(learned_rates=False))), "add --learned_rates False"),
    "a part is missing": (
        leaf({**chunked(KERNEL, 3), "chunks": {"0": array(KERNEL.reshape(-1))}, "shape": {"0": 38, "1": 33}}),
        "an array of shape (38, 33) has 1,216 numbers",
    ),
    "a key twice": (HEAD[:1].replace(b"\x82", b"\x83") + HEAD[1:6] + HEAD[1:] + b"\x80", "a key twice"),
    "a map of four thousand million": (b"\xdf\xff\xff\xff\xff" + BYTES[1:], "has 4,294,967,295 entries"),
    "a map inside of that size": (HEAD + b"\xdf\xff\xff\xff\xff", "is no whole checkpoint of Flax"),
    "a list of that size": (HEAD + b"\xdd\xff\xff\xff\xff", "is no whole checkpoint of Flax"),
    "a text of that size": (HEAD + b"\xdb\xff\xff\xff\xff", "is no whole checkpoint of Flax"),
    "an array of that size": (HEAD + b"\xc9\xff\xff\xff\xff\x01", "is no whole checkpoint of Flax"),
    "a passed one of that size": (b"\x82\xa4step\x07\xa1x\xc6\xff\xff\xff\xff", "is no whole checkpoint of Flax"),
    "maps in maps": (HEAD + b"\x81\xa1x" * 100_000 + b"\x01", "is no whole checkpoint of Flax"),
    "passed maps in maps": (b"\x81\xa1x" * 100_000 + b"\x01", "is no whole checkpoint of Flax"),
    "no text": (HEAD + b"\x81\xa2\xff\xfe\x01", "is no whole checkpoint of Flax"),
    "a number as a key": (HEAD + b"\x81\x01\x01", "is no whole checkpoint of Flax"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_damaged_and_foreign_files_are_refused_in_one_line(imports, name):
    make, why = MUTATIONS[name]
    file = written(make if isinstance(make, bytes) else make())
    result = imports(file, OF_INR)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("python -m fdp.flax_import: error: checkpoint_7 ")
    assert why in line
    assert not result.out
    assert not Path("runs").exists()


SHAPES = ((), (0,), (1,), (1, 1), (0, 2**40), (2**40, 0), (3,) * 8)
ODD = ("Conv_0/bias", "posembed_input/pos_embedding", "mid_block_0/MlpBlock_0/Dense_0/kernel")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "words"), [(flax_files.inr, OF_INR), (flax_files.uvit, OF_UVIT)])
def test_a_parameter_of_any_other_shape_is_refused_in_one_line(imports, network, words):
    for name, shape in itertools.product(network(), SHAPES):
        refused_in_one_line(imports, {**network(), name: np.zeros(shape, np.float32)}, words)


@pytest.mark.parametrize("name", ODD)
def test_a_parameter_without_axes_is_refused_in_one_line(imports, name):
    refused_in_one_line(imports, {**flax_files.uvit(), name: np.zeros((), np.float32)}, OF_UVIT)


def refused_in_one_line(imports, average: dict[str, np.ndarray], words: str) -> None:
    result = imports(written(content(average)), words)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("python -m fdp.flax_import: error: ")
    assert not Path("runs").exists()


def test_whatever_the_bytes_are_they_are_read_or_refused():
    """Two hundred files with bytes changed, removed or put in, most of them where the structure is."""
    rng, read, messages = random.Random(0), 0, []
    places = (0, BYTES.index(b"ema_params"))
    for i in range(200):
        content = bytearray(BYTES)
        start = rng.randrange(len(content)) if i % 2 else rng.choice(places) + rng.randrange(300)
        content[start : start + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        try:
            read_stream(io.BytesIO(content), len(content), "it")
            read += 1
        except Refusal as refusal:
            messages.append(str(refusal))
    assert 20 < read < 150
    assert all(message.startswith("it ") for message in messages)


def test_many_entries_are_refused_before_they_are_held(imports):
    """A few hundred thousand maps of one byte each."""
    many = {str(i): {str(j): {} for j in range(1000)} for i in range(300)}
    result = imports(written({"step": 1, "ema_params": {"params": many}}), OF_INR)
    assert result.code == 2
    assert "more than 10,000 entries" in result.err


def test_what_is_no_file_is_refused(imports, monkeypatch):
    Path("orbax/checkpoint_3").mkdir(parents=True)
    Path("folder").mkdir()
    shutil.copy(FILE, "folder/checkpoint_9")
    shutil.copy(FILE, "folder/checkpoint_10")
    with zipfile.ZipFile("logs.zip", "w") as archive:
        archive.write(FILE, "checkpoint_2")
    cases = {
        "orbax/checkpoint_3": "flax_use_orbax_checkpointing",
        "folder": "name a file in it: checkpoint_9, checkpoint_10",
        "missing": "No such file",
        "/dev/null": "is no plain file",
        "logs.zip": "is no whole checkpoint of Flax",
    }
    for file, why in cases.items():
        result = imports(Path(file), OF_INR)
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        assert why in result.err
    monkeypatch.setattr("fdp.flax_file.LARGEST", 1000)
    assert "185,707 bytes; no checkpoint of a published network has more than 1,000" in imports(FILE, OF_INR).err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--preset fdp-celeba-inr", "add --width 32 --depth 3"),
        ("--preset fdp-celeba-inr --width 32", "add --depth 3"),
        ("--preset digits", "--preset: invalid choice: 'digits'"),
        ("--width 32", "--preset is required"),
        (f"{OF_INR} --beta_max 1e9", "--beta_max"),
        (f"{OF_INR} --embed_dim 64", "unrecognized arguments: --embed_dim 64"),
        ("--preset fdp-mnist-inr --image_size 8 --width 32 --depth 3", "add --learned_rates True"),
        ("--preset fdp-mnist-inr --width 32 --depth 3 --learned_rates True --image_size 8", "add --y_input True"),
        ("--preset fdp-digits-inr --width 32 --depth 3", "--image_size is needed"),
        (f"{OF_INR} --length 64", "--length has no effect on images"),
        ("--preset fdp-audio-inr --image_size 8", "--image_size has no effect on recordings"),
        (f"{OF_INR} --data_dir .", "--data_dir has no effect without --prior data"),
        (f"{OF_INR} --prior mean", "--prior: invalid choice"),
        (f"{OF_INR} --out /", "--out must end in the name of a run"),
        (f"{OF_INR} --out runs/_x", "--out must end in the name of a run"),
    ],
)
def test_wrong_words_are_refused_in_one_line(imports, words, why):
    result = imports(FILE, words)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert why in result.err
    assert not Path("runs").exists()


def test_what_is_there_is_left_alone(imports):
    OUT.mkdir(parents=True)
    (OUT / "note").write_text("mine")
    assert "is there already" in imports(FILE, OF_INR).err
    assert [path.name for path in OUT.iterdir()] == ["note"]


def test_an_interruption_leaves_nothing(imports, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fdp.flax_run.write_config", stop)
    with pytest.raises(KeyboardInterrupt):
        imports(FILE, OF_INR)
    assert list(Path("runs").iterdir()) == []
