"""Segmentation: classes of each pixel, or voxel of a volume, explained over the region of one."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_cam.model.output import tensors_in
from lightning_cam.model.parts import DenseTask, Parts, named_classes
from lightning_cam.model.tasks import TASKS, Labels, OneLogit, Task

_KINDS = ("logits", "log-probabilities", "label logits", "probabilities", "softmax probabilities")


@dataclass(frozen=True)
class Segmentation(DenseTask):
    """Classes of each pixel, one of them right.

    Explained is the mean of a class's logit over the region that is predicted as it (after Vinogradova et al. 2020,
    "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping", arXiv:2002.11434,
    which takes the sum; of the mean, maps of large and small regions compare). One region for each class: first those
    that are truly there, the largest first, then others that are predicted. A class that is there and predicted nowhere
    is explained over its true region.

    Args:
        of_pixel: What the output says of one pixel.
        ignore_index: The target of pixels that are left out.
        num_axes: How many axes places have: 2 of images, 3 of volumes.

    Example:
        >>> logits = torch.tensor([[[[3.0, 1.0, 0.0]], [[0.0, 0.0, 2.0]]]])  # three pixels, two classes
        >>> parts = Segmentation().find(logits, (1, 3), torch.tensor([[[0, 1, 1]]]), 2)
        >>> parts.classes, parts.amounts, parts.overlap
        (tensor([1, 0]), tensor([0.3333, 0.6667]), tensor([0.5000, 0.5000]))
        >>> Segmentation().logits(logits.repeat(2, 1, 1, 1), parts.where)
        tensor([[0., 2.],
                [2., 0.]])
    """

    words = "classes of each pixel"
    kind = "region"
    amount = "share of the image's area"
    explained = "the mean logit of a region's class over the region that is predicted as it"
    of_pixel: Task = field(default_factory=Task)
    ignore_index: int = -100
    num_axes: int = 2

    def pixels(self, output: Any) -> Tensor:
        """Logits (B, classes, h, w) of an output of the model, a tensor or anything that holds one.

        Of volumes they are (B, classes, d, h, w), as all that is said here of places has an axis more.

        Raises:
            ValueError: It holds none.
        """
        output = pixels_in(output, self.num_axes)
        rows = output.movedim(1, -1)
        logits = self.of_pixel.logits(rows.reshape(-1, rows.shape[-1]))
        return logits.view(*rows.shape[:-1], -1).movedim(-1, 1)

    @override
    def logits(self, output: Any, where: Tensor | None = None) -> Tensor:
        pixels = self.pixels(output)
        if where is None:  # of each class the half of the pixels that speak most for it
            known = pixels.detach()
            inside = known > known.flatten(2).median(2).values.unflatten(1, (-1, *[1] * self.num_axes))
        else:
            inside = where[:, None]
        weights = inside.to(pixels.dtype)
        return (pixels * weights).flatten(2).sum(2) / weights.flatten(2).sum(2).clamp(min=1)

    @override
    def probabilities(self, logits: Tensor) -> Tensor:
        return self.of_pixel.probabilities(logits)

    @override
    def find(
        self,
        output: Any,
        size: tuple[int, ...],
        target: Tensor | None,
        count: int,
        class_idx: Tensor | int | None = None,
    ) -> Parts:
        pixels, size = self.pixels(output).detach(), size[-self.num_axes :]
        smooth = "bilinear" if self.num_axes == 2 else "trilinear"
        predicted = self._predicted(F.interpolate(pixels.float(), size, mode=smooth, align_corners=False))
        truth = None if target is None else self._truth(target, size, pixels.shape[1])
        classes = self._chosen(predicted, truth, count, class_idx)
        rows = torch.arange(len(pixels), device=pixels.device).repeat_interleave(count)
        safe = classes.clamp(min=0)
        there = (classes >= 0).view(-1, *[1] * self.num_axes)
        own = predicted[rows, safe] & there
        where = self._predicted(pixels)[rows, safe] & there
        where = _or_else(where, own)
        amounts, overlap = own.flatten(1).float().mean(1), own.new_full((len(own),), torch.nan, dtype=torch.float32)
        own_truth = None
        if truth is not None:
            own_truth = truth[rows, safe] & there
            known = truth.any(1)[rows] if self.is_exclusive else torch.ones_like(own)
            where = _or_else(where, own_truth)
            union = ((own | own_truth) & known).flatten(1).sum(1)
            common = (own & own_truth).flatten(1).sum(1)
            overlap = torch.where(union > 0, common / union.clamp(min=1), torch.nan)
        return Parts(where, classes, amounts, own, own_truth, overlap, own.flatten(1).any(1))

    @override
    def regions(
        self, target: Tensor, size: tuple[int, ...], count: int, num_classes: int, class_idx: int | None = None
    ) -> Tensor:
        truth = self._truth(target, size, num_classes)
        classes = self._chosen(torch.zeros_like(truth), truth, count, class_idx)
        rows = torch.arange(len(truth), device=truth.device).repeat_interleave(count)
        return truth[rows, classes.clamp(min=0)] & (classes >= 0).view(-1, *[1] * self.num_axes)

    @override
    def count(self, num_classes: int | None, class_idx: int | None) -> int:
        return 1 if isinstance(self.of_pixel, OneLogit) else super().count(num_classes, class_idx)

    @override
    def missing(self, count: int) -> str:
        return "no other class" if count > 1 else "not in the image"

    @override
    def keys(self, target: Tensor, num_classes: int) -> Tensor:
        area = self._truth(target, None, num_classes).flatten(2).float().mean(2)
        return area.masked_fill(area == 0, torch.inf).argmin(1)

    def _predicted(self, pixels: Tensor) -> Tensor:
        """(B, classes, h, w) bool."""
        return torch.zeros_like(pixels, dtype=torch.bool).scatter_(1, pixels.argmax(1, keepdim=True), True)

    def _truth(self, target: Tensor, size: tuple[int, ...] | None, num_classes: int) -> Tensor:
        """(B, classes, H, W) bool of a target (B, H, W) or (B, 1, H, W) of classes, or (B, classes, H, W) of parts."""
        has_channels = target.ndim == self.num_axes + 2
        if has_channels and target.shape[1] == num_classes and num_classes > 1:
            masks = target > 0.5
        else:
            index = target[:, 0] if has_channels else target
            if index.is_floating_point() and isinstance(self.of_pixel, OneLogit):
                index = torch.where(index.isnan(), -1, (index > 0.5).long())  # soft ones are rounded
            index = index.long().masked_fill(index == self.ignore_index, -1)
            known = (index >= 0) & (index < num_classes)
            masks = F.one_hot(index.clamp(0, num_classes - 1), num_classes).movedim(-1, 1).bool() & known[:, None]
        if size is None or masks.shape[2:] == size:
            return masks
        return F.interpolate(masks.float(), size, mode="nearest").bool()

    def _chosen(self, predicted: Tensor, truth: Tensor | None, count: int, class_idx: Tensor | int | None) -> Tensor:
        """(B * count,) int64, which classes are explained; -1 where there is no further one."""
        rank = predicted.flatten(2).float().mean(2)
        if truth is not None:
            area = truth.flatten(2).float().mean(2)
            rank = torch.where(area > 0, 2 + area, rank)
        if class_idx is None and isinstance(self.of_pixel, OneLogit):
            class_idx = 1
        named = named_classes(class_idx, len(rank), rank.shape[1], rank.device)[:, None]
        rank = rank * ((torch.arange(rank.shape[1], device=rank.device) == named) | (named < 0))
        largest, classes = rank.sort(dim=1, descending=True, stable=True)
        chosen = torch.where(largest > 0, classes, -1)[:, :count]
        return F.pad(chosen, (0, count - chosen.shape[1]), value=-1).flatten()


@dataclass(frozen=True)
class SegmentationLabels(Segmentation):
    """Several labels of each pixel, each with a sigmoid of its own."""

    words = "several labels of each pixel"
    is_exclusive = False

    @override
    def _predicted(self, pixels: Tensor) -> Tensor:
        return pixels > 0


def task_of_pixels(kind: str, output: Tensor, ignore_index: int = -100) -> Segmentation | None:
    """The task of an output that says something of each pixel; None if it is none.

    Args:
        kind: What a loss or metric took it for.
        output: (B, C, h, w), or (B, h, w) of one logit; of volumes (B, C, d, h, w).
        ignore_index: The target of pixels that are left out.

    Example:
        >>> task_of_pixels("logits", torch.zeros(1, 3, 4, 4)).words
        'classes of each pixel'
    """
    if kind not in _KINDS or output.ndim not in (3, 4, 5) or min(output.shape[-2:]) < 2:
        return None
    channels = output.shape[1] if output.ndim > 3 else 1
    if channels == 1 and kind not in ("label logits", "probabilities"):
        return None
    task = TASKS[kind](output.new_zeros(1, channels))
    num_axes = 3 if output.ndim == 5 else 2
    return (SegmentationLabels if isinstance(task, Labels) else Segmentation)(task, ignore_index, num_axes)


def pixels_in(output: Any, num_axes: int = 2) -> Tensor:
    """(B, C, h, w): the first tensor of that form in an output, those under the name `logits` first.

    Args:
        output: Of a model.
        num_axes: How many axes places have: with 3 it is (B, C, d, h, w).

    Raises:
        ValueError: There is none.
    """
    found = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    maps = [tensor for tensor in found if tensor.ndim == num_axes + 2]
    maps = maps or [tensor[:, None] for tensor in found if tensor.ndim == num_axes + 1]
    if not maps:
        form, place = ("(B, classes, h, w)", "pixel") if num_axes == 2 else ("(B, classes, d, h, w)", "voxel")
        raise ValueError(f"expected logits {form}, one for each {place}, in the model's output")
    return maps[0]


def _or_else(where: Tensor, other: Tensor) -> Tensor:
    """The regions (n, h, w); in place of empty ones other regions (n, H, W), as far as they reach into a cell."""
    reached = F.interpolate(other[:, None].float(), where.shape[1:], mode="area")[:, 0] > 0
    return torch.where(where.flatten(1).any(1).view(-1, *[1] * (where.ndim - 1)), where, reached)
