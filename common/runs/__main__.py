"""List the runs there are: ``python -m common.runs [--output_dir DIR] [--check True]``."""

import sys
from collections.abc import Sequence

from common import stopping
from common.config.flags import flags_of
from common.config.parser import flag_names, make_parser, reporting
from common.config.resolve import section
from common.program import run_program
from common.runs.listing import ListConfig, list_runs

PROGRAM = "python -m common.runs"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code: 1 if something was to be checked and is damaged."""
    groups = {"runs": flags_of(ListConfig)}
    with reporting(PROGRAM, lambda: flag_names(groups, ())):
        parser = make_parser(PROGRAM, "[flags]", "Lists runs: data, process, step, state, samples.", groups)
        config: ListConfig = section(ListConfig, vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))
        stopping.begin_work()
        lines, whole = list_runs(config)
        print("\n".join(lines))
        return 0 if whole or not config.check else 1


if __name__ == "__main__":
    run_program(main, "stopped")
