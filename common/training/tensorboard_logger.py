"""TensorBoard beside metrics.csv."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image

from common.refusal import Refusal


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, which also shows pictures."""

    def show_picture(self, name: str, path: Path, step: int) -> None:
        """Show a PNG."""
        self.experiment.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")


def tensorboard(folder: Path, run_name: str, config: dict[str, Any], project: str) -> list[Logger]:
    """Event files in ``folder/tensorboard``.

    Raises:
        Refusal: if the package is missing.
    """
    try:
        logger = TensorBoard(folder / "tensorboard", name="", version="", default_hp_metric=False)
        logger.experiment.add_text("config", f"```\n{json.dumps(config, indent=1, default=str)}\n```")
    except ImportError as error:
        raise Refusal("tensorboard needs a package that is missing: pip install tensorboard", "logger") from error
    return [logger]
