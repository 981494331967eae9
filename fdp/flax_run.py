"""From the averaged weights of a published checkpoint to an ordinary run folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config.build import build_denoiser, load_data
from common.config.flags import written
from common.config.resolve import Member, fit_to_data, resolve
from common.config.schema import RunConfig
from common.config.stored import write_config
from common.data.spec import DataSpec
from common.data.spoken_digits import LENGTH, SAMPLE_RATE, SpokenDigits
from common.denoiser import Denoiser
from common.files import save, save_safetensors, write_json
from common.refusal import Refusal
from common.runs.folder import FINAL, RunFolder
from common.runs.pretrained import ORIGIN
from common.runs.run import fit_weights
from common.runs.versions import AVERAGED
from common.sides import Sides
from fdp.dynamics import HeatSubVP
from fdp.flax_file import FlaxCheckpoint
from fdp.flax_names import NETWORK, NETWORKS, RATES, FlaxNetwork, Params
from fdp.presets import PRESETS

Values = Mapping[str, Any]

PROCESS = Member("heat", HeatSubVP, "dynamics", "dynamics_args")
OF_DATA = ("image_size", "length", "sample_rate", "data_dir")  # flags that say what a sample is
OF_NETWORKS = {network.kind: network for network in NETWORKS}
# what published weights were trained to: the clean sample, without labels, from the published start of sampling
PUBLISHED: dict[str, Any] = {"prediction": "auto", "conditioning": False, "prior": "zero", "paper": True}


def network_of(preset: str) -> Member:
    """The network of a preset of this family; a name that is not known is left for the parser to refuse."""
    name = PRESETS.get(preset, {}).get("model_name")
    kinds = {network.kind.__name__.lower(): network.kind for network in NETWORKS}
    kind = kinds.get(str(name), NETWORKS[0].kind)
    return Member(kind.__name__.lower(), kind, "model_name", "model_args")


@dataclass(frozen=True)
class Imported:
    """A published network in the place of one of ours.

    Attributes:
        config: what the run is.
        denoiser: its denoiser with the averaged weights, on the CPU.
        functions: mean function and spectrum of the data, if sampling starts from those.
        step: the optimiser step of the checkpoint.
    """

    config: RunConfig
    denoiser: Denoiser
    functions: dict[str, Tensor] | None
    step: int

    def write(self, place: Path, origin: Values) -> RunFolder:
        """Write the run folder.

        Args:
            place: where; must not exist, but its parent must. Who wants all or nothing renames it afterwards.
            origin: what origin.json shall say.
        """
        folder = RunFolder(place)
        place.mkdir()
        weights = folder.weights(AVERAGED, FINAL)
        with folder.manifest.renewing(weights, folder.prior, folder.config):
            save(weights, self.denoiser.backbone.state_dict())
            if self.functions:
                save_safetensors(folder.prior, self.functions, {"format": "pt"})
            write_json(place / ORIGIN, {**origin, "step": self.step})
            write_config(place, self.config)  # last: now it is a run
        return folder

    @property
    def notes(self) -> list[str]:
        """What the published code did that these weights need, and what that costs; one line each."""
        told = []
        network, adaptation = self.config.network.arguments, self.config.adaptation
        grid = self.config.sample.grid
        if network.get("paper"):
            if network["position"] == "sincos":
                told.append(
                    "--paper True: the table of positions is shifted by one patch and the last patch has none, as "
                    "these weights have learned it; it costs no time"
                )
            if len(grid) == 1:
                told.append(
                    "--paper True: the last convolution mixes the sounds of a batch, as published, so a sample depends "
                    "on those it is drawn with; --batch_size 1 draws as its authors did, at the cost of batches"
                )
        if adaptation and adaptation.arguments["paper"]:
            told.append(
                f"--paper True: learned rates double with each of the {adaptation.arguments['steps']} inner steps, as "
                "these weights have learned it; it costs no time, but every further step would be twice as long"
            )
        if not told:
            told.append("--paper has no effect on this network: it is the published one as it is")
        if self.config.model.prior == "zero":
            dynamics = self.denoiser.dynamics
            end = torch.full((1,), dynamics.horizon, dtype=torch.float64)
            left = float(dynamics.moments(end).scale.max())
            told.append(
                f"--prior zero: sampling starts as published, without the data's mean and spectrum, though up to "
                f"{left:.1%} of a frequency are left at t = 1; --prior data --data_dir DIR takes both from the data"
            )
        return told


def imported(checkpoint: FlaxCheckpoint, preset: str, given: Values, place: Path, name: str) -> Imported:
    """The run that a checkpoint makes.

    Args:
        checkpoint: its averaged weights.
        preset: a preset of this family, which says what the network and its process are.
        given: flags that win over the preset: those of its classes, and of what a sample is.
        place: the run folder that it will be.
        name: what messages call the checkpoint.

    Raises:
        Refusal: for another network than that of the preset, naming the flags that would describe it if there are
            such, or flags that contradict each other.
    """
    member = network_of(preset)
    network = OF_NETWORKS[member.kind]
    state, sizes = _understood(checkpoint.average, network, preset, name)
    config = resolve({**PRESETS[preset], **PUBLISHED}, given, PROCESS, member)
    config = replace(
        config, keeping=replace(config.keeping, wb_id=place.name.partition("_")[0], output_dir=place.parent)
    )
    config, functions = _fitted(config, sizes.pop("channels"), member)
    if inputs := sizes.pop("inputs", 0):  # coordinates, the time, and perhaps the values there
        sizes["y_input"] = inputs > len(config.sample.grid) + 1
    known = config.network.arguments | (config.adaptation.arguments if config.adaptation else {})
    if others := {flag: value for flag, value in sizes.items() if known.get(flag, False) != value}:
        flags = " ".join(f"--{flag} {written(value)}" for flag, value in others.items())
        raise Refusal(f"{name} holds another network than that of preset {preset}: add {flags}{network.unsaid}")
    denoiser = build_denoiser(config, functions)
    prefix = NETWORK if config.adaptation else ""
    state = {key if key.startswith(RATES) else prefix + key.removeprefix(NETWORK): x for key, x in state.items()}
    fit_weights(denoiser.backbone, state, Path(name))
    return Imported(config, denoiser.eval(), functions, checkpoint.step)


def _understood(
    average: Params, network: FlaxNetwork, preset: str, name: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Parameters under our names, and what their shapes say of the network.

    Raises:
        Refusal: if they are not those of such a network.
    """
    if not network.holds(average):
        other = next((one.title for one in NETWORKS if one.holds(average)), "")
        what = f"an {other}" if other == "INR" else f"a {other}" if other else f"something else ({min(average)}, ..)"
        raise Refusal(f"{name} holds {what}, but preset {preset} has the published {network.title}")
    try:
        return network.state_dict(average), network.sizes(average)
    except LookupError as error:
        raise Refusal(f"{name} is no whole {network.title}: it lacks {error}") from error
    except ValueError as error:
        raise Refusal(f"{name} is no whole {network.title}: {error}") from error


def _fitted(config: RunConfig, channels: int, member: Member) -> tuple[RunConfig, dict[str, Tensor] | None]:
    """The configuration with what a sample is, and mean function and spectrum of the data if they are wanted."""
    spec, functions = _spec(config, channels), None
    if config.model.prior == "data":
        from common.training.build import with_statistics  # only here: Lightning takes long to import

        dataset = load_data(config.data)
        if dataset.spec.shape != spec.shape:
            raise Refusal(
                f"{config.data.data_dir}: samples are {dataset.spec.shape}, those of the network {spec.shape}",
                "data_dir",
            )
        spec = dataset.spec.unlabelled()
        config = fit_to_data(config, spec, PROCESS.kind, member.kind)
        return with_statistics(config, dataset, RunFolder(Path()).prior.name)
    return fit_to_data(config, spec, PROCESS.kind, member.kind), functions


def _spec(config: RunConfig, channels: int) -> DataSpec:
    """What a sample is: the channels are those of the weights, the grid is that of the preset or of a flag."""
    data, sounds = config.data, config.data.data_name == SpokenDigits.name
    for flag, of_sounds in (("length", True), ("sample_rate", True), ("image_size", False)):
        if getattr(data, flag) is not None and of_sounds != sounds:
            raise Refusal(f"has no effect on {'recordings' if sounds else 'images'}; leave it out", flag)
    if data.data_dir and config.model.prior != "data":
        raise Refusal("has no effect without --prior data; add that, or leave it out", "data_dir")
    if sounds:
        length, rate = data.length or LENGTH, data.sample_rate or SAMPLE_RATE
        return DataSpec("sound", (channels, length), value_range=(-1.0, 1.0), sample_rate=rate)
    if data.image_size is None:
        raise Refusal("is needed: neither the file nor the preset says how large images are", "image_size")
    return DataSpec("image", (channels, *Sides.of(data.image_size)))
