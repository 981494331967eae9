"""evaluate.py --compare: runs and files of figures side by side."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.runs import RunFolder
from tests.cli.test_wrong_input import refused

SW = ("--metrics", "sw", "--features", "pixels")


def figures(count: int = 40, sw: float = 0.0, **about: object) -> dict:
    real = {"shape": [1, 8, 8], "part": "train", "count": 9, "of": 9, "sha256": "ab" * 32}
    known = {"real": real, "features": {"auto": {"identity": "pixels"}}, "default_features": "auto"}
    return {"samples": count, "sw": sw, "sw_low": sw - 1, "sw_high": sw + 1, "about": {**known, **about}}


@pytest.fixture
def files() -> None:
    """Figures of other programs' samples."""
    for name, sw in (("good", 0.0), ("bad", 9.0)):
        Path(f"metrics-{name}.json").write_text(json.dumps(figures(sw=sw)))


def draw(run: Path, version: str, name: str, content: str | None) -> None:
    """A set of samples of a run, with its figures or without."""
    folder = RunFolder(run).generated(version) / name
    (folder / "data").mkdir(parents=True)
    if content is not None:
        (folder / "metrics.json").write_text(content)


# -- what there is -----------------------------------------------------------------------------------------------------


def test_figures_that_evaluate_wrote(cli, run):
    """Two ways of drawing, judged and compared; the newest set of a run is the default, and any may be named."""
    for steps in (1, 2):
        assert cli("evaluate", "--run_id", "tiny", "--n_samples", 60, "--steps", steps, *SW).code == 0
    result = cli("evaluate", "--compare", "tiny:ab3-1-ema", "tiny", "--table", "out/t.csv")
    assert (result.code, result.err, result.written) == (0, "", ["out/t.csv"])
    lines = result.out.splitlines()
    folder = Path("runs") / run.name / "generated_data" / "model-final"
    assert lines[0] == f"figures   tiny:ab3-1-ema: {folder / 'ab3-1-ema' / 'metrics.json'}"
    assert lines[1] == f"figures   tiny: {folder / 'ab3-2-ema' / 'metrics.json'}"
    assert lines[2].split() == ["samples", "of", "n", "steps", "nfe", "sw"]
    assert any(line.startswith("note      features: pixels") for line in lines)
    assert not any("not comparable" in line for line in lines)
    assert len([line for line in lines if re.fullmatch(r"verdict .*(better than|undecided).* by sw", line)]) == 1
    assert lines[-1] == "table     out/t.csv"
    kept = json.loads((run / "generated_data" / "model-final" / "ab3-1-ema" / "metrics.json").read_text())
    with Path("out/t.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert [float(first[name]) for name in ("sw", "sw low", "sw high")] == [
        kept[f"sw{e}"] for e in ("", "_low", "_high")
    ]
    assert [one["steps"] + one["nfe"] for one in (first, second)] == ["11", "22"]


def test_samples_against_other_real_data_are_not_comparable(cli):
    """Data of one shape and number is told apart by its samples, and moments by themselves."""
    generator = np.random.default_rng(0)
    for name in ("one", "two", "drawn", "others"):
        np.savez(f"{name}.npz", x=generator.random((60, 8, 8, 1), dtype=np.float32))
    for name in ("one", "two"):
        words = ("--save_statistics", f"mu-{name}.npz", "--features", "pixels")
        assert cli("evaluate", "--reference", f"{name}.npz", *words).code == 0
    for samples, reference in (("drawn", "one"), ("others", "one"), ("drawn", "two")):
        for metric, prefix in (("sw", ""), ("fid", "mu-")):
            words = ("--samples", f"{samples}.npz", "--reference", f"{prefix}{reference}.npz", "--features", "pixels")
            saved = f"metrics-{prefix}{samples}-{reference}.json"
            assert cli("evaluate", *words, "--metrics", metric, "--save_figures", saved).code == 0

    same = cli("evaluate", "--compare", "metrics-drawn-one.json,metrics-others-one.json").out
    assert "verdict   drawn-one and others-one undecided by sw" in same
    other = cli("evaluate", "--compare", "metrics-drawn-one.json,metrics-drawn-two.json").out
    assert "drawn-one and drawn-two not comparable by sw: real data train, " in other
    same = cli("evaluate", "--compare", "metrics-mu-drawn-one.json,metrics-mu-others-one.json").out
    assert "note      real data: moments (" in same
    other = cli("evaluate", "--compare", "metrics-mu-drawn-one.json,metrics-mu-drawn-two.json").out
    assert "note      not comparable, real data: moments (" in other


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "words",
    [
        ["metrics-good.json", "metrics-bad.json"],
        ["metrics-good.json,metrics-bad.json"],
        ["./metrics-good.json", "metrics-bad.json", "--output_dir", "nowhere"],
    ],
    ids=["spaces", "commas", "no runs"],
)
def test_commas_and_spaces(cli, words):
    result = cli("evaluate", "--compare", *words)
    assert (result.code, result.err) == (0, "")
    assert "verdict   good better than bad by sw" in result.out


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("suffix", ["csv", "tex", "md"])
def test_tables_are_written_and_the_terminal_has_one_anyway(cli, suffix):
    words = ("--compare", "metrics-good.json", "metrics-bad.json")
    plain, result = cli("evaluate", *words), cli("evaluate", *words, "--table", f"t.{suffix}")
    assert result.code == 0
    assert result.written == [f"t.{suffix}"]
    assert result.out == f"{plain.out}table     t.{suffix}\n"
    assert "good" in Path(f"t.{suffix}").read_text()


def test_the_newest_samples_with_figures_are_taken(cli, run):
    for version, name, content in (
        ("v1", "a", json.dumps(figures(sw=9))),
        ("final", "a", json.dumps(figures(sw=0))),
        ("final", "b", None),
    ):
        draw(run, version, name, content)
    result = cli("evaluate", "--compare", "tiny", "tiny:model-v1/a")
    assert "verdict   tiny better than tiny:model-v1/a by sw" in result.out
    assert result.out.splitlines()[0].endswith("model-final/a/metrics.json")
    assert [line for line in result.out.splitlines() if "newer" in line] == [
        "note      tiny: newer samples, b, have no figures yet"
    ]
    path = f"runs/{run.name}/generated_data/model-v1/a/metrics.json"
    result = cli("evaluate", "--compare", "latest", path)
    assert f"verdict   {run.name} better than {run.name}:a by sw" in result.out


# -- what there is not -------------------------------------------------------------------------------------------------

WRONG = [
    ("--compare metrics-good.json", "--compare metrics-good.json: at least two"),
    ("--compare metrics-good.json nothing", "--compare nothing: no such run.*tiny_digits_H0.9_K2"),
    ("--compare metrics-good.json ../tiny", "--compare ../tiny: no such run"),
    ("--compare metrics-good.json gone.json", "--compare gone.json: there is no such file"),
    ("--compare metrics-good.json,", "--compare : no such run"),
    ("--compare metrics-good.json metrics-good.json", "--compare names the figures in .*good.json twice"),
    ("--compare metrics-good.json,metrics-good.json", "--compare.*names a value twice"),
    ("--compare metrics-good.json broken.json", "--compare broken.json is no file of figures .no JSON, in line 1"),
    ("--compare metrics-good.json bytes.json", "--compare bytes.json is no file of figures .no text in UTF-8"),
    ("--compare metrics-good.json list.json", "--compare list.json is no file of figures: it does not say"),
    ("--compare metrics-good.json large.json", "--compare large.json is no file of figures: .* too large"),
    ("--compare metrics-good.json strange.json", "--compare no two of them have a figure in common"),
    ("--compare metrics-good.json tiny:c", "--compare tiny_digits_H0.9_K2: no samples c; there are: model-final/a"),
    (
        "--compare metrics-good.json tiny",
        "--compare tiny.*no figures of its samples yet; python evaluate.py --run_id tiny_digits_H0.9_K2 computes",
    ),
    ("--compare metrics-good.json tiny:a", "python evaluate.py --run_id tiny_.* --version final --samples a computes"),
    ("--compare metrics-good.json metrics-bad.json --samples a", "--samples has no effect with --compare"),
    ("--compare metrics-good.json metrics-bad.json --run_id tiny", "--run_id has no effect with --compare"),
    ("--compare metrics-good.json metrics-bad.json --steps 3", "--steps has no effect with --compare"),
    ("--compare metrics-good.json metrics-bad.json --n_samples 3", "--n_samples has no effect with --compare"),
    ("--compare metrics-good.json metrics-bad.json --table t.xlsx", "--table t.xlsx: .* .csv, .tex, .md"),
    ("--compare metrics-good.json metrics-bad.json --table t", "--table t: .* .csv, .tex, .md"),
    ("--run_id tiny --table t.csv", "--table is for --compare"),
    ("--compare --table t.csv", "--compare: expected at least one argument"),
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("flags", "pattern"), WRONG, ids=[flags for flags, _ in WRONG])
def test_wrong_input_is_refused_in_a_line(cli, run, flags, pattern):
    draw(run, "final", "a", None)
    Path("broken.json").write_text('{"samples": 4, ')
    Path("bytes.json").write_bytes(b"\xff\xfe")
    Path("large.json").write_text(json.dumps({"samples": 3, "sw": 10**400}))
    Path("list.json").write_text("[1, 2]")
    Path("strange.json").write_text(json.dumps({"samples": 3, "about": [], "sw": {"a": 1}, "kid": True, "x": "y"}))
    result = cli("evaluate", *flags.split())
    refused(result, "evaluate", pattern)
    assert not result.written


@pytest.mark.usefixtures("run", "files")
def test_a_run_without_samples_says_how_to_get_some(cli):
    refused(
        cli("evaluate", "--compare", "metrics-good.json", "tiny"),
        "evaluate",
        r"no samples; python evaluate\.py --run_id tiny_digits_H0\.9_K2 --n_samples 1000 draws and judges some",
    )
