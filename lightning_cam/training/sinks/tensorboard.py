"""TensorBoard: pictures as JPEG, scalars and a text card in the run's event file."""

from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from lightning_cam.findings import as_markdown
from lightning_cam.model.private import add_summary
from lightning_cam.render import encode_jpeg
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.base import RunInfo, Sink, register_sink
from lightning_cam.training.sinks.disk import leave_room

_KEEP_ALL = """
TensorBoard keeps ten random steps of each picture. To keep all, start it with
`tensorboard --logdir {logdir} --samples_per_plugin images=1000`.
"""


@register_sink("TensorBoardLogger")
class TensorBoardSink(Sink):
    """Writes to the event file of a `TensorBoardLogger`.

    `SummaryWriter.add_image` would encode PNG, which for an overlay grid takes twenty times as long and six times
    the space.

    Args:
        logger: The trainer's logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger, self._name = logger, "cam"
        _ = logger.experiment  # what it imports, it imports here and not on the writing thread

    def open(self, run: RunInfo) -> None:
        """Write the text card."""
        self._name = run.name
        about = run.text + _KEEP_ALL.format(logdir=self._logger.root_dir or "DIR")
        self._logger.experiment.add_text(f"{run.name}/about", about, 0)

    def write(self, look: Look) -> None:
        """Write one summary per tag, pictures and scalars at the same step, and flush."""
        writer = self._logger.experiment
        values = [Summary.Value(tag=tag, image=_image(picture)) for tag, picture in look.pictures.items()]
        values += [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in look.scalars.items()]
        summary = Summary(value=values)
        leave_room(writer.get_logdir(), summary.ByteSize())
        add_summary(writer, summary, look.step)
        writer.flush()

    def write_found(self, found: FoundLook, picture: Tensor) -> None:
        """Write the text card, the numbers and the picture of the mean maps."""
        writer = self._logger.experiment
        values = [Summary.Value(tag=f"{self._name}/class_means", image=_image(picture))]
        values += [Summary.Value(tag=tag, simple_value=value) for tag, value in found.scalars.items()]
        summary = Summary(value=values)
        leave_room(writer.get_logdir(), summary.ByteSize())
        add_summary(writer, summary, found.step)
        writer.add_text(f"{self._name}/findings", as_markdown(found.findings), found.step)
        writer.flush()


def _image(picture: Tensor) -> Summary.Image:
    _, height, width = picture.shape
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encode_jpeg(picture))
