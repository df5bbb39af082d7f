"""The contents of a validation batch, guessed from names and shapes if the network's input was not observed."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.model.normalization import attribute_of
from lightning_cam.model.output import named_items, named_tensors

_log = logging.getLogger(__name__)

# In the order of preference, as the field names them.
_IMAGE_KEYS = ("pixel_values", "image", "images", "img", "imgs", "x", "input", "inputs")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class_idx", "class")
_MASK_KEYS = ("masks", "mask", "segmentation", "segmentation_map")
_TEXT_KEYS = ("text", "texts", "caption", "captions", "sentence", "sentences", "prompt", "prompts")
_NO_LABEL_KEYS = ("id", "ids", "idx", "index", "indices", "image_id", "sample_id")
_CHANNELS = (1, 3, 4)
_ROUNDING = 0.02  # of labels that add up to one, in half precision


def images_in(batch: Any) -> Tensor | None:
    """The images of a batch, as `ProbeBatch.from_batch` finds them, or None."""
    return _first(list(named_tensors(batch)), _IMAGE_KEYS, are_images)


def form_of(tensor: Tensor) -> str:
    """A tensor's shape, and its type if that is none of floating numbers, for sentences."""
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _first(leaves: Sequence[tuple[str, Tensor]], keys: Sequence[str], fits: Callable[[Tensor], bool]) -> Tensor | None:
    """The first tensor that fits, those under the usual names before others."""
    rank = {key: index for index, key in enumerate(keys)}
    ordered = sorted(leaves, key=lambda leaf: rank.get(leaf[0].lower(), len(keys)))
    return next((tensor for _, tensor in ordered if fits(tensor)), None)


def are_images(tensor: Tensor) -> bool:
    """Whether a tensor may be taken for images of a person's kind: floating, with 1, 3 or 4 channels."""
    return tensor.ndim == 4 and tensor.shape[1] in _CHANNELS and tensor.is_floating_point() and len(tensor) > 0


def _is_per_image(tensor: Tensor, count: int) -> bool:
    return tensor.shape in ((count,), (count, 1)) and tensor.dtype != torch.bool


def labels_in(batch: Any, count: int) -> Tensor | None:
    """(B,) int64: integers, or the largest of one value per class (one-hot or mixed labels), named as usual or not."""
    leaves = list(named_tensors(batch))
    named = _find(batch, _LABEL_KEYS)
    for values in (named, *(value for name, value in leaves if not name)):
        if not (isinstance(values, Tensor) and values.ndim == 2 and len(values) == count and values.shape[1] > 1):
            continue
        if bool((values >= 0).all()) and bool((values.float().sum(1) - 1).abs().max() < _ROUNDING):
            return values.argmax(1)
        if values is named or bool(((values == 0) | (values == 1)).all()):  # others may be anything
            _log.warning("The batch's labels are not one class per image: the predicted classes are explained.")
            return None
    numbers = [(k, v) for k, v in leaves if _is_per_image(v, count) and k.lower() not in _NO_LABEL_KEYS]
    found = [leaf for leaf in numbers if not leaf[1].is_floating_point()]
    floating = [leaf for leaf in numbers if leaf[0].lower() in ("", *_LABEL_KEYS)]
    # What the loss of a binary classifier takes is floating.
    found = found or [leaf for leaf in floating if bool(((leaf[1] == 0) | (leaf[1] == 1)).all())]
    usual = [leaf for leaf in found if leaf[0].lower() in _LABEL_KEYS]
    if not usual and len(found) > 1:
        _log.warning("The batch has several integers per image, and it is unclear which are labels: none are used.")
        return None
    labels = _first(usual or found, _LABEL_KEYS, lambda tensor: True)
    if labels is None:
        if floating:
            _log.warning(
                "The batch's targets are not classes: predicted ones are explained; for a regression give score=."
            )
        return None
    if bool((labels < 0).any()):
        _log.warning("The batch has labels below 0, which are not classes: the predicted classes are explained.")
        return None
    return labels.flatten().long()


def pixel_labels_in(batch: Any, count: int, num_axes: int = 2) -> Tensor | None:
    """(B, H, W) or (B, 1, H, W), the class of each pixel: under a usual name, or the only integers of that form.

    Of volumes, with 3 axes of places, (B, D, H, W) or (B, 1, D, H, W).
    """
    named = _find(batch, (*_MASK_KEYS, *_LABEL_KEYS))
    found = [tensor for _, tensor in named_tensors(batch) if not tensor.is_floating_point()]
    for choice in ([named] if isinstance(named, Tensor) else [], found):
        fits = [one for one in choice if _are_pixels(one, count, num_axes)]
        if len(fits) == 1:
            return fits[0].clone()
    return None


def _are_pixels(tensor: Tensor, count: int, num_axes: int) -> bool:
    is_one_channel = tensor.ndim == num_axes + 2 and tensor.shape[1] == 1
    return len(tensor) == count and (tensor.ndim == num_axes + 1 or is_one_channel)


def _find(batch: Any, keys: Sequence[str]) -> Any:
    """What stands under the first of these names in a nested batch, or None."""
    for name, value in named_items(batch):
        found = value if name.lower() in keys else _find(value, keys)
        if found is not None:
            return found
    return None


def texts_in(batch: Any, count: int, module: Any = None) -> tuple[str, ...]:
    """The text of each image: strings of the batch, those under a usual name first, or its tokens decoded.

    Args:
        batch: Anything nested.
        count: The number of images.
        module: May hold a `tokenizer` or `processor` with a `batch_decode`, as Hugging Face's have.

    Returns:
        One text per image; nothing where they are not known.
    """
    strings = list(_lists_of_strings(batch, count))
    named = _find(batch, _TEXT_KEYS)
    if named in strings or len(strings) == 1:
        return tuple(named if named in strings else strings[0])
    tokens = [t for _, t in named_tensors(batch) if t.ndim == 2 and len(t) == count and not t.is_floating_point()]
    decode = next((found for name in ("tokenizer", "processor") if (found := _decoder(module, name))), None)
    if not tokens or decode is None:
        return ()
    try:
        return tuple(str(text) for text in decode(tokens[0].tolist(), skip_special_tokens=True))
    except Exception as error:  # whatever a tokenizer of another kind raises
        _log.debug("The texts cannot be decoded: %s", error)
        return ()


def _lists_of_strings(tree: Any, count: int) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)) and len(tree) == count and all(isinstance(text, str) for text in tree):
        yield tree
        return
    for _, value in named_items(tree):
        yield from _lists_of_strings(value, count)


def _decoder(module: Any, name: str) -> Any:
    return attribute_of(attribute_of(module, name), "batch_decode")


def regions_in(batch: Any, images: Tensor) -> Tensor | None:
    """(B, H, W) bool: inside any box or mask of the image; None if the batch has neither in a known form."""
    count, (height, width) = len(images), images.shape[-2:]
    masks = _find(batch, _MASK_KEYS[:2])
    if isinstance(masks, Tensor) and masks.ndim in (3, 4) and len(masks) == count:
        inside = (masks > 0).reshape(count, -1, *masks.shape[-2:]).any(1)
        return F.interpolate(inside[:, None].float(), size=(height, width), mode="nearest")[:, 0].bool()
    boxes = _find(batch, ("boxes", "bboxes"))
    if not _are_boxes(boxes, count):
        return None
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device) + 0.5
    regions = []
    for box in boxes:
        x1, y1, x2, y2 = box.to(images.device).reshape(-1, 4, 1).unbind(1)
        across, down = (x >= x1) & (x < x2), (y >= y1) & (y < y2)
        regions.append((down[:, :, None] & across[:, None, :]).any(0))
    return torch.stack(regions)


def _are_boxes(boxes: Any, count: int) -> bool:
    """Whether something that stands under the name of boxes is (B, 4), or (n, 4) per image."""
    if not isinstance(boxes, (list, tuple, Tensor)) or (isinstance(boxes, Tensor) and boxes.ndim == 0):
        return False
    return len(boxes) == count and all(
        isinstance(box, Tensor) and box.shape[-1:] == (4,) and not box.is_complex() and not box.is_meta for box in boxes
    )
