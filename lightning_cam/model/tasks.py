"""Kinds of tasks: what an output means, what is explained of it, and what it was compared with.

To serve another kind, write a `Task` and register it under what a consumer reads (see `lightning_cam.observe`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override


@dataclass(frozen=True)
class Task:
    """A kind of task; this base class has softmax classes.

    Attributes:
        words: What it is called in sentences.
        has_classes: Whether an output says something of each of several classes.
        is_exclusive: Whether one of them is right.
        has_values: Whether it is a value that is explained.
    """

    words: ClassVar[str] = "softmax classes"
    has_classes: ClassVar[bool] = True
    is_exclusive: ClassVar[bool] = True
    has_values: ClassVar[bool] = False

    def logits(self, output: Tensor) -> Tensor:
        """Logits (B, classes) of the output (B, ...) that was read.

        Raises:
            ValueError: The output does not have this form.
        """
        if output.ndim > 2 and output[0, 0].numel() == 1:  # as metrics want it, (B, classes, 1)
            output = output.flatten(1)
        if output.ndim != 2 or output.shape[1] < 2:
            raise ValueError(f"expected logits (B, classes), got {tuple(output.shape)}")
        return output

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, classes) float32."""
        return logits.float().softmax(1)

    def labels(self, target: Tensor, ignore_index: int = -100) -> Tensor | None:
        """The class of each image (B,) int64, -1 where there is none; None if targets are not of that form."""
        if target.ndim == 2 and target.shape[1] > 1:  # one-hot or mixed
            return target.argmax(1)
        if target.ndim > 2 or target.is_floating_point():
            return None
        labels = target.reshape(len(target), -1)[:, 0].long() if target.numel() == len(target) else None
        return None if labels is None else labels.masked_fill((labels < 0) | (labels == ignore_index), -1)


class FromLogProbabilities(Task):
    """Classes whose log-probabilities the loss reads, as `nll_loss` does: their softmax is their exponential."""


class FromProbabilities(Task):
    """Classes whose probabilities the loss reads."""

    @override
    def logits(self, output: Tensor) -> Tensor:
        return super().logits(output.float().clamp(min=1e-12).log())


class OneLogit(Task):
    """Two classes of which one logit (B,) or (B, 1) tells: sigmoid(z) is the probability of the second."""

    words = "two classes from one logit"

    @override
    def logits(self, output: Tensor) -> Tensor:
        output = output[None] if output.ndim == 0 else output  # of one image, squeezed
        if output.numel() != len(output):
            raise ValueError(f"expected one logit per image, got {tuple(output.shape)}")
        one = output.reshape(len(output), 1)
        return torch.cat([-one, one], 1) / 2

    @override
    def labels(self, target: Tensor, ignore_index: int = -100) -> Tensor | None:
        if target.numel() != len(target):
            return None
        known = (target >= 0).reshape(len(target))  # NaN is not, either
        return torch.where(known, (target > 0.5).long().reshape(len(target)), -1)  # soft ones are rounded


class OneProbability(OneLogit):
    """The same, of which the loss reads the probability."""

    @override
    def logits(self, output: Tensor) -> Tensor:
        return super().logits(_logit(output))


class Labels(Task):
    """Several labels, each with a sigmoid of its own; any number of them is present."""

    words = "several labels"
    is_exclusive = False

    @override
    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    @override
    def labels(self, target: Tensor, ignore_index: int = -100) -> Tensor | None:
        return None

    def present(self, target: Tensor) -> Tensor | None:
        """Which labels each image has, (B, labels) bool."""
        return target > 0.5 if target.ndim == 2 else None


class LabelProbabilities(Labels):
    """The same, of which the loss reads the probabilities."""

    @override
    def logits(self, output: Tensor) -> Tensor:
        return super().logits(_logit(output))


class Values(Task):
    """A regression: the value is explained."""

    words = "a regression"
    has_classes = False
    has_values = True

    @override
    def logits(self, output: Tensor) -> Tensor:
        """Values (B, K)."""
        output = output[None] if output.ndim == 0 else output  # of one image, squeezed
        if output.ndim not in (1, 2):
            raise ValueError(f"expected values (B,) or (B, K), got {tuple(output.shape)}")
        return output.reshape(len(output), -1)

    @override
    def labels(self, target: Tensor, ignore_index: int = -100) -> Tensor | None:
        return None


class LogValues(Values):
    """The same, of which the loss reads the logarithm."""

    @override
    def logits(self, output: Tensor) -> Tensor:
        return super().logits(output).exp()


class Pairs(Values):
    """Similarities (B, B) of each image to all texts of a batch: that to its own is explained."""

    words = "similarity to the image's own text"

    @override
    def logits(self, output: Tensor) -> Tensor:
        if output.ndim != 2 or output.shape[0] != output.shape[1]:
            raise ValueError(
                f"expected similarities (B, B), got {tuple(output.shape)}; if the step makes tokens of strings, the "
                "batch has to hold the tokens instead"
            )
        return output.diagonal()[:, None]


class Embeddings(Task):
    """Self-supervised training: outputs are compared with one another, and none of them says a class or a value."""

    words = "features, no class"
    has_classes = False

    @override
    def logits(self, output: Tensor) -> Tensor:
        """The output as it is, whatever it is."""
        return output

    @override
    def labels(self, target: Tensor, ignore_index: int = -100) -> Tensor | None:
        return None


def _logit(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities.float(), eps=1e-6)


def _single(output: Tensor) -> bool:
    return output.numel() == len(output)


TASKS: dict[str, Callable[[Tensor], Task]] = {
    "logits": lambda output: OneLogit() if _single(output) else Task(),
    "log-probabilities": lambda output: FromLogProbabilities(),
    "label logits": lambda output: OneLogit() if _single(output) else Labels(),
    "probabilities": lambda output: OneProbability() if _single(output) else LabelProbabilities(),
    "softmax probabilities": lambda output: FromProbabilities(),
    "values": lambda output: Values(),
    "log values": lambda output: LogValues(),
    "pairs": lambda output: Pairs(),
}
"""From what a loss or metric takes an output for to a function that returns the task of such an output."""


def task_of(kind: str, output: Tensor, step: str = "validation") -> Task:
    """The task of an output.

    Args:
        kind: What a loss or metric took it for.
        output: (B, ...).
        step: What reads it, for the sentence.

    Raises:
        ValueError: It has nothing per image to explain; the message says which argument to give.

    Example:
        >>> task_of("label logits", torch.zeros(2, 5)).words
        'several labels'
    """
    if kind == "embeddings":
        raise ValueError(
            f"{step} compares image embeddings, which have no classes to explain; give forward=, the part that "
            "returns the embeddings, and score=, such as lightning_cam.scores.EmbeddingSimilarity(reference)"
        )
    task = TASKS[kind](output)
    try:
        task.logits(output[:2] if kind != "pairs" else output)
    except ValueError:
        raise ValueError(
            f"{step} reads an output of shape {tuple(output.shape)} as {task.words}, which is not one row per "
            "image; give score=, a function from the model's output to one number per image"
        ) from None
    return task
