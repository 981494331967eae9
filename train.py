"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common.config.parser import refusing, reporting
from common.training.sweep.flags import asks_for_a_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Run train.py; returns the exit code."""
    with reporting("train.py", args.train_flag_names):
        return _train(argv)


def train(words: str | Sequence[object]) -> int:
    """Do what a command line of train.py asks for, from Python: a notebook, or a script of one's own.

    Signals are taken for the steps of the training only, and not at all in a thread: there ``--max_time`` stops it.

    Args:
        words: what would stand behind ``train.py``: a text, as in a shell, or its words, numbers and paths among them.

    Returns:
        0 if all was done or time was up, 130 if it was stopped by a signal and can go on, 1 if the loss became NaN or
        infinite, or a part of a sweep failed, 2 if it came to an end for want of memory or disk; what to do is said.

    Raises:
        Refusal: for what can be mended; the message names the flag.
        KeyboardInterrupt: if it was stopped at once, saying whether something is lost.
    """
    argv = shlex.split(words) if isinstance(words, str) else list(map(str, words))
    with refusing(args.train_flag_names):
        try:
            return _train(argv)
        except SystemExit as end:
            if end.code:
                raise
            return 0  # --help or --version was shown


def _train(argv: Sequence[str] | None) -> int:
    if asks_for_a_sweep(sys.argv[1:] if argv is None else argv):
        from common.training.sweep import order, running  # here: as below

        asked = order.ordered(argv, args.parse_train, args.train_flag_names())
        return running.sweep(asked, Path(__file__).resolve())
    found = args.parse_train(argv)
    if found is None:
        return 0
    from common.training import fitting  # here: Lightning takes long to import, and help does not need it

    return fitting.train(found)


if __name__ == "__main__":
    run_program(main, "stopped; nothing was lost")
