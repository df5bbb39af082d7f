"""The callback: when to look, on which ranks, and what to do if a look fails."""

import logging
import sys
import time
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from functools import partial
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_cam.model.private import metrics_step
from lightning_cam.model.signals import signals_deferred
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.training.ranks import all_agree, look_together
from lightning_cam.training.session import Session
from lightning_cam.training.settings import Settings

_log = logging.getLogger(__name__)


class TransformerCAMCallback(Callback):
    """Shows where a vision transformer or a convolutional network looks, at each validation run.

    Two maps of each image of a fixed probe batch go to the trainer's logger, each as an overlay grid, a filmstrip over
    the epochs and scalars: `attnlrp`, evidence from the whole depth, and `hirescam`, what the last block still sees, at
    the norm before its attention. The model, its gradients and all random generators are left as they were, so training
    is the same bit for bit with and without the callback. If a look fails, the callback logs one warning and switches
    itself off.

    Args:
        methods: Name or names of methods (see `METHODS`), or "all"; a class of `pytorch_grad_cam`, or its dotted path
            such as "pytorch_grad_cam.AblationCAM", works too. "default" is `attnlrp` and `hirescam`; for models with
            operations that `attnlrp` does not cover, `gae` is used instead where it applies, with a warning.
            For self-supervised training it is `cls_attention`, `cls_similarity` and `pca`, where they apply.
        on: "validation" takes the probe from the validation batches and looks at each validation run. "train" takes it
            from the training batches, as the network gets them, and looks at the end of each training epoch: for
            self-supervised training, and any other training without a validation loop.
        num_samples: Number of images in the probe. They are collected during the first validation run, spread over the
            classes.
        probe: Other images to explain: a folder (they go through the validation transform; subfolders are classes),
            indices into the validation dataset, a tensor of images or a whole batch as the validation step takes them.
        head: The name of the output to explain, if the model has several; by default all of them.
        class_idx: The class to explain; by default each image's label, or the predicted class if there are no labels.
        score: Instead of a class: a function from the model's output to (B,) scalars, such as those of
            `lightning_cam.scores`.
        target_layers: Name or names of the layers to explain; by default the norm before the last attention.
        layout: Layout of the outputs of `target_layers`, if it cannot be found automatically.
        forward: Which part of the LightningModule maps the batch's images to logits: the name of a submodule or method,
            or a function of the images. By default the network that validation was seen to run, on the same input.
        mean: Mean that the images were normalized with; by default taken from the validation transforms.
        std: Standard deviation that the images were normalized with; by default as for `mean`.
        class_names: Names of the classes, or a mapping from class to name; by default found in the dataset.
        rgb: Which bands of images are shown as red, green and blue, by their numbers from 0 on, or the one that is
            shown gray; by default the first three, or of fewer the first (docs/bands-volumes-video.md).
        axes: What the rows and the columns of images are, such as `["frequency", "time"]`: spectrograms are shown with
            time from left to right and low frequencies at the bottom. By default those of a picture, or of a
            spectrogram where the step was seen to make one, or its name says so.
        every_n_epochs: Look at every n-th epoch, the first included.
        cohort: Number of further validation images, spread over classes, that are explained at each validation run as
            the basis of findings: by default as many as cost at most a tenth of the validation's own time, or, at fewer
            runs, eight of each class where that pays for them, and at most 1,024; None for none (docs/findings.md).
        log_metrics: Put all scalars into `trainer.callback_metrics` too, under their tags and on all ranks, where
            `ModelCheckpoint`, `EarlyStopping` and schedulers can act on them. Only then can training depend on the
            maps.
        batch_size: Probe images per forward pass; by default all, or a quarter of them where a method needs the graph
            of the whole depth.
        shard_probe: Split the probe over the ranks of a distributed run; by default only the first rank looks.
        faithfulness_every_n_looks: At every n-th look, the first included, also log whether the model uses what the
            maps highlight, at the cost of 24 forwards of the probe per method. By default never.
        report: Write `{name}_report.html`, a page to review the whole run offline, next to the event file at the end.
        timelapse: Write `{name}_timelapse` in this format as well; None for none.
        stored_size: Pixels of the longer side of the probe images in the record, at most; up to 2048, to zoom in.
        name: Prefix of all tags; two callbacks in one trainer need different names, or Lightning rejects them
            ("more than one stateful callback").
        on_error: "warn" logs once why a look failed and switches the callback off; "raise" is for tests.

    Raises:
        ValueError: An argument is out of range.

    Logged, with `{name}` "cam" by default, at the step of the validation metrics:

    - `{name}/{method}`: overlay grid of the first eight images; `{name}/{method}/images_9-16`, ... of the others
    - `{name}/{method}/filmstrip`: three images in rows, six looks in columns, one scale per row
    - `{name}/{method}/target_probability`, `entropy`, `similarity_to_previous`, `similarity_to_first`: means over the
      images; with `boxes` or `masks` in the batch `share_inside`, `pointing_game`; for `attnlrp` and similar methods
      `conservation`, the sum of a map as a fraction of the part of the score that comes from the image
    - `{name}/{method}/gain_over_chance`: for the leading method at the first and the last look, how much better than
      random maps it shows what the model uses (insertion minus deletion AUC, minus that of `random`), on 4 images
    - `{name}/model/attention_entropy`, `attention_distance`, `attention_largest_share`, `outlier_token_norm`, each with
      the number of the attention: what the blocks do, on the first images
    - `{name}/model/agreement`: share of the evidence of `attnlrp` that `hirescam` shows at the same place, with both
    - `{name}/{method}/deletion_auc`, `insertion_auc`, `average_drop`, with `faithfulness_every_n_looks`
    - `{name}/random/{metric}`: the same for random maps, for comparison
    - `{name}/findings`: findings about the cohort, as sentences; `{name}/cohort/...`: its metrics;
      `{name}/class_means`: where the evidence of each class lies, epoch by epoch
    - `{name}/about`: a text card

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_cam import TransformerCAMCallback
        >>> trainer = Trainer(callbacks=[TransformerCAMCallback()], logger=False)
    """

    def __init__(
        self,
        *,
        methods: str | type | list[str | type] = "default",
        num_samples: int = 16,
        on: Literal["validation", "train"] = "validation",
        probe: Any = None,  # a Tensor too, but jsonargparse would then build a Tensor
        head: str | None = None,
        class_idx: int | None = None,
        score: Callable[[Any], Any] | None = None,  # returns a Tensor, but jsonargparse would then build a Tensor
        target_layers: str | list[str] | None = None,
        layout: TokenLayout | list[TokenLayout] | None = None,
        forward: str | Callable[[Tensor], Any] | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        class_names: list[str] | dict[int, str] | None = None,
        rgb: int | list[int] | None = None,
        axes: list[str] | None = None,
        every_n_epochs: int = 1,
        cohort: int | Literal["auto"] | None = "auto",
        log_metrics: bool = False,
        batch_size: int | None = None,
        shard_probe: bool = False,
        faithfulness_every_n_looks: int | None = None,
        report: bool = True,
        timelapse: Literal["webp", "gif"] | None = "webp",
        stored_size: int = 448,
        name: str = "cam",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        given = dict(locals())
        super().__init__()
        _serve_both_lightnings()
        self.settings = Settings(**{field.name: given[field.name] for field in fields(Settings)})
        self._session = Session(self.settings)
        self._off = False  # after a fault
        self._all_off = False  # every rank knows of it
        self._together = False  # all ranks look
        self._waits = False  # for the moment to look in a validation run
        self._closed = False  # nothing more is done in a validation run
        self._began = False  # there was a look, or one that failed
        self._started, self._own = 0.0, 0.0  # when the validation began, and the seconds of it that were ours

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the callback, made in a run, has a session of its own."""
        return {**vars(self), "_session": copy(self._session)}

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; several callbacks differ in it by their names."""
        return f"{type(self).__qualname__}{ {'name': self.settings.name} }"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._off = self._all_off = self._began = False
        self._together = look_together(trainer, self.settings.shard_probe)
        self._attempt(self._session.begin, trainer, self._together)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (trainer.enable_validation or self._on_train) and trainer.is_global_zero:
            _log.warning(
                "TransformerCAMCallback is inactive: this run has no validation loop. Give "
                'on="train" to explain images of the training at the end of each epoch.'
            )

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._waits = self._on_train
        self._add_training_metrics(trainer)  # those of the epoch before, which are known only after its end

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._on_train:
            self._attempt(self._session.begin_batch, trainer, pl_module, batch, batch_idx, 0)

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._on_train:
            self._attempt(self._session.end_step)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._on_train:
            self._attempt(self._session.end_step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._on_train:
            self._attempt(self._session.end_batch, trainer, pl_module, trainer.is_last_batch)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._on_train:
            self._look_if_due(trainer, pl_module, is_last=True)
            self._waits = True  # there is no cohort to be paid for
            self._close(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add_training_metrics(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._on_train:
            return
        self._waits, self._closed = True, False
        self._started, self._own = time.perf_counter(), 0.0

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._on_train:
            return
        began = time.perf_counter()
        self._attempt(self._session.begin_batch, trainer, pl_module, batch, batch_idx, dataloader_idx)
        self._own += time.perf_counter() - began

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._on_train:
            return
        began, is_last = time.perf_counter(), _is_last_batch(trainer)
        self._attempt(self._session.end_batch, trainer, pl_module, is_last)
        # Here, and not at the epoch's end, the weights are those that are validated: averaging callbacks swap theirs
        # in before the first batch and out at the end, in an order that the user's list of callbacks decides.
        self._look_if_due(trainer, pl_module, is_last)
        self._own += time.perf_counter() - began
        if is_last:
            self._close(trainer, pl_module)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._closed or self._on_train:
            return
        if self._session.meets(trainer):  # others wait for this rank, though it saw no batch
            self._close(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and not self._on_train:
            with signals_deferred():  # a handler that flushes this callback must not find its queue locked
                self._attempt(self._session.add_metrics, trainer)

    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end

    def flush(self) -> None:
        """Wait until the looks so far are written; they are written while the training goes on."""
        self._session.flush()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._attempt(self._session.close)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._attempt(self._session.close)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._session.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._attempt(self._session.load_state_dict, state_dict)

    def _attempt(self, action: Callable[..., None], *args: Any) -> None:
        """Run a part of a look; if it fails, say why once and switch off, so that training goes on."""
        if not self._off:
            self._run(action, *args)

    def _run(self, action: Callable[..., None], *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:
            self._switch_off(str(error) or type(error).__name__)
            if self.settings.on_error == "raise":
                raise
            _log.debug("The error:", exc_info=True)

    def _switch_off(self, reason: str) -> None:
        self._off = True
        if self.settings.on_error == "warn":
            _log.warning("TransformerCAMCallback switched itself off: %s", reason)
        try:
            self._session.close()  # what was looked at before is still written
        except Exception as error:
            _log.debug("Closing failed as well: %s", error)

    @property
    def _on_train(self) -> bool:
        return self.settings.on == "train"

    def _add_training_metrics(self, trainer: Trainer) -> None:
        if self._on_train and trainer.is_global_zero:
            with signals_deferred():
                self._attempt(self._session.add_metrics, trainer)

    def _look_if_due(self, trainer: Trainer, module: LightningModule, is_last: bool) -> None:
        if self._waits and self._is_due(trainer) and self._may_look(trainer, is_last):
            self._waits, self._began = False, True
            if self._is_ready(trainer):
                # A handler may save a checkpoint, while noise stands in for parameters, or raise what is not ours to
                # catch.
                with signals_deferred():
                    self._attempt(self._look, trainer, module)

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        self._session.look(trainer, module)

    def _close(self, trainer: Trainer, module: LightningModule) -> None:
        """Look at the cohort, if there was a look in this validation, and let other ranks know the scalars."""
        self._closed = True
        if trainer.sanity_checking:
            return
        seconds = None if self._waits else time.perf_counter() - self._started - self._own
        with signals_deferred():
            if self._session.meets(trainer):  # also one that has switched itself off, or others would wait
                self._run(partial(self._session.meet, trainer, module, seconds, is_on=not self._off))
                return
            if seconds is not None:
                self._attempt(self._session.look_at_cohort, trainer, module, seconds)
            self._attempt(self._session.put_metrics, trainer)

    def _may_look(self, trainer: Trainer, is_last: bool) -> bool:
        """Whether the probe is there. Where all ranks look, all decide alike, also one that has switched itself off."""
        there = self._session.probe is not None
        if not self._together:
            return not self._off and trainer.is_global_zero and there
        return self._began or (is_last and trainer.strategy.broadcast(there))

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.state.fn == "fit" and trainer.current_epoch % self.settings.every_n_epochs:
            return False
        step, last = metrics_step(trainer), self._session.last_step
        if trainer.sanity_checking:  # of a training that begins, and is not resumed
            return step == 0 and not self._session.history.steps
        if step <= last:
            _log.info("No look at step %d: there already is one at step %d.", step, last)
        return step > last

    def _is_ready(self, trainer: Trainer) -> bool:
        """Whether this rank shall look. Where all look together, a fault on one must not leave the others waiting."""
        if not self._together:
            return trainer.is_global_zero
        if self._all_off:
            return False
        self._all_off = not all_agree(trainer, not self._off)
        if self._all_off and not self._off:
            self._switch_off("it was switched off on another rank")
        return not self._all_off


def _is_last_batch(trainer: Trainer) -> bool:
    """Whether the batch that ends is the last of its validation, also where their number is not known before."""
    if trainer.testing:
        loop = trainer.test_loop
    else:
        loop = trainer.validate_loop if trainer.state.fn == "validate" else trainer.fit_loop.epoch_loop.val_loop
    return loop.batch_progress.is_last_batch


def _serve_both_lightnings() -> None:
    """Be a callback of `pytorch_lightning` too, whose Trainer takes only those of its own class."""
    other = sys.modules.get("pytorch_lightning")
    if other is not None and not issubclass(TransformerCAMCallback, other.Callback):
        TransformerCAMCallback.__bases__ += (other.Callback,)


_serve_both_lightnings()  # in a spawned process nothing but this runs
