"""Outputs that say something of each of several parts of an image: which parts are explained, and their logits.

A part is a region of one class (see `segmentation`) or an object (see `detection`). With the parts chosen, an output
becomes logits (B, classes), one row per part, and all that is true of a classifier is true of it.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_cam.model.keep_grad import ThroughDetach
from lightning_cam.model.output import Forward, forward_of_rows
from lightning_cam.model.tasks import Task

NOTHING = "nothing predicted"
_LEAST_OVERLAP = 0.5  # of a prediction that counts as right, as in detection's usual metrics


@dataclass(frozen=True)
class Parts:
    """What is explained of each image: n rows, those of one image side by side.

    Args:
        where: What `DenseTask.logits` takes, (n, ...): where in the output the part stands.
        classes: (n,) int64; -1 where an image has fewer parts.
        amounts: (n,) float32 in [0, 1]: share of the image's area, or probability.
        predicted: (n, H, W) bool, where the part was predicted in the image; (n, D, H, W) in a volume.
        truth: (n, H, W) bool, where the class truly is; None where that is not known.
        overlap: (n,) float32, intersection over union of what is predicted and true; NaN where that is not known.
        is_predicted: (n,) bool, whether the model says so: not of a class that it predicts nowhere, and not of a query
            that is rather no object.
    """

    where: Tensor
    classes: Tensor
    amounts: Tensor
    predicted: Tensor
    truth: Tensor | None
    overlap: Tensor
    is_predicted: Tensor

    def of_rows(self, index: Tensor | slice) -> "Parts":
        """These rows."""
        return Parts(
            self.where[index],
            self.classes[index],
            self.amounts[index],
            self.predicted[index],
            None if self.truth is None else self.truth[index],
            self.overlap[index],
            self.is_predicted[index],
        )

    def without_outlines(self) -> "Parts":
        """The same for pictures of volumes, which show no regions: nothing is predicted anywhere, or known to be."""
        nowhere = torch.zeros_like(self.predicted.flatten(1, -3)[:, 0])
        return replace(self, predicted=nowhere, truth=None)

    @classmethod
    def joined(cls, several: Sequence["Parts"]) -> "Parts":
        """Those of several batches."""
        if len(several) == 1:
            return several[0]
        truths = [parts.truth for parts in several if parts.truth is not None]
        return cls(
            torch.cat([parts.where for parts in several]),
            torch.cat([parts.classes for parts in several]),
            torch.cat([parts.amounts for parts in several]),
            torch.cat([parts.predicted for parts in several]),
            torch.cat(truths) if truths else None,
            torch.cat([parts.overlap for parts in several]),
            torch.cat([parts.is_predicted for parts in several]),
        )

    @property
    def right(self) -> Tensor:
        """(n,) int64: 1 where at least half of prediction and truth are common, 0 where less, -1 where unknown."""
        judged = (self.overlap >= _LEAST_OVERLAP).long()
        return judged.masked_fill(self.overlap.isnan() | (self.classes < 0), -1)

    def lines(self) -> list[str]:
        """What is said of each part: class, amount, overlap with the truth, and whether the model rather says none."""
        columns = (self.classes, self.amounts, self.overlap, self.is_predicted)
        return [
            NOTHING if index < 0
            else f"class {index}, {amount:.0%}"
            + ("" if overlap != overlap else f", IoU {overlap:.2f}")
            + ("" if is_predicted else "; more likely none")
            for index, amount, overlap, is_predicted in zip(*(column.tolist() for column in columns), strict=True)
        ]  # fmt: skip


class DenseTask(Task):
    """A task whose output says something of each of several parts of an image.

    Attributes:
        kind: What a part is, for sentences.
        amount: What its amount is, for captions.
        explained: What is explained of it, for sentences.
        unpredicted: What is said of one that is explained and not predicted.
        most: How many parts of an image are explained at most.
        passes_detach: Whether relevance is followed through what the model detaches: queries that are made of tokens
            it has chosen, say, which training leaves out and the output depends on.
    """

    kind: ClassVar[str] = "part"
    amount: ClassVar[str] = ""
    explained: ClassVar[str] = ""
    unpredicted: ClassVar[str] = "not predicted"
    most: ClassVar[int] = 4
    passes_detach: ClassVar[bool] = False

    @override
    @abstractmethod
    def logits(self, output: Any, where: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of one part of each image.

        Args:
            output: What the model returned.
            where: Of `Parts`, (B, ...); None for a part that is there whatever the images are, to try a model on.

        Raises:
            ValueError: The output is not of that form.
        """

    @abstractmethod
    def find(
        self,
        output: Any,
        size: tuple[int, ...],
        target: Tensor | None,
        count: int,
        class_idx: Tensor | int | None = None,
    ) -> Parts:
        """Choose the parts to explain.

        Args:
            output: What the model returned.
            size: Height and width of the images, before them the number of planes of volumes.
            target: (B, ...), what the output is compared with, if that is known.
            count: How many parts of each image.
            class_idx: The only class, if one was named; or one for each image, -1 for any.

        Raises:
            ValueError: There is no such class.
        """

    @abstractmethod
    def regions(
        self, target: Tensor, size: tuple[int, ...], count: int, num_classes: int, class_idx: int | None = None
    ) -> Tensor:
        """(B * count, H, W) bool, what is true of each part's place whatever is predicted."""

    @abstractmethod
    def keys(self, target: Tensor, num_classes: int) -> Tensor:
        """(B,) int64, what images are to differ in: the class that has the least of each."""

    @abstractmethod
    def missing(self, count: int) -> str:
        """What is said where an image has fewer than `count` parts."""

    @override
    def labels(self, target: Tensor, ignore_index: int = -100) -> Tensor | None:
        return None

    def count(self, num_classes: int | None, class_idx: int | None) -> int:
        """How many parts of each image are explained."""
        return 1 if class_idx is not None else min(self.most, num_classes or self.most)


class OfParts:
    """A forward whose output is logits of one part of each image.

    Args:
        forward: What is called.
        task: What it returns.
        where: Of `Parts`, (n, ...); images of another number are taken for the first rows, and again from the first.

    Attributes:
        task: The same.
        where: The same, which may be changed.
    """

    def __init__(self, forward: Forward, task: DenseTask, where: Tensor | None = None) -> None:
        self._forward = ThroughDetach(forward) if task.passes_detach else forward
        self.task, self.where = task, where

    def __call__(self, images: Tensor) -> Tensor:
        """Run it."""
        where = self.where
        if where is not None and len(where) != len(images):
            where = where[torch.arange(len(images), device=where.device) % len(where)]
        return self.task.logits(self._forward(images), where)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """While layers are searched for with noise: logits of parts that are there whatever the images are."""
        where, self.where = self.where, None
        try:
            yield
        finally:
            self.where = where

    def of_rows(self, index: Tensor | slice) -> "OfParts":
        """The same for images that belong to these rows."""
        where = self.where
        if where is not None:
            where = where[index.to(where.device) if isinstance(index, Tensor) else index]
        return OfParts(forward_of_rows(self._forward, index), self.task, where)


def named_classes(class_idx: Tensor | int | None, count: int, num_classes: int, device: torch.device) -> Tensor:
    """(B,) int64, the class that was asked for in each image; -1 for any.

    Raises:
        ValueError: There is no such class.
    """
    if isinstance(class_idx, Tensor):
        return class_idx.to(device, torch.int64)
    if class_idx is not None and not 0 <= class_idx < num_classes:
        raise ValueError(f"class_idx: the model's classes go from 0 to {num_classes - 1}, got {class_idx}")
    return torch.full((count,), -1 if class_idx is None else class_idx, device=device)
