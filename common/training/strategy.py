"""How several processes train one network together."""

import atexit
import signal
from collections.abc import Callable
from datetime import timedelta
from subprocess import Popen
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from common.cluster.meeting import Meeting
from common.cluster.network import choose_interface
from common.cluster.place import SRUN, Place, place
from common.config.schema import Hardware
from common.stopping import CODE

PATIENCE = timedelta(days=1)  # of a collective: the watch ends a training that has lost a process, long before
Hook = Callable[[Any, Any], Future[Tensor]]  # from a group of processes and a bucket of gradients to their sum
COMPRESSION: dict[str, Hook | None] = {"none": None, "bf16": bf16_compress_hook}
CONNECTING = 60.0  # seconds until processes that have met reach one another


class Srun(SLURMEnvironment):
    """What srun says; whether that fits the flags was looked at (:func:`common.training.together.check_count`).

    Lightning's own takes no tasks but those of --ntasks-per-node, and every job for a shell that has salloc's name.
    """

    @staticmethod
    def _validate_srun_variables() -> None:
        """That number is told by others."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """That was done."""


def environments(meeting: Meeting | None) -> list[ClusterEnvironment]:
    """What Lightning is to be told of the processes; it finds out about all others by itself.

    Args:
        meeting: theirs.
    """
    return [Srun()] if meeting is not None and meeting.here.launcher == SRUN else []


class Launcher(_SubprocessScriptLauncher):
    """Starts further processes; the watch looks after them, where Lightning would kill all, this process included.

    Args:
        strategy: whose processes they are.
        meeting: where they meet.
    """

    def __init__(self, strategy: "Together", meeting: Meeting) -> None:
        assert strategy.cluster_environment is not None
        super().__init__(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)
        self.meeting = meeting
        self.children: list[Popen[bytes]] = []

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        self.children, self.procs = self.procs, []  # Lightning's own observer looks after nobody

    def kill(self, signum: int | signal.Signals) -> None:
        """End them, as a stop at once does."""
        self.meeting.end(CODE, "was stopped")
        for child in self.children:
            child.send_signal(signum)


class Together(DDPStrategy):
    """DDP whose processes have met; its buffers are tables and counters, alike everywhere.

    Args:
        meeting: theirs; those that Lightning starts meet when all were started.
        static_graph: whether DDP is told that all steps use the same weights in the same order.
        compress: makes of gradients what goes from process to process; None leaves them as they are.
    """

    def __init__(self, meeting: Meeting, static_graph: bool = False, compress: Hook | None = None) -> None:
        # gradients lie where they are exchanged from: the same numbers, in half the memory
        super().__init__(
            broadcast_buffers=False, timeout=PATIENCE, gradient_as_bucket_view=True, static_graph=static_graph
        )
        self.meeting, self.compress = meeting, compress

    def _configure_launcher(self) -> None:
        self._launcher = Launcher(self, self.meeting)

    def _register_ddp_hooks(self) -> None:
        """Lightning registers hooks on GPUs alone; gloo takes them, too."""
        if self.compress is not None:
            assert isinstance(self.model, DistributedDataParallel)
            self.model.register_comm_hook(None, self.compress)

    def setup_environment(self) -> None:
        """Meet, if that was not done, then build the process group."""
        launcher, environment = self._launcher, self.cluster_environment
        self.meeting.open(place(nodes=self.num_nodes), launcher.children if isinstance(launcher, Launcher) else ())
        self.meeting.agree()  # all are here: what follows takes no time
        if environment is not None and self.meeting.far:
            choose_interface(self.meeting.far, environment.main_port)
        why = (
            f"the processes have met, but do not reach one another within {CONNECTING:g} s: let $GLOO_SOCKET_IFNAME "
            "(on GPUs $NCCL_SOCKET_IFNAME) name the network interface that leads to the other machines"
        )
        with self.meeting.limited(CONNECTING, why):
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Build the process group, which Lightning then finds there."""
        self.set_world_ranks()
        device = self.root_device
        group = self._get_process_group_backend()
        dist.init_process_group(
            group,
            store=self.meeting.store(),
            rank=self.global_rank,
            world_size=self.world_size,
            timeout=PATIENCE,
            device_id=None if device.type == "cpu" else device,
        )
        if group == dist.Backend.NCCL:
            atexit.register(leave)  # else torch complains at the exit
        super().setup_distributed()


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def strategy_of(hardware: Hardware, devices: int, meeting: Meeting | None = None) -> str | Strategy:
    """DDP if there are several processes.

    Args:
        hardware: where a run computes.
        devices: number of devices of this node.
        meeting: where they meet; None for one of their own.
    """
    if devices * hardware.num_nodes == 1:
        return hardware.strategy
    compress = COMPRESSION[hardware.gradient_compression]
    return Together(meeting or Meeting(Place(), seconds=hardware.join_timeout), hardware.static_graph, compress)
