"""Places that results go to: one class per logger."""

from lightning_cam.sinks import tensorboard  # noqa: F401  (importing registers)
from lightning_cam.sinks.base import SINKS, Introduction, Sink, register_sink, sink_of
from lightning_cam.sinks.worker import SinkWorker

__all__ = ["SINKS", "Introduction", "Sink", "SinkWorker", "register_sink", "sink_of"]
