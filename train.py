"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

import sys
from collections.abc import Sequence

import args
from common.config.parser import reporting


def main(argv: Sequence[str] | None = None) -> int:
    """Run train.py; returns the exit code."""
    with reporting("train.py", args.train_flag_names):
        order = args.parse_train(argv)
        if order is None:
            return 0
        from common.training.fitting import train  # here: Lightning takes long to import, and help does not need it

        return train(order)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped; nothing was lost'}", file=sys.stderr)
        raise SystemExit(130) from None
