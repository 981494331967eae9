"""The table and the picture of judged sets."""

import json
from pathlib import Path

from benchmarks import quality_evaluations


def judged(folder: Path, name: str, evaluations: int | None, sw: float | None) -> None:
    settings = {"solver": "ab3", "grid": "data"} if name.startswith("ab3") else {"solver": "em"}
    about = {"samples": {"settings": settings, "evaluations": evaluations}}
    figures = {"samples": 4, "sw": sw, "sw_real": 0.004, "about": about}
    if sw is not None:
        figures |= {"sw_low": sw - 0.001, "sw_high": sw + 0.001, "agreement": 0.9}
    (folder / name).mkdir(parents=True)
    (folder / name / "metrics.json").write_text(json.dumps(figures))


def test_sets_stand_by_solver_and_evaluations(tmp_path, capsys):
    folder = tmp_path / "one_digits_H0.9_K2" / "generated_data" / "model-final"
    (tmp_path / "one_digits_H0.9_K2" / "model").mkdir(parents=True)
    (tmp_path / "one_digits_H0.9_K2" / "config.json").write_text("{}")
    for name, evaluations, sw in (("sde9", 9, 0.02), ("ab3-7", 7, 0.01), ("ab3-5", 5, None), ("dopri5", None, 0.03)):
        judged(folder, name, evaluations, sw)
    words = ["--run_id", "one", "--runs_dir", str(tmp_path), "--figures", "sw", "agreement"]
    assert quality_evaluations.main([*words, "--out", str(tmp_path / "sw.png")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:4] == [
        ["5", "ab3", "on", "data", "4", "-", "-"],
        ["7", "ab3", "on", "data", "4", "0.01", "(0.009", "to", "0.011)", "0.9"],
        ["9", "em", "4", "0.02", "(0.019", "to", "0.021)", "0.9"],
    ]
    assert (tmp_path / "sw.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_judged_is_told(tmp_path, capsys):
    (tmp_path / "one_digits_H0.9_K2" / "model").mkdir(parents=True)
    (tmp_path / "one_digits_H0.9_K2" / "config.json").write_text("{}")
    try:
        code = quality_evaluations.main(["--run_id", "one", "--runs_dir", str(tmp_path)])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert "no samples that evaluate.py has judged" in capsys.readouterr().err
