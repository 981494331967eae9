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
from common.config.parser import reporting
from common.generation.opening import open_run
from common.runs import copy_to_sample, export_safetensors


def main(argv: Sequence[str] | None = None) -> int:
    """Run export.py; returns the exit code."""
    with reporting("export.py", args.export_flag_names):
        order, config = args.parse_export(argv)
        stopping.begin_work()
        run = open_run(order.opening, order.describe, order.describing)
        for remark in run.remarks:
            print(f"note      {remark}")
        print(f"weights   {run.account}")
        if config.copy_to is None:
            print(f"exported  {export_safetensors(run, half=config.half)}")
        else:
            print(f"run       {copy_to_sample(run, config.copy_to, half=config.half).path}")
        return 0


if __name__ == "__main__":
    run_program(main, "stopped; the same command starts again")
