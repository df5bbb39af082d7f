"""The true boxes of a batch's images, in the forms that detectors are trained with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_cam.model.detection import MOST_BOXES
from lightning_cam.model.output import named_items, named_tensors

_CLASSES = ("class_labels", "labels", "classes", "category_ids")
_ROUNDING = 1e-3  # of boxes in parts of the image, which may reach over its border


def boxes_of_objects(tree: Any, count: int, size: tuple[int, int]) -> Tensor | None:
    """(B, 20, 7) float32, see `Detection`: class and box of each object, of more than 20 in an image the largest.

    Images that were padded to a common size keep their upper left corner. Boxes are parts of what a label's `size` (2,)
    names, its height and width, else of what the batch's `pixel_mask` (B, H, W) leaves, else of the whole image.

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
        [2.0, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    """
    objects = _objects_in(tree, count)
    if objects is None:
        return None
    in_parts = all(not boxes.numel() or float(boxes.max()) <= 1 + _ROUNDING for boxes, *_ in objects)
    device = objects[0][0].device
    whole = torch.tensor([size[1], size[0]], device=device)
    framed = _left_by_mask(tree, count, size)
    found = torch.full((count, MOST_BOXES, 7), torch.nan, device=device)
    for row, (given, classes, stated) in enumerate(objects):
        frame = whole if framed is None else framed[row].to(device)
        if stated is not None and bool(((stated > 0) & (stated <= whole)).all()):
            frame = stated
        boxes = given.float()
        if not in_parts:
            starts, ends = boxes[:, :2] / frame, boxes[:, 2:] / frame
            boxes = torch.cat([(starts + ends) / 2, ends - starts], 1)
        largest = boxes[:, 2:].prod(1).argsort(descending=True)[:MOST_BOXES]
        found[row, : len(largest), :5] = torch.cat([classes.float()[:, None], boxes], 1)[largest]
        found[row, :, 5:] = frame / whole
    return found


def _left_by_mask(tree: Any, count: int, size: tuple[int, int]) -> Tensor | None:
    """(B, 2) int64, width and height of each image without what it was padded with; None if that is not said."""
    masks = (tensor for name, tensor in named_tensors(tree) if name == "pixel_mask")
    mask = next((tensor > 0 for tensor in masks if tensor.shape == (count, *size)), None)
    return None if mask is None else torch.stack([mask.any(1).sum(1), mask.any(2).sum(1)], 1)


_Objects = tuple[Tensor, Tensor, Tensor | None]


def _objects_in(tree: Any, count: int) -> list[_Objects] | None:
    """Of each image boxes, classes, and the width and height that the boxes are parts of, if they are said."""
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


def _objects_of(item: Mapping[Any, Any]) -> _Objects | None:
    boxes, classes = item.get("boxes"), next((item[key] for key in _CLASSES if key in item), None)
    if not isinstance(boxes, Tensor) or not isinstance(classes, Tensor) or boxes.shape != (len(classes), 4):
        return None
    size = item.get("size")
    return boxes, classes, size.flip(0) if isinstance(size, Tensor) and size.shape == (2,) else None
