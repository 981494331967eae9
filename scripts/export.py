"""Export a run: its weights, or a copy to sample from: ``python scripts/export.py --run_id ID``; see ``--help``."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common import stopping
from common.config.parser import Groups, flag_names, make_parser, parse, read_words, reporting
from common.config.resolve import section
from common.generation.config import GenerateOrder, SampleConfig
from common.generation.opening import open_run
from common.runs import ExportConfig, copy_to_sample
from common.runs.export import FORMATS

HELP = "Write the weights of a run as .safetensors, a tuned run as a program of one call, or a copy to sample from."


def groups() -> Groups:
    """Flags of export.py."""
    kept = {title: flags for title, flags in args.generate_groups(()).items() if title != args.DRAWING}
    return {"how": args.section_flags(ExportConfig), **kept}


def flags() -> dict[str, str]:
    """Names of arguments to flags of export.py."""
    return args.generate_flag_names() | flag_names(groups(), (ExportConfig,))


def parsed(argv: Sequence[str] | None) -> tuple[GenerateOrder, ExportConfig]:
    """Which weights a command line of export.py names, and how; how samples are drawn stays at its defaults."""
    words = read_words("export.py", argv)
    values = parse(make_parser("export.py", "--run_id ID [flags]", HELP, groups()), words, ())
    return args.generate_order(values, SampleConfig()), section(ExportConfig, values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run export.py; returns the exit code."""
    with reporting("export.py", flags):
        order, config = parsed(argv)
        stopping.begin_work()
        run = open_run(order.opening, order.describe, order.describing)
        for remark in run.remarks:
            print(f"note      {remark}")
        print(f"weights   {run.account}")
        if config.copy_to is None:
            print(f"exported  {FORMATS[config.format](run, half=config.half)}")
        else:
            print(f"run       {copy_to_sample(run, config.copy_to, half=config.half).path}")
        return 0


if __name__ == "__main__":
    run_program(main, "stopped; the same command starts again")
