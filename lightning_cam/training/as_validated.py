"""A forward as the trainer would run it, which says why where it fails."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.methods import DoesNotApply
from lightning_cam.model.output import forward_of_rows
from lightning_cam.model.parts import DenseTask
from lightning_cam.model.tasks import Task
from lightning_cam.training.ranks import inside_wrapper

_LONGEST_REASON = 200  # letters of a model's own error


class OrSayWhy:
    """`forward`; if that fails, the first line of why, and how to have something else called."""

    def __init__(self, forward: Callable[[Tensor], Any], module: LightningModule) -> None:
        self._forward, self._module = forward, module

    def __call__(self, images: Tensor) -> Any:
        """Call it.

        Raises:
            ValueError: It failed; the message says how to have something else called.
        """
        try:
            return self._forward(images)
        except (torch.OutOfMemoryError, DoesNotApply):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "grad" in str(error):  # some models run with a graph only
                raise
            why = f"{type(error).__name__}: {error}"
            if len(why) > _LONGEST_REASON:  # some hold the whole model in their middle
                why = f"{why[: _LONGEST_REASON // 2]} … {why[-_LONGEST_REASON // 2 :]}"
            raise ValueError(
                f"forward: {type(self._module).__name__} failed on images of shape {tuple(images.shape)} "
                f"({why}); give images that it accepts, or give forward=, a function that maps these to logits"
            ) from error

    def of_rows(self, index: Tensor | slice) -> "OrSayWhy":
        """The same for images that belong to these rows."""
        return OrSayWhy(forward_of_rows(self._forward, index), self._module)


class AsValidated:
    """A forward as the trainer would run it, whose output is the logits of its task.

    Only that is at the trainer's precision: the arithmetic of the maps stays in float32.

    Args:
        trainer: The trainer.
        module: The model.
        forward: What to call with the images.
        task: Of what it returns, if that is known; what says something of parts is returned as it is.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, forward: Callable[[Tensor], Any], task: Task | None
    ) -> None:
        self._trainer, self._module, self._forward, self._task = trainer, module, forward, task
        self._inside = inside_wrapper(trainer, module, forward)

    def __call__(self, images: Tensor) -> Any:
        """The logits, or what the network returned, at the precision of the trainer."""
        with self._trainer.precision_plugin.forward_context():
            output = self._inside(images)
        return output if self._task is None or isinstance(self._task, DenseTask) else self._task.logits(output)

    def of_rows(self, index: Tensor | slice) -> "AsValidated":
        """The same for images that belong to these rows."""
        return AsValidated(self._trainer, self._module, forward_of_rows(self._forward, index), self._task)
