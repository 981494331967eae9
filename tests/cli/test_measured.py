"""generate.py --grid measured: measured once, kept with the run, taken from then on; and what goes wrong."""

import json
from pathlib import Path

import pytest

from common.files import locked
from common.runs import RunFolder
from tests.test_files import flip

DRAW = ("--run_id", "tiny", "--n_samples", 4, "--steps", 2)


@pytest.fixture
def folder(cli, run) -> RunFolder:
    return RunFolder(Path("runs") / run.name)


def settings(folder: RunFolder) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.path.glob("generated_data/*/*/settings.json"))]


def test_it_is_measured_once_and_taken_from_then_on(cli, folder):
    before = cli("generate", *DRAW)
    assert before.code == 0
    first = cli("generate", *DRAW, "--grid", "measured")
    assert first.code == 0
    assert "grid      measured, and kept in" in first.out
    kept = folder.time_grid.read_bytes()
    assert folder.manifest.lists(folder.time_grid)
    again = cli("generate", *DRAW)
    assert "measured, and kept" not in again.out
    assert "not needed: all samples were there" in again.out  # the set that was drawn on that grid
    assert folder.time_grid.read_bytes() == kept
    plain, measured = sorted(settings(folder), key=lambda found: "grid" in found)
    assert (plain.get("grid"), measured["grid"]) == (None, "measured")
    assert "density" not in plain
    folder.time_grid.unlink()  # it may be removed; another one would make another set
    assert cli("generate", *DRAW).out.count("not needed") == 1
    assert [found.get("grid") for found in settings(folder)].count("measured") == 1
    assert cli("evaluate", "--run_id", "tiny", "--metrics", "nearest").code == 0


def test_damage_is_told_with_the_mend(cli, folder):
    assert cli("generate", *DRAW, "--grid", "measured").code == 0
    flip(folder.time_grid, folder.time_grid.stat().st_size // 2)
    result = cli("generate", *DRAW)
    assert result.code == 2
    assert "grid.json" in result.err
    assert "remove it and do without" in result.err
    folder.time_grid.unlink()
    assert cli("generate", *DRAW).code == 0


def test_a_training_that_writes_the_folder_keeps_it_to_itself(cli, folder):
    with locked(folder.path, "train.py"):
        result = cli("generate", *DRAW, "--grid", "measured")
    assert result.code == 0
    assert "note      the measured grid is not kept" in result.out
    assert not folder.time_grid.exists()


def test_a_solver_that_chooses_its_steps_takes_none(cli, folder):
    result = cli("generate", *DRAW, "--grid", "measured", "--solver", "dopri5")
    assert result.code == 2
    assert not folder.time_grid.exists()
