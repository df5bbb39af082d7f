"""The callback: when to look, on which ranks, and what to do if a look fails."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_cam.classifier import classifier_of
from lightning_cam.explanation import explain, find_methods
from lightning_cam.history import History
from lightning_cam.layout import TokenLayout
from lightning_cam.look import compose
from lightning_cam.pipeline import as_statistics, find_class_names, find_normalisation, find_transform
from lightning_cam.probe import ProbeBatch
from lightning_cam.render import Captions, unnormalise
from lightning_cam.resolve import TargetLayer, find_target_layers
from lightning_cam.sinks import SINKS, Introduction, SinkWorker, sink_of

_log = logging.getLogger(__name__)

_MAX_STATE_BYTES = 64 * 2**20  # what probe and history may add to a checkpoint

_ABOUT = """Where the model looks: class activation maps of {count} fixed validation images at `{layers}`.

- `{name}/<method>`: the newest look. Hot cells speak for {target}. A caption reads label → prediction and its
  probability; the frame is green where the prediction is right, orange where it is wrong.
- `{name}/<method>/filmstrip`: the same images over the training, one scale per row.
- `{name}/<method>/<metric>`: numbers of the same maps.

TensorBoard keeps ten random steps of each picture. To keep all, start it with
`tensorboard --logdir {logdir} --samples_per_plugin images=1000`.
"""


class TransformerCAMCallback(Callback):
    """Shows, at each validation run, where a vision transformer looks.

    Class activation maps of a fixed probe batch, taken at the norm layers of the model's final transformer block, go
    to the trainer's logger: an overlay grid, a filmstrip over the epochs and scalars. The model, its gradients and all
    random generators are left as they were, so training is the same bit for bit with and without the callback. If a
    look fails, that is said once and the callback switches itself off.

    Args:
        methods: Name or names of methods (see `METHODS`), or "all".
        num_samples: How many images of the first validation batch ever seen are kept as the probe.
        probe: A folder of images to look at instead; they go through the validation transform.
        class_idx: The class to explain; by default each image's label, or without labels the predicted class.
        score: In place of a class: a function from the model's output to (B,) scalars.
        target_layers: Names of the layers to look at; by default found.
        layout: How the outputs of `target_layers` lie, where that cannot be found out.
        forward: Which part of the LightningModule maps images to logits: the name of a submodule or method such as
            "model", or a function of the images. By default the module's own `forward`, else its only network.
        mean: Mean that the images were normalised with; by default found in the validation transforms.
        std: Standard deviation that the images were normalised with; likewise.
        class_names: Names of the classes; by default found in the dataset.
        every_n_epochs: Look at every n-th epoch, the first included.
        batch_size: Probe images that go through the model at once; by default all.
        name: First part of all tags; two callbacks in one trainer need different names.
        on_error: "warn" says once why a look failed and switches the callback off; "raise" is for tests.

    Raises:
        ValueError: An argument is out of range.

    Logged, with `{name}` "cam" by default, at the step of the validation metrics:

    - `{name}/{method}`: the overlay grid
    - `{name}/{method}/filmstrip`: images in rows, epochs in columns, one scale per row
    - `{name}/{method}/target_probability`, `entropy`, `similarity_to_previous`, `similarity_to_first`: means over the
      images; and with `boxes` or `masks` in the batch `share_inside`, `pointing_game`
    - `{name}/about`: a text card

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_cam import TransformerCAMCallback
        >>> trainer = Trainer(callbacks=[TransformerCAMCallback()], logger=False)
    """

    def __init__(
        self,
        *,
        methods: str | list[str] = "hirescam",
        num_samples: int = 16,
        probe: str | None = None,
        class_idx: int | None = None,
        score: Callable[[Any], Tensor] | None = None,
        target_layers: list[str] | None = None,
        layout: TokenLayout | list[TokenLayout] | None = None,
        forward: str | Callable[[Tensor], Any] | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        class_names: list[str] | None = None,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        name: str = "cam",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__()
        for argument, value in (("num_samples", num_samples), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise ValueError(f"{argument}: expected at least 1, got {value}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected None or at least 1, got {batch_size}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error: expected 'warn' or 'raise', got {on_error!r}")
        if (mean is None) != (std is None):
            raise ValueError("mean, std: give both or neither")
        find_methods(methods)
        self.methods = methods
        self.num_samples = num_samples
        self.probe = probe
        self.class_idx = class_idx
        self.score = score
        self.target_layers = target_layers
        self.layout = layout
        self.forward = forward
        self.mean = mean
        self.std = std
        self.class_names = class_names
        self.every_n_epochs = every_n_epochs
        self.batch_size = batch_size
        self.name = name
        self.on_error = on_error
        self._off = False
        self._probe: ProbeBatch | None = None
        self._history = History()
        self._session: _Session | None = None

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint; several callbacks differ in it by their names."""
        return self._generate_state_key(name=self.name)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._off = False
        self._attempt(self._begin, trainer, stage)

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._probe is None:
            self._attempt(self._take_probe, trainer, pl_module, batch)

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
        if batch_idx == 0 and dataloader_idx == 0 and self._is_due(trainer):
            self._attempt(self._look, trainer, pl_module)

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._attempt(self._end)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._attempt(self._end)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._probe is None:
            return {}
        if self._probe.num_bytes > _MAX_STATE_BYTES:
            rank_zero_warn(
                f"The probe of {self._probe.num_bytes / 2**20:.0f} MiB is not saved in checkpoints (at most "
                f"{_MAX_STATE_BYTES / 2**20:.0f} MiB); a resumed run will take a new one."
            )
            return {}
        return {"probe": self._probe.state_dict(), "history": self._history.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._probe = ProbeBatch(**state_dict["probe"])
            self._history.load_state_dict(state_dict["history"])

    def _attempt(self, action: Callable[..., None], *args: Any) -> None:
        """Run a part of a look; if it fails, say why once and switch off, so that training goes on."""
        if self._off:
            return
        try:
            action(*args)
        except Exception as error:
            self._off = True
            self._session = None
            if self.on_error == "raise":
                raise
            rank_zero_warn(f"TransformerCAMCallback switched itself off: {error or type(error).__name__}")

    def _begin(self, trainer: Trainer, stage: str) -> None:
        callbacks = [c for c in trainer.callbacks if isinstance(c, TransformerCAMCallback)]  # type: ignore[attr-defined]
        if sum(callback.name == self.name for callback in callbacks) > 1:
            raise ValueError(f"name: two callbacks are called {self.name!r}; give each its own")
        if stage == "fit" and self._history.steps and _metrics_step(trainer) < self._history.steps[-1]:
            # The same object in a new training; one that is resumed gets its state after this.
            self._probe = None
            self._history.clear()

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.state.fn != "fit" or trainer.current_epoch % self.every_n_epochs == 0

    def _take_probe(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if self.probe is None:
            self._probe = ProbeBatch.from_batch(batch, self.num_samples)
        else:
            probe = ProbeBatch.from_folder(self.probe, self.num_samples, find_transform(_loaders(trainer)))
            self._probe = trainer.precision_plugin.convert_input(probe.to(module.device))

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        if not _takes_part(trainer):
            return
        assert self._probe is not None  # taken at the start of this batch
        self._probe = probe = self._probe.to(module.device)
        step = _metrics_step(trainer)
        if self._history.steps and step <= self._history.steps[-1]:
            _log.info("No look at step %d: there is one at step %d already.", step, self._history.steps[-1])
            return
        with trainer.precision_plugin.forward_context(), _unlogged(module):
            session = self._session = self._session or self._open_session(trainer, module, probe)
            if trainer.sanity_checking:  # what does not fit was said before the training began
                return
            explanation = explain(
                module,
                probe.images,
                self.methods,
                class_idx=probe.labels if self.class_idx is None else self.class_idx,
                score=self.score,
                target_layers=session.layers,
                forward=session.forward,
                batch_size=self.batch_size,
            )
        num_classes = 0 if explanation.logits is None else explanation.logits.shape[1]
        if explanation.class_idx is not None and self.class_idx is None and probe.num_labels > num_classes:
            raise ValueError(
                f"the validation batch has the label {probe.num_labels - 1}, but the model only {num_classes} logits; "
                "give class_idx=, or score="
            )
        if session.captions is None:
            names = session.class_names or [str(index) for index in range(num_classes)]
            session.captions = Captions(names, module.device)
        look = compose(
            explanation,
            probe,
            session.photos,
            session.captions,
            self._history,
            name=self.name,
            step=step,
            epoch=trainer.current_epoch,
        )
        if session.worker is not None:
            session.worker.submit(look)

    def _open_session(self, trainer: Trainer, module: LightningModule, probe: ProbeBatch) -> "_Session":
        """Find out what stays the same over all looks of a run."""
        forward = classifier_of(module, self.forward)
        layers = find_target_layers(
            module, probe.images, forward=forward, target_layers=self.target_layers, layout=self.layout
        )
        loaders = _loaders(trainer)
        mean, std = as_statistics(self.mean, probe.images), as_statistics(self.std, probe.images)
        if mean is None or std is None:
            mean, std = find_normalisation(probe.images, loaders, module)
        photos = unnormalise(probe.images.float(), mean, std)
        class_names = self.class_names or find_class_names([loaders, getattr(trainer, "datamodule", None)])
        introduction = Introduction(
            name=self.name,
            methods=[method.name for method in find_methods(self.methods)],
            text=self._about(trainer, probe, layers),
            photos=(photos * 255).round().to(torch.uint8),
            labels=probe.labels,
            regions=probe.regions,
            class_names=class_names,
        )
        return _Session(forward, layers, photos, class_names, _open_worker(trainer, introduction))

    def _about(self, trainer: Trainer, probe: ProbeBatch, layers: Sequence[TargetLayer]) -> str:
        if self.score is not None:
            target = "the given score"
        elif self.class_idx is not None:
            target = f"class {self.class_idx}"
        else:
            target = "the predicted class" if probe.labels is None else "the image's label"
        return _ABOUT.format(
            count=len(probe.images),
            layers="`, `".join(layer.name for layer in layers),
            name=self.name,
            target=target,
            logdir=getattr(trainer.logger, "save_dir", None) or "DIR",
        )

    def _end(self) -> None:
        """Write what waits; the next run of this callback begins a session of its own."""
        session, self._session = self._session, None
        if session is not None and session.worker is not None:
            session.worker.close()


@dataclass
class _Session:
    """What the looks of one run share.

    Args:
        forward: What maps images to logits.
        layers: The target layers.
        photos: (B, 3, H, W) in [0, 1], the probe's images as a person would see them.
        class_names: Names of the classes, or None.
        worker: Writes the looks; None on ranks that only take part, and in a `fast_dev_run`.
        captions: Set at the first look, when the number of classes is known.
    """

    forward: Callable[..., Any]
    layers: list[TargetLayer]
    photos: Tensor
    class_names: list[str] | None
    worker: SinkWorker | None
    captions: Captions | None = None


def _open_worker(trainer: Trainer, introduction: Introduction) -> SinkWorker | None:
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        return None
    sinks = [sink for logger in trainer.loggers if (sink := sink_of(logger)) is not None]
    if not sinks:
        came = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "none"
        raise ValueError(f"Trainer(logger=...): a logger that takes images is needed ({', '.join(SINKS)}), got {came}")
    return SinkWorker(sinks, introduction)


def _takes_part(trainer: Trainer) -> bool:
    """Whether this rank looks: the first one, or all where a forward of the sharded model needs all."""
    return trainer.is_global_zero or type(trainer.strategy).__name__ in ("FSDPStrategy", "ModelParallelStrategy")


def _metrics_step(trainer: Trainer) -> int:
    """The step that Lightning logs validation metrics at, which is not `global_step`."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _loaders(trainer: Trainer) -> Any:
    """The loaders of the loop that runs, as the user gave them."""
    return trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders


@contextmanager
def _unlogged(module: LightningModule) -> Iterator[None]:
    """Keep what the model's forward logs in a look out of the user's metrics."""
    vars(module)["log"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del vars(module)["log"]
