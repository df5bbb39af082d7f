"""Weights & Biases: pictures as media of the run, scalars in its history, the report as an artifact."""

from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_cam.findings import as_markdown
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.base import RunInfo, Sink, register_sink


@register_sink("WandbLogger")
class WandbSink(Sink):
    """Writes through a `WandbLogger`, with `log_image` and the logger's own step.

    Args:
        logger: The trainer's logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        _ = logger.experiment  # what it imports, it imports here and not on the writing thread
        self._run_info: RunInfo | None = None

    def open(self, run: RunInfo) -> None:
        """Keep what is needed at the end; the description goes to the run's summary."""
        self._run_info = run
        self._logger.experiment.summary[f"{run.name}/about"] = run.text

    def write(self, look: Look) -> None:
        """Write the pictures under their tags and the scalars, all at the step of the validation metrics."""
        for tag, picture in look.pictures.items():
            self._logger.log_image(tag, [to_pil_image(picture)], step=look.step, file_type=["jpg"])
        self._logger.log_metrics({tag: float(value) for tag, value in look.scalars.items()}, step=look.step)

    def write_found(self, found: FoundLook, picture: Tensor) -> None:
        """Write numbers and picture into the history; the sentences go to the run's summary."""
        assert self._run_info is not None  # opened before
        name = self._run_info.name
        self._logger.log_image(f"{name}/class_means", [to_pil_image(picture)], step=found.step, file_type=["jpg"])
        self._logger.log_metrics(found.scalars, step=found.step)
        self._logger.experiment.summary[f"{name}/findings"] = as_markdown(found.findings)

    def close(self) -> None:
        """Attach the report, where one was written."""
        known = self._run_info
        if known is None or known.report is None or not known.report.exists():
            return
        from wandb import Artifact  # only there if the logger is

        run = self._logger.experiment
        artifact = Artifact(f"{known.name}-report-{run.id}", type="report")
        artifact.add_file(str(known.report))
        run.log_artifact(artifact)
