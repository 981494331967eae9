"""Whether a folder of runs that was cut off and went on is the one that was not, bit for bit, and whole in between."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.files import load_checkpoint, load_state, read_array, sha256

CLOCK = {"train/images_per_s"}  # columns of metrics.csv that no second run has again
LOST, DIFFERENT, BROKEN = "lost", "different", "broken"


def files(folder: Path) -> dict[str, Path]:
    """Files of a folder by their path in it, without those that are left over."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not is_left_over(path))
    return {path.relative_to(folder).as_posix(): path for path in paths}


def is_left_over(path: Path) -> bool:
    """Whether a file only tells of a kill: temporary ones, locks, and the log that a second start has kept aside."""
    return path.name.startswith(".") or path.match("metrics-until-*.csv")


def left_over(folder: Path) -> list[str]:
    """Files that nobody tidied up, by their path in a folder."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if is_left_over(path)]


# -- what a file holds -------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    """Lines of metrics.csv, what they have, without what depends on the clock; a last one cut short is no line."""
    text = path.read_text()
    lines = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    return [{name: value for name, value in line.items() if value and name not in CLOCK} for line in lines]


def state(path: Path) -> Any:
    """A checkpoint; of the time at which its run was begun only whether it is that of its folder."""
    found = load_checkpoint(path)
    manifest = path.parent.parent / "manifest.json"
    if "run" in found and manifest.exists():
        found["run"] = found["run"] == json.loads(manifest.read_text("utf-8"))["made"]
    return found


def pixels(path: Path) -> list[Any]:
    """Size, mode and content of a picture."""
    with Image.open(path) as picture:
        return [picture.size, picture.mode, hashlib.sha256(picture.tobytes()).hexdigest()]


def listed(path: Path) -> Any:
    """A .json file; of a manifest the names that it lists, each held against its file."""
    content = json.loads(path.read_text("utf-8"))
    if path.name != "manifest.json":
        return content
    right = {
        name: (path.parent / name).stat().st_size == entry["size"] and sha256(path.parent / name) == entry["sha256"]
        for name, entry in sorted(content["files"].items())
    }
    return {"format": content["format"], "files": right}


def there(path: Path) -> Any:
    """For files that note when and how they were written."""
    return path.stat().st_size > 0


READERS: dict[str, Callable[[Path], Any]] = {
    ".ckpt": state,
    ".pth": load_state,
    ".safetensors": load_state,
    ".npy": read_array,
    ".png": pixels,
    ".gif": pixels,
    ".csv": rows,
    ".json": listed,
}


def content(path: Path) -> Any:
    """What a file holds.

    Raises:
        Exception: if it is not whole.
    """
    return READERS.get(path.suffix, there)(path)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def unlike(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Places where two contents differ in a bit."""
    if type(one) is not type(other):
        yield f"{at}: {type(one).__name__} instead of {type(other).__name__}"
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            yield f"{at}: {one.dtype} {tuple(one.shape)} instead of {other.dtype} {tuple(other.shape)}"
        elif not torch.equal(bits(one), bits(other)):
            yield f"{at}: {int((one != other).sum())} of {one.numel()} values differ"
    elif isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
            yield f"{at}: array {one.shape} {one.dtype} differs"
    elif isinstance(one, dict):
        if list(one) != list(other):
            yield f"{at}: keys {[*one][:8]} instead of {[*other][:8]}"
        for name in one.keys() & other.keys():
            yield from unlike(one[name], other[name], f"{at}/{name}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{at}: {len(one)} entries instead of {len(other)}"
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from unlike(a, b, f"{at}/{i}")
    elif one != other and not (isinstance(one, float) and math.isnan(one) and math.isnan(other)):
        yield f"{at}: {one!r} instead of {other!r}"


# -- at the end --------------------------------------------------------------------------------------------------------


def differences(found: Path, wanted: Path) -> list[str]:
    """What a folder that was cut off and went on to its end has lost, or has otherwise, against one that was not."""
    here, whole, said = files(found), files(wanted), []
    said += [f"{LOST}: {name}" for name in whole if name not in here]
    said += [f"{DIFFERENT}: {name} is there, which it should not" for name in here if name not in whole]
    for name in whole.keys() & here.keys():
        if sha256(here[name]) == sha256(whole[name]):
            continue
        try:
            said += [f"{DIFFERENT}: {name}{place}" for place in unlike(content(here[name]), content(whole[name]))]
        except Exception as error:
            said.append(f"{LOST}: {name} cannot be read ({type(error).__name__}: {error})")
    return said


# -- in between --------------------------------------------------------------------------------------------------------


def step_of(run: Path) -> int:
    """The step of a run's newest checkpoint; 0 if there is none, -1 if it cannot be read."""
    last = run / "checkpoints" / "last.ckpt"
    try:
        return int(load_checkpoint(last)["global_step"]) if last.exists() else 0
    except Exception:
        return -1


def broken(found: Path, wanted: Path, before: int) -> list[str]:
    """What a kill has broken: files that are not whole, a checkpoint gone back, log lines up to it lost.

    Args:
        found: folder of runs in which a process was killed.
        wanted: the one of a run that was not cut off.
        before: step of the newest checkpoint when that process started.
    """
    said = []
    for name, path in files(found).items():
        try:
            content(path)
        except Exception as error:
            said.append(f"{BROKEN}: {name} is not whole ({type(error).__name__}: {error})")
    for run in (path for path in wanted.iterdir() if path.is_dir()):
        here = found / run.name
        step = step_of(here)
        if step < before:
            said.append(f"{BROKEN}: last.ckpt is of step {step}, and was of step {before}")
        if step <= 0:
            continue
        metrics = [rows(place / "metrics.csv") if (place / "metrics.csv").exists() else [] for place in (here, run)]
        kept, full = ([row for row in part if float(row["step"]) <= step] for part in metrics)
        said += [f"{BROKEN}: metrics.csv up to step {step}{place}" for place in unlike(kept, full)][:1]
    for array in found.rglob("data/data_*.npy"):
        labels = array.parent.parent / "label" / array.name.replace("data_", "label_")
        if not labels.exists() and list(wanted.rglob(labels.name)):
            said.append(f"{BROKEN}: {array.name} has no labels")
    return said
