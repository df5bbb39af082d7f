"""Detection by queries, each with the logits of its class and a box, as DETR and its like do it."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_cam.model.output import named_tensors
from lightning_cam.model.parts import DenseTask, Parts, named_classes

MOST_BOXES = 20  # that are true of one image; of more the largest are kept
_LOGITS, _BOXES = ("logits", "pred_logits"), ("pred_boxes",)


@dataclass(frozen=True)
class Detection(DenseTask):
    """Objects, each of one query.

    Explained is the logit of a query's class, for the queries with the highest probability of any class. A target is
    (B, boxes, 7): class, center x and y, width and height of the box, NaN where there is no further one; and width and
    height of what true and predicted boxes are parts of, in parts of the image, which may have been padded at the
    bottom and on the right.

    Args:
        has_none: Whether the last logit says that there is no object (a softmax); else each class has a sigmoid.

    Example:
        >>> output = {
        ...     "logits": torch.tensor([[[0.0, 2.0, 0.0], [5.0, 0.0, 0.0]]]),
        ...     "pred_boxes": torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0]]]),
        ... }
        >>> parts = Detection().find(output, (2, 4), torch.tensor([[[0.0, 0.25, 0.5, 0.5, 1.0, 1.0, 1.0]]]), 2)
        >>> parts.where, parts.classes, parts.predicted[0].int().tolist(), parts.overlap
        (tensor([1, 0]), tensor([0, 1]), [[1, 1, 0, 0], [1, 1, 0, 0]], tensor([1., 0.]))
    """

    words = "objects, a class and a box for each query"
    kind = "object"
    amount = "probability"
    explained = "the class of an object, by the logit of the query that found it"
    most = 3
    unpredicted = "no object"
    passes_detach = True
    has_none: bool = True

    @override
    def logits(self, output: Any, where: Tensor | None = None) -> Tensor:
        logits, _ = queries_in(output)
        if where is None:
            where = self._probabilities(logits.detach()).amax(2).argmax(1)
        return logits[torch.arange(len(logits), device=logits.device), where]

    @override
    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1) if self.has_none else logits.float().sigmoid()

    @override
    def find(
        self,
        output: Any,
        size: tuple[int, ...],
        target: Tensor | None,
        count: int,
        class_idx: Tensor | int | None = None,
    ) -> Parts:
        logits, boxes = (tensor.detach() for tensor in queries_in(output))
        chances = self._probabilities(logits)
        named = named_classes(class_idx, len(chances), chances.shape[2], chances.device)[:, None]
        is_asked = (torch.arange(chances.shape[2], device=chances.device) == named) | (named < 0)
        chances = chances * is_asked[:, None]
        best, classes = chances.max(2)
        first = best.sort(dim=1, descending=True, stable=True).indices[:, :count]
        missing = count - first.shape[1]  # there are fewer queries
        there = F.pad(torch.ones_like(first, dtype=torch.bool), (0, missing)).flatten()
        first = F.pad(first, (0, missing))
        found = boxes.float().gather(1, first[..., None].expand(-1, -1, 4)).flatten(0, 1)
        kinds = classes.gather(1, first).flatten()
        if target is not None:
            found = found * target[:, 0, 5:].repeat(1, 2).repeat_interleave(count, 0).to(found)
        predicted = inside(found, size) & there[:, None, None]
        is_object = self._is_object(logits).gather(1, first).flatten()
        truth, overlap = None, torch.full_like(found[:, 0], torch.nan)
        if target is not None:
            true = target.to(found.device).repeat_interleave(count, 0)
            own = true[..., 0] == kinds[:, None]  # NaN is none
            boxes = _on_image(true)
            truth = (inside(boxes, size) & own[..., None, None]).any(1)
            overlap = (_overlap(found[:, None], boxes) * own).amax(1).masked_fill(~is_object, torch.nan)
        return Parts(
            first.flatten(),
            torch.where(there, kinds, -1),
            best.gather(1, first).flatten(),
            predicted,
            truth,
            overlap,
            there & is_object,
        )

    @override
    def regions(
        self, target: Tensor, size: tuple[int, ...], count: int, num_classes: int, class_idx: int | None = None
    ) -> Tensor:
        return inside(_on_image(target), size).any(1).repeat_interleave(count, 0)

    @override
    def missing(self, count: int) -> str:
        return "no other query"

    @override
    def keys(self, target: Tensor, num_classes: int) -> Tensor:
        return target[:, 0, 0].nan_to_num(-1).long()

    @override
    def count(self, num_classes: int | None, class_idx: int | None) -> int:
        return self.most

    def _is_object(self, logits: Tensor) -> Tensor:
        """(B, queries) bool, whether any class is likelier than that there is no object."""
        if not self.has_none:
            return torch.ones_like(logits[..., 0], dtype=torch.bool)
        return logits[..., :-1].amax(2) > logits[..., -1]

    def _probabilities(self, logits: Tensor) -> Tensor:
        """(B, queries, classes) float32, of objects alone."""
        chances = self.probabilities(logits)
        return chances[..., :-1] if self.has_none else chances


def places_of_queries(names: list[str], shapes: list[tuple[int, ...] | None]) -> tuple[int, int] | None:
    """Which tensors of an output are the logits (B, queries, classes) and the boxes (B, queries, 4) of queries.

    Args:
        names: What the output's tensors stand under.
        shapes: Of these.

    Returns:
        Their numbers, or None.

    Example:
        >>> places_of_queries(["loss", "logits", "pred_boxes"], [(), (2, 9, 4), (2, 9, 4)])
        (1, 2)
    """
    found = []
    for usual in (_LOGITS, _BOXES):
        places = [place for place, name in enumerate(names) if name in usual]
        shape = shapes[places[0]] if places else None
        if shape is None or len(shape) != 3:
            return None
        found.append((places[0], shape))
    (logits, of_logits), (boxes, of_boxes) = found
    return (logits, boxes) if of_boxes == (*of_logits[:2], 4) else None


def queries_in(output: Any) -> tuple[Tensor, Tensor]:
    """The logits (B, queries, classes) and boxes (B, queries, 4) of a model's output.

    Raises:
        ValueError: It holds none.
    """
    names, tensors = zip(*named_tensors(output), strict=True)
    places = places_of_queries(list(names), [tuple(tensor.shape) for tensor in tensors])
    if places is None:
        raise ValueError("expected `logits` (B, queries, classes) and `pred_boxes` (B, queries, 4) in the output")
    return tensors[places[0]], tensors[places[1]]


def inside(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """(..., H, W) bool: which pixels lie in boxes (..., 4), center x and y, width and height in parts of the image."""
    x, y, width, height = boxes[..., None].unbind(-2)
    across = (torch.arange(size[1], device=boxes.device) + 0.5) / size[1]
    down = (torch.arange(size[0], device=boxes.device) + 0.5) / size[0]
    return ((down - y).abs() < height / 2)[..., :, None] & ((across - x).abs() < width / 2)[..., None, :]


def _on_image(target: Tensor) -> Tensor:
    """(..., 4), true boxes in parts of the image; of no size where there is none."""
    return target[..., 1:5].nan_to_num(0) * target[..., 5:].repeat(*[1] * (target.ndim - 1), 2)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) as `inside` takes them, (...) float32."""
    starts = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    ends = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    common = (ends - starts).clamp(min=0).prod(-1)
    return common / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common).clamp(min=1e-12)
