"""The frame of the fuzzing: one case is run, measured and judged; many are drawn by hypothesis and counted.

A case is plain data (bytes, texts, tuples, dicts), so that one that went wrong is kept as the text that Python reads.
The only good outcomes are a result and a refusal in one line; a target that knows the right value asserts it.
"""

import contextlib
import gc
import io
import os
import resource
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from common.refusal import Refusal

SECONDS, BYTES = 10, 2**30  # beyond which a case is a finding
LONGEST = 4000  # letters of a line that a user reads
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESULT, REFUSAL = "result", "refusal"


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        name: what the table calls it.
        cases: how cases are made.
        use: does with a case, in an empty working folder, what the program does; asserts what it knows to be right.
        quick: cases of a short run.
        share: cases of a long run, as a multiple of what is asked for in all.
        seen: cases that were findings once, which are mended.
    """

    name: str
    cases: SearchStrategy[Any]
    use: Callable[[Any], object]
    quick: int = 120
    share: float = 1.0
    seen: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        kind: ``result``, ``refusal``, or the finding: where an error was raised and what it says.
        seconds: it took.
        memory: bytes that it took on top of what the process had.
        story: the whole traceback of a finding.
    """

    kind: str
    seconds: float
    memory: int
    story: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in (RESULT, REFUSAL)


class Wrong(AssertionError):
    """A wrong value, or a message that is not one line."""


def require(ok: bool, problem: str) -> None:
    if not ok:
        raise Wrong(problem)


def judged(use: Callable[[], object]) -> str:
    """``result`` or ``refusal``.

    Raises:
        Exception: whatever else happens.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            use()
    except Refusal as refusal:
        line = refusal.line({})
        require(bool(line) and line.isprintable() and len(line) <= LONGEST, f"no line to read: {line[:200]!r}")
        return REFUSAL
    except SystemExit as stop:
        if stop.code in (0, None):
            return RESULT
        lines = printed.getvalue().splitlines()
        told = [line for line in lines if ": error: " in line]
        require(stop.code == 2 and len(told) == 1 and lines[-1] == told[0], f"exit {stop.code} with {lines!r}"[:500])
        return REFUSAL
    return RESULT


def run(target: Target, case: Any, folder: Path) -> Outcome:
    """Run a case in a folder, which is empty before and afterwards."""
    folder.mkdir()
    before, variables = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    start, had, story = time.perf_counter(), memory(anew=True), ""
    try:
        kind = judged(lambda: target.use(case))
    except Exception as error:
        last = [call for call in traceback.extract_tb(error.__traceback__) if call.name != require.__name__][-1]
        kind = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:160]}"
        story = traceback.format_exc()
    finally:
        seconds, taken = time.perf_counter() - start, memory() - had
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
        shutil.rmtree(folder)
    if not story and seconds > SECONDS:
        kind = f"took more than {SECONDS} s ({kind})"
    if not story and taken > BYTES:
        kind = f"took more than {BYTES / 2**30:g} GB ({kind})"
    return Outcome(kind, seconds, taken, story)


def memory(*, anew: bool = False) -> int:
    """Most bytes that the process had since it was asked anew; what it has, then."""
    if not CLEAR.exists():  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if anew:
        CLEAR.write_text("5")
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


@dataclass
class Tally:
    """What became of the cases of a target."""

    cases: int = 0
    results: int = 0
    refusals: int = 0
    slowest: float = 0.0
    memory: int = 0
    findings: dict[str, Any] = field(default_factory=dict)  # the first case of each kind

    def add(self, case: Any, outcome: Outcome) -> bool:
        """Count a case; whether it is a finding of a new kind."""
        self.cases += 1
        self.results += outcome.kind == RESULT
        self.refusals += outcome.kind == REFUSAL
        self.slowest, self.memory = max(self.slowest, outcome.seconds), max(self.memory, outcome.memory)
        place = outcome.kind.partition(": ")[0]
        is_new = outcome.is_finding and place not in self.findings
        if is_new:
            self.findings[place] = case
        return is_new


def drawn(target: Target, count: int, number: int | None, use: Callable[[Any], None]) -> None:
    """Give ``count`` cases to a function: the same ones always without a number to start from."""

    @settings(
        max_examples=count,
        derandomize=number is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # nothing is shrunk: a case is kept as it came
    )
    @given(target.cases)
    def each(case: Any) -> None:
        use(case)

    (each if number is None else seed(number)(each))()


@contextlib.contextmanager
def limited(more: int) -> Iterator[None]:
    """The process may take so many bytes more of address space inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()
    now = next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
