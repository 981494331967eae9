"""Colours of a grey image."""

from common.data.spec import DataSpec
from common.guidance.operators import Grey, Operator
from common.guidance.tasks.base import Task
from common.refusal import Refusal

COLOURS = 3


class Colorize(Task):
    """The grey image of a colour one is observed."""

    def operator(self, spec: DataSpec, count: int) -> Operator:
        if not spec.is_image or spec.channels != COLOURS:
            held = "grey" if spec.is_image and spec.channels == 1 else f"{spec.kind}s of {spec.channels} channel(s)"
            raise Refusal(f"colorize needs images in {COLOURS} colours, and samples of this run are {held}", "task")
        return Grey()
