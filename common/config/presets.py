"""Presets as a user sees them: a table of what each is for and what it takes, and one as a line to paste."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.config.flags import written
from common.table import table
from common.units import in_bytes, in_time

Presets = Mapping[str, Mapping[str, object]]
# flags that say what a preset is, and what they are without it
CHOICES = {"data_name": "any", "dynamics": "fvp", "hurst": "", "num_aug": "", "model_name": "unet"}
HEADER = ("preset", "data", "process", "H", "K", "network", "parameters", "memory", "time", "what for")


@dataclass(frozen=True)
class About:
    """What a preset is for, and what its training takes on two CPU cores (figures of ``benchmarks/presets.py``).

    Attributes:
        purpose: what for, in a few words.
        parameters: of the network, on the data of the preset.
        memory: most bytes of memory.
        seconds: time of the whole training.
    """

    purpose: str
    parameters: int
    memory: float
    seconds: float


def preset_table(presets: Presets, about: Mapping[str, About]) -> str:
    """Presets with what they are for and what they take, for --list_presets.

    Args:
        presets: values by name.
        about: what is known of them; a plugin's preset may be missing.
    """
    lines = table([HEADER, *(_row(name, values, about.get(name)) for name, values in presets.items())])
    return "\n".join(
        [
            *lines,
            "",
            "Memory and time are of two CPU cores, most of them estimated; --dry_run tells those of your machine.",
            "python train.py --preset NAME trains one, --show_preset NAME prints its flags.",
        ]
    )


def _row(name: str, values: Mapping[str, object], known: About | None) -> tuple[str, ...]:
    choices = (str(values.get(flag, default)) for flag, default in CHOICES.items())
    figures = ("", "", "", "")
    if known:
        figures = (f"{known.parameters:,}", in_bytes(known.memory), in_time(known.seconds), known.purpose)
    return (name, *choices, *figures)


def preset_line(values: Mapping[str, object]) -> str:
    """A command line with the values of a preset, to paste and change, for --show_preset."""
    return " ".join(["python train.py", *(f"--{flag} {written(value)}" for flag, value in values.items())])
