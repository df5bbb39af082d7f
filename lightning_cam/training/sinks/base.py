"""The base class of sinks, and which sink serves which logger."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.look import Look
from lightning_cam.training.run_info import RunInfo


class Sink(ABC):
    """A place that looks are written to. All methods are called on one worker thread, with tensors on the CPU."""

    @abstractmethod
    def open(self, run: RunInfo) -> None:
        """Describe once, before the first look, what will be shown."""

    @abstractmethod
    def write(self, look: Look) -> None:
        """Write one look so that it survives if the process is killed."""

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:  # noqa: B027  (loggers have got them)
        """Write what the user's model logged in the validation of a look.

        Args:
            step: Step of the look, which is written first. A skipped look has metrics, too.
            metrics: Values by name, such as `val_acc`.
        """

    def write_found(self, found: FoundLook, picture: Tensor) -> None:  # noqa: B027  (some show looks alone)
        """Write the findings of the cohort, after the look of their step.

        Args:
            found: Sentences and numbers.
            picture: (3, H, W) uint8, the mean maps of the classes over the looks.
        """

    def close(self) -> None:  # noqa: B027  (most sinks open nothing)
        """Close what was opened. Loggers belong to the trainer and stay open."""


SINKS: dict[str, Callable[[Any], Sink]] = {}
S = TypeVar("S", bound=Callable[[Any], Sink])


def register_sink(logger_class: str) -> Callable[[S], S]:
    """Register a sink for loggers of this class name, of Lightning or of pytorch_lightning, and their subclasses.

    Args:
        logger_class: Name of the class, such as `TensorBoardLogger`. The sink is called with the logger.
    """

    def register(sink: S) -> S:
        SINKS[logger_class] = sink
        return sink

    return register


def sink_of(logger: Any) -> Sink | None:
    """Return a sink for a logger, or None if there is none for its class."""
    # By name: the loggers of lightning and pytorch_lightning are different classes, and some need not be installed.
    for cls in type(logger).__mro__:
        if cls.__name__ in SINKS:
            return SINKS[cls.__name__](logger)
    return None
