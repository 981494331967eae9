"""What a conditional task is: from flags to an operator."""

from abc import ABC, abstractmethod
from typing import ClassVar

from common.data.spec import DataSpec
from common.guidance.operators import Operator, check_adjoint

PROBE = DataSpec("image", (3, 8, 8))  # samples on which a task is tried when it is registered
PROBED = 2


class Task(ABC):
    """What is observed. The arguments of a constructor are flags of generate.py, each with a default.

    Attributes:
        probe: samples that suit it, on which its operator is tested when it is registered.
        noise_std: deviation of the noise of measurements if none is asked for, on the network's scale, so that 2 is
            the whole range of the data.
    """

    probe: ClassVar[DataSpec] = PROBE
    noise_std: ClassVar[float] = 0.0

    @abstractmethod
    def operator(self, spec: DataSpec, count: int) -> Operator:
        """The operator for so many inputs; that of input i depends on i and the arguments alone.

        Args:
            spec: what a sample is.
            count: number of inputs, should each have a mask of its own.

        Raises:
            Refusal: naming the argument, if it does not suit such samples.
        """


class Tasks(dict[str, type[Task]]):
    """The register: what is added has an operator whose adjoint is one.

    Those that it is made with are not tried, which would cost time at every start; the tests try them.

    Raises:
        ValueError: if it is not.
    """

    def __setitem__(self, name: str, task: type[Task]) -> None:
        check_adjoint(task().operator(task.probe, PROBED), task.probe.shape, PROBED)
        super().__setitem__(name, task)
