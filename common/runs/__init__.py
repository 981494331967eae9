"""Run folders: naming, finding, reading. ``load`` gives back what was trained."""

from common.runs.run import *  # noqa: F403
