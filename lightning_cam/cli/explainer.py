"""What `lightning-cam explain` asks of every image, with what is found out of the model once for all of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_cam.cli.errors import UsageError
from lightning_cam.cli.models import first_output
from lightning_cam.cli.named import NamedModel
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.explanation import Explanation, adds_up, explain, find_methods, with_next_best
from lightning_cam.explanation.dense import leading_parts
from lightning_cam.methods import METHODS, DoesNotApply
from lightning_cam.methods.defaults import DEFAULT, FEATURES
from lightning_cam.methods.registry import OF_FEATURES
from lightning_cam.model.classifier import classifier_of
from lightning_cam.model.output import NoLogits, outputs_of
from lightning_cam.model.parts import DenseTask
from lightning_cam.observe.views import SeveralViews
from lightning_cam.resolve import TargetLayer, find_layers_and_views
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.embedding import find_embedding
from lightning_cam.resolve.features import FeatureLayer, find_features

_log = logging.getLogger(__name__)


@dataclass
class Explainer:
    """What is asked of every image.

    Args:
        model: The model, on the device it is to run on.
        preprocessing: From a picture to what the model takes.
        methods: Name or names of methods; of "all" and "default" those that apply.
        forward: Which part of the model to call, see `classifier_of`.
        target_layers: Names of layers; by default found.
        class_idx: The class to explain; by default the predicted one.
        aug_smooth: Mean over six views of the image.
        eigen_smooth: First principal component in place of the sum over channels.

    Raises:
        UsageError: The methods explain a class, and the model has none.
    """

    model: NamedModel
    preprocessing: Preprocessing
    methods: str | list[str] = DEFAULT
    forward: str | None = None
    target_layers: list[str] | None = None
    class_idx: int | None = None
    aug_smooth: bool = False
    eigen_smooth: bool = False

    def __post_init__(self) -> None:
        self._chosen = _methods_of_features(self.model, self.methods) if self.shows_features else self.methods
        self._is_settled = False

    @property
    def shows_features(self) -> bool:
        """Whether the model has no classes, and no other output of it was named."""
        return not self.model.has_classes and self.forward is None and self.class_idx is None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.module.parameters()), torch.device("cpu"))

    @property
    def _blank(self) -> Tensor:
        return torch.zeros(1, len(self.preprocessing.mean), *self.preprocessing.image_size, device=self.device)

    @cached_property
    def _called(self) -> Any:
        return classifier_of(self.model.module, self.forward or self.model.forward)

    @cached_property
    def _output(self) -> Any:
        output = first_output(self.model.module, self._called, self._blank, "--image-size, --mean and --std")
        if isinstance(output, list) and output and isinstance(output[0], Mapping) and "boxes" in output[0]:
            raise UsageError(
                "--model: the model returns boxes that it has selected, as torchvision's detectors do, and no logits; "
                "detectors by queries (DETR, YOLOS) are explained"
            )
        return output

    @cached_property
    def _found(self) -> tuple[list[TargetLayer], SeveralViews]:
        """The target layers and the calls of the network, which are the same for all images."""
        assert self._output is not None  # what it says of a wrong size is clearer than what the search would say
        module, called, named = self.model.module, self._called, self.target_layers
        layers, calls = find_layers_and_views(module, self._blank, forward=called, target_layers=named)
        return layers if named else layers[-1:], calls or SeveralViews.of(module, self._blank, called)

    def find_layers(self) -> list[TargetLayer]:
        """Find the target layers."""
        return self._found[0]

    @cached_property
    def task(self) -> DenseTask | None:
        """What the model says of parts of an image, if it does."""
        if not any(method.asks_score for method in find_methods(self._chosen)):
            return None
        try:
            outputs_of(self._output, 1)
        except NoLogits:
            found = leading_parts(self.model.module, self._blank, self._called, None)
            return None if found is None else found[0].task
        return None

    @cached_property
    def depth(self) -> Depth:
        """Where methods of the whole depth read relevance."""
        return Depth(find_embedding(self.model.module, self._blank, forward=self._found[1]))

    @cached_property
    def features(self) -> FeatureLayer:
        """Where methods of features read them."""
        layers, calls = self._found
        is_named = self.target_layers is not None
        return find_features(self.model.module, self._blank, layers[-1], forward=calls, is_named=is_named)

    def __call__(self, images: Tensor, layers: Sequence[TargetLayer]) -> Explanation:
        """Explain a batch (B, C, H, W).

        Returns:
            One row for each image; of a model that says something of parts of an image as many rows for each image as
            parts are explained of it, side by side.
        """
        images = images.to(self.device)
        if self.task is None:
            return self._explain(images, layers, forward=self._found[1], class_idx=self.class_idx)
        found = leading_parts(self.model.module, images, self._called, self.class_idx, count=None)
        assert found is not None  # or there were no task
        forward, parts = found
        rows = images.repeat_interleave(len(parts.classes) // len(images), 0)
        options: dict[str, Any] = {"forward": forward, "class_idx": parts.classes, "parts": parts}
        return self._explain(rows, layers, batch_size=len(images), **options)

    def _explain(self, images: Tensor, layers: Sequence[TargetLayer], **options: Any) -> Explanation:
        """Explain by the methods that apply; which of "all" and "default" these are is settled by the first batch."""

        def explain_by(methods: str | list[str]) -> Explanation:
            return self._explain_by(images, layers, methods, **options)

        if self._is_settled or not isinstance(self.methods, str):
            return explain_by(self._chosen)
        try:
            explanation = explain_by(self._chosen)
        except DoesNotApply as error:
            others = [method.name for method in find_methods(self._chosen) if method.name != error.method]
            if not others:
                raise
            _log.info("%s; it is skipped.", error)
            self._chosen = others
            return self._explain(images, layers, **options)
        if self._chosen == DEFAULT and not adds_up(explanation):
            explanation = with_next_best(explanation, explain_by)
        self._chosen, self._is_settled = list(explanation.layer_maps), True
        return explanation

    def _explain_by(
        self, images: Tensor, layers: Sequence[TargetLayer], methods: str | list[str], **options: Any
    ) -> Explanation:
        needs = frozenset[str]().union(*(method.needs for method in find_methods(methods)))
        return explain(
            self.model.module,
            images,
            methods,
            target_layers=layers,
            depth=self.depth if "embedding" in needs else None,
            features=self.features if needs & OF_FEATURES else None,
            aug_smooth=self.aug_smooth,
            eigen_smooth=self.eigen_smooth,
            **options,
        )


def _methods_of_features(model: NamedModel, methods: str | list[str]) -> str | list[str]:
    """Those methods that need no class.

    Raises:
        UsageError: Some were named that do.
    """
    if methods == DEFAULT:
        return list(FEATURES)
    asking = [method.name for method in find_methods(methods) if method.asks_score]
    if methods == "all":
        return [name for name in METHODS if name not in asking]
    if not asking:
        return methods
    texts = " give --texts, the classes as texts;" if model.images_and_texts is not None else ""
    raise UsageError(
        f"--method: {', '.join(asking)} explain a class, and the model returns features;{texts} "
        f"--method {','.join(FEATURES)} shows the features, --class-idx explains one of their numbers"
    )
