"""One look: from an explanation of the probe to the pictures and numbers that are logged."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_cam import metrics
from lightning_cam.explanation import Explanation
from lightning_cam.render import Captions, filmstrip, overlay_grid, scale_per_image
from lightning_cam.training.checks import CONTROL, Checks, with_control
from lightning_cam.training.history import History
from lightning_cam.training.probe import ProbeBatch

_ROWS = 8  # of the filmstrip


@dataclass(frozen=True)
class Look:
    """What one look has to show, on the device where it was computed.

    Args:
        step: Step of the validation metrics.
        epoch: The epoch.
        pictures: By tag, (3, H, W) uint8.
        scalars: By tag, () float32.
        maps: By method, (B, h, w) float32, raw signed relevance.
        probabilities: (B, classes) float32.
        class_idx: (B,) int64, the explained classes; None with a `score`.
        class_similarity: By method, (b,) float32: cosine between the first maps and those of another class. Empty at
            most looks.
    """

    step: int
    epoch: int
    pictures: dict[str, Tensor]
    scalars: dict[str, Tensor]
    maps: dict[str, Tensor]
    probabilities: Tensor | None
    class_idx: Tensor | None
    class_similarity: dict[str, Tensor] = field(default_factory=dict)


def compose(
    explanation: Explanation,
    probe: ProbeBatch,
    display_images: Tensor,
    captions: Captions,
    history: History,
    *,
    name: str,
    step: int,
    epoch: int,
    checks: Checks | None = None,
) -> Look:
    """Draw and measure one look, and add it to the history. Nothing here waits for the device.

    Args:
        explanation: Of the probe's images.
        probe: The fixed images and what is known about them.
        display_images: (B, 3, H, W) in [0, 1], the probe's images as a person would see them.
        captions: The names of the classes.
        history: The looks before this one.
        name: First part of all tags.
        step: Step of the validation metrics.
        epoch: The epoch.
        checks: What this look has found out besides, if it has.
    """
    checks = checks or Checks()
    maps = explanation.maps
    logits = explanation.logits
    probabilities = None if logits is None else logits.softmax(1)
    if probabilities is None:  # a score is explained: nothing was predicted
        probs = torch.full((len(display_images),), torch.nan, device=display_images.device)
        preds = torch.full((len(display_images),), -1, device=display_images.device)
    else:
        probs, preds = probabilities.max(1)
    scalars = {
        f"{name}/{method}/{metric}": values.nanmean()
        for method, relevance in maps.items()
        for metric, values in _measure(relevance, history.maps.get(method), probe, explanation, probabilities).items()
    }
    if probe.regions is not None and CONTROL not in maps:  # what chance scores, for comparison
        control = with_control(explanation).maps[CONTROL]
        scalars |= {
            f"{name}/{CONTROL}/{metric}": values.nanmean() for metric, values in _inside(control, probe.regions).items()
        }
    scalars |= {
        f"{name}/{method}/{metric}": values.nanmean()
        for method, found in checks.faithfulness.items()
        for metric, values in found.items()
    }
    history.append(step, epoch, maps, preds, probs)
    pictures = {}
    rows = slice(0, _ROWS)
    for method in maps:
        heat = scale_per_image(maps[method])  # of the mean over layers, which the metrics are about too
        pictures[f"{name}/{method}"] = overlay_grid(
            display_images, heat, captions, preds=preds, probs=probs, labels=probe.labels
        )
        assert history.preds is not None and history.probs is not None  # just appended
        pictures[f"{name}/{method}/filmstrip"] = filmstrip(
            display_images[rows],
            history.maps[method][:, rows],
            _headings(history),
            captions,
            preds=history.preds[:, rows],
            probs=history.probs[:, rows],
            labels=None if probe.labels is None else probe.labels[rows],
        )
    return Look(step, epoch, pictures, scalars, maps, probabilities, explanation.class_idx, checks.class_similarity)


def _measure(
    relevance: Tensor,
    past: Tensor | None,
    probe: ProbeBatch,
    explanation: Explanation,
    probabilities: Tensor | None,
) -> dict[str, Tensor]:
    """By metric, (B,) values of one method's maps; `past` are the maps (T, B, h, w) of earlier looks."""
    values = {"entropy": metrics.entropy(relevance)}
    if probabilities is not None and explanation.class_idx is not None:
        values["target_probability"] = probabilities.gather(
            1, explanation.class_idx.clamp(0, probabilities.shape[1] - 1)[:, None]
        )[:, 0]
    if past is not None and past.shape[1:] == relevance.shape:
        past = past.to(relevance.device)
        values["similarity_to_previous"] = metrics.cosine_similarity(relevance, past[-1])
        values["similarity_to_first"] = metrics.cosine_similarity(relevance, past[0])
    if probe.regions is not None:
        values |= _inside(relevance, probe.regions)
    return values


def _inside(relevance: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """By metric, (B,): how much of the maps lies on the objects."""
    height, width = relevance.shape[-2:]
    coverage = metrics.mask_coverage(regions, (height, width))
    return {
        "share_inside": metrics.share_inside(relevance, coverage),
        "pointing_game": metrics.pointing_game(relevance, coverage),
    }


def _headings(history: History) -> list[str]:
    """`epoch 3`, or the step where one epoch was looked at several times."""
    repeated = len(set(history.epochs)) < len(history.epochs)
    return [
        f"step {step}" if repeated else f"epoch {epoch}"
        for step, epoch in zip(history.steps, history.epochs, strict=True)
    ]
