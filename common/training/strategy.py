"""How several processes train one network together."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy, Strategy

from common.config.schema import Hardware

PATIENCE = timedelta(days=1)  # of a collective: the watch ends a training that has lost a process, long before


class Together(DDPStrategy):
    """DDP; its buffers are tables and counters, alike everywhere."""

    def __init__(self) -> None:
        super().__init__(broadcast_buffers=False, timeout=PATIENCE)


def strategy_of(hardware: Hardware, devices: int) -> str | Strategy:
    """DDP if there are several processes.

    Args:
        hardware: where a run computes.
        devices: number of devices of this node.
    """
    return Together() if devices * hardware.num_nodes > 1 else hardware.strategy
