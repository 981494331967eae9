"""What is imported at the start of every program brings no large library with it."""

import subprocess
import sys

LARGE = ("lightning", "torchvision", "torchmetrics", "sklearn", "scipy", "matplotlib", "wandb", "PIL", "gdown")
LIGHT = ("common.data", "common.media.pictures", "common.media.audio", "common.metrics")


def test_nothing_large_is_imported_before_it_is_used():
    code = f"import sys, {', '.join(LIGHT)}; print([name for name in {LARGE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
