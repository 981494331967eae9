"""Tests of this folder plant something in a run folder, and look whether it executes, deletes, escapes or sends."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Result, _in_a_folder_of_its_own, cli, run, tiny_run

__all__ = ["_in_a_folder_of_its_own", "cli", "run", "tiny_run"]

Cli = Callable[..., Result]


def refused(result: Result) -> str:
    """The one line in which a program refused; nothing else was printed on stderr, nothing can steer a terminal."""
    assert result.code == 2, (result.code, result.err)
    (line,) = result.err.splitlines()
    assert line.isprintable()
    assert "Traceback" not in line
    return line


def changed(folder: Path, path: tuple, value: object) -> None:
    """Put a value into the config.json of a run folder."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    node = content
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    file.write_text(json.dumps(content))
    (folder / "manifest.json").unlink(missing_ok=True)  # the attacker writes that too, or leaves it out


@pytest.fixture
def stopped(run: Path, tiny_run: Path) -> Path:
    """A copy of a run that was stopped at step 100 of 150, without a manifest, as an attacker would leave it."""
    for path in (run / "manifest.json", run / "checkpoints" / "last.ckpt", *(run / "model").iterdir()):
        path.unlink(missing_ok=True)
    shutil.copy(tiny_run / "checkpoints" / "step-0000100.ckpt", run / "checkpoints")
    return run
