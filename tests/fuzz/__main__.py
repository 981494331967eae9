"""By hand: ``python -m tests.fuzz --cases 50000 --seed 0``; a finding again: ``python -m tests.fuzz --replay FILE``."""

import argparse
import ast
import faulthandler
import tempfile
from pathlib import Path

from tqdm import tqdm

from tests.fuzz.frame import Outcome, Tally, Target, drawn, limited, run
from tests.fuzz.targets import TARGETS

MEMORY = 4 * 2**30  # bytes of address space that a case may take


def main() -> int:
    """Fuzz; 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=50_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of targets, separated by commas (default: all)")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder that keeps their cases")
    parser.add_argument("--replay", type=Path, help="run this kept case again")
    given = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as place, limited(MEMORY):
        folder = Path(place) / "case"
        if given.replay:
            target = next(one for one in TARGETS if given.replay.name.startswith(f"{one.name}-"))
            outcome = run(target, ast.literal_eval(given.replay.read_text()), folder)
            print(f"{outcome.kind}, {outcome.seconds:.2f} s, {outcome.memory / 2**20:.0f} MB\n{outcome.story}")
            return int(outcome.is_finding)
        chosen = [one for one in TARGETS if not given.only or one.name in given.only.split(",")]
        unit = given.cases / sum(one.share for one in chosen)
        given.findings.mkdir(exist_ok=True)
        tallies = {one.name: fuzz(one, round(unit * one.share), given.seed, folder, given.findings) for one in chosen}
    print(table(tallies))
    return int(any(tally.findings for tally in tallies.values()))


def fuzz(target: Target, count: int, number: int, folder: Path, findings: Path) -> Tally:
    """Run many cases of a target; each new kind of finding is kept."""
    tally = Tally()
    running = findings / f"{target.name}-running.txt"  # stays if the process dies

    def keep(case: object, outcome: Outcome) -> None:
        name = f"{target.name}-{len(tally.findings)}"
        (findings / f"{name}.txt").write_text(repr(case))
        (findings / f"{name}.log").write_text(f"{outcome.kind}\n\n{outcome.story}")
        tqdm.write(f"{name}: {outcome.kind}")

    with tqdm(total=count, desc=target.name, unit=" cases") as bar:

        def one(case: object) -> None:
            running.write_text(repr(case))
            outcome = run(target, case, folder)
            if tally.add(case, outcome):
                keep(case, outcome)
            bar.update()

        drawn(target, count, number, one)
    running.unlink()
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """What became of the cases, as a table in Markdown."""
    lines = [
        "| target | cases | results | refusals | kinds of findings | slowest (s) | most memory (MB) |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, tally in tallies.items():
        lines.append(
            f"| {name} | {tally.cases:,} | {tally.results:,} | {tally.refusals:,} | {len(tally.findings)} "
            f"| {tally.slowest:.2f} | {tally.memory / 2**20:.0f} |"
        )
    total = [sum(getattr(tally, what) for tally in tallies.values()) for what in ("cases", "results", "refusals")]
    found = sum(len(tally.findings) for tally in tallies.values())
    lines.append(f"| all | {total[0]:,} | {total[1]:,} | {total[2]:,} | {found} | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
