"""Whatever a file, folder or command line holds: a result, or a refusal in one line. Longer: python -m tests.fuzz."""

import pytest

from tests.fuzz.frame import Target, drawn, run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_there_is_a_result_or_one_refusal(target: Target, tmp_path):
    def judge(case: object) -> None:
        outcome = run(target, case, tmp_path / "case")
        assert not outcome.is_finding, f"{outcome.kind}\n{outcome.story}\n{case!r}"

    for case in target.seen:
        judge(case)
    drawn(target, target.quick, None, judge)
