"""The whole path in one call, without Lightning: from a model and images to class activation maps."""

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_cam.methods import METHODS, DoesNotApply, Method, principal_projection
from lightning_cam.methods.defaults import BLANK, DEFAULT, DEFAULTS, LEADING, NEXT_BEST, is_conserved, not_adding_up
from lightning_cam.model.output import Forward, OnCopies, Score
from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.model.untouched import looking
from lightning_cam.observe.places import Undo
from lightning_cam.observe.views import SeveralViews, View
from lightning_cam.passes.blank import blank_scores
from lightning_cam.passes.capture import Capture
from lightning_cam.passes.grad_cam import grad_cam_method
from lightning_cam.passes.method_inputs import MethodInputs
from lightning_cam.render.scale import to_unit_interval
from lightning_cam.resolve import TargetLayer, find_layers_and_views
from lightning_cam.resolve.embedding import PIXELS, find_embedding
from lightning_cam.resolve.layout import TokenLayout

_log = logging.getLogger(__name__)

_LEAST = 4  # images at once, however few there are


@dataclass(frozen=True)
class Explanation:
    """Class activation maps of a batch.

    Args:
        layer_maps: For each method one tensor per target layer (one in all, if it is not about a layer), (V, B, h, w)
            float32: raw signed relevance on the token grid for each of V views of the images (1 without `aug_smooth`).
        logits: (B, classes) float32, or None if a `score` was explained and the output holds none, or only one.
        class_idx: (B,) int64, the explained classes; None with a `score`.
        layers: The target layers.
        image_size: Height and width of the images.
        scores: (B,) float32, what was explained: the logit of the class, or the `score`.
        conservation: For each method that follows the score through the whole depth (B,) float32: the sum of its map as
            a fraction of the difference between the score and that of a blank image.
        unknown: Operations that the rules of these methods do not know, and that relevance may be lost in.
        blocks: With these methods, what the model's attentions do on the first images, by name one number (L,) float32
            per attention, see `BlockStatistics`.
    """

    layer_maps: dict[str, list[Tensor]]
    logits: Tensor | None
    class_idx: Tensor | None
    layers: list[TargetLayer]
    image_size: tuple[int, int]
    scores: Tensor | None = None
    conservation: dict[str, Tensor] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    blocks: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The maps' names and shapes, and where they come from; no tensor is printed."""
        maps = ", ".join(f"{method} {tuple(tensor.shape)}" for method, tensor in self.maps.items())
        return f"Explanation(maps: {maps}; layers: {', '.join(layer.name for layer in self.layers)})"

    @property
    def maps(self) -> dict[str, Tensor]:
        """For each method (B, h, w) float32: raw signed relevance, mean over views and layers.

        Nothing is clipped or scaled, so magnitudes can be compared between calls. Layers of different grids are
        brought to the finest of them. Methods that are about no layer may have a map of another size (`fullgrad`
        that of the image).
        """
        means = {}
        for method, layers in self.layer_maps.items():
            finest = max(((maps.shape[2], maps.shape[3]) for maps in layers), key=lambda size: size[0] * size[1])
            means[method] = torch.stack([_resize(maps, finest).mean(0) for maps in layers]).mean(0)
        return means

    def heatmap(self, method: str, size: tuple[int, int] | None = None) -> Tensor:
        """The map as grad-cam returns it, ready to be laid over the image.

        Per layer: ReLU, scaled to [0, 1] per image, resized bilinearly; then the mean over layers, scaled again
        (`pytorch_grad_cam.base_cam.BaseCAM.aggregate_multi_layers`); then the mean over views.

        Args:
            method: One of those explained.
            size: Height and width of the result; by default those of the images.

        Returns:
            (B, H, W) float32 in [0, 1], on the images' device.

        Raises:
            ValueError: `method` was not computed.
        """
        if method not in self.layer_maps:
            raise ValueError(f"method: {method!r} was not computed, there are {', '.join(self.layer_maps)}")
        size = size or self.image_size
        layers = [_resize(to_unit_interval(maps.relu()), size) for maps in self.layer_maps[method]]
        return to_unit_interval(torch.stack(layers).relu().mean(0)).mean(0)


def explain(
    model: nn.Module,
    images: Tensor,
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
) -> Explanation:
    """Compute class activation maps of `images`; the model is left untouched.

    All methods and target layers of a batch share one forward, and one backward as far as a method needs it.

    Args:
        model: A classifier, on the device of `images`, in any mode.
        images: (B, C, H, W), normalized as the model expects.
        methods: Name or names of methods (see `METHODS`), or "all"; a class of `pytorch_grad_cam`, or its dotted path,
            runs through an adapter: its map is named after the class in lower case, of image size, scaled to [0, 1].
            "default" is `attnlrp`, evidence from the whole depth, and `hirescam`, what the last block still sees; in
            models whose operations `attnlrp` does not know, that is said, and `gae` stands in where it applies.
        class_idx: What to explain: a class, one class per image (-1 for its predicted one), or None for the predicted
            class.
        score: In place of a class: a function from the model's output to (B,) scalars.
        target_layers: One or several names, modules or `TargetLayer`s; by default the last of those that
            `find_target_layers` finds.
        layout: How the outputs of `target_layers` lie, where that cannot be found out.
        forward: What to call with the images; by default `model`.
        batch_size: Images that go through the model at once; by default all, or a quarter of them (at least 4) where
            classes are explained and a method needs the graph of the whole depth, which takes the memory of several
            forwards.
        aug_smooth: Mean over six views, flipped or not × brightness 0.9, 1, 1.1, as in grad-cam. The class explained
            is that of the plain view.
        eigen_smooth: Take the first principal component of the weighted activations in place of their sum, in
            methods that weight activations.
        embedding: Where methods of the whole depth read relevance; by default found by `find_embedding`.

    Returns:
        The maps, on the device of `images`.

    Raises:
        ValueError: An argument does not fit; the message names it, what came, and what would do.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
        >>> explanation = explain(model, torch.randn(2, 3, 224, 224), ["hirescam", "gradcam"])
        >>> explanation.maps["hirescam"].shape, explanation.heatmap("gradcam").shape
        (torch.Size([2, 14, 14]), torch.Size([2, 224, 224]))
    """
    chosen = find_methods(methods)
    if class_idx is not None and not isinstance(class_idx, int):
        class_idx = _as_classes(class_idx, images)
    _check(images, class_idx, batch_size)
    given = [target_layers] if isinstance(target_layers, str | nn.Module | TargetLayer) else list(target_layers or ())
    known = [layer for layer in given if isinstance(layer, TargetLayer)]
    named = [layer for layer in given if not isinstance(layer, TargetLayer)] or None
    run = forward or model
    calls = run if isinstance(run, SeveralViews) else None
    if known:  # who has found them before looks often, and has found the views of a forward with them
        layers, calls = known, calls or SeveralViews([View(run)])
    else:
        layers, seen = find_layers_and_views(model, images, forward=run, target_layers=named, layout=layout)
        calls = calls or seen or SeveralViews.of(model, images, run)
    layers = layers if given else layers[-1:]
    needs = frozenset[str]().union(*(method.needs for method in chosen))
    if "embedding" in needs and embedding is None:
        embedding = find_embedding(model, images, forward=calls)
    inputs_of = partial(
        MethodInputs,
        model,
        layers=layers,
        score=score,
        needs=needs,
        embedding=embedding,
    )
    views = _VIEWS if aug_smooth else _VIEWS[:1]
    whole_depth = [method.name for method in chosen if "embedding" in method.needs]
    # A score may know which image is which, and is given all of them.
    step = batch_size or (max(_LEAST, ceil(len(images) / 4)) if whole_depth and score is None else len(images))
    parts = []
    with looking(model):
        for start in range(0, len(images), step):
            stop_if_interrupted()
            chunk = slice(start, start + step)
            classes = class_idx[chunk] if isinstance(class_idx, Tensor) else class_idx
            parts.append(
                _sum_of_calls(
                    [
                        _explain_batch(
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
            chosen = [method for method in chosen if method.name in parts[0][1]]
        # Last: models that follow what they see would see the blank image too.
        blank = blank_scores(OnCopies(calls), images, score) if whole_depth else None
    plain, maps = zip(*parts, strict=True)
    explanation = Explanation(
        {
            m.name: [torch.cat(tensors, 1) for tensors in zip(*(part[m.name] for part in maps), strict=True)]
            for m in chosen
        },
        _cat([captured.logits for captured in plain]),
        _cat([captured.class_idx for captured in plain]),
        layers,
        (images.shape[2], images.shape[3]),
        torch.cat([captured.scores for captured in plain]),
    )
    if blank is not None:
        scores = torch.cat([captured.scores for captured in plain])
        classes = explanation.class_idx  # one that does not exist has no score either
        difference = scores - (blank if classes is None else blank[classes.clamp(0, len(blank) - 1)])
        sums = {name: explanation.layer_maps[name][0][0].sum((1, 2)) for name in whole_depth}
        found = {name: total / difference for name, total in sums.items()}
        at_embedding = [captured.embedding for captured in plain if captured.embedding is not None]
        explanation = replace(
            explanation,
            conservation=found,
            unknown=frozenset[str]().union(*(part.unknown for part in at_embedding)),
            blocks=at_embedding[0].blocks.by_name() if at_embedding[0].blocks is not None else {},
        )
    if not known:  # who has found them before looks often, and must not wait for the device
        if methods == DEFAULT and not adds_up(explanation):
            options: dict[str, Any] = {
                "class_idx": explanation.class_idx,
                "score": score,
                "forward": calls,
                "batch_size": batch_size,
            }
            again = partial(explain, model, images, target_layers=layers, aug_smooth=aug_smooth, **options)
            explanation = with_next_best(explanation, again)
        _say_what_is_blank(explanation)
    return explanation


def _sum_of_calls(
    parts: list[tuple[Capture, dict[str, list[Tensor]]]],
    undos: Sequence[Undo],
    methods: Sequence[Method],
    layers: Sequence[TargetLayer],
    embedding: TargetLayer | None,
) -> tuple[Capture, dict[str, list[Tensor]]]:
    """The maps of a network's calls, each in its place: those of gradients are parts of a sum, others the first's."""
    plain, explained = parts[0]
    maps = {}
    for method in (method for method in methods if method.name in explained):
        found = [part[method.name] for _, part in parts]
        places = list(layers) if method.per_layer else [layers[-1]]
        if embedding is not None and "embedding" in method.needs:
            places = [embedding]
        if method.needs.isdisjoint(_OF_IMAGES) and places[0].name != PIXELS:
            found = [
                [undo(place.on_image(layer)) for place, layer in zip(places, of_call, strict=True)]
                for of_call, undo in zip(found, undos, strict=True)
            ]
        maps[method.name] = found[0]
        if any("gradients" in need or need == "gradient_images" for need in method.needs):
            maps[method.name] = [
                torch.stack([_resize(layer, (first.shape[-2], first.shape[-1])) for layer in (first, *others)]).sum(0)
                for first, *others in zip(*found, strict=True)
            ]
    return plain, maps


def adds_up(explanation: Explanation, method: str = LEADING) -> bool:
    """Whether nothing of a method's relevance is lost in operations that its rules do not know.

    Waits for the device if there are such. Without, relevance need not add up either: that of an untrained model goes
    to biases and position embeddings.
    """
    return not explanation.unknown or is_conserved(explanation.conservation[method])


def with_next_best(explanation: Explanation, explain_by: Callable[[str], Explanation]) -> Explanation:
    """The explanation with the next best method in the place of the leading one, or without; says so.

    Args:
        explanation: Whose leading method does not add up.
        explain_by: Explains the same by a method.
    """
    others = {name: maps for name, maps in explanation.layer_maps.items() if name != LEADING}
    try:
        others = {**explain_by(NEXT_BEST).layer_maps, **others}
    except DoesNotApply as error:
        _log.info("%s", error)
    _log.warning("%s %s stands in its place.", not_adding_up([LEADING], explanation.unknown), next(iter(others)))
    return replace(explanation, layer_maps=others, conservation={}, unknown=frozenset())


def _say_what_is_blank(explanation: Explanation) -> None:
    blank = [method for method, maps in explanation.maps.items() if not maps.any()]
    if blank:
        _log.warning("The maps of %s are blank: %s", ", ".join(blank), BLANK)


# What methods need whose maps are of the images' pixels, wherever these go.
_OF_IMAGES = frozenset({"images", "input_gradients", "bias_gradients", "gradient_images", "score_images", "grad_cam"})


class _View(NamedTuple):
    """One of the copies of an image that test-time augmentation looks at."""

    flipped: bool
    brightness: float

    def of(self, images: Tensor) -> Tensor:
        images = images.flip(-1) if self.flipped else images
        return images if self.brightness == 1 else images * self.brightness

    def back(self, maps: Tensor) -> Tensor:
        return maps.flip(-1) if self.flipped else maps


# grad-cam's (`BaseCAM.forward_augmentation_smoothing`), the plain image first.
_VIEWS = [_View(flipped, brightness) for flipped in (False, True) for brightness in (1.0, 0.9, 1.1)]


def _explain_batch(
    inputs_of: Callable[..., MethodInputs],
    images: Tensor,
    class_idx: Tensor | int | None,
    methods: Sequence[Method],
    views: Sequence[_View],
    eigen_smooth: bool,
    skip: bool,
) -> tuple[Capture, dict[str, list[Tensor]]]:
    """The pass of the plain images, and for each method the (V, B, h, w) maps of each layer.

    With `skip`, methods that do not apply to the model are left out.
    """
    inputs = [inputs_of(images, class_idx=class_idx)]
    plain = inputs[0].captured
    inputs += [inputs_of(view.of(images), class_idx=plain.class_idx) for view in views[1:]]
    maps = {}
    for method in methods:
        stop_if_interrupted()
        options = {"reduce": principal_projection} if eigen_smooth and method.can_eigen_smooth else {}
        try:
            by_view = [
                [view.back(layer) for layer in one.maps(method, **options)]
                for view, one in zip(views, inputs, strict=True)
            ]
        except DoesNotApply as error:
            if not skip:
                raise
            _log.info("%s", error)
            continue
        maps[method.name] = [torch.stack(layer) for layer in zip(*by_view, strict=True)]
    return plain, maps


def find_methods(names: str | type | Sequence[str | type]) -> list[Method]:
    """Return the methods of these names.

    Args:
        names: One name, several, "all" or "default"; a class of `pytorch_grad_cam`, or its dotted path, stands for one.

    Raises:
        ValueError: A name is not in `METHODS`, stands twice, or there is none.
    """
    if names == "all":
        first = dict(zip(DEFAULTS, range(2), strict=True))  # which lead pages and sheets
        return sorted(METHODS.values(), key=lambda method: first.get(method.name, 2))
    if names == DEFAULT:
        return [METHODS[name] for name in DEFAULTS]
    chosen = [_find_method(name) for name in ([names] if isinstance(names, str | type) else names)]
    known = [method.name for method in chosen]
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice or not chosen:
        came = f"{', '.join(twice)} stands twice" if twice else "got none"
        raise ValueError(f"methods: expected one or more, each of a name of its own in lower case; {came}")
    return chosen


def _find_method(name: str | type) -> Method:
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if isinstance(name, type) or "." in str(name):
        return grad_cam_method(name)
    if name in ("all", DEFAULT):
        raise ValueError(f"methods: {name!r} stands alone, in place of a list")
    near = difflib.get_close_matches(str(name), METHODS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"methods: there is no {name!r}{hint} (there are {', '.join(METHODS)}, 'all', 'default', "
        "and classes of pytorch_grad_cam)"
    )


def _as_classes(class_idx: Sequence[int] | Tensor, images: Tensor) -> Tensor:
    try:
        return torch.as_tensor(class_idx)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"class_idx: expected an int or one integer per image, shape ({len(images)},), got {class_idx!r}"
        ) from None


def _check(images: Tensor, class_idx: int | Tensor | None, batch_size: int | None) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not len(images):
        came = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: expected a floating tensor of shape (B, C, H, W) with B at least 1, got {came}")
    if isinstance(class_idx, Tensor) and (class_idx.shape != (len(images),) or class_idx.is_floating_point()):
        raise ValueError(
            f"class_idx: expected an int or one integer per image, shape ({len(images)},), "
            f"got {class_idx.dtype} {tuple(class_idx.shape)}"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: expected None or at least 1, got {batch_size}")


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there) if there else None


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(V, B, h, w) to `size`, bilinearly between the centers of cells, as OpenCV does."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
