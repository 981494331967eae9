"""Run folders: naming, finding, reading. ``load`` gives back what was trained."""

import sys

from common.program import start_program

if sys.argv[:1] == ["-m"]:  # python -m common.runs: its __main__ comes after the following, which takes seconds
    start_program()

from common.runs.drawn import SampleFolder
from common.runs.export import ExportConfig, copy_to_sample, export_one_step, export_safetensors
from common.runs.folder import RunFolder, RunNotFound, find, run_folders
from common.runs.released import ReleasedName, parse_released_name
from common.runs.run import Run, load, load_folder, load_weights, read_prior
from common.runs.versions import Version, open_version

__all__ = [
    "ExportConfig",
    "ReleasedName",
    "Run",
    "RunFolder",
    "RunNotFound",
    "SampleFolder",
    "Version",
    "copy_to_sample",
    "export_one_step",
    "export_safetensors",
    "find",
    "load",
    "load_folder",
    "load_weights",
    "open_version",
    "parse_released_name",
    "read_prior",
    "run_folders",
]
