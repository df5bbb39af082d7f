"""The explained classes, and the scores that a pass differentiates."""

from typing import Any

import torch
from torch import Tensor

from lightning_cam.model.output import Score, logits_of, outputs_of


def scores_of(
    output: Any, batch_size: int, class_idx: Tensor | int | None, score: Score | None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Logits (B, classes) and classes (B,) where there are any, and the scores (B,) to differentiate, in float32."""
    if score is None:
        logits = logits_of(output, batch_size).float()
        classes = _classes(logits.detach(), class_idx)
        scores = logits.gather(1, classes.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        # A device tensor is not read here, that would stall the device: a class that does not exist scores NaN.
        return (
            logits.detach(),
            classes,
            scores * torch.where((classes >= 0) & (classes < logits.shape[1]), 1.0, torch.nan),
        )
    scores = score(output)
    if not isinstance(scores, Tensor) or scores.shape != (batch_size,):
        came = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"score: must return one number per image, a tensor of shape ({batch_size},), got {came}")
    try:
        outputs = outputs_of(output, batch_size).detach().float()
    except ValueError:  # a map, say: a score does not need logits
        return None, None, scores.float()
    return outputs if outputs.shape[1] > 1 else None, None, scores.float()  # one output may be a regression's


def _classes(logits: Tensor, class_idx: Tensor | int | None) -> Tensor:
    batch_size, num_classes = logits.shape
    if class_idx is None:
        return logits.argmax(1)
    if isinstance(class_idx, int):
        if not 0 <= class_idx < num_classes:
            raise ValueError(f"class_idx: the model's classes go from 0 to {num_classes - 1}, got {class_idx}")
        return torch.full((batch_size,), class_idx, device=logits.device)
    if class_idx.shape != (batch_size,):
        raise ValueError(f"class_idx: expected an int or shape ({batch_size},), got shape {tuple(class_idx.shape)}")
    if class_idx.device.type == "cpu" and not ((class_idx >= -1) & (class_idx < num_classes)).all():
        raise ValueError(_outside(class_idx, num_classes))
    class_idx = class_idx.to(logits.device, torch.int64, non_blocking=True)
    return torch.where(class_idx == -1, logits.argmax(1), class_idx)


def _outside(classes: Tensor, num_classes: int) -> str:
    wrong = ", ".join(map(str, classes[(classes < -1) | (classes >= num_classes)].unique().tolist()))
    return (
        f"class_idx: the model has {num_classes} logits, so the classes to explain, by default the labels, "
        f"go from 0 to {num_classes - 1}; got {wrong}; give class_idx=, or score= for an output without classes"
    )
