"""Members that are not begun, looked at as far as it goes without training: data, shapes, process, network."""

from collections.abc import Iterable

import torch

from common.config.build import build_dynamics, check_device, load_data
from common.config.plugins import class_of
from common.config.rehearsal import rehearse
from common.config.resolve import fit_to_data
from common.config.schema import Chosen, DataConfig
from common.data.spec import DataSpec
from common.refusal import Refusal, require
from common.seeding import SEEDS
from common.training.batches import shared_out
from common.training.judging import check_judging
from common.training.starting import start_folder, weights_file
from common.training.sweep.flags import FLAG
from common.training.sweep.order import SweepMember, SweepOrder, shown
from common.training.trainer import process_count


class Checks:
    """Checks of members; what two of them have in common is looked at once."""

    def __init__(self) -> None:
        self._data: list[tuple[DataConfig, DataSpec]] = []
        self._networks: list[Chosen] = []
        self._processes: list[Chosen] = []

    def spec(self, config: DataConfig) -> DataSpec:
        """What a sample is; data is fetched here if that was asked for, so that members do not do it at once."""
        for known, spec in self._data:
            if known == config:
                return spec
        self._data.append((config, load_data(config).spec))
        return self._data[-1][1]

    def check(self, member: SweepMember) -> None:
        """Refuse a member that could not begin.

        Raises:
            Refusal: for what a training would refuse before its first step.
        """
        config = member.config
        device: torch.device = check_device(config.hardware.device)
        require(config.recipe.seed < SEEDS, "seed", f"at most {SEEDS - 1}", config.recipe.seed)
        check_judging(config, member.order.given)
        if config.hardware.precision == "16-mixed" and device.type == "cpu":
            raise Refusal("16-mixed needs CUDA; on a CPU use --precision bf16-mixed or 32-true", "precision")
        shared_out(config, process_count(config.hardware, device), member.order.given)
        source = config.recipe.init_from
        if source is not None and weights_file(source, config.keeping.output_dir) is None:
            start_folder(source, config.keeping.output_dir)
        fitted = fit_to_data(config, self.spec(config.data), class_of(config.dynamics), class_of(config.network))
        if fitted.dynamics not in self._processes:
            build_dynamics(fitted)
            self._processes.append(fitted.dynamics)
        if fitted.network not in self._networks:
            rehearse(fitted, None)
            self._networks.append(fitted.network)


def check_members(order: SweepOrder, members: Iterable[SweepMember]) -> None:
    """Refuse a sweep in which a member could not begin.

    Raises:
        Refusal: saying which one, and why; for data that all have in common, only why.
    """
    checks = Checks()
    swept = {axis.flag for axis in order.axes}
    for i, member in enumerate(members):
        try:
            checks.check(member)
        except Refusal as error:
            if i == 0 and error.argument is not None and order.known.get(error.argument) not in swept:
                raise
            raise Refusal(f"{shown(order.axes, member.values)}: {error.line(order.known)}", FLAG) from error
