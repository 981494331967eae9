"""benchmarks/kills.py: which kills it plans, that it goes on where it was stopped, and what it counts."""

import itertools
import json
from pathlib import Path

from benchmarks import kills
from benchmarks.kills import Cycle, Kill, Stage


def stages(tmp_path: Path) -> list[Stage]:
    """Two scenarios of two programs, with places."""
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, names in ((before, "a"), (after, "abcde")):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    places = {
        "train": ["make a", "full a", "step", "step", "step", "full a"],
        "generate": ["make b"],
        "evaluate": ["x"],
    }
    return [
        Stage(scenario, program, before, after, seconds=12.0, quiet=4.0, places=places[program], usual=[])
        for scenario in ("digits", "heat")
        for program in kills.PROGRAMS
    ]


def test_times_of_kills(tmp_path):
    (stage, *_) = stages(tmp_path)
    assert stage.time_of(Kill(early=True, share=0.5), stage.before) == 2
    assert stage.time_of(Kill(share=0.5), stage.before) == 4 + 4
    now = tmp_path / "now"
    now.mkdir()
    for name in "abc":
        (now / name).touch()
    assert stage.time_of(Kill(share=0.5), now) == 4 + 2  # half of the files are there: half of the time is left


def test_plans_are_the_same_every_time_and_come_to_every_place(tmp_path):
    found = stages(tmp_path)
    for plan in (kills.random_cycles, kills.aimed_cycles):
        first, again, other = (list(itertools.islice(plan(found, seed), 20)) for seed in (0, 0, 1))
        assert first == again
        assert first != other
        assert len({name for name, _, _ in first}) == 20
    aimed = list(itertools.islice(kills.aimed_cycles(found, 0), 6))
    places = [(stage.program, kill.place) for _, stage, planned in aimed for kill in planned]
    every = {("train", "make a"), ("train", "full a"), ("train", "step"), ("generate", "make b"), ("evaluate", "x")}
    assert set(places[:5]) == set(places[5:]) == every  # in one scenario each, then in the other
    assert all(1 <= kill.number <= 3 for _, _, planned in aimed for kill in planned)


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    tried = []

    def try_out(out, name, stage, planned, images):
        tried.append(name)
        return Cycle(
            name, stage.scenario, stage.program, [], hit=["step (1)"] * 2, found=["lost: all"] * (name == "random-1")
        )

    monkeypatch.setattr(kills, "try_out", try_out)
    found, results = stages(tmp_path), tmp_path / "results.jsonl"
    for wanted, names in ((4, ["random-0", "random-1"]), (7, ["random-2", "random-3"]), (7, [])):
        tried.clear()
        plan, done = kills.random_cycles(found, 0), kills.read_results(results)
        cycles = kills.try_all(plan, wanted, done, tmp_path, tmp_path, jobs=1)
        assert tried == names
        with results.open("a") as file:
            file.write('{"name": "cut sh')  # stopped while it wrote
    assert sum(len(cycle.hit) for cycle in cycles) == 8
    lines = kills.table(cycles).splitlines()
    (total,) = (line.split() for line in lines if line.startswith("all "))
    assert total[1:6] == ["8", "4", "1", "0", "0"]
    assert any(line.startswith("random-1, ") and line.endswith("[step (1); step (1)]: lost: all") for line in lines)
    assert json.loads(results.read_text().splitlines()[1])["name"] == "random-0"
