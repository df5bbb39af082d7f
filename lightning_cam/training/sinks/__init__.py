"""Sinks, the places that results are written to: one class per logger."""

from lightning_cam.training.sinks import mlflow, tensorboard, wandb  # noqa: F401  (importing registers)
from lightning_cam.training.sinks.base import SINKS, RunInfo, Sink, register_sink, sink_of
from lightning_cam.training.sinks.files import FilesSink, directory_of
from lightning_cam.training.sinks.timeline import TimelineSink
from lightning_cam.training.sinks.worker import SinkWorker

__all__ = [
    "SINKS",
    "FilesSink",
    "RunInfo",
    "Sink",
    "SinkWorker",
    "TimelineSink",
    "directory_of",
    "register_sink",
    "sink_of",
]
