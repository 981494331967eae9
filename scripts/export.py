"""Write the weights of a run as .safetensors: ``python scripts/export.py --run_id ID``; see ``--help``."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import args
from common.config import flags as cli
from common.runs import export_safetensors
from generate import find_and_load

NAMES = {"run_id", "version", "use_ema", "ema_decay", "output_dir", "dynamics", "plugin", *args.RELEASED_FLAGS}
FLAGS = {
    title: kept
    for title, flags in args.GENERATE_FLAGS.items()
    if (kept := tuple(flag for flag in flags if flag.name in NAMES))
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run export.py; returns the exit code."""
    with args.user_errors("export.py"):
        given = args.parse("export.py", "Write the weights of a run as .safetensors, config included.", FLAGS, argv)
        run = find_and_load({**cli.defaults(FLAGS), "pretrained": None, **given})
    print(f"weights   {export_safetensors(run)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
