"""Conditional tasks by name, one per file. A plugin may add to the register; the adjoint of what it adds is tested."""

from common.guidance.tasks.bandwidth import Bandwidth
from common.guidance.tasks.base import Task, Tasks
from common.guidance.tasks.colorize import Colorize
from common.guidance.tasks.deblur import Deblur
from common.guidance.tasks.inpaint import Inpaint
from common.guidance.tasks.sense import Sense
from common.guidance.tasks.super_resolution import SuperResolution

TASKS = Tasks(
    {
        "inpaint": Inpaint,
        "deblur": Deblur,
        "colorize": Colorize,
        "super_resolution": SuperResolution,
        "sense": Sense,
        "bandwidth": Bandwidth,
    }
)

__all__ = ["TASKS", "Task", "Tasks"]
