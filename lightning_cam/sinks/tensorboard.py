"""TensorBoard: pictures as JPEG, scalars and a text card in the run's event file."""

import shutil
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from lightning_cam.look import Look
from lightning_cam.render import encode_jpeg
from lightning_cam.sinks.base import Introduction, Sink, register_sink

_RESERVE = 16 * 2**20  # bytes

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
        self._logger = logger

    def introduce(self, introduction: Introduction) -> None:
        """Write the text card."""
        about = introduction.text + _KEEP_ALL.format(logdir=self._logger.save_dir or "DIR")
        self._logger.experiment.add_text(f"{introduction.name}/about", about, 0)

    def write(self, look: Look) -> None:
        """Write one summary per tag, pictures and scalars at the same step, and flush."""
        writer = self._logger.experiment
        values = [Summary.Value(tag=tag, image=_image(picture)) for tag, picture in look.pictures.items()]
        values += [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in look.scalars.items()]
        summary = Summary(value=values)
        _check_space(writer.get_logdir(), summary.ByteSize())
        writer._get_file_writer().add_summary(summary, look.step)
        writer.flush()


def _check_space(folder: str, size: int) -> None:
    """Refuse to fill the disk: a failed write would break the event file for the trainer's own metrics, and the run."""
    if not Path(folder).is_dir():  # in the cloud
        return
    free = shutil.disk_usage(folder).free
    if free < size + _RESERVE:
        raise OSError(
            f"only {free / 2**20:.1f} MiB are free under {folder}, and {_RESERVE >> 20} MiB are left to others"
        )


def _image(picture: Tensor) -> Summary.Image:
    _, height, width = picture.shape
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encode_jpeg(picture))
