"""List the runs there are: ``python -m common.runs [--output_dir DIR] [--check True]``."""

import sys
from collections.abc import Sequence

from common.config.flags import flags_of
from common.config.parser import flag_names, make_parser, reporting
from common.config.resolve import section
from common.program import run_program, start_program
from common.runs.listing import ListConfig, list_runs

PROGRAM = "python -m common.runs"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    groups = {"runs": flags_of(ListConfig)}
    with reporting(PROGRAM, lambda: flag_names(groups, ())):
        parser = make_parser(PROGRAM, "[flags]", "Lists runs: data, process, step, state, samples.", groups)
        config: ListConfig = section(ListConfig, vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))
        print("\n".join(list_runs(config)))
        return 0


if __name__ == "__main__":
    start_program()
    run_program(main, "stopped")
