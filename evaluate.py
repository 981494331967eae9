"""Figures about samples: ``python evaluate.py --run_id ID``; see ``--help``."""

from collections.abc import Sequence

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common import stopping
from common.cluster.place import started_together
from common.config.parser import reporting
from common.config.plugins import import_plugins
from common.files import write_json
from common.generation.judged import EvaluateOrder, judged_by
from common.memory import give_back_large
from common.metrics import Evidence, evaluate
from common.metrics.config import CompareConfig
from common.metrics.figures import compared
from common.metrics.judged import about, together
from common.metrics.statistics import read_statistics, write_statistics


def main(argv: Sequence[str] | None = None) -> int:
    """Run evaluate.py; returns the exit code."""
    with reporting("evaluate.py", args.evaluate_flag_names):
        order = args.parse_evaluate(argv)
        stopping.begin_work()
        give_back_large()
        if isinstance(order, CompareConfig):
            if started_together().is_first:
                print("\n".join(compared(order)))
            return 0
        return run(order)


def prepare(plugins: Sequence[str]) -> None:
    """What other processes do before they draw: with this module they have filled the registers already."""
    import_plugins(plugins)


def run(order: EvaluateOrder) -> int:
    """Judge what a command line names; returns the exit code."""
    config = order.config
    statistics = read_statistics(config.reference) if config.reference and config.knows_moments_only else None
    judged = judged_by(order, prepare)
    evidence = Evidence(
        judged.drawn,
        judged.data,
        judged.extractor,
        reference=config.most_reference,
        part=config.part,
        beside=judged.beside,
        statistics=statistics,
    )
    if not started_together().is_first:
        evidence.share(real_alone=config.only_statistics)
        return 0
    for line in judged.told:
        print(line)
    if config.save_statistics:
        features = judged.extractor.features()
        write_statistics(config.save_statistics, evidence.real().moments, features.identity)
        print(f"features  {features.account}\nstatistics {config.save_statistics}")
        if config.only_statistics:
            return 0
    if config.paper:
        print(f"protocol  {config.protocol}; not in the paper, so our choice: {config.paper.ours}")
        if other := config.paper.departure(len(judged.drawn), evidence.part, evidence.count):
            print(f"note      {other}")
    figures = evaluate(evidence, order.metrics, per_class=config.per_class)
    write_json(judged.figures, together(judged.figures, figures, about(judged, evidence)))
    print(f"figures   {judged.figures}" + (f"\ngrid      {judged.grid}" if judged.grid else ""))
    return 0


if __name__ == "__main__":
    run_program(main, "stopped; the same command starts again")
