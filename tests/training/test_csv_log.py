"""metrics.csv: appended line by line, kept across resumes, whole whenever it is read."""

import csv
from pathlib import Path

import pytest

from common.runs.log import read_metrics
from common.training.csv_log import CsvLog


def text(path: Path) -> list[str]:
    return path.read_text().splitlines()


def log(path: Path, *steps: int, resume_step: int = 0, **values: float) -> CsvLog:
    lines = CsvLog(path, resume_step)
    for step in steps:
        lines.log_metrics({"loss": step / 8, **values}, step)
    return lines


def test_lines_are_appended(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = CsvLog(path)
    for step in (5, 10, 15):
        lines.log_metrics({"loss": 1 / step, "lr": 0.5}, step)
        assert text(path)[-1].split(",")[0] == str(step)  # readable at once, not at the end
    assert text(path) == ["step,loss,lr", "5,0.2,0.5", "10,0.1,0.5", "15,0.066666667,0.5"]


def test_appending_does_not_rewrite_the_file(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = log(path, 1, 2)
    node = path.stat().st_ino
    lines.log_metrics({"loss": 3.0}, 3)
    assert path.stat().st_ino == node
    assert len(text(path)) == 4


def test_a_new_column_keeps_the_old_lines(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = log(path, 1, 2)
    lines.log_metrics({"loss": 0.5, "val": 7}, 3)
    lines.log_metrics({"loss": 0.25}, 4)
    assert text(path) == ["step,loss,val", "1,0.125,", "2,0.25,", "3,0.5,7", "4,0.25,"]


def test_values_of_one_step_share_a_line(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = log(path, 1, 2)
    lines.log_metrics({"val": 9.0}, 2)
    assert text(path) == ["step,loss,val", "1,0.125,", "2,0.25,9"]
    assert lines.rows == read_metrics(path)


def test_resume_cuts_what_lies_past_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, 2, 4, 6, 8)
    resumed = log(path, 6, 8, resume_step=5, lr=1.0)
    assert text(path) == ["step,loss,lr", "2,0.25,", "4,0.5,", "6,0.75,1", "8,1,1"]
    assert [row["step"] for row in resumed.rows] == [2, 4, 6, 8]


def test_resume_keeps_the_line_of_the_checkpoint_itself(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, 2, 4, 6)
    assert [row["step"] for row in CsvLog(path, resume_step=4).rows] == [2, 4]


def test_a_fresh_run_starts_a_new_file(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, 2, 4)
    log(path, 1)
    assert text(path) == ["step,loss", "1,0.125"]


def test_numbers_survive_the_round_trip(tmp_path):
    path = tmp_path / "metrics.csv"
    values = {"a": 1.2345678e-9, "b": 123456.78, "c": -0.1, "d": 3e20}
    CsvLog(path).log_metrics(values, 1234567)
    (row,) = read_metrics(path)
    assert row == pytest.approx({"step": 1234567, **values}, rel=1e-7)


@pytest.mark.parametrize(
    "tail",
    [
        "6",  # in the step
        "6,",
        "6,0.7",  # a column is missing
        "6,0.75,0.0",  # all columns, but the last number is cut: 0.0 for 0.001
        "6,0.75,1e-",  # no number
        "\0\0\0\0",  # what a power failure leaves on some file systems
        "",
    ],
)
def test_a_last_line_cut_short_is_ignored(tmp_path, tail):
    path = tmp_path / "metrics.csv"
    log(path, 2, 4, lr=0.001)
    path.write_text(path.read_text() + tail)
    assert [row["step"] for row in read_metrics(path)] == [2, 4]
    # going on writes a whole file again
    log(path, 6, resume_step=5, lr=0.001)
    assert text(path) == ["step,loss,lr", "2,0.25,0.001", "4,0.5,0.001", "6,0.75,0.001"]


def test_bytes_that_are_no_text_are_ignored(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, 2, 4, lr=0.001)
    path.write_bytes(path.read_bytes() + b"6,\xff\xfe,0.001\n")
    assert [row["step"] for row in read_metrics(path)] == [2, 4]


def test_nothing_is_read_where_nothing_is(tmp_path):
    assert read_metrics(tmp_path / "none.csv") == []
    (tmp_path / "empty.csv").touch()
    assert read_metrics(tmp_path / "empty.csv") == []


def test_the_file_is_plain_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    log(path, 2, 4, lr=0.001)
    with path.open(newline="") as file:
        assert [dict(row) for row in csv.DictReader(file)] == [
            {"step": "2", "loss": "0.25", "lr": "0.001"},
            {"step": "4", "loss": "0.5", "lr": "0.001"},
        ]
