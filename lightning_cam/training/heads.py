"""The outputs that are explained, and what each of them says."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_cam.model.detection import Detection
from lightning_cam.model.parts import DenseTask
from lightning_cam.model.segmentation import Segmentation, task_of_pixels
from lightning_cam.model.tasks import Labels, OneLogit, Task, task_of
from lightning_cam.observe.consumers import Consumed, before_normalizing
from lightning_cam.observe.observation import Output
from lightning_cam.observe.step import NetworkCall, StepObserver
from lightning_cam.training.probe import ProbeBatch

_log = logging.getLogger(__name__)

_MOST_HEADS = 4  # one set of maps each


@dataclass(frozen=True, eq=False)
class Head:
    """An output that is explained.

    Args:
        name: Of the head, "" where there is one only.
        output: Which output of the program it is; None for all that the network returns.
        task: Its kind; None where nothing was seen to read it.
        by: What read it, "" likewise.
        num_classes: How many classes it tells apart, if any and known.
    """

    name: str = ""
    output: Output | None = None
    task: Task | None = None
    by: str = ""
    num_classes: int | None = None

    def labels(self, probe: ProbeBatch) -> Tensor | None:
        """(N,) int64, the class of each image that the loss compared with; guessed where it was not seen."""
        if isinstance(self.task, DenseTask):
            return None
        target = probe.targets.get(self.name)
        if self.task is None or target is None or self.output is None:
            is_of_other_classes = isinstance(self.task, OneLogit) and probe.num_labels > 2
            is_guess_for_classes = self.task is None or (self.task.is_exclusive and not is_of_other_classes)
            return probe.labels if is_guess_for_classes else None
        return self.task.labels(target, self.output.ignore_index)

    def keys(self, probe: ProbeBatch) -> list[int] | None:
        """What images are to differ in: their class, of several labels the first one; None if they have none."""
        labels, target = self.labels(probe), probe.targets.get(self.name)
        if labels is None and target is not None and isinstance(self.task, Labels):
            labels = (target > 0.5).int().argmax(1) if target.ndim == 2 else None
        if isinstance(self.task, DenseTask) and target is not None:
            labels = self.task.keys(target, self.num_classes or 1)
        return None if labels is None else labels.tolist()

    def parts(self, class_idx: int | None) -> int:
        """How many parts of each image are explained: one, where the image is explained as a whole."""
        return self.task.count(self.num_classes, class_idx) if isinstance(self.task, DenseTask) else 1

    def rows_of(self, probe: ProbeBatch, class_idx: int | None) -> ProbeBatch:
        """The probe with a row for each part, and what is true of it."""
        task, count = self.task, self.parts(class_idx)
        if not isinstance(task, DenseTask):
            return replace(probe, labels=self.labels(probe)).counted()
        target, regions = probe.targets.get(self.name), None
        if target is not None:
            size = (probe.images.shape[2], probe.images.shape[3])
            regions = task.regions(target, size, count, self.num_classes or 1, class_idx)
        rows = replace(probe, labels=None, regions=None).take(
            [k for k in range(len(probe.images)) for _ in range(count)]
        )
        return replace(rows, regions=regions).counted()


@dataclass(frozen=True)
class Wanted:
    """What the user asked for of what is seen.

    Args:
        head: The name of the only head to explain, or None.
        whole: Whether a score takes all that the network returns.
        any_class: Whether a class was named, and with it that the output is logits.
        num_names: How many class names there are, or None.
        features: Whether only methods were asked for that show features.
        step: Which step is seen, "validation" or "training".
        axes: What rows and columns of the images are, or None for what is seen.
    """

    axes: tuple[str, ...] | None = None
    head: str | None = None
    whole: bool = False
    any_class: bool = False
    num_names: int | None = None
    features: bool = False
    step: str = "validation"


def heads_of(outputs: Sequence[Output], observer: StepObserver, count: int, wanted: Wanted) -> list[Head]:
    """The outputs to explain, of those that were seen to be read.

    Raises:
        ValueError: None of them can be explained, or the head that was asked for is not there.
    """
    names = [output.name for output in outputs]
    if wanted.head is not None and wanted.head not in names:
        there = ", ".join(map(repr, names)) if any(names) else "an unnamed one"
        raise ValueError(f"head: the model has no head {wanted.head!r}; available: {there}")
    heads, refused = [], None
    for output in outputs:
        if wanted.head not in (None, output.name):
            continue
        read = _read(output, observer.consumed[output.event])
        try:
            task = _task_of(output, observer.consumed[output.event], read, wanted.step)
            _check_rows(read, output.target, count, wanted.step)
        except ValueError as error:
            refused = refused or error
            continue
        if isinstance(task, Segmentation):
            read = read[..., :1, :1]  # which tells the classes, too
        classes = task.logits(read).shape[1] if task.has_classes else None
        heads.append(Head(output.name, output, task, output.by, classes))
    if refused is not None and not heads:
        raise refused
    if len(heads) > _MOST_HEADS:
        _log.warning(
            "The model has %d heads; the first %d are explained: %s. Choose another one with head=.",
            len(heads),
            _MOST_HEADS,
            ", ".join(head.name for head in heads[:_MOST_HEADS]),
        )
    return heads[:_MOST_HEADS]


def _read(output: Output, seen: Consumed) -> Tensor:
    """What was read, as the network returned it: only its form counts."""
    read = seen.output
    return read if output.shape is None or len(output.shape) < 3 else read.new_zeros(()).expand(output.shape)


def _task_of(output: Output, seen: Consumed, read: Tensor, step: str) -> Task:
    of_pixels, target = task_of_pixels(output.kind, read, output.ignore_index), output.target
    is_picture = seen.rank == 3  # a reconstruction, or features
    if target is not None and output.kind in ("label logits", "probabilities"):
        is_picture |= not bool(((target == 0) | (target == 1) | target.isnan()).all())
    return task_of(output.kind, read, step) if of_pixels is None or is_picture else of_pixels


def unread_head(network: NetworkCall, labels: Tensor | None, count: int, wanted: Wanted) -> Head:
    """The output of a network of which nothing was seen to read it: a guess where something else speaks for it.

    Raises:
        ValueError: Whether it holds logits cannot be told.
    """
    widths = {
        leaf: torch.Size(origin.shape[1:]).numel()
        for leaf, origin in enumerate(network.returned)
        if origin is not None and origin.shape[:1] == (count,) and len(origin.shape) < 3
    }
    known = {None if labels is None else int(labels.max()) + 1, wanted.num_names} - {None}
    for leaf, width in sorted(widths.items(), key=lambda item: network.names[item[0]] != "logits"):
        if width == 1:
            # One image compared with zeros and ones; of a pair these would say whether the two are alike.
            is_binary = labels is not None and bool((labels < 2).all()) and len(network.pictures) == 1
            origin = network.returned[leaf]
            normalized = origin is not None and before_normalizing(origin) is not None
            kind = "values" if not is_binary else "probabilities" if normalized else "label logits"
            task = task_of(kind, torch.zeros(1, 1))
            return Head("", Output("", kind, "", 0, leaf, None), task, "", 2 if is_binary else None)
        if width in known or wanted.any_class or network.names[leaf] == "logits":
            return Head("", Output("", "logits", "", 0, leaf, None), Task(), "", width)
    shapes = ", ".join(f"({count}, {width})" for width in widths.values()) or "nothing per image"
    raise ValueError(
        f"no loss or metric was seen to read the output of {type(network.module).__name__} ({shapes}), so it may hold "
        "logits or features; give class_idx= for logits, or score= for anything else"
    )


def _check_rows(output: Tensor, target: Tensor | None, count: int, step: str) -> None:
    if count > 1 and (len(output) == 1 or (target is not None and target.numel() == 1)):
        raise ValueError(
            f"{step} has one output for {count} images, as of a single bag (N, C, H, W); give the network bags with a "
            "batch dimension, (B, N, C, H, W), also where B is 1, and let it return one row per bag, (B, classes)"
        )
    if len(output) != count:
        raise ValueError(
            f"{step} reads {len(output)} rows of the network's output for {count} images, so rows cannot be "
            "assigned to images; give forward=, a function that returns one row per image"
        )


def head_of_objects(output: Output) -> Head:
    """That of a network that detects by queries."""
    assert output.shape is not None  # of the logits
    has_none = output.kind == "objects"
    return Head("", output, Detection(has_none), output.by, output.shape[2] - has_none)
