"""MLflow: pictures as time-stepped images of the run, scalars as metrics, the report as an artifact."""

import re
from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_cam.findings import as_markdown
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.base import RunInfo, Sink, register_sink


@register_sink("MLFlowLogger")
class MLFlowSink(Sink):
    """Writes through an `MLFlowLogger`, with its client's `log_image`.

    Args:
        logger: The trainer's logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        _ = logger.experiment  # what it imports, it imports here and not on the writing thread
        self._run_info: RunInfo | None = None

    def open(self, run: RunInfo) -> None:
        """Write the description as an artifact."""
        self._run_info = run
        self._logger.experiment.log_text(self._logger.run_id, run.text, f"{run.name}/about.md")

    def write(self, look: Look) -> None:
        """Write the pictures under their tags and the scalars, all at the step of the validation metrics."""
        client, run = self._logger.experiment, self._logger.run_id
        for tag, picture in look.pictures.items():
            client.log_image(run, to_pil_image(picture), key=_key(tag), step=look.step)
        self._logger.log_metrics({_key(tag): float(value) for tag, value in look.scalars.items()}, step=look.step)

    def write_found(self, found: FoundLook, picture: Tensor) -> None:
        """Write picture and numbers, and the sentences as an artifact."""
        assert self._run_info is not None  # opened before
        client, run, name = self._logger.experiment, self._logger.run_id, self._run_info.name
        client.log_image(run, to_pil_image(picture), key=_key(f"{name}/class_means"), step=found.step)
        self._logger.log_metrics({_key(tag): value for tag, value in found.scalars.items()}, step=found.step)
        client.log_text(run, as_markdown(found.findings), f"{name}/findings.md")

    def close(self) -> None:
        """Attach the report, where one was written."""
        run = self._run_info
        if run is not None and run.report is not None and run.report.exists():
            self._logger.experiment.log_artifact(self._logger.run_id, str(run.report), run.name)


def _key(tag: str) -> str:
    """MLflow allows no plus sign in names (`gradcam++`), and little else that names of classes may have."""
    return re.sub(r"[^\w./: -]", "_", tag.replace("+", "p"))
