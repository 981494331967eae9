"""config.json, manifest.json and settings.json of a run folder with odd values in them."""

import io
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors import torch as safetensors

from common.config.stored import from_json, read_config, to_json
from common.files import load_state
from common.runs.drawn import SampleFolder
from common.runs.folder import RunFolder
from common.runs.run import load_folder
from tests.fuzz.edits import mutated, of_json
from tests.fuzz.frame import Target, require

ROOT = Path(__file__).parents[2]
RUNS = ("digits-demo_digits_H0.9_K2", "digits-heat-demo_digits_heat_uvit")


@cache
def stored(name: str) -> list[Any]:
    """A file of each of the runs that come with the program."""
    return [json.loads((ROOT / "runs" / run / name).read_text()) for run in RUNS]


@cache
def old() -> list[Any]:
    """A configuration of format 1 of each kind."""
    return [json.loads(file.read_text()) for file in sorted((ROOT / "tests/golden/old_run").glob("*/config.json"))]


def as_text(name: str) -> st.SearchStrategy[str]:
    """Texts of changed files; some of them are no JSON any more."""
    contents = st.deferred(lambda: of_json(stored(name))).map(json.dumps)
    broken = st.deferred(lambda: mutated([json.dumps(one).encode() for one in stored(name)]))
    return st.one_of(contents, contents, contents, broken.map(lambda content: content.decode("latin-1")))


def use_config(text: str) -> None:
    """Read a configuration, and write it as it was read."""
    Path("config.json").write_text(text)
    config = read_config(Path())
    again = to_json(config)
    require(json.dumps(to_json(from_json(again, "again"))) == json.dumps(again), "it is read otherwise the second time")


def use_run(case: tuple[int, str]) -> None:
    """Load a run with a changed configuration, and ask its network once."""
    number, text = case
    shutil.copytree(ROOT / "runs" / RUNS[number], "run", ignore=shutil.ignore_patterns("manifest.json", "samples"))
    Path("run/config.json").write_text(text)
    run = load_folder(RunFolder(Path("run")))
    labels = torch.zeros(1, dtype=torch.int64) if run.data.num_classes else None
    v, t = torch.zeros(1, *run.data.shape), torch.full((1,), 0.5)
    with torch.no_grad():
        found = run.denoiser(v, t, labels)
    require(tuple(found.shape[1:]) == tuple(run.data.shape), f"{found.shape} of samples of {run.data.shape}")


def use_manifest(text: str) -> None:
    """Hold a run folder against a changed manifest."""
    folder = RunFolder(Path("run").absolute())
    folder.path.mkdir()
    Path("run/manifest.json").write_text(text)
    shutil.copy(ROOT / "runs" / RUNS[0] / "config.json", "run")
    for name in ("begun", "is_ours", "is_released"):
        getattr(folder, name)
    folder.manifest.check(folder.config)
    folder.lost_weights()


def use_settings(text: str) -> None:
    """Read what samples were drawn with."""
    folder = SampleFolder(Path("generated_data/model-final/x").absolute())
    folder.path.mkdir(parents=True)
    folder.settings.write_text(text)
    require(isinstance(folder.weights, str) and isinstance(folder.kind, str), "no name of weights")


def runs() -> st.SearchStrategy[tuple[int, str]]:
    return st.integers(0, len(RUNS) - 1).flatmap(
        lambda one: st.tuples(st.just(one), of_json([stored("config.json")[one]]).map(json.dumps))
    )


@cache
def weights() -> list[bytes]:
    """A few tensors, by torch.save and as .safetensors."""
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(2, dtype=torch.int64)}
    file = io.BytesIO()
    torch.save(state, file)
    return [file.getvalue(), safetensors.save(state)]


def use_weights(content: bytes) -> None:
    """Read weights; those with check sums are the ones that were written."""
    path = Path("model.safetensors" if content[8:9] == b"{" else "model.pth")
    path.write_bytes(content)
    state = load_state(path)
    if path.suffix == ".pth" and "a.weight" in state:
        require(state["a.weight"].tolist() == torch.arange(12.0).reshape(3, 4).tolist(), "other weights")


SETTINGS = [{"weights": "ema_model-final.pth", "sampler": {"solver": "euler", "steps": 10}, "seed": 0}]

TARGETS = [
    Target("config", as_text("config.json"), use_config, share=3),
    Target("config-old", st.deferred(lambda: of_json(old())).map(json.dumps), use_config),
    Target("runs", st.deferred(runs), use_run, quick=25, share=0.6),
    Target("weights", st.deferred(lambda: mutated(weights())), use_weights),
    Target("manifest", as_text("manifest.json"), use_manifest),
    Target("settings", of_json(SETTINGS).map(json.dumps), use_settings, quick=20, share=0.4),
]
