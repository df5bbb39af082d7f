"""Of volumes the slice with most evidence, for the tiles of a grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.render import captions_of
from lightning_cam.render.caption import Captions
from lightning_cam.render.planes import taken_apart
from lightning_cam.training.run_info import RunInfo


def slice_with_most_evidence(
    images: Tensor, relevance: Tensor, run: RunInfo, num_classes: int
) -> tuple[Tensor, Tensor, Captions]:
    """Choose of each volume the slice whose positive relevance is largest.

    Args:
        images: (B, 3, H, W), slices side by side.
        relevance: (B, h, w) raw signed relevance, likewise.
        run: What stays the same over all looks, with `slices`.
        num_classes: How many classes there are.

    Returns:
        The slices (B, 3, H', W'), their relevance (B, h', w'), and captions that say their numbers.
    """
    count, rows = len(run.slices), torch.arange(len(images))
    maps = taken_apart(relevance, count)
    best = maps.relu().nan_to_num(0).sum((2, 3)).argmax(1)
    names, labels = run.class_names or [], run.labels
    truths = run.texts or [""] * len(images)
    present = run.present
    if run.texts is None and labels is not None:
        truths = ["?" if k < 0 else names[k] if k < len(names) else str(k) for k in labels.tolist()]
        present = F.one_hot(labels.clamp_min(0), num_classes).bool() & (labels >= 0)[:, None]
    texts = [f"slice {run.slices[k]} {truth}".rstrip() for k, truth in zip(best.tolist(), truths, strict=True)]
    captions = captions_of(names, num_classes, texts, present, has_classes=run.has_classes)
    return taken_apart(images, count)[rows, :, best], maps[rows, best], captions
