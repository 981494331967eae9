"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

from collections.abc import Sequence

import args
from common.config.parser import complain, reporting


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
    except KeyboardInterrupt:
        complain("train.py", "interrupted before anything could be saved since the last checkpoint")
        raise SystemExit(130) from None
