"""The sweep of laws against the exact reference: its cases, the table, and what it says of a law that is off."""

import inspect
import json

import pytest
import torch

from benchmarks import sweep_law
from benchmarks.sweep_law import BUILD, CORNERS, cases, main
from common.dynamics import EDM
from tests.dynamics import exact


def test_every_argument_is_moved_alone_and_in_pairs():
    found = list(cases("cld", 3, 0))
    assert found[0] == {}
    alone = [case for case in found[1:] if len(case) == 1]
    assert {name for case in alone for name in case} == CORNERS["cld"].keys()
    assert len([case for case in found if len(case) == 2]) == 3 * 4
    assert len([case for case in found if len(case) == 3]) == 3
    assert found == list(cases("cld", 3, 0))


@pytest.mark.parametrize("member", BUILD)
def test_arguments_are_those_of_the_constructor(member):
    for arguments in cases(member, 20, 1):
        inspect.signature(BUILD[member]).bind(**arguments)
        inspect.signature(exact.MEMBERS[member]).bind([], **arguments)


def test_table_and_file(tmp_path, capsys):
    out = tmp_path / "sweep.json"
    assert main(["--member", "edm", "--points", "2", "--times", "6", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "edm: 5 tried, 0 refused; 0 failed"
    assert lines[1].split()[0] == "scale"
    assert lines[-1] == "0 of 5 points above 1e-06 or failed"
    assert len(json.loads(out.read_text())) == 5


def test_what_is_refused_is_counted_by_argument(capsys):
    assert main(["--member", "ve", "--points", "0", "--times", "4"]) == 0
    assert ", 1 refused, sigma_min 1; 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["off", "nan", "raises"])
def test_a_law_that_is_off_is_found(fault, monkeypatch, capsys):
    class Faulty(EDM):
        def noise_level(self, t: torch.Tensor) -> torch.Tensor:
            return super().noise_level(t) + {"off": 1e-5, "nan": float("nan")}[fault]

        def admit(self) -> None:
            pass

    monkeypatch.setitem(sweep_law.BUILD, "edm", Faulty)
    monkeypatch.setitem(sweep_law.CORNERS, "edm", {})
    assert main(["--member", "edm", "--points", "1", "--times", "4"]) == 1
    out = capsys.readouterr().out
    assert "1 of 1 points above 1e-06 or failed" in out
    if fault == "raises":
        assert "1 failed" in out
        assert "KeyError" in out
