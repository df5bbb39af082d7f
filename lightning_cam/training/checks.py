"""Checks of the maps: the random control, the faithfulness to the model, the dependence on the class."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_cam import metrics
from lightning_cam.explanation import Explanation
from lightning_cam.methods import METHODS
from lightning_cam.methods.defaults import OF_FEATURES
from lightning_cam.model.output import Forward, OnCopies, forward_of_rows, logits_of
from lightning_cam.model.signals import stop_if_interrupted
from lightning_cam.model.untouched import looking

CONTROL = "random"
FEW = 4  # images tell whether maps depend on the class, and whether they are better than chance
_STEPS = 5


@dataclass(frozen=True)
class Checks:
    """Results that only some looks compute, by method.

    Args:
        faithfulness: By metric, (B,) float32.
        class_similarity: (b,) float32, cosine between the maps of the first images and those of another class.
        gain_over_chance: (b,) float32 by method, see `gain_over_chance`.
    """

    faithfulness: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    class_similarity: dict[str, Tensor] = field(default_factory=dict)
    gain_over_chance: dict[str, Tensor] = field(default_factory=dict)


def with_control(explanation: Explanation) -> Explanation:
    """Return the explanation with the maps of `random` on the finest grid among the target layers.

    Example:
        >>> from lightning_cam import TargetLayer, TokenLayout
        >>> layer = TargetLayer("norm", nn.Identity(), TokenLayout("NLC", (2, 2)))
        >>> explained = Explanation({"hirescam": [torch.zeros(1, 3, 2, 2)]}, None, None, [layer], (8, 8))
        >>> with_control(explained).maps["random"].shape
        torch.Size([3, 2, 2])
    """
    if CONTROL in explanation.layer_maps:
        return explanation
    any_maps = next(iter(explanation.layer_maps.values()))[0]
    like = any_maps.new_empty(any_maps.shape[1], 1, *_finest(explanation))
    control = METHODS[CONTROL].function(activations=like)
    return replace(explanation, layer_maps={**explanation.layer_maps, CONTROL: [control[None]]})


def faithfulness(
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    explanation: Explanation,
    batch_size: int | None = None,
    *,
    is_exclusive: bool = True,
) -> dict[str, dict[str, Tensor]]:
    """Deletion AUC, insertion AUC and average drop of every method's maps, and of the random control.

    Maps finer than the target layers (those of image size) are brought to the layers' grid, so that all methods take
    away the same patches. Cost: 24 forwards per method.

    Args:
        model: Left untouched.
        forward: What to call with the images.
        images: (B, C, H, W), those explained.
        explanation: Of classes, not of a score.
        batch_size: Images per forward pass; by default all.
        is_exclusive: Whether one class is right; otherwise each has a sigmoid of its own.

    Returns:
        By method and metric, (B,) float32; NaN for a map that is not finite.
    """
    classes = explanation.class_idx
    assert classes is not None
    explanation = with_control(explanation)
    images = images.clone() if images.is_inference() else images

    logits = _classifier(forward, images.dtype, classes, batch_size, is_exclusive)
    found = {}
    with looking(model), torch.no_grad():
        for method, maps in explanation.maps.items():
            if method in explanation.color_maps:  # which rank no patches
                continue
            stop_if_interrupted()
            on_grid = F.adaptive_avg_pool2d(maps, _finest(explanation))
            heat = explanation.heatmap(method)
            values = {
                "deletion_auc": metrics.deletion_auc(on_grid, images, logits, classes),
                "insertion_auc": metrics.insertion_auc(on_grid, images, logits, classes),
                "average_drop": metrics.average_drop(heat, images, logits, classes),
            }
            finite = maps.flatten(1).isfinite().all(1)
            found[method] = {metric: torch.where(finite, value, torch.nan) for metric, value in values.items()}
    return found


def gain_over_chance(
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    explanation: Explanation,
    method: str,
    batch_size: int | None = None,
    *,
    is_exclusive: bool = True,
) -> Tensor:
    """How much better than random maps one method's maps show what the model uses, on the first images.

    Insertion AUC less deletion AUC, less the same of the random control, in 5 steps. Cost: 24 forwards of `FEW` images.

    Returns:
        (b,) float32; NaN for a map that is not finite.
    """
    classes = explanation.class_idx
    assert classes is not None
    explanation = with_control(explanation)
    few = (images.clone() if images.is_inference() else images)[:FEW]

    logits = _classifier(forward, few.dtype, classes[:FEW], batch_size, is_exclusive)
    gains = []
    with looking(model), torch.no_grad():
        for name in (method, CONTROL):
            on_grid = F.adaptive_avg_pool2d(explanation.maps[name][:FEW], _finest(explanation))
            given = on_grid, few, logits, classes[:FEW]
            gain = metrics.insertion_auc(*given, steps=_STEPS) - metrics.deletion_auc(*given, steps=_STEPS)
            gains.append(torch.where(on_grid.flatten(1).isfinite().all(1), gain, torch.nan))
    return gains[0] - gains[1]


def _classifier(
    forward: Forward, dtype: torch.dtype, classes: Tensor, batch_size: int | None, is_exclusive: bool
) -> Callable[[Tensor], Tensor]:
    """From images to logits whose softmax gives each image's class its probability, also where each has a sigmoid."""

    def logits(changed: Tensor) -> Tensor:
        step = batch_size or len(changed)
        found = []
        for start in range(0, len(changed), step):
            rows = slice(start, start + step)
            part = changed[rows].to(dtype)
            found.append(logits_of(OnCopies(forward_of_rows(forward, rows))(part), len(part)))
        whole = torch.cat(found)
        if is_exclusive:
            return whole
        own, other = classes[:, None], (classes[:, None] + 1) % whole.shape[1]
        return torch.full_like(whole, -torch.inf).scatter(1, other, 0).scatter(1, own, whole.gather(1, own))

    return logits


def class_similarity(explain_classes: Callable[[Tensor], Explanation], explanation: Explanation) -> dict[str, Tensor]:
    """Cosine between the first images' maps and those of the next class; 1 where a map does not depend on the class.

    Args:
        explain_classes: Explains the first `FEW` images for classes (b,), by the same methods.
        explanation: Of all images.

    Returns:
        By method, (b,) float32; nothing where there is no other class.
    """
    if explanation.logits is None or explanation.class_idx is None or explanation.logits.shape[1] < 2:
        return {}
    others = explain_classes((explanation.class_idx[:FEW] + 1) % explanation.logits.shape[1]).maps
    maps = explanation.maps
    return {
        method: metrics.cosine_similarity(maps[method][:FEW], other)
        for method, other in others.items()
        if method not in OF_FEATURES  # the same for all classes by right
    }


def _finest(explanation: Explanation) -> tuple[int, int]:
    rows, columns = max((layer.layout.grid_size for layer in explanation.layers), key=prod)
    return rows, columns
