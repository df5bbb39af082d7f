"""The inputs that methods may need for one batch; each is computed once, when a method first asks for it."""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.methods import DoesNotApply, Method
from lightning_cam.methods.registry import LAYER_NEEDS
from lightning_cam.model.keep_grad import KeepGrad, WithGraphWhereNeeded
from lightning_cam.model.output import Forward, Score, forward_of_rows
from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.passes.attention import ATTENTION_NEEDS, AttentionPass
from lightning_cam.passes.capture import capture
from lightning_cam.passes.captured import Capture, EmbeddingCapture
from lightning_cam.passes.features import FeatureWatch
from lightning_cam.passes.grad_cam import run_grad_cam
from lightning_cam.passes.input import InputPass, input_pass
from lightning_cam.passes.rerun import Rerun
from lightning_cam.passes.rules import RULES
from lightning_cam.passes.scored import scores_of
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.depth import Block
from lightning_cam.resolve.features import FeatureLayer

# What methods need whose maps are of the images' pixels, wherever these go.
OF_IMAGES = frozenset({"images", "input_gradients", "bias_gradients", "gradient_images", "score_images", "grad_cam"})


class MethodInputs:
    """One batch and all data that methods may need of it. Use it inside `looking(model)`.

    Args:
        model: The module that holds the layers.
        forward: What to call with the images.
        images: (B, C, H, W).
        layers: The target layers.
        class_idx: Explained class, an int or (B,); None for the predicted one.
        score: From the model's output to (B,) scalars, instead of a class.
        needs: All that any method will ask for.
        embedding: From `find_embedding`, if any method asks for it.
        blank_embedding: What it makes of nothing, (1, ...).
        sees_blocks: Whether to look at what the blocks do, where a method follows the score through them all.
        blocks: From `find_depth`, where it is to be told what each of them reads.
        features: From `find_features`, if any method asks for what the network ends with.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        images: Tensor,
        layers: Sequence[TargetLayer],
        *,
        class_idx: Tensor | int | None,
        score: Score | None,
        needs: Collection[str],
        embedding: TargetLayer | None = None,
        blank_embedding: Tensor | None = None,
        sees_blocks: bool = False,
        blocks: Sequence[Block] = (),
        features: FeatureLayer | None = None,
    ) -> None:
        forward = WithGraphWhereNeeded(forward)
        self._model, self._forward, self._score, self._needs = model, forward, score, needs
        self.layers = layers
        # An inference tensor cannot take part in a graph, its clone can.
        self.images = images.clone() if images.is_inference() else images
        self._features = None if features is None else FeatureWatch(features, needs)
        basic = {need for need in needs if need in ("gradients", "hvp") or need in ATTENTION_NEEDS}
        if "layer_gradients" in needs:
            basic.add("gradients")
        self.captured: Capture = capture(
            model,
            self.images,
            layers,
            forward=forward,
            class_idx=class_idx,
            score=score,
            needs=basic,
            embedding=embedding,
            blank_embedding=blank_embedding,
            rules=[name for name in RULES if f"{name}_gradients" in needs],
            sees_blocks=sees_blocks,
            blocks=blocks,
            features=self._features,
        )

    def maps(self, method: Method, **options: Any) -> list[Tensor]:
        """Run a method: one map (B, h, w) per target layer, or one in all if it is not about a layer.

        Those of volumes are (B, d, h, w).

        Raises:
            DoesNotApply: The method is not defined for the model.
        """
        if self.images.ndim == 5 and not method.needs.isdisjoint({*OF_IMAGES, "token_layout"}):
            raise DoesNotApply(
                f"methods: {method.name} is made for images (B, C, H, W), and does not apply to volumes and videos",
                method.name,
            )
        return [self._planes(maps) for maps in self._maps(method, options)]

    def _planes(self, maps: Tensor) -> Tensor:
        """Maps of a layer's planes below one another as (B, d, h, w)."""
        if self.images.ndim == 4 or maps.ndim == 4:
            return maps
        grids = (layer.layout.grid_size for layer in self.layers)
        return next(maps.unflatten(1, (d, h)) for d, h, w in grids if maps.shape[1:] == (d * h, w))

    def _maps(self, method: Method, options: dict[str, Any]) -> list[Tensor]:
        try:
            if not method.per_layer:
                return [method.function(**{need: _OF_MODEL[need](self) for need in method.needs}, **options)]
            return [
                method.function(**{need: self._of_layer(need, index) for need in method.needs}, **options)
                for index in range(len(self.layers))
            ]
        except DoesNotApply as error:
            raise DoesNotApply(f"methods: {method.name} does not apply to this model: {error}", method.name) from None

    def _of_layer(self, need: str, index: int) -> Any:
        if need == "score_outputs":
            return self._score_outputs(index)
        return getattr(self.captured.layers[index], need) if need in LAYER_NEEDS else _OF_MODEL[need](self)

    def _score_outputs(self, index: int) -> Callable[[Tensor, Tensor], Tensor]:
        layer = self.layers[index]
        if layer.layout.axes[0] != "B":
            raise DoesNotApply(f"{layer.name} has layout {layer.layout}; expected one that begins with the batch")
        rerun = Rerun(self._model, self._forward, self.images, layer.module)
        return self._scorer(rerun)

    def score_images(self, images: Tensor, image: Tensor) -> Tensor:
        """Scores (N,) of other images (N, C, H, W) for the classes of the images (N,) that they belong to."""
        return self._scorer(lambda rows, index: forward_of_rows(self._forward, index)(rows))(images, image)

    def gradient_images(self, images: Tensor, image: Tensor) -> Tensor:
        """Gradients (N, C, H, W) of the scores of other images, as in `score_images`, with respect to these."""
        stop_if_interrupted()
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            with KeepGrad(self._model):
                output = forward_of_rows(self._forward, image)(images)
            scores = self._scores(output, image).sum()
            (gradients,) = torch.autograd.grad(scores, images, allow_unused=True) if scores.requires_grad else (None,)
        if gradients is None:
            raise DoesNotApply("the gradient of the score does not reach the images, as behind quantized layers")
        return gradients.float()

    def _scorer(self, run: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Tensor]:
        def score_rows(rows: Tensor, image: Tensor) -> Tensor:
            stop_if_interrupted()
            with torch.no_grad():
                return self._scores(run(rows, image), image)

        return score_rows

    def _scores(self, output: Any, image: Tensor | None = None) -> Tensor:
        """Scores (N,) of the classes explained in the images (N,) that the rows of an output belong to."""
        classes = self.captured.class_idx
        if classes is not None and image is not None:
            classes = classes[image]
        count = len(self.images) if image is None else len(image)
        return scores_of(output, count, classes, self._score)[2]

    def grad_cam(self, cls: type, *, eigen_smooth: bool) -> Tensor:
        """Map (B, H, W) of a class of `pytorch_grad_cam`."""
        return run_grad_cam(
            cls,
            self._model,
            self._forward,
            self.images,
            self.layers,
            self.captured,
            self._score,
            eigen_smooth=eigen_smooth,
        )

    @cached_property
    def input_pass(self) -> InputPass:
        """Gradients at the images and biases."""
        return input_pass(self._model, self._forward, self.images, self._scores)

    @property
    def features(self) -> FeatureWatch:
        """What the network ended with."""
        assert self._features is not None  # some method needs it
        return self._features

    @property
    def attention_pass(self) -> AttentionPass:
        """Attention of all blocks and its gradients.

        Raises:
            DoesNotApply: There is no attention over all tokens.
        """
        found = self.captured.attention
        if isinstance(found, DoesNotApply):
            raise found
        assert found is not None  # some method needs it
        return found


def _at_embedding(inputs: MethodInputs) -> EmbeddingCapture:
    assert inputs.captured.embedding is not None  # some method needs it
    return inputs.captured.embedding


def _by_rules(name: str) -> Callable[[MethodInputs], Tensor]:
    return lambda inputs: _at_embedding(inputs).gradients[name]


_OF_MODEL: dict[str, Callable[[MethodInputs], Any]] = {
    "embedding": lambda inputs: _at_embedding(inputs).activations,
    **{f"{name}_gradients": _by_rules(name) for name in RULES},
    "images": lambda inputs: inputs.images,
    "image_size": lambda inputs: tuple(inputs.images.shape[2:]),
    "scores": lambda inputs: inputs.captured.scores,
    "score_images": lambda inputs: inputs.score_images,
    "gradient_images": lambda inputs: inputs.gradient_images,
    "layer_activations": lambda inputs: [layer.activations for layer in inputs.captured.layers],
    "layer_gradients": lambda inputs: [layer.gradients for layer in inputs.captured.layers],
    "input_gradients": lambda inputs: inputs.input_pass.input_gradients,
    "bias_gradients": lambda inputs: inputs.input_pass.bias_gradients,
    "attentions": lambda inputs: inputs.attention_pass.attentions,
    "attention_gradients": lambda inputs: inputs.attention_pass.attention_gradients,
    "block_attention_gradients": lambda inputs: inputs.attention_pass.block_attention_gradients,
    "readout": lambda inputs: inputs.attention_pass.readout,
    "features": lambda inputs: inputs.features.features,
    "summary": lambda inputs: inputs.features.summary,
    "class_token": lambda inputs: inputs.features.layer.class_token,
    "last_attention": lambda inputs: inputs.features.last_attention,
    "token_layout": lambda inputs: inputs.layers[-1].layout,
    "grad_cam": lambda inputs: inputs.grad_cam,
}
