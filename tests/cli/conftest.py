import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import evaluate
import generate
import train
from common.training.session import RUN_ID_VARIABLE
from tests.training import tiny

PROGRAMS = {"train": train.main, "generate": generate.main, "evaluate": evaluate.main}


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, both outputs, files made or changed below the working folder."""

    code: int | str | None
    out: str
    err: str
    written: list[str]


def contents() -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in Path().rglob("*") if p.is_file()}


@pytest.fixture
def cli(capsys) -> Callable[..., Result]:
    """Run a program as its own process would, in this one: ``cli("train", "--lr", 3)``."""

    def run(program: str, *words: object) -> Result:
        capsys.readouterr()
        before = contents()
        code: int | str | None
        try:
            code = PROGRAMS[program]([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        written = [name for name, state in contents().items() if before.get(name) != state]
        return Result(code, captured.out, captured.err, sorted(written))

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A trained run; to be read, never written."""
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory) -> Path:
    """A run that was tuned from the trained one; to be read, never written."""
    return tiny.tuned(tmp_path_factory.getbasetemp())


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A copy of the trained run under ./runs, to do with as one likes."""
    folder = tmp_path / "runs" / tiny_run.name
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("samples", "step-*"))
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """No .env, ./data and ./runs of a developer's checkout plays in, and no variable outlives a test."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_ROOT", "WANDB_API_KEY", "WANDB_PROJECT", "MPLBACKEND", RUN_ID_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
