"""The looks of one run: the fixed images, what was seen of them so far, and who explains and logs them."""

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer

from lightning_cam.model.private import metrics_step, results_of
from lightning_cam.model.untouched import random_states_kept, replaced
from lightning_cam.training.data import find_transform, loaders_of
from lightning_cam.training.explainer import ProbeExplainer
from lightning_cam.training.history import History
from lightning_cam.training.look_logger import LookLogger
from lightning_cam.training.probe import ProbeBatch, images_in
from lightning_cam.training.ranks import apart_from_training, on_all_ranks
from lightning_cam.training.settings import Settings
from lightning_cam.training.validated import InputComparison

T = TypeVar("T")
_log = logging.getLogger(__name__)

_ANEW = "This run goes on from a checkpoint and takes a new probe"
_MAX_STATE_BYTES = 64 * 2**20  # what probe and history may add to a checkpoint


class Session:
    """Owns the probe, the history and what of them travels in a checkpoint; looks when it is told to.

    What is found out at the first look (layers, class names, files) is kept until `close`; the next look opens it anew.

    Args:
        settings: What the user asked for.

    Attributes:
        probe: The fixed images; None before the first validation batch.
        history: The looks so far.
        last_step: Step of the newest look, -1 before the first.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._together = False  # all ranks look
        self._trainer: weakref.ref[Trainer] | None = None  # of the looks so far
        self._said_too_large = False
        self._explainer: ProbeExplainer | None = None
        self._logger: LookLogger | None = None
        self._comparison: InputComparison | None = None
        self._is_restored = False  # probe and history come from a checkpoint
        self.probe: ProbeBatch | None = None
        self.history = History()
        self.last_step = -1

    def __getstate__(self) -> dict[str, Any]:
        """A copy, made in a run, has a history and files of its own."""
        closed = dict.fromkeys(("_trainer", "_explainer", "_logger", "_comparison"))
        return {**vars(self), **closed, "history": deepcopy(self.history)}

    def begin(self, trainer: Trainer, together: bool) -> None:
        """Go on with the run of this trainer, or begin another: one that is resumed gets its state after this.

        Args:
            trainer: The trainer.
            together: Whether all ranks look.
        """
        if self._trainer is None or self._trainer() is not trainer or metrics_step(trainer) < self.last_step:
            self._forget()
        self._trainer = weakref.ref(trainer)
        self._together = together

    def begin_batch(self, trainer: Trainer, module: LightningModule, batch: Any, is_first: bool) -> None:
        """See a validation batch before its step: the first one ever gives the probe.

        Args:
            trainer: The trainer.
            module: The model.
            batch: On the model's device.
            is_first: Whether it is the first of its validation.
        """
        if self._is_restored and is_first:
            self._check_restored(trainer, batch)
        if self.probe is None and trainer.is_global_zero:
            self.probe = self._take_probe(trainer, module, batch)
        if is_first and self._comparison is not None and not self._comparison.is_done:
            self._comparison.begin(images_in(batch))

    def end_batch(self) -> None:
        """Leave the module alone again, before anything looks at it."""
        if self._comparison is not None:
            self._comparison.end()

    def look(self, trainer: Trainer, module: LightningModule) -> None:
        """Explain the probe and log it; in the sanity check only find out whether that will be possible.

        Raises:
            ValueError: The model cannot be looked at, an argument does not fit, or the trainer has no logger.
        """
        try:
            self._look(trainer, module)
        except Exception as error:
            if not self._is_restored:
                raise
            _log.warning("%s: that of the checkpoint cannot be looked at (%s).", _ANEW, error)
            self.close()
            self._forget()

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        with _unlogged(trainer, module), apart_from_training(trainer):
            if self._explainer is None:
                self._open(trainer, module)
            explainer = self._explainer
            assert explainer is not None
            if trainer.sanity_checking:
                return
            part = self._on_looking_ranks(trainer, lambda: explainer.explain(trainer, module))
            explanation = explainer.whole(trainer, part)
            # A run that stops early has its last look unawares.
            is_last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
            checks = self._on_looking_ranks(trainer, lambda: explainer.check(module, explanation, is_last=is_last))
        self.last_step, self._is_restored = metrics_step(trainer), False
        if self._logger is not None:
            self._logger.log(explanation, checks, self.history, step=self.last_step, epoch=trainer.current_epoch)

    def add_metrics(self, trainer: Trainer) -> None:
        """Put the metrics of the user's model next to the look of their step, if there is one.

        All ranks have computed them by now, and Lightning keeps the values: to read them starts no communication.
        """
        if self._logger is not None and self.last_step == metrics_step(trainer):
            self._logger.add_metrics(self.last_step, trainer.callback_metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return probe and history as tensors on the CPU; nothing before the first batch, or if they are too large."""
        if self.probe is None:
            return {}
        size = self.probe.num_bytes + self.history.num_bytes
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
        return {"probe": self.probe.state_dict(), "history": self.history.state_dict(), "asked_for": self._asked_for}

    def load_state_dict(self, state: Any) -> None:
        """Take the probe and history of `state_dict`; what does not fit is said, and a new probe is taken."""
        try:
            probe, asked_for = ProbeBatch.from_state(state["probe"]), state.get("asked_for", self._asked_for)
            self.history.load_state_dict(state["history"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            _log.warning("%s: the entry of this callback cannot be read (%r).", _ANEW, error)
            return
        if asked_for != self._asked_for:
            self.history.clear()
            _log.warning("%s: probe= and num_samples= were others then, %s.", _ANEW, asked_for)
            return
        self.probe, self._is_restored = probe, True
        self.last_step = self.history.steps[-1] if self.history.steps else -1

    @property
    def _asked_for(self) -> dict[str, Any]:
        """What decides which images are the probe."""
        return {"probe": self._settings.probe, "num_samples": self._settings.num_samples}

    def _check_restored(self, trainer: Trainer, batch: Any) -> None:
        """Take a new probe if what the checkpoint held cannot be of this run. All ranks decide alike."""
        images = images_in(batch)
        if self.probe is not None and images is not None and images.shape[1] != self.probe.images.shape[1]:
            _log.warning("%s: the images there have another number of channels.", _ANEW)
            self._forget()
        elif not trainer.sanity_checking and self.last_step > metrics_step(trainer):
            _log.warning("%s: the looks there are of later steps than this run.", _ANEW)
            self._forget()

    def _forget(self) -> None:
        self.probe, self._is_restored, self.last_step = None, False, -1
        self.history.clear()

    def flush(self) -> None:
        """Wait until the looks so far are written."""
        if self._logger is not None:
            self._logger.flush()

    def close(self) -> None:
        """Write what waits, and let go of all that was opened."""
        logger, comparison = self._logger, self._comparison
        self._explainer = self._logger = self._comparison = None
        if comparison is not None:
            comparison.stop()
        if logger is not None:
            logger.close()

    def _open(self, trainer: Trainer, module: LightningModule) -> None:
        """Find out what all looks share: on all ranks the layers, on the first one where looks are logged."""
        probe = self.probe
        if self._together:  # the first rank's, which the others see too
            probe = trainer.strategy.broadcast(probe if probe is None else probe.to("cpu"))
        assert probe is not None  # taken at the start of this batch
        self.probe = probe = probe.to(module.device)

        self._explainer, self._logger = self._on_looking_ranks(trainer, lambda: self._opened(trainer, module, probe))
        if not self._together:
            self._comparison = InputComparison(self._explainer.network, probe.images)

    def _opened(
        self, trainer: Trainer, module: LightningModule, probe: ProbeBatch
    ) -> tuple[ProbeExplainer, LookLogger | None]:
        explainer = ProbeExplainer(self._settings, trainer, module, probe, together=self._together)
        logs = trainer.is_global_zero
        if not logs:
            return explainer, None
        return explainer, LookLogger(self._settings, trainer, module, probe, explainer.layers, explainer.embedding)

    def _take_probe(self, trainer: Trainer, module: LightningModule, batch: Any) -> ProbeBatch:
        """The images to look at: the first of a validation batch, or those of the folder that the user gave."""
        settings = self._settings
        if settings.probe is None:
            return ProbeBatch.from_batch(batch, settings.num_samples)
        with random_states_kept():  # transforms of validation can be random too
            probe = ProbeBatch.from_folder(settings.probe, settings.num_samples, find_transform(loaders_of(trainer)))
        seen = images_in(batch)
        if seen is not None and seen.shape[2:] != probe.images.shape[2:]:
            _log.warning(
                "probe: the images of %r are %d×%d after the validation transform, those of the validation batch "
                "%d×%d; should the model not take them, resize and crop them in that transform.",
                settings.probe,
                *probe.images.shape[2:],
                *seen.shape[2:],
            )
        return replace(probe, images=trainer.precision_plugin.convert_input(probe.images.to(module.device)))

    def _on_looking_ranks(self, trainer: Trainer, action: Callable[[], T]) -> T:
        return on_all_ranks(trainer, action) if self._together else action()


@contextmanager
def _unlogged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Keep what the model's forward logs in a look out of the user's metrics, by whatever name it calls `log`."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    with ExitStack() as stack:
        for holder in (module, results_of(trainer)):  # the latter where a loop is running
            if holder is not None:
                stack.enter_context(replaced(holder, "log", nothing))
        yield
