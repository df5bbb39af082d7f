"""The fixed images that every look of a training looks at."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from lightning_cam.model.output import named_items, named_tensors
from lightning_cam.printable import printable
from lightning_cam.training.image_files import SUFFIXES, images_below, read_image

_log = logging.getLogger(__name__)

# In the order of preference, as the field names them.
_IMAGE_KEYS = ("pixel_values", "image", "images", "img", "imgs", "x", "input", "inputs")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class_idx", "class")
_NO_LABEL_KEYS = ("id", "ids", "idx", "index", "indices", "image_id", "sample_id")
_CHANNELS = (1, 3, 4)
_ROUNDING = 0.02  # of labels that add up to one, in half precision


@dataclass(frozen=True)
class ProbeBatch:
    """Images that are looked at again and again, and what is known about them.

    Args:
        images: (N, C, H, W) floating, normalized as the model takes them.
        labels: (N,) int64, or None.
        regions: (N, H, W) bool, where the object is, or None.
        num_labels: One more than the largest label, 0 without labels; known on the host, so that a look need not ask
            the device.
    """

    images: Tensor
    labels: Tensor | None = None
    regions: Tensor | None = None
    num_labels: int = 0

    @classmethod
    def from_batch(cls, batch: Any, num_samples: int = 16) -> "ProbeBatch":
        """Take the first images of a batch, and their labels, boxes or masks if it has any. All are cloned.

        Args:
            batch: Anything nested of tensors: tuples, mappings, dataclasses, named tuples. Images are the first
                floating (B, C, H, W) with 1, 3 or 4 channels, those under a usual name (`image`, …) first.
                Labels are (B,) or (B, 1) integers, or floating zeros and ones; or (B, classes) that add up to one
                per image, of which the largest counts. Objects are under `boxes`,
                (B, 4) or per image (n, 4), as x1, y1, x2, y2 in pixels, or under `masks`, (B, H, W), (B, 1, H, W).
            num_samples: How many images at most.

        Raises:
            ValueError: The batch holds no images.

        Example:
            >>> probe = ProbeBatch.from_batch((torch.zeros(8, 3, 4, 4), torch.arange(8)), num_samples=2)
            >>> probe.images.shape, probe.labels
            (torch.Size([2, 3, 4, 4]), tensor([0, 1]))
        """
        leaves = list(named_tensors(batch))
        images = images_in(batch)
        if images is None:
            shapes = ", ".join(f"{key or 'tensor'} {_form(value)}" for key, value in leaves) or "no tensor"
            raise ValueError(
                f"the validation batch holds no images: a floating (B, C, H, W) tensor with 1, 3 or 4 channels is "
                f"needed, found {shapes}; give probe=, a folder of images"
            )
        count = len(images)
        labels = _labels(batch, leaves, count)
        regions = _regions(batch, images)
        # The batch of a stand-alone validation is made of inference tensors; their clones outside of it are not.
        with torch.inference_mode(False):
            return cls(
                images[:num_samples].detach().clone(),
                None if labels is None else labels[:num_samples].clone(),
                None if regions is None else regions[:num_samples].clone(),
            )._counted()

    @classmethod
    def from_folder(
        cls, path: str | Path, num_samples: int = 16, transform: Callable[[Any], Tensor] | None = None
    ) -> "ProbeBatch":
        """Read the first images, in order of their paths, of a folder and those below it.

        Args:
            path: The folder.
            num_samples: How many images at most.
            transform: The validation transform, from a PIL image to (C, H, W). Without one, the images are scaled to
                [0, 1] and must be of one size.

        Raises:
            ValueError: There is no such folder, no image in it, or the images differ in size after `transform`.
        """
        folder = Path(path)
        read = (_read(file, transform) for file in images_below(folder))  # no more of them than needed
        images = list(islice((image for image in read if image is not None), num_samples))
        if not images:
            what = "holds no images" if folder.is_dir() else "is not a folder"
            raise ValueError(
                f"probe: {str(folder)!r} {what}; expected a folder with {', '.join(sorted(SUFFIXES))} files"
            )
        if len({image.shape for image in images}) > 1:
            sizes = ", ".join(sorted({str(tuple(image.shape)) for image in images}))
            where = "the validation transform" if transform else "the validation dataset's `transform`, now none"
            raise ValueError(
                f"probe: the images of {str(folder)!r} differ in size ({sizes}); resize and crop them in {where}"
            )
        return cls(torch.stack(images))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ProbeBatch":
        """Take what `state_dict` gave; what a later version may have added is left out.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: That is no state of a probe.
        """
        images, labels, regions = state["images"], state.get("labels"), state.get("regions")
        if not _is_images(images) or not bool(images.isfinite().all()):
            raise ValueError(f"probe: expected finite images (N, C, H, W), got {_form(images)}")
        if labels is not None and (labels.shape != images.shape[:1] or bool((labels < 0).any())):
            raise ValueError(f"probe: expected labels ({len(images)},) from 0 on, got {_form(labels)}")
        if regions is not None and regions.shape != (len(images), *images.shape[2:]):
            raise ValueError(f"probe: expected regions of the size of the images, got {_form(regions)}")
        return cls(images, labels, regions)._counted()

    def to(self, device: torch.device | str) -> "ProbeBatch":
        """Return the same probe with its tensors on `device`."""
        moved: dict[str, Any] = {key: value.to(device) for key, value in self._tensors()}
        return replace(self, **moved)

    def state_dict(self) -> dict[str, Any]:
        """Return the probe as tensors on the CPU and numbers."""
        return {**{key: value.cpu() for key, value in self._tensors()}, "num_labels": self.num_labels}

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(value.nbytes for _, value in self._tensors())

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((f.name, v) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor))

    def _counted(self) -> "ProbeBatch":
        return self if self.labels is None else replace(self, num_labels=int(self.labels.max()) + 1)


def images_in(batch: Any) -> Tensor | None:
    """The images of a batch, as `ProbeBatch.from_batch` finds them, or None."""
    return _first(list(named_tensors(batch)), _IMAGE_KEYS, _is_images)


def _read(file: Path, transform: Callable[[Any], Tensor] | None) -> Tensor | None:
    """The image of a file, or None if the file cannot be read."""
    try:
        image = read_image(file)
    except OSError as error:
        _log.warning("probe: %s is left out: %s", printable(file), printable(error))
        return None
    result = (transform or to_tensor)(image)
    if not isinstance(result, Tensor) or result.ndim != 3:
        raise ValueError(f"probe: the validation transform gives {type(result).__name__}, a (C, H, W) tensor is needed")
    return result


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _first(leaves: Sequence[tuple[str, Tensor]], keys: Sequence[str], fits: Callable[[Tensor], bool]) -> Tensor | None:
    """The first tensor that fits, those under the usual names before others."""
    rank = {key: index for index, key in enumerate(keys)}
    ordered = sorted(leaves, key=lambda leaf: rank.get(leaf[0].lower(), len(keys)))
    return next((tensor for _, tensor in ordered if fits(tensor)), None)


def _is_images(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[1] in _CHANNELS and tensor.is_floating_point() and len(tensor) > 0


def _is_per_image(tensor: Tensor, count: int) -> bool:
    return tensor.shape in ((count,), (count, 1)) and tensor.dtype != torch.bool


def _labels(batch: Any, leaves: Sequence[tuple[str, Tensor]], count: int) -> Tensor | None:
    """(B,) int64: integers, or the largest of one value per class under a usual name (one-hot, mixed labels)."""
    named = _find(batch, _LABEL_KEYS)
    if isinstance(named, Tensor) and named.ndim == 2 and len(named) == count and named.shape[1] > 1:
        if bool((named.float().sum(1) - 1).abs().max() < _ROUNDING):
            return named.argmax(1)
        _log.warning("The batch's labels do not add up to one class per image: the predicted classes are explained.")
        return None
    numbers = [(k, v) for k, v in leaves if _is_per_image(v, count) and k.lower() not in _NO_LABEL_KEYS]
    found = [leaf for leaf in numbers if not leaf[1].is_floating_point()]
    floating = [leaf for leaf in numbers if leaf[0].lower() in ("", *_LABEL_KEYS)]
    # What the loss of a binary classifier takes is floating.
    found = found or [leaf for leaf in floating if bool(((leaf[1] == 0) | (leaf[1] == 1)).all())]
    usual = [leaf for leaf in found if leaf[0].lower() in _LABEL_KEYS]
    if not usual and len(found) > 1:
        _log.warning("The batch holds several integers per image, and which are labels cannot be told: none is taken.")
        return None
    labels = _first(usual or found, _LABEL_KEYS, lambda tensor: True)
    if labels is None:
        if floating:
            _log.warning(
                "The batch's targets are no classes: predicted ones are explained; for a regression give score=."
            )
        return None
    if bool((labels < 0).any()):
        _log.warning("The batch holds labels below 0, which name no class: the predicted classes are explained.")
        return None
    return labels.flatten().long()


def _find(batch: Any, keys: Sequence[str]) -> Any:
    """What stands under the first of these names in a nested batch, or None."""
    for name, value in named_items(batch):
        found = value if name.lower() in keys else _find(value, keys)
        if found is not None:
            return found
    return None


def _regions(batch: Any, images: Tensor) -> Tensor | None:
    """(B, H, W) bool: inside any box or mask of the image; None if the batch has neither in a known form."""
    count, (height, width) = len(images), images.shape[-2:]
    masks = _find(batch, ("masks", "mask"))
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
