"""Observes what validation steps do, without changing them."""

import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_cam.model.output import mapped
from lightning_cam.model.private import runs_compiled_code
from lightning_cam.model.untouched import looking
from lightning_cam.observe.observation import observation_of
from lightning_cam.observe.programs import tensors_of
from lightning_cam.observe.step import StepObserver
from lightning_cam.training.heads import Wanted
from lightning_cam.training.observed import Seen, names_of, seen_in
from lightning_cam.training.self_supervised import SeenFeatures, compares_features, features_in

_log = logging.getLogger(__name__)


class StepWatch:
    """Sees a step of validation, or of training.

    Code that is compiled, or takes fused kernels only where nobody overrides functions, is not listened to while it
    runs for the user, who would get other numbers: its step is run again, as in a look. A training step is never run
    again: it may move weights, as those of an average, and not all that it does can be taken back.

    Args:
        trainer: The trainer.
        module: The model.
        wanted: What the user asked for.
        can_repeat: Whether a step may be run again: not where other ranks would have to run along.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, wanted: Wanted, *, can_repeat: bool) -> None:
        self._is_training = trainer.training
        self._module, self._wanted, self._can_repeat = module, wanted, can_repeat and not self._is_training
        self._step: Callable[..., Any] = module.validation_step
        if trainer.testing or self._is_training:
            self._step = module.test_step if trainer.testing else module.training_step
        self._left: Seen | SeenFeatures | ValueError | None = None
        self._redirected = trainer.strategy.model is not module
        self._context = trainer.precision_plugin.forward_context
        self._listens = not runs_compiled_code(module) and not any(
            isinstance(part, (nn.MultiheadAttention, nn.TransformerEncoderLayer))
            and not (self._is_training and part.training)  # fused kernels are for evaluation
            for part in module.modules()
        )
        self._args: tuple[Any, ...] = ()
        self._observer: StepObserver | None = None

    @property
    def sees(self) -> bool:
        """Whether steps are seen at all."""
        return self._listens or self._can_repeat

    def begin(self, batch: Any, *rest: int) -> None:
        """See a step from here on.

        Args:
            batch: What it is given.
            rest: What comes after: the batch's number, the loader's.
        """
        self._args = self._accepted(mapped(batch, _cloned), *rest)  # steps may write to their batch
        if self._listens:
            self._observer = self._observe(batch, self._redirected)
            self._observer.__enter__()

    def leave(self) -> None:
        """See no more of a training step than its forward: not what optimizers do."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.__exit__(None, None, None)
            try:
                with torch.no_grad():
                    self._left = self._seen(observer, self._args)
            except ValueError as error:  # which is said when the step has ended
                self._left = error

    def end(self) -> Seen | SeenFeatures | None:
        """What was seen of the step.

        Raises:
            ValueError: It cannot be explained; the sentence says what to give.
        """
        if not self._listens:
            return self.repeated(self._args[0]) if self._can_repeat and self._args else None
        self.leave()
        if isinstance(self._left, ValueError):
            raise self._left
        return self._left

    def repeated(self, batch: Any) -> Seen | SeenFeatures | None:
        """What the step does with this batch in place of that which it was given last, in a look.

        Raises:
            ValueError: It cannot be explained; the sentence says what to give.
        """
        args = batch, *self._args[1:]
        live = mapped(batch, _cloned)
        with looking(self._module), torch.no_grad(), self._context(), self._observe(live, False) as observer:
            self._step(live, *self._args[1:])
        return self._seen(observer, args)

    @property
    def batch(self) -> Any:
        """What the last step was given."""
        return self._args[0] if self._args else None

    def stop(self) -> None:
        """See nothing more: a step that began has failed."""
        observer, self._observer = self._observer, None
        if observer is not None:
            with suppress(torch.OutOfMemoryError):
                observer.__exit__(None, None, None)

    def _seen(self, observer: StepObserver, args: tuple[Any, ...]) -> Seen | SeenFeatures | None:
        observation = observation_of(observer)
        if not self._wanted.whole and (
            self._wanted.features or compares_features(observer, observation, is_training=self._is_training)
        ):
            return features_in(observer, self._module, args, observation)
        seen = seen_in(observer, self._module, self._step, args, self._wanted)
        if self._is_training and seen is not None and not seen.is_network:
            raise ValueError(
                "the training step makes its output of what several networks return, and to run it again in a look "
                "could change the training; give forward=, a function that maps images to that output"
            )
        return seen

    def _observe(self, batch: Any, redirected: bool) -> StepObserver:
        inputs = dict(zip(names_of(batch), tensors_of(batch), strict=True))
        return StepObserver(self._module, inputs, redirected=redirected)

    def _accepted(self, batch: Any, *rest: int) -> tuple[Any, ...]:
        """The arguments that the step takes, as Lightning finds them."""
        taken = inspect.signature(self._step).parameters.values()
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in taken):
            return batch, *rest
        return (batch, *rest)[: len(taken)]


def _cloned(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
