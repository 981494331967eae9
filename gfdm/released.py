"""What a run of the published GFDM code was: its folder's name, the published defaults, and flags."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.backbones import UNet
from common.config.flags import Flag, flags_of
from common.config.resolve import Member, fit_to_data, resolve
from common.config.schema import DataConfig, RunConfig
from common.data import SOURCES
from common.data.spec import DataSpec
from common.refusal import Refusal
from common.runs import RunFolder, parse_released_name
from common.sides import Sides
from gfdm.dynamics import FVE, FVP
from gfdm.presets import FOR_DATA, PRESETS

PUBLISHED_CLASSES = 10  # the published code takes labels modulo 10, whatever the data
LARGEST_PUBLISHED_K = 3
PUBLISHED = "fvp"  # what folders were trained under, unless a flag says otherwise
PROCESSES: dict[str, type] = {PUBLISHED: FVP, "fve": FVE}

# what such a folder does not say: flags that describe it, by the class they belong to
OF_PROCESS = ("norm", "gamma_max", "marginals")
RELEASED_FLAGS = (*OF_PROCESS, "model_channels", "num_res_blocks", "attn_resolutions",
                  "channel_mult", "channels", "image_size", "num_classes", "conditioning")  # fmt: skip


def describing_flags() -> tuple[Flag, ...]:
    """Flags that say what such a folder does not; their defaults are the published values."""
    known = {flag.name: flag for kind in (DataConfig, UNet, FVP) for flag in flags_of(kind)}
    return tuple(
        replace(known[name], default=None, help=f"{known[name].help.partition(' (default')[0]} (default: as published)")
        for name in RELEASED_FLAGS
    )


def released_config(folder: RunFolder, given: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run folder of the published code.

    Args:
        folder: the run folder, ``{id}_{data_name}_H{hurst}_K{num_aug}``.
        given: flags that were given, out of ``RELEASED_FLAGS``, ``dynamics`` and ``match_noise``. With the last one
            those of the process are about another one, and the folder is what the published defaults say.

    Raises:
        Refusal: for a process that cannot be known (K >= 4), or data whose shape is neither published nor given.
    """
    named = parse_released_name(folder.name)
    if given.get("match_noise"):
        given = _without_process(folder, given)
    if named.num_aug > LARGEST_PUBLISHED_K:
        raise Refusal(
            f"{named.num_aug}: {folder.name} cannot be sampled from. The published code computed the weights omega "
            "of its K processes in float32 and did not keep them; from K = 4 on they are rounding noise, so the "
            "process that this network learned is not known",
            "num_aug",
        )
    values = {
        **PRESETS.get(FOR_DATA.get(named.data_name, ""), {}),
        "dynamics": PUBLISHED,
        "marginals": "paper",
        **{name: given[name] for name in (*RELEASED_FLAGS, "dynamics") if name in given},
        "data_name": named.data_name,
        "hurst": named.hurst,
        "num_aug": named.num_aug,
    }
    process = str(values["dynamics"])
    if process not in PROCESSES:
        raise Refusal(f"{process} is no process of the published code; it has {', '.join(PROCESSES)}", "dynamics")
    dynamics = Member(process, PROCESSES[process], "dynamics", "dynamics_args")
    network = Member("unet", UNet, "model_name", "model_args")
    config = resolve(values, {}, dynamics, network)
    config = replace(config, keeping=replace(config.keeping, wb_id=named.run_id, output_dir=folder.path.parent))
    spec = _spec(folder, config)
    config = replace(config, data=replace(config.data, channels=spec.channels))
    return fit_to_data(config, spec, dynamics.kind, network.kind)


def _without_process(folder: RunFolder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags that describe a folder, where those of the process are about the one to sample under.

    Raises:
        Refusal: for another process of the published code, which could be the one that the network was trained under.
    """
    name = given.get("dynamics", PUBLISHED)
    if name in PROCESSES and name != PUBLISHED:
        raise Refusal(
            f"{name} and --match_noise exclude each other: {folder.name} does not say that it was trained under "
            f"{PUBLISHED}; leave --dynamics out if it was, or match in Python (common.guidance.Matched)",
            "dynamics",
        )
    return {flag: value for flag, value in given.items() if flag not in ("dynamics", *OF_PROCESS)}


def _spec(folder: RunFolder, config: RunConfig) -> DataSpec:
    source = SOURCES.get(config.data.data_name)
    published = source.published_shape if source else None
    channels = config.data.channels or (published and published[0])
    size = config.data.image_size or (published and published[1])
    if not channels or not size:
        raise Refusal(f"and --image_size are needed: {folder.name} does not say what its images are", "channels")
    classes = range(config.data.num_classes or PUBLISHED_CLASSES)
    return DataSpec("image", (channels, *Sides.of(size)), classes=tuple(map(str, classes)))
