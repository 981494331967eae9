"""Sets of samples side by side, on constructed figures: what is decided, what is not comparable, how it is written."""

import csv
import io
import math
import re
from itertools import combinations

import pytest
import torch

from common.metrics.comparison import Column, Comparison, Entry, Verdict, verdicts
from common.metrics.tables import FORMATS, as_text, write_table
from common.refusal import Refusal

SHA = "1234567890abcdef"


def entry(name: str, count: int = 400, *, sha: str = SHA, identity: str = "lenet a1", **figures: object) -> Entry:
    """A set whose figures are ``sw=(value, half of its interval)`` or plain numbers."""
    found: dict[str, object] = {"samples": count}
    for key, value in figures.items():
        if isinstance(value, tuple):
            found |= {key: value[0], f"{key}_low": value[0] - value[1], f"{key}_high": value[0] + value[1]}
        else:
            found[key] = value
    found["about"] = {
        "samples": {"version": "final", "settings": {"solver": "exp2", "steps": 20}, "evaluations": 20},
        "real": {"shape": [1, 8, 8], "part": "train", "count": 1500, "of": 1500, "sha256": sha},
        "features": {"auto": {"name": "lenet", "identity": identity}},
        "default_features": "auto",
    }
    return Entry(name, found)


def told(*entries: Entry) -> list[str]:
    return [str(one) for one in Comparison(entries).verdicts]


def test_what_is_decided_and_what_is_not():
    """The interval of a difference of independent figures is sqrt(3^2 + 4^2) = 5 wide to either side."""
    assert told(entry("A", sw=(1, 3)), entry("B", sw=(5.9, 4))) == ["A and B undecided by sw"]
    assert told(entry("A", sw=(1, 3)), entry("B", sw=(6.1, 4))) == ["A better than B by sw"]
    assert told(entry("A", sw=(6.1, 3)), entry("B", sw=(1, 4))) == ["B better than A by sw"]


def test_the_judges_come_in_the_order_of_the_register_and_others_decide_nothing():
    one = entry("A", c2st=(0.5, 0.1), kid=(0, 1), fid=(1, 0.1), sw=(0, 1), precision=(0.9, 0.01), agreement=0.9)
    two = entry("B", c2st=(0.9, 0.1), kid=(9, 1), fid=(9, 0.1), sw=(9, 1), precision=(0.1, 0.01), agreement=0.1)
    comparison = Comparison([one, two])
    assert [column.name for column in comparison.columns] == ["agreement", "sw", "kid", "precision", "fid", "c2st"]
    assert told(one, two) == [f"A better than B by {name}" for name in ("sw", "kid", "c2st")]
    best = [column.name for column in comparison.columns if comparison.is_best(one, column)]
    assert best == ["sw", "kid", "c2st"]
    assert not any(comparison.is_best(two, column) for column in comparison.columns)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (entry("B", 300, sw=(9, 1)), "samples 400 against 300"),
        (entry("B", sha="f" * 64, sw=(9, 1)), "real data train, 1500 of 1500, shape [1, 8, 8] (1234567890ab) against"),
        (entry("B", identity="lenet b2", sw=(9, 1)), "features lenet a1 against lenet b2"),
        (entry("B", sw=9), "B has no sw with an interval"),
        (Entry("B", {"samples": 400, "sw": 9, "sw_low": 8, "sw_high": 10}), "against unknown; features lenet a1"),
    ],
    ids=["number", "data", "features", "no interval", "says nothing"],
)
def test_what_may_not_be_compared_is_named_and_left_undecided(other, why):
    comparison = Comparison([entry("A", sw=(0, 1)), other])
    (verdict,) = comparison.verdicts
    assert verdict.better is None
    assert str(verdict).startswith("A and B not comparable by sw: ")
    assert why in str(verdict)
    assert not comparison.is_best(comparison.entries[0], comparison.columns[0])
    if "interval" not in why:
        assert any(remark.startswith("not comparable, ") for remark in comparison.remarks)


def test_sets_that_both_say_nothing_may_not_be_compared():
    silent = [Entry(name, {"samples": 4, "sw": x, "sw_low": x, "sw_high": x}) for name, x in (("A", 0), ("B", 9))]
    assert told(*silent) == [
        "A and B not comparable by sw: real data unknown against unknown; features unknown against unknown"
    ]


def test_features_that_a_figure_names_are_those_it_rests_on():
    """``sw@lenet`` rests on those asked for as lenet, whatever others compare; figures of other features are others."""
    sets = [entry(name, identity="classifier", **{"sw@lenet": x}) for name, x in (("A", (0, 1)), ("B", (9, 1)))]
    for one, identity in zip(sets, ("lenet a1", "lenet a1"), strict=True):
        one.figures["about"]["features"]["lenet"] = {"name": "lenet", "identity": identity}
    for one in sets:  # an interval of a figure with features is called sw_low@lenet
        for end in ("low", "high"):
            one.figures[f"sw_{end}@lenet"] = one.figures.pop(f"sw@lenet_{end}")
    assert told(*sets) == ["A better than B by sw@lenet"]
    sets[1].figures["about"]["features"]["lenet"]["identity"] = "lenet b2"
    assert "features lenet a1 against lenet b2" in told(*sets)[0]
    assert Comparison(sets).columns == [Column.of("sw@lenet")]


def test_columns_are_figures_of_two_sets_without_details_and_classes():
    details = dict.fromkeys(
        ("sw_real", "sw_real_low", "sw_at", "sw[3]", "kid_at", "spectrum_from_2", "moments_mean", "not_finite"), 1
    )
    undefined = dict.fromkeys(("kid", "spectrum", "moments"))
    of_one = {**details, **undefined, "rke": 3.0, "sw_values": 2, "own": 1}
    comparison = Comparison(
        [entry("A", sw=(0, 1), fid=3, **of_one), entry("B", sw=(0, 1), **{**of_one, "rke": math.nan})]
    )
    assert [column.name for column in comparison.columns] == ["sw", "sw_values", "own"]
    with pytest.raises(Refusal, match=r"no two of them have a figure in common \(A: fid; B: nearest\)"):
        Comparison([entry("A", fid=3), entry("B", nearest=3)])
    assert (
        Comparison([entry("A", fid=3), entry("B", fid=4)]).remarks[-1].startswith("nothing is decided: that takes sw")
    )


# -- several pairs -----------------------------------------------------------------------------------------------------


def holm(chances: list[float], level: float = 0.05) -> list[bool]:
    """Which are decided, by adjusted chances as R's p.adjust has them: running maximum of (m - i) p_(i)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, (len(chances) - rank) * chances[i])
        adjusted[i] = highest
    return [one < level for one in adjusted]


def test_several_pairs_are_decided_as_holm_has_it():
    generator, disagreed = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        values, reaches = torch.randn(4, generator=generator) * 2, torch.rand(4, generator=generator) + 0.5
        sets = [entry(f"S{i}", sw=(float(values[i]), float(reaches[i]))) for i in range(4)]
        found = verdicts(Column.of("sw"), sets)
        # chance of so large a difference of normal figures, whose deviation is reach / 1.96
        chances = [
            math.erfc(abs(float(values[i] - values[j])) / math.hypot(reaches[i], reaches[j]) * 1.959964 / math.sqrt(2))
            for i, j in combinations(range(4), 2)
        ]
        assert [one.better is not None for one in found] == holm(chances)
        disagreed += holm(chances) != [chance < 0.05 for chance in chances]
    assert disagreed > 30  # so the correction was seen


def test_equal_sets_are_told_apart_in_at_most_5_of_100_cases():
    """Five sets of one law, ten pairs: without a correction some pair differs in 29 of 100 cases."""
    generator, cases = torch.Generator().manual_seed(0), 600
    wrong = 0
    for _ in range(cases):
        sets = [entry(f"S{i}", sw=(float(x), 1.96)) for i, x in enumerate(torch.randn(5, generator=generator))]
        wrong += any(one.better for one in verdicts(Column.of("sw"), sets))
    assert 0 < wrong / cases < 0.05 + 3 * math.sqrt(0.05 * 0.95 / cases)


def test_figures_without_any_spread_do_not_hide_others():
    sets = [entry("A", sw=(1, 0)), entry("B", sw=(1, 0)), entry("C", sw=(2, 0))]
    assert told(*sets) == ["A and B undecided by sw", "A better than C by sw", "B better than C by sw"]
    assert "pairs compared: 3 by sw" in Comparison(sets).remarks[-1]


def test_the_best_is_better_than_all_others():
    sets = [entry("A", sw=(0, 1)), entry("B", sw=(9, 1)), entry("C", sw=(1, 1))]
    comparison = Comparison(sets)
    assert not any(comparison.is_best(one, comparison.columns[0]) for one in sets)
    comparison = Comparison([*sets[:2], entry("C", sw=(5, 1))])
    assert [comparison.is_best(one, comparison.columns[0]) for one in comparison.entries] == [True, False, False]
    assert comparison.beaten(sets[0], comparison.columns[0]) == ["B", "C"]


# -- how it is written -------------------------------------------------------------------------------------------------

NAMES = [r"a_b:exp2-20", r"100% & $x^2$, #1 {~\} | \"q\""]


@pytest.fixture
def comparison() -> Comparison:
    one = entry(NAMES[0], sw=(0.0123456, 0.004321), kid=(-1e-7, 3e-8), fid=(541.23, 123.4), agreement=0.98765)
    two = entry(NAMES[1], sw=(0.5, 0.1), kid=(2e-6, 1e-6), fid=(600, 1234.5))
    two.figures["about"]["samples"] |= {"settings": {"solver": "heun_x", "steps": 20}, "evaluations": 40}
    return Comparison([one, two, entry("third", sw=(0.7, 0.01), agreement=0.5)])


def test_the_terminal_shows_certain_digits(comparison):
    lines = as_text(comparison)
    cells = [re.split(r"  +", line) for line in lines[:4]]
    assert cells[0] == ["samples of", "n", "solver", "nfe", "agreement", "sw", "kid", "fid"]
    assert cells[1] == [
        NAMES[0],
        "400",
        "exp2",
        "20",
        "0.9877",
        "0.0123 +- 0.0043 *",
        "-1e-07 +- 3e-08 *",
        "541 +- 123",
    ]
    assert cells[3] == ["third", "400", "exp2", "20", "0.5", "0.700 +- 0.010", "-", "-"]
    assert lines[-1] == f"verdict   {NAMES[1]} and third not comparable by kid: third has no kid with an interval"
    assert all(line.isascii() for line in lines)


def test_a_figure_that_is_not_the_middle_of_its_interval_has_both_ends():
    sets = [entry(name, c2st=0.98, c2st_low=0.952, c2st_high=0.991) for name in "AB"]
    assert as_text(Comparison(sets))[1].split("  ")[-1] == "0.980 (0.952 to 0.991)"
    assert "$0.980 [0.952, 0.991]$" in FORMATS[".tex"](Comparison(sets))


def test_csv_is_read_back(comparison):
    first, *rest = csv.DictReader(io.StringIO(FORMATS[".csv"](comparison)))
    assert [row["samples of"] for row in (first, *rest)] == [*NAMES, "third"]
    assert (float(first["sw"]), float(first["sw low"])) == (0.0123456, 0.0123456 - 0.004321)
    assert float(first["sw high"]) == 0.0123456 + 0.004321
    assert first["sw better than"] == f"{NAMES[1]}; third"
    assert (first["nfe"], rest[0]["nfe"], rest[0]["solver"]) == ("20", "40", "heun_x")
    assert (rest[1]["kid"], rest[1]["kid low"], rest[1]["fid"], rest[0]["agreement"]) == ("", "", "", "")


def test_latex_escapes_and_is_balanced(comparison):
    from matplotlib.mathtext import MathTextParser

    text = FORMATS[".tex"](comparison)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert [lines[0], lines[-1]] == [r"\begin{tabular}{lrrrrrrr}", r"\end{tabular}"]
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 4
    for row in rows:
        bare = re.sub(r"\\[&%$#_{}\\]", "", row)  # without what is escaped
        assert bare.count("&") == 7
        assert not re.search(r"[%#]", bare)
        assert bare.count("{") == bare.count("}")
        math_parts = re.findall(r"\$[^$]*\$", bare)
        assert not re.search(r"[_^$]", re.sub(r"\$[^$]*\$", "", bare))
        for part in math_parts:
            MathTextParser("path").parse(part)
    assert r"$\mathbf{0.0123 \pm 0.0043}$" in rows[1]
    assert r"a\_b:exp2-20 & 400" in rows[1]
    assert r"100\% \& \$x\textasciicircum{}2\$, \#1 \{\textasciitilde{}\textbackslash{}\}" in rows[2]
    assert "-- &" in rows[3]


def test_markdown_has_as_many_cells_in_every_row(comparison):
    text = FORMATS[".md"](comparison)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert "**0.0123 ± 0.0043**" in rows[2]
    assert str(comparison.verdicts[0]) in text


def test_what_a_strange_file_says_stays_in_its_line(tmp_path):
    """Names with line breaks run no LaTeX, and halves of letters can be written."""
    strange = "x\n\\input{y}"
    one = entry(strange, sw=(0, 1), identity=strange)
    one.figures["about"]["samples"]["settings"]["solver"] = "\ud800\nz"
    comparison = Comparison([one, entry("B", sw=(9, 1))])
    for suffix in (".tex", ".md"):
        write_table(tmp_path / f"t{suffix}", comparison)
        lines = (tmp_path / f"t{suffix}").read_text().splitlines()
        assert not any(line.startswith(("\\input", "z")) for line in lines)
    assert "\\ud800 z" in lines[2]


def test_files_are_whole_or_not_there(tmp_path, comparison, monkeypatch):
    path = tmp_path / "deep" / "t.csv"
    write_table(path, comparison)
    assert path.read_text() == FORMATS[".csv"](comparison)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_table(path, Comparison(comparison.entries[:2]))
    assert path.read_text() == FORMATS[".csv"](comparison)
    assert [file.name for file in path.parent.iterdir()] == ["t.csv"]


def test_a_verdict_in_words():
    assert str(Verdict("sw", "A", "B", "B")) == "B better than A by sw"
