"""`explain`: class activation maps from a model and images in one call, without Lightning."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_cam.explanation.batches import VIEWS, explain_batch, sum_of_calls
from lightning_cam.explanation.conserved import adds_up, with_next_best
from lightning_cam.explanation.dense import leading_parts
from lightning_cam.explanation.explained import Explanation
from lightning_cam.explanation.request import as_batch, as_classes, check, find_methods, hint_of_features
from lightning_cam.explanation.single_bag import OfBag, OfInstances, is_of_one_bag, of_bags
from lightning_cam.methods import Method
from lightning_cam.methods.defaults import BLANK, DEFAULT
from lightning_cam.methods.registry import OF_FEATURES
from lightning_cam.model.normalization import Statistics, stated_normalizations
from lightning_cam.model.output import Forward, NoLogits, OnCopies, Score, no_score
from lightning_cam.model.parts import Parts
from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.model.untouched import looking
from lightning_cam.observe.forms import InForm
from lightning_cam.observe.planes import form_of_volumes
from lightning_cam.observe.views import SeveralViews, View
from lightning_cam.passes.blank import blank_pass
from lightning_cam.passes.method_inputs import MethodInputs
from lightning_cam.resolve import TargetLayer, find_layers_and_views
from lightning_cam.resolve.depth import Block
from lightning_cam.resolve.embedding import find_embedding
from lightning_cam.resolve.features import FeatureLayer, find_features
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.planes import kind_of_planes
from lightning_cam.resolve.refusals import NoPatches, check_model, said_in_words

_log = logging.getLogger(__name__)


_LEAST = 4  # images at once, however few there are


def explain(
    model: nn.Module,
    images: Tensor | Image.Image | Sequence[Image.Image],
    methods: str | type | Sequence[str | type] = DEFAULT,
    *,
    class_idx: int | Sequence[int] | Tensor | None = None,
    score: Score | None = None,
    target_layers: str | nn.Module | TargetLayer | Sequence[str | nn.Module | TargetLayer] | None = None,
    layout: TokenLayout | Sequence[TokenLayout] | None = None,
    forward: Forward | None = None,
    batch_size: int | None = None,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    embedding: TargetLayer | None = None,
    blocks: Sequence[Block] = (),
    features: FeatureLayer | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    parts: Parts | None = None,
) -> Explanation:
    """Compute class activation maps of `images`; the model is left untouched.

    All methods and target layers of a batch share one forward, and one backward as far as a method needs it. Of a model
    that segments, the class with the largest region of each image is explained over that region, of one that detects by
    queries the object with the highest probability, or those of `class_idx`; see `Segmentation` and `Detection`.

    Args:
        model: A classifier, on the device of `images`, in any mode.
        images: (B, C, H, W) or one (C, H, W), normalized as the model expects; or with `preprocess` PIL images; or
            volumes (B, C, D, H, W), videos (B, T, C, H, W) or bags (B, N, C, H, W), as the model takes them, whose
            maps are (B, d, h, w). One bag (N, C, H, W) of a model with one output for it has maps (1, N, h, w).
        methods: Name or names of methods (see `METHODS`), or "all"; a class of `pytorch_grad_cam`, or its dotted path,
            runs through an adapter: its map is named after the class in lower case, of image size, scaled to [0, 1].
            "default" is `attnlrp`, evidence from the whole depth, and `hirescam`, what the last block still sees; for
            models with operations that `attnlrp` does not cover, `gae` replaces it where it applies, with a warning.
        class_idx: What to explain: a class, one class per image (-1 for its predicted one), or None for the predicted
            class. Methods that show features (`cls_attention`, `cls_similarity`, `pca`) need none, nor logits.
        score: In place of a class: a function from the model's output to (B,) scalars.
        target_layers: One or several names, modules or `TargetLayer`s; by default the last of those that
            `find_target_layers` finds.
        layout: Layout of the outputs of `target_layers`, if it cannot be found automatically.
        forward: What to call with the images; by default `model`.
        batch_size: Images per forward pass; by default all, or a quarter of them (at least 4) where
            classes are explained and a method needs the graph of the whole depth, which takes the memory of several
            forwards.
        aug_smooth: Mean over six views, flipped or not × brightness 0.9, 1, 1.1, as in grad-cam. The class explained
            is that of the plain view.
        eigen_smooth: Use the first principal component of the weighted activations instead of their sum, in
            methods that weight activations.
        embedding: Where methods of the whole depth read relevance; by default found by `find_embedding`.
        blocks: Those behind the embedding, from `find_depth`, to be told what each of them reads.
        features: Where methods of features read them; by default found by `find_features`, the last of named layers.
        preprocess: From a PIL image to what the model takes, (C, H, W), such as torchvision's `weights.transforms()`.
        parts: Which part of each image `forward` returns the logits of; by default found where the model segments.

    Returns:
        The maps, on the device of `images`.

    Raises:
        ValueError: An argument is invalid; the message names it, what was given, and what is expected.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
        >>> explanation = explain(model, torch.randn(2, 3, 224, 224), ["hirescam", "gradcam"])
        >>> explanation.maps["hirescam"].shape, explanation.heatmap("gradcam").shape
        (torch.Size([2, 14, 14]), torch.Size([2, 224, 224]))
    """
    chosen = find_methods(methods)
    check_model(model)
    given = images
    images = as_batch(model, images, preprocess)
    normalizations = stated_normalizations(preprocess, model)
    if class_idx is not None and not isinstance(class_idx, int):
        class_idx = as_classes(class_idx, images)
    check(images, class_idx, batch_size)
    explain_by = partial(
        _explain,
        model,
        images,
        methods,
        chosen,
        class_idx=class_idx,
        score=score,
        target_layers=target_layers,
        layout=layout,
        batch_size=batch_size,
        aug_smooth=aug_smooth,
        eigen_smooth=eigen_smooth,
        embedding=embedding,
        blocks=blocks,
        features=features,
        normalizations=normalizations,
    )
    try:
        return explain_by(forward=forward or model, parts=parts)
    except NoPatches as error:
        if not is_of_one_bag(model, images, forward or model):
            raise NoPatches(f"{error}{hint_of_features(given)}") from error
        return _explain_bag(model, explain_by, images, forward or model)
    except NoLogits:
        if score is None and is_of_one_bag(model, images, forward or model):
            return _explain_bag(model, explain_by, images, forward or model)
        found = None if score is not None else leading_parts(model, images, forward or model, class_idx, batch_size)
        if found is None:
            raise
    forward, parts = found
    return explain_by(forward=forward, parts=parts, class_idx=parts.classes)


def _explain_bag(
    model: nn.Module, explain_by: Callable[..., Explanation], images: Tensor, forward: Forward
) -> Explanation:
    """Explain the one output of a network for all images, which are the instances of a bag, together."""
    run = OfInstances(forward)
    part = explain_by(forward=run, parts=None, batch_size=len(images), are_instances=True)
    bag = images.transpose(0, 1)[None]
    return of_bags([part], bag, kind_of_planes(model, bag, OfBag(run)))


def _explain(
    model: nn.Module,
    images: Tensor,
    methods: str | type | Sequence[str | type],
    chosen: list[Method],
    *,
    class_idx: int | Tensor | None,
    score: Score | None,
    target_layers: str | nn.Module | TargetLayer | Sequence[str | nn.Module | TargetLayer] | None,
    layout: TokenLayout | Sequence[TokenLayout] | None,
    forward: Forward,
    batch_size: int | None,
    aug_smooth: bool,
    eigen_smooth: bool,
    embedding: TargetLayer | None,
    blocks: Sequence[Block],
    features: FeatureLayer | None,
    normalizations: Sequence[Statistics],
    parts: Parts | None,
    are_instances: bool = False,
) -> Explanation:
    """Compute maps of logits or scores, see `explain`."""
    given = [target_layers] if isinstance(target_layers, str | nn.Module | TargetLayer) else list(target_layers or ())
    known = [layer for layer in given if isinstance(layer, TargetLayer)]
    named = [layer for layer in given if not isinstance(layer, TargetLayer)] or None
    run = forward
    if images.ndim == 5 and not isinstance(run, SeveralViews):
        form = form_of_volumes(model, images, run)
        images, run = form.shown(images), InForm(run, form)
    calls = run if isinstance(run, SeveralViews) else None
    if known:  # who has found them before looks often, and has found the views of a forward with them
        layers, calls = known, calls or SeveralViews([View(run)])
    else:
        layers, seen = find_layers_and_views(
            model,
            images,
            forward=run,
            target_layers=named,
            layout=layout,
            picks=score is None,
            are_instances=are_instances,
        )
        calls = calls or seen or SeveralViews.of(model, images, run)
    layers = layers if given else layers[-1:]
    if not any(method.asks_score for method in chosen):
        score = score or no_score
    needs = frozenset[str]().union(*(method.needs for method in chosen))
    if "embedding" in needs and embedding is None:
        with said_in_words(model):
            embedding = find_embedding(model, images, forward=calls)
    if needs & OF_FEATURES and features is None:
        with said_in_words(model):
            features = find_features(model, images, layers[-1], forward=calls, is_named=bool(given))
    views = VIEWS if aug_smooth else VIEWS[:1]
    whole_depth = [method.name for method in chosen if "embedding" in method.needs]
    blank = None
    if whole_depth:
        with said_in_words(model), looking(model):  # of its own: a model that follows what it sees must not follow it
            blank = blank_pass(OnCopies(calls), images, score, embedding, every=parts is not None)
    inputs_of = partial(
        MethodInputs,
        model,
        layers=layers,
        score=score,
        needs=needs,
        embedding=embedding,
        blank_embedding=None if blank is None else blank.embedding,
        blocks=blocks if len(calls.views) == 1 else (),
        features=features,
    )
    # A score may know which image is which, and is given all of them.
    step = batch_size or (max(_LEAST, ceil(len(images) / 4)) if whole_depth and score is None else len(images))
    passes = []
    with said_in_words(model), looking(model):
        for start in range(0, len(images), step):
            stop_if_interrupted()
            chunk = slice(start, start + step)
            classes = class_idx[chunk] if isinstance(class_idx, Tensor) else class_idx
            passes.append(
                sum_of_calls(
                    [
                        explain_batch(
                            partial(inputs_of, OnCopies(call.forward), sees_blocks=start == 0),
                            images[chunk],
                            classes,
                            chosen,
                            views,
                            eigen_smooth,
                            methods == "all",
                        )
                        for call in calls.of_rows(chunk).views
                    ],
                    [call.undo for call in calls.views],
                    chosen,
                    layers,
                    embedding,
                )
            )
            chosen = [method for method in chosen if method.name in passes[0][1]]
    plain, maps = zip(*passes, strict=True)
    explanation = Explanation(
        {
            m.name: [torch.cat(tensors, 1) for tensors in zip(*(part[m.name] for part in maps), strict=True)]
            for m in chosen
        },
        _cat([captured.logits for captured in plain]),
        _cat([captured.class_idx for captured in plain]),
        layers,
        (images.shape[-2], images.shape[-1]),
        torch.cat([captured.scores for captured in plain]),
        images=images,
        normalizations=normalizations,
        parts=parts,
        planes=kind_of_planes(model, images, calls, score) if images.ndim == 5 and not known else "",
    )
    if blank is not None:
        nothing, scores = blank.scores, torch.cat([captured.scores for captured in plain])
        classes = explanation.class_idx  # one that does not exist has no score either
        if classes is not None:
            own = classes.clamp(0, nothing.shape[1] - 1)[:, None]
            nothing = nothing.expand(len(own), -1).gather(1, own)[:, 0]
        difference = scores - nothing
        sums = {name: explanation.layer_maps[name][0][0].flatten(1).sum(1) for name in whole_depth}
        found = {name: total / difference for name, total in sums.items()}
        at_embedding = [captured.embedding for captured in plain if captured.embedding is not None]
        explanation = replace(
            explanation,
            conservation=found,
            unknown=frozenset[str]().union(*(part.unknown for part in at_embedding)),
            blocks=at_embedding[0].blocks.by_name() if at_embedding[0].blocks is not None else {},
            block_maps=_joined([part.block_maps for part in at_embedding]),
        )
    if not known:  # who has found them before looks often, and must not wait for the device
        if methods == DEFAULT and not adds_up(explanation):
            options: dict[str, Any] = {
                "class_idx": explanation.class_idx,
                "score": score,
                "forward": calls,
                "batch_size": batch_size,
                "parts": parts,
            }
            again = partial(explain, model, images, target_layers=layers, aug_smooth=aug_smooth, **options)
            explanation = with_next_best(explanation, again)
        _say_what_is_blank(explanation)
    return explanation


def _say_what_is_blank(explanation: Explanation) -> None:
    blank = [method for method, maps in explanation.maps.items() if not maps.any()]
    if blank:
        _log.warning("The maps of %s are blank: %s", ", ".join(blank), BLANK)


def _joined(parts: Sequence[dict[str, list[Tensor]]]) -> dict[str, list[Tensor]]:
    """What blocks read in all batches; nothing where it was not to be seen in one of them."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: [torch.cat(maps) for maps in zip(*(part[name] for part in parts), strict=True)] for name in names}


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there) if there else None
