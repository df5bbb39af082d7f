"""The callback: when to look, on which ranks, and what to do if a look fails."""

import logging
import sys
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_cam.model.untouched import signals_deferred
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.training.history import History
from lightning_cam.training.probe import ProbeBatch, images_in
from lightning_cam.training.ranks import all_agree, apart_from_training, look_together, on_all_ranks
from lightning_cam.training.ride import Ride
from lightning_cam.training.session import Session, take_probe, unlogged
from lightning_cam.training.settings import Settings

T = TypeVar("T")
_log = logging.getLogger(__name__)

_MAX_STATE_BYTES = 64 * 2**20  # what probe and history may add to a checkpoint


class TransformerCAMCallback(Callback):
    """Shows, at each validation run, where a vision transformer looks.

    Class activation maps of a fixed probe batch, taken at the norms before the attention of the model's last two
    blocks, go to the trainer's logger: an overlay grid, a filmstrip over the epochs and scalars. The model, its
    gradients and all random generators are left as they were, so training is the same bit for bit with and without the
    callback. If a look fails, that is said once and the callback switches itself off.

    Args:
        methods: Name or names of methods (see `METHODS`), or "all"; a class of `pytorch_grad_cam`, or its dotted path
            such as "pytorch_grad_cam.AblationCAM", can stand for a name.
        num_samples: How many images of the first validation batch ever seen are kept as the probe.
        probe: A folder of images to look at instead; they go through the validation transform.
        class_idx: The class to explain; by default each image's label, or without labels the predicted class.
        score: In place of a class: a function from the model's output to (B,) scalars, such as those of
            `lightning_cam.scores`.
        target_layers: Name or names of the layers to look at; by default found.
        layout: How the outputs of `target_layers` lie, where that cannot be found out.
        forward: Which part of the LightningModule maps images to logits: the name of a submodule or method such as
            "model", or a function of the images. By default the module's own `forward`, else its only network.
        mean: Mean that the images were normalized with; by default found in the validation transforms.
        std: Standard deviation that the images were normalized with; likewise.
        class_names: Names of the classes, or a mapping from class to name; by default found in the dataset.
        every_n_epochs: Look at every n-th epoch, the first included.
        batch_size: Probe images that go through the model at once; by default all.
        shard_probe: Share the probe out over the ranks of a distributed run; by default the first rank looks alone.
        faithfulness_every_n_looks: At every n-th look, the first included, also log whether the model uses what the
            maps point at, which costs 24 forwards of the probe per method. By default never.
        report: Write `{name}_report.html`, a page to review the whole run offline, next to the event file at the end.
        timelapse: Write `{name}_timelapse` in this format as well; None for none.
        name: First part of all tags; two callbacks in one trainer need different names, or Lightning refuses them
            ("more than one stateful callback").
        on_error: "warn" says once why a look failed and switches the callback off; "raise" is for tests.

    Raises:
        ValueError: An argument is out of range.

    Logged, with `{name}` "cam" by default, at the step of the validation metrics:

    - `{name}/{method}`: the overlay grid
    - `{name}/{method}/filmstrip`: images in rows, epochs in columns, one scale per row
    - `{name}/{method}/target_probability`, `entropy`, `similarity_to_previous`, `similarity_to_first`: means over the
      images; and with `boxes` or `masks` in the batch `share_inside`, `pointing_game`
    - `{name}/{method}/deletion_auc`, `insertion_auc`, `average_drop`, with `faithfulness_every_n_looks`
    - `{name}/random/{metric}`: what maps of chance score in those, for comparison
    - `{name}/about`: a text card

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_cam import TransformerCAMCallback
        >>> trainer = Trainer(callbacks=[TransformerCAMCallback()], logger=False)
    """

    def __init__(
        self,
        *,
        methods: str | type | list[str | type] = "hirescam",
        num_samples: int = 16,
        probe: str | None = None,
        class_idx: int | None = None,
        score: Callable[[Any], Any] | None = None,  # returns a Tensor, but jsonargparse would then build a Tensor
        target_layers: str | list[str] | None = None,
        layout: TokenLayout | list[TokenLayout] | None = None,
        forward: str | Callable[[Tensor], Any] | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        class_names: list[str] | dict[int, str] | None = None,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        shard_probe: bool = False,
        faithfulness_every_n_looks: int | None = None,
        report: bool = True,
        timelapse: Literal["webp", "gif"] | None = "webp",
        name: str = "cam",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__()
        _serve_both_lightnings()
        self.settings = Settings(
            methods=methods,
            num_samples=num_samples,
            probe=probe,
            class_idx=class_idx,
            score=score,
            target_layers=target_layers,
            layout=layout,
            forward=forward,
            mean=mean,
            std=std,
            class_names=class_names,
            every_n_epochs=every_n_epochs,
            batch_size=batch_size,
            shard_probe=shard_probe,
            faithfulness_every_n_looks=faithfulness_every_n_looks,
            report=report,
            timelapse=timelapse,
            name=name,
            on_error=on_error,
        )
        self._off = False  # after a fault
        self._all_off = False  # every rank knows of it
        self._together = False  # all ranks look
        self._said_too_large = False
        self._probe: ProbeBatch | None = None
        self._history = History()
        self._last_step = -1
        self._is_first_batch = False  # of a validation run
        self._session: Session | None = None
        self._trainer: weakref.ref[Trainer] | None = None  # of the looks so far

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the callback, made in a run, opens files of its own."""
        return {**vars(self), "_session": None, "_trainer": None, "_history": deepcopy(self._history)}

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; several callbacks differ in it by their names."""
        return self._generate_state_key(name=self.settings.name)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._off = self._all_off = False
        self._together = look_together(trainer, self.settings.shard_probe)
        self._attempt(self._begin, trainer)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation and trainer.is_global_zero:
            _log.warning("TransformerCAMCallback shows nothing in this run: it looks at validation, and there is none.")

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_first_batch = True

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._probe is None and trainer.is_global_zero:
            self._attempt(self._take_probe, trainer, pl_module, batch)
        if self._is_first_batch and self._ride is not None and self._probe is not None:
            self._attempt(self._listen, self._ride, self._probe, batch)

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
        # Here, and not at the epoch's end, the weights are those that are validated: averaging callbacks swap theirs
        # in before the first batch and out at the end, in an order that the user's list of callbacks decides.
        is_first, self._is_first_batch = self._is_first_batch, False
        if is_first and self._is_due(trainer) and self._is_ready(trainer):
            # A handler may save a checkpoint, while noise stands in for parameters, or raise what is not ours to catch.
            with signals_deferred():
                if self._ride is not None:
                    with unlogged(trainer, pl_module):
                        self._attempt(self._ride.arrive)
                self._attempt(self._look, trainer, pl_module)
        if self._ride is not None:
            self._ride.end()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._attempt(self._add_metrics, trainer)

    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    def flush(self) -> None:
        """Wait until the looks so far are written; they are written while the training goes on."""
        if self._session is not None and self._session.worker is not None:
            self._session.worker.flush()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._attempt(self._close)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._attempt(self._close)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._probe is None:
            return {}
        size = self._probe.num_bytes + self._history.num_bytes
        if size > _MAX_STATE_BYTES:
            if not self._said_too_large:
                self._said_too_large = True
                _log.warning(
                    "The probe and history of %.0f MiB are not saved in checkpoints (at most %.0f MiB); a resumed run "
                    "will take a new probe.",
                    size / 2**20,
                    _MAX_STATE_BYTES / 2**20,
                )
            return {}
        return {"probe": self._probe.state_dict(), "history": self._history.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._attempt(self._resume, state_dict)

    def _attempt(self, action: Callable[..., None], *args: Any) -> None:
        """Run a part of a look; if it fails, say why once and switch off, so that training goes on."""
        if self._off:
            return
        try:
            action(*args)
        except Exception as error:
            self._switch_off(str(error) or type(error).__name__)
            if self.settings.on_error == "raise":
                raise
            _log.debug("The fault:", exc_info=True)

    def _switch_off(self, reason: str) -> None:
        self._off = True
        if self.settings.on_error == "warn":
            _log.warning("TransformerCAMCallback switched itself off: %s", reason)
        try:
            self._close()  # what was looked at before is still written
        except Exception as error:
            _log.debug("Could not be written either: %s", error)

    def _begin(self, trainer: Trainer) -> None:
        if self._trainer is None or self._trainer() is not trainer or _metrics_step(trainer) < self._last_step:
            # A new run, perhaps of the same object; one that is resumed gets its state after this.
            self._probe = None
            self._history.clear()
            self._last_step = -1
        self._trainer = weakref.ref(trainer)

    def _resume(self, state: dict[str, Any]) -> None:
        self._probe = ProbeBatch(**state["probe"])
        self._history.load_state_dict(state["history"])
        self._last_step = self._history.steps[-1] if self._history.steps else -1

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.state.fn == "fit" and trainer.current_epoch % self.settings.every_n_epochs:
            return False
        step = _metrics_step(trainer)
        if step <= self._last_step:
            _log.info("No look at step %d: there is one at step %d already.", step, self._last_step)
        return step > self._last_step

    def _is_ready(self, trainer: Trainer) -> bool:
        """Whether this rank shall look. Where all look together, a fault on one must not leave the others waiting."""
        if not self._together:
            return trainer.is_global_zero
        if self._all_off:
            return False
        self._all_off = not all_agree(trainer, not self._off)
        if self._all_off and not self._off:
            self._switch_off("it did so on another rank")
        return not self._all_off

    def _take_probe(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        self._probe = take_probe(self.settings, trainer, module, batch)

    def _listen(self, ride: Ride, probe: ProbeBatch, batch: Any) -> None:
        ride.begin(probe.images, images_in(batch))

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        with unlogged(trainer, module), apart_from_training(trainer):
            if self._session is None:
                probe = self._probe
                if self._together:  # the first rank's, which the others see too
                    probe = trainer.strategy.broadcast(probe if probe is None else probe.to("cpu"))
                assert probe is not None  # taken at the start of this batch
                self._probe = probe = probe.to(module.device)
                self._session = self._on_looking_ranks(trainer, lambda: self._open(trainer, module, probe))
            session = self._session
            if trainer.sanity_checking:  # what does not fit was said before the training began
                return
            explanation = session.whole(
                trainer, self._on_looking_ranks(trainer, lambda: session.explain(trainer, module))
            )
            checks = self._on_looking_ranks(trainer, lambda: session.check(module, explanation))
        self._last_step = _metrics_step(trainer)
        if trainer.is_global_zero:
            session.show(explanation, checks, self._history, step=self._last_step, epoch=trainer.current_epoch)

    def _add_metrics(self, trainer: Trainer) -> None:
        """Put the metrics of the user's model next to the look of their step, if there is one.

        All ranks have computed them by now, and Lightning keeps the values: to read them starts no communication.
        """
        worker = None if self._session is None else self._session.worker
        if worker is not None and self._last_step == _metrics_step(trainer):
            worker.add_metrics(self._last_step, trainer.callback_metrics)

    @property
    def _ride(self) -> Ride | None:
        return None if self._session is None else self._session.ride

    def _on_looking_ranks(self, trainer: Trainer, action: Callable[[], T]) -> T:
        return on_all_ranks(trainer, action) if self._together else action()

    def _open(self, trainer: Trainer, module: LightningModule, probe: ProbeBatch) -> Session:
        return Session(self.settings, trainer, module, probe, together=self._together)

    def _close(self) -> None:
        """Write what waits; the next run of this callback begins a session of its own."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _metrics_step(trainer: Trainer) -> int:
    """The step that Lightning logs validation metrics at, which is not `global_step`."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _serve_both_lightnings() -> None:
    """Be a callback of `pytorch_lightning` too, whose Trainer takes only those of its own class."""
    other = sys.modules.get("pytorch_lightning")
    if other is not None and not issubclass(TransformerCAMCallback, other.Callback):
        TransformerCAMCallback.__bases__ += (other.Callback,)


_serve_both_lightnings()  # in a spawned process nothing but this runs
