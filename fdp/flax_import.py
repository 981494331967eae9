"""Make a run of released weights: ``python -m fdp.flax_import checkpoint_N --preset fdp-celeba-uvit --out runs/ID``."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

from common import stopping
from common.config.flags import Checked, flags_of, path, run_name
from common.config.parser import Groups, flag_names, make_parser, peek, read_words, reporting, without_repeats
from common.config.resolve import ADAPTATION_FLAGS, section
from common.config.schema import DataConfig, ModelConfig
from common.files import sha256
from common.files.manifest import now
from common.meta import MetaLearned
from common.refusal import Refusal
from fdp.flax_file import read_checkpoint
from fdp.flax_run import OF_DATA, PROCESS, PUBLISHED, Imported, imported, network_of
from fdp.presets import PRESETS

PROGRAM = "python -m fdp.flax_import"
HELP = """Make an ordinary run of a checkpoint of the published FDP code (one file, checkpoint_N, that Flax wrote): its
averaged weights, under the process of a preset. It is sampled from by generate.py, and train.py --init_from starts from
it. Sizes that are not those of the preset are given by the flags below; a file that has others says which."""
CHECKPOINT = "checkpoint"
PRIOR = "start of sampling: zero is the published one; data adds the data's mean function and spectrum (--data_dir)"


@dataclass(frozen=True)
class ImportConfig(Checked):
    """What is imported, and where it goes.

    Attributes:
        checkpoint: the file, checkpoint_N
        preset: what the network and its process are
        out: the run folder, which is made, as in runs/faces; --run_id faces names it then
    """

    checkpoint: Path
    preset: Annotated[str, PRESETS]
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            run_name(self.out.name.partition("_")[0])
        except argparse.ArgumentTypeError as error:
            raise Refusal(f"must end in the name of a run: {error}", "out") from error
        if self.out.exists() or self.out.is_symlink():
            raise Refusal(f"{self.out} is there already; take another name, or move it away", "out")


def groups(preset: str) -> Groups:
    """Flags of the program, those of the classes of a preset among them."""
    of_data = {flag.name: flag for flag in flags_of(DataConfig)}
    prior = next(flag for flag in flags_of(ModelConfig, choices={"prior": ("zero", "data")}) if flag.name == "prior")
    found = {
        "what": tuple(flag for flag in flags_of(ImportConfig) if flag.name != CHECKPOINT),
        "what a sample is, if it is not what the preset says": tuple(of_data[name] for name in OF_DATA),
        "dynamics": PROCESS.flags,
        "network": network_of(preset).flags,
        "adaptation of the network to every sample": ADAPTATION_FLAGS,
        "start of sampling": (replace(prior, help=PRIOR),),
    }
    own = {**PRESETS.get(preset, {}), **PUBLISHED}  # defaults that are others here
    for title, flags_here in found.items():
        found[title] = tuple(replace(flag, default=own.get(flag.name, flag.default)) for flag in flags_here)
    return without_repeats(found)


def flags() -> dict[str, str]:
    """Names of arguments to flags of the program."""
    found: dict[str, str] = {}
    for preset in {network_of(preset).kind: preset for preset in PRESETS}.values():  # one of each network
        found |= flag_names(groups(preset), (ImportConfig, PROCESS.kind, network_of(preset).kind, MetaLearned))
    return found


def parsed(argv: Sequence[str] | None) -> tuple[ImportConfig, dict[str, Any]]:
    """What a command line imports, and the flags that win over the preset.

    Raises:
        Refusal: for a wrong one.
    """
    words = read_words(PROGRAM, argv)
    what = flags_of(ImportConfig)
    chosen = peek(words, tuple(flag for flag in what if flag.name == "preset"))
    if not chosen and not {"--help", "-h"} & {*words}:  # it decides which other flags there are
        raise Refusal("is required", "preset")
    usage = "checkpoint_N --preset NAME --out DIR [flags]"
    parser = make_parser(PROGRAM, usage, HELP, groups("".join(chosen.values())))
    parser.add_argument(CHECKPOINT, type=path, metavar="checkpoint_N", help="the file")
    found = vars(parser.parse_args(words))
    for flag in what:
        if flag.name not in found:
            raise Refusal("is required", flag.name)
    own = {flag.name for flag in what}
    return section(ImportConfig, found), {name: value for name, value in found.items() if name not in own}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    with reporting(PROGRAM, flags):
        config, given = parsed(argv)
        stopping.begin_work()
        run = read(config, given)
        run_folder = keep(run, config)
        print(f"weights   averaged, of step {run.step:,}: {len(run.denoiser.backbone.state_dict())} arrays")
        for note in run.notes:
            print(f"note      {note}")
        print(f"run       {run_folder}")
        return 0


def read(config: ImportConfig, given: dict[str, Any]) -> Imported:
    """The run that a checkpoint makes; nothing is written."""
    checkpoint = read_checkpoint(config.checkpoint)
    return imported(checkpoint, config.preset, given, config.out, str(config.checkpoint))


def keep(run: Imported, config: ImportConfig) -> Path:
    """Write the run folder: all of it, or nothing."""
    origin = {
        "file": config.checkpoint.name,
        "sha256": sha256(config.checkpoint),
        "date": now(),
        "preset": config.preset,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.out.parent, prefix=".import-") as temporary:
        run.write(Path(temporary) / config.out.name, origin).path.rename(config.out)
    return config.out


if __name__ == "__main__":
    run_program(main, "stopped; nothing was written")
