"""The model side of a look: which layers, which methods, through which part of the module."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.explanation import Explanation, adds_up, explain, find_methods, with_next_best
from lightning_cam.explanation.single_bag import OfBag, OfInstances, of_bags
from lightning_cam.methods import DoesNotApply
from lightning_cam.methods.defaults import DEFAULT, FEATURES
from lightning_cam.model.keep_grad import ThroughDetach
from lightning_cam.model.output import Forward, OnCopies, Score, forward_of_rows, logits_of, no_score
from lightning_cam.model.parts import DenseTask, OfParts, Parts
from lightning_cam.model.tasks import Embeddings, Task
from lightning_cam.model.untouched import looking
from lightning_cam.observe.views import SeveralViews
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.refusals import NoGradient
from lightning_cam.training.as_validated import AsValidated, OrSayWhy
from lightning_cam.training.checks import (
    CONTROL,
    FEW,
    Checks,
    class_similarity,
    faithfulness,
    gain_over_chance,
)
from lightning_cam.training.found_layers import FoundLayers, find_layers, searched_with
from lightning_cam.training.heads import Head
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.ranks import gather, share_of
from lightning_cam.training.self_supervised import Source, methods_of_features
from lightning_cam.training.settings import Settings

_log = logging.getLogger(__name__)


class ProbeExplainer:
    """Explains one output for the probe batch with the model of a run.

    Args:
        settings: What the user asked for.
        trainer: The trainer.
        module: The model.
        probe: The fixed images, on the model's device.
        source: What was seen of validation, or guessed.
        head: The output.
        like: What one of another output has found: the same layers.
        together: Whether all ranks look.

    Attributes:
        found: Where the model is explained.

    Raises:
        ValueError: The model cannot be looked at, or an argument does not fit.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Trainer,
        module: LightningModule,
        probe: ProbeBatch,
        source: Source,
        head: Head,
        like: FoundLayers | None = None,
        *,
        together: bool,
    ) -> None:
        self._settings, self._probe, self._head = settings, probe, head
        self._shares = together and settings.shard_probe
        self._is_bag = source.form.is_bag
        self._looks, self._methods = 0, settings.methods
        if isinstance(head.task, Embeddings) and settings.score is None:
            self._methods = methods_of_features(settings.methods)
        as_validated: Forward
        as_validated = OrSayWhy(AsValidated(trainer, module, source.forward(head, probe), head.task), module)
        self._of_parts: OfParts | None = None
        self._parts: Parts | None = None  # of the newest look
        if isinstance(head.task, DenseTask) and settings.score is None:
            self._whole = as_validated
            as_validated = self._of_parts = OfParts(as_validated, head.task)
        if self._is_bag:  # explained bag by bag, each as a batch of its instances
            as_validated = OfInstances(OfBag(as_validated))
        if like is not None:
            forward = ThroughDetach(as_validated) if like.passes_detach else as_validated
            searched = searched_with(probe.images[:2], is_bag=self._is_bag).to(module.device)
            self.found, self._forward = like, SeveralViews.of(module, searched, forward)
            return
        find = partial(
            find_layers,
            module,
            probe.images,
            methods=self._methods,
            settings=settings,
            picks=settings.score is None and not isinstance(head.task, Embeddings),
            is_bag=self._is_bag,
        )
        try:
            self.found, self._forward = find(as_validated)
        except NoGradient as error:
            try:
                self.found, self._forward = find(ThroughDetach(as_validated), passes_detach=True)
            except ValueError:
                raise error from None
            _log.info("The output has a gradient only if detach() is ignored, so it is ignored.")

    def explain(self, trainer: Trainer, module: LightningModule) -> Explanation:
        """Explain the probe, or on each rank a share of it where it is shared out.

        Raises:
            ValueError: A label is none of the model's classes.
        """
        probe, class_idx = self._probe, self._settings.class_idx
        images, classes = probe.images, self._head.labels(probe) if class_idx is None else class_idx
        parts = self._find_parts(module)
        if parts is not None:
            classes = parts.classes
        rows: slice | Tensor = slice(None)
        if self._shares:
            rows = torch.tensor(share_of(trainer, len(images)))
            images = images[rows.to(images.device)]
            classes = classes[rows.to(classes.device)] if isinstance(classes, Tensor) else classes
        self._parts = parts
        explanation = self._explain(module, images, rows, class_idx=classes, with_blocks=True)
        # Only at the first look: to know it, the host has to wait for the device. Ranks with images of their own could
        # come to different answers.
        if self._looks == 0 and self._methods == DEFAULT and not self._shares and not adds_up(explanation):
            again = partial(self._explain_by, module=module, images=images, rows=rows, class_idx=classes)
            explanation = with_next_best(explanation, again)
            self._methods = list(explanation.layer_maps)
        num_classes = 0 if explanation.logits is None else explanation.logits.shape[1]
        if explanation.class_idx is not None and class_idx is None and probe.num_labels > num_classes:
            raise ValueError(
                f"the batch has the label {probe.num_labels - 1}, but the model has only {num_classes} "
                "logits; give class_idx= or score="
            )
        return explanation

    def explain_rows(
        self, module: LightningModule, images: Tensor, rows: Tensor, methods: list[str], class_idx: Tensor | None
    ) -> Explanation:
        """Explain some images by these methods.

        Args:
            module: The model.
            images: (b, C, H, W), on its device.
            rows: (b,) which of the images that this was made for they are.
            methods: Names.
            class_idx: (b,) classes, -1 or None for the predicted ones.
        """
        return self._explain_by(methods, module, images, rows, class_idx=class_idx)

    def probabilities(self, module: LightningModule, images: Tensor, rows: Tensor) -> Tensor:
        """(b, classes) float32 of images that stand for these rows."""
        with looking(module), torch.no_grad():
            logits = logits_of(OnCopies(self._forward.of_rows(rows))(images), len(images))
        return self.task.probabilities(logits)

    @property
    def names(self) -> list[str]:
        """Names of the methods."""
        return [method.name for method in find_methods(self._methods)]

    @property
    def task(self) -> Task:
        """What the output says."""
        return self._head.task or Task()

    def whole(self, trainer: Trainer, part: Explanation) -> Explanation:
        """The explanation of the whole probe, where `explain` gave this rank's share."""
        part = gather(trainer, part, len(self._probe.images)) if self._shares else part
        parts = self._parts
        is_volume = parts is not None and parts.predicted.ndim == 4
        return replace(part, parts=parts.without_outlines() if parts is not None and is_volume else parts)

    def check(self, module: LightningModule, explanation: Explanation, *, is_last: bool) -> Checks:
        """Find out what is too dear for every look, of all images, on every rank that looks."""
        if self._probe.images.ndim == 5:  # what is changed in these is told of images
            self._looks += 1
            return Checks()
        first, every = self._looks == 0, self._settings.faithfulness_every_n_looks
        thorough = every is not None and self._looks % every == 0
        self._looks += 1
        leading = next((name for name in explanation.layer_maps if name not in FEATURES), CONTROL)
        gain = {}
        if (first or is_last) and explanation.class_idx is not None and leading != CONTROL:
            gain[leading] = gain_over_chance(
                module,
                self._forward,
                self._probe.images,
                explanation,
                leading,
                self._settings.batch_size,
                is_exclusive=self._is_exclusive,
            )
        if not first and not thorough:
            return Checks(gain_over_chance=gain)
        again = partial(self._explain, module, self._probe.images[:FEW], slice(FEW))
        return Checks(
            faithfulness(
                module,
                self._forward,
                self._probe.images,
                explanation,
                self._settings.batch_size,
                is_exclusive=self._is_exclusive,
            )
            if thorough and explanation.class_idx is not None
            else {},
            class_similarity(lambda classes: again(class_idx=classes), explanation),
            gain,
        )

    def _find_parts(self, module: LightningModule) -> Parts | None:
        """The parts of the images that the model finds in this look, where an output says something of parts."""
        head, probe, class_idx = self._head, self._probe, self._settings.class_idx
        if self._of_parts is None or not isinstance(head.task, DenseTask):
            return None
        count = head.parts(class_idx)
        images, rows = probe.images[::count], torch.arange(0, len(probe.images), count)
        target = probe.targets.get(head.name)
        step = self._settings.batch_size or len(images)
        found = []
        with looking(module), torch.no_grad():
            for start in range(0, len(images), step):
                chunk = slice(start, start + step)
                output = OnCopies(forward_of_rows(self._whole, rows[chunk]))(images[chunk])
                size = tuple(images.shape[2:])
                known = None if target is None else target[::count][chunk]
                found.append(head.task.find(output, size, known, count, class_idx))
        parts = Parts.joined(found)
        self._of_parts.where = parts.where
        return parts

    @property
    def _is_exclusive(self) -> bool:
        return self._head.task is None or self._head.task.is_exclusive

    def _explain(
        self,
        module: LightningModule,
        images: Tensor,
        rows: slice | Tensor,
        *,
        class_idx: Tensor | int | None,
        with_blocks: bool = False,
    ) -> Explanation:
        explain_by = partial(self._explain_by, class_idx=class_idx, with_blocks=with_blocks)
        try:
            return explain_by(self._methods, module, images, rows)
        except DoesNotApply as error:
            names = [self._methods] if isinstance(self._methods, str | type) else self._methods
            names = [method.name for method in find_methods(DEFAULT)] if names == [DEFAULT] else names
            others = [name for name in names if find_methods(name)[0].name != error.method]
            if not others:
                raise
            asked_for = self._settings.methods not in (DEFAULT, "all")
            _log.log(logging.WARNING if asked_for else logging.INFO, "%s; it is skipped.", error)
            self._methods = others
        return self._explain(module, images, rows, class_idx=class_idx, with_blocks=with_blocks)

    def _explain_by(
        self,
        methods: Any,
        module: LightningModule,
        images: Tensor,
        rows: slice | Tensor,
        *,
        class_idx: Tensor | int | None,
        with_blocks: bool = False,
    ) -> Explanation:
        score, task = self._settings.score, self._head.task
        if score is None and task is not None and not task.has_classes:
            score = _Value(class_idx if isinstance(class_idx, int) else 0) if task.has_values else no_score
            class_idx = None
        if self._is_bag:
            return self._explain_bags(methods, module, images, class_idx, score)
        depth = self.found.depth
        return explain(
            module,
            images,
            methods,
            target_layers=self.found.layers,
            depth=depth if with_blocks or depth is None else Depth(depth.embedding),
            features=self.found.features,
            forward=self._forward.of_rows(rows),
            batch_size=self._settings.batch_size,
            class_idx=class_idx,
            score=score,
            parts=None if self._parts is None else self._parts.of_rows(rows),
        )

    def _explain_bags(
        self, methods: Any, module: LightningModule, bags: Tensor, class_idx: Tensor | int | None, score: Score | None
    ) -> Explanation:
        """Explain bags (b, C, N, H, W) one after the other, of a network that takes one at a time."""
        parts = [
            explain(
                module,
                bag.transpose(0, 1),
                methods,
                target_layers=self.found.layers,
                depth=self.found.depth,
                forward=self._forward,
                batch_size=len(bag[0]),
                class_idx=class_idx[row].expand(len(bag[0])) if isinstance(class_idx, Tensor) else class_idx,
                score=score,
            )
            for row, bag in enumerate(bags)
        ]
        return of_bags(parts, bags, self.found.planes)


@dataclass(frozen=True)
class _Value:
    """One of the values of a regression."""

    index: int

    def __call__(self, output: Tensor) -> Tensor:
        if not self.index < output.shape[1]:
            raise ValueError(f"class_idx: the model's values go from 0 to {output.shape[1] - 1}, got {self.index}")
        return output[:, self.index]
