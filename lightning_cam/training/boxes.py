"""The true boxes of a batch's images, in the forms that detectors are trained with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_cam.model.detection import MOST_BOXES
from lightning_cam.model.output import named_items

_CLASSES = ("class_labels", "labels", "classes", "category_ids")
_ROUNDING = 1e-3  # of boxes in parts of the image, which may reach over its border


def boxes_of_objects(tree: Any, count: int, size: tuple[int, int]) -> Tensor | None:
    """(B, 20, 5) float32, see `Detection`: class and box of each object, of more than 20 in an image the largest.

    Args:
        tree: Anything nested; in it a list of one mapping per image with `boxes` (n, 4) and `class_labels`, `labels`
            or `classes` (n,), or a mapping of such lists. Where no number is above 1 boxes are center x and y, width
            and height in parts of the image, as DETR's losses take them, else x1, y1, x2, y2 in pixels.
        count: Number of images.
        size: Height and width of the images.

    Returns:
        None where there are none in these forms.

    Example:
        >>> batch = {"labels": [{"boxes": torch.tensor([[0, 0, 8, 4]]), "class_labels": torch.tensor([2])}]}
        >>> boxes_of_objects(batch, 1, (8, 16))[0, 0].tolist()
        [2.0, 0.25, 0.25, 0.5, 0.5]
    """
    objects = _objects_in(tree, count)
    if objects is None:
        return None
    in_parts = all(not boxes.numel() or float(boxes.max()) <= 1 + _ROUNDING for boxes, _ in objects)
    found = torch.full((count, MOST_BOXES, 5), torch.nan, device=objects[0][0].device)
    for row, (given, classes) in enumerate(objects):
        boxes = given.float()
        if not in_parts:
            scale = boxes.new_tensor([size[1], size[0]])
            starts, ends = boxes[:, :2] / scale, boxes[:, 2:] / scale
            boxes = torch.cat([(starts + ends) / 2, ends - starts], 1)
        largest = boxes[:, 2:].prod(1).argsort(descending=True)[:MOST_BOXES]
        found[row, : len(largest)] = torch.cat([classes.float()[:, None], boxes], 1)[largest]
    return found


def _objects_in(tree: Any, count: int) -> list[tuple[Tensor, Tensor]] | None:
    """Boxes and classes of each image."""
    if isinstance(tree, (list, tuple)) and len(tree) == count:
        objects = [_objects_of(item) for item in tree if isinstance(item, Mapping)]
        known = [one for one in objects if one is not None]
        if len(known) == count:
            return known
    if isinstance(tree, Mapping) and isinstance(tree.get("boxes"), Sequence) and len(tree["boxes"]) == count:
        classes = next((tree[key] for key in _CLASSES if key in tree), None)
        if isinstance(classes, Sequence) and len(classes) == count:
            rows = [_objects_of({"boxes": b, "labels": c}) for b, c in zip(tree["boxes"], classes, strict=True)]
            known = [one for one in rows if one is not None]
            if len(known) == count:
                return known
    found = (_objects_in(value, count) for _, value in named_items(tree))
    return next((one for one in found if one is not None), None)


def _objects_of(item: Mapping[Any, Any]) -> tuple[Tensor, Tensor] | None:
    boxes, classes = item.get("boxes"), next((item[key] for key in _CLASSES if key in item), None)
    if not isinstance(boxes, Tensor) or not isinstance(classes, Tensor) or boxes.shape != (len(classes), 4):
        return None
    return boxes, classes
