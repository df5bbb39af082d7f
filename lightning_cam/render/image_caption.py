"""Captions of images whose ground truth is not a single class: several labels, a value, a file name."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_cam.printable import printable
from lightning_cam.render.caption import Captions, draw_lines, shown_name, text_width
from lightning_cam.render.fonts import can_write


class ImageCaptions(Captions):
    """Captions with a text of its own for each image in place of a label.

    Where labels are asked for, the numbers of images stand for them.

    Args:
        class_names: Names of the first classes.
        num_classes: How many classes there are.
        texts: What is true of each image, in words.
        present: (B, classes) bool, which classes each image has; None if that is not known.

    Example:
        >>> captions = ImageCaptions(["cat", "dog"], 2, ["cat, dog", "none"], torch.tensor([[1, 1], [0, 0]]) > 0)
        >>> captions.right(torch.tensor([1, 1]), torch.arange(2)).tolist()
        [True, False]
    """

    def __init__(
        self, class_names: Sequence[str], num_classes: int, texts: Sequence[str], present: Tensor | None = None
    ) -> None:
        super().__init__(class_names, num_classes)
        self._texts, self._present = [self._shown(" ".join(text.split())) for text in texts], present

    def _shown(self, text: str) -> str:
        """The text, in which names of classes that no font has the letters of are numbers."""
        if can_write(printable(text)):
            return text
        names = [(" ".join(str(name).split()), index) for index, name in enumerate(self.class_names)]
        for name, index in sorted(names, key=lambda named: -len(named[0])):
            if name and name in text:
                text = text.replace(name, shown_name(name, index))
        return text

    @override
    def right(self, preds: Tensor, labels: Tensor) -> Tensor:
        if self._present is None:
            return torch.zeros_like(preds, dtype=torch.bool)
        images = labels.expand_as(preds)
        return self._present[images, preds.clamp(0, self._present.shape[1] - 1)]

    @override
    def _label_names(self, labels: Tensor, size: int, limit: int) -> Tensor:
        width = min(max(text_width(text, size) for text in self._texts), limit)
        return draw_lines(self._texts, size, width)[labels]


class ValueCaptions(ImageCaptions):
    """Captions of a regression: the predicted value stands in place of a class and its probability.

    Args:
        texts: The true value of each image, in words.

    Example:
        >>> ValueCaptions(["3.5"]).prediction(torch.tensor([-1]), torch.tensor([3.25]), 12, 60).shape
        torch.Size([1, 15, 60])
    """

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__([], 0, texts)

    @override
    def label_and_prediction(self, labels: Tensor, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write `predicted → true`, in two lines where one is too short for both."""
        values = [f"{value:.4g}" for value in probs.flatten().tolist()]
        truths = [self._texts[index] for index in labels.flatten().tolist()]
        in_one = [f"{v} → {t}" if t else v for v, t in zip(values, truths, strict=True)]
        if max(text_width(text, size) for text in in_one) <= width:
            lines = draw_lines(in_one, size, width)
        else:
            seconds = draw_lines([f"→ {t}" if t else "" for t in truths], size, width)
            lines = torch.cat([draw_lines(values, size, width), seconds], 1)
        return lines.view(*probs.shape, *lines.shape[-2:])

    @override
    def _names(self, classes: Tensor, size: int, limit: int) -> Tensor:
        return super()._names(classes, size, limit)[..., :0]

    @override
    def _chances(self, probs: Tensor, size: int) -> Tensor:
        texts = [f"{value:.4g}" for value in probs.flatten().tolist()]
        width = max(text_width(text, size) for text in texts)
        lines = draw_lines(texts, size, width, align_right=True)
        return lines.view(*probs.shape, *lines.shape[-2:])


class TextCaptions(ImageCaptions):
    """Captions of images of which nothing is predicted.

    Args:
        texts: What is said of each image.

    Example:
        >>> bool(TextCaptions(["a.png"]).prediction(torch.tensor([-1]), torch.tensor([torch.nan]), 12, 60).any())
        False
    """

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__([], 0, texts)

    @override
    def prediction(self, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Leave a line free."""
        return draw_lines([""], size, width)[0].expand(*preds.shape, -1, -1)

    @override
    def label_and_prediction(self, labels: Tensor, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write the text."""
        return draw_lines(self._texts, size, width)[labels]


class PartCaptions(Captions):
    """Captions of regions or objects: class, amount, and how far prediction and truth are the same.

    Where labels are asked for, the numbers of rows stand for them.

    Args:
        class_names: Names of the first classes.
        num_classes: How many classes there are.
        overlap: (B,) intersection over union; NaN where it is not known.
        is_predicted: (B,) bool, whether the model predicts it.
        unpredicted: What is said where it does not.

    Example:
        >>> captions = PartCaptions(["cat"], 1, torch.tensor([0.75, 0.25]), torch.tensor([1, 1]) > 0, "not predicted")
        >>> captions.right(torch.tensor([0, 0]), torch.arange(2)).tolist()
        [True, False]
    """

    def __init__(
        self, class_names: Sequence[str], num_classes: int, overlap: Tensor, is_predicted: Tensor, unpredicted: str
    ) -> None:
        super().__init__(class_names, num_classes)
        self._overlap, self._is_predicted, self._unpredicted = overlap, is_predicted, unpredicted

    @override
    def right(self, preds: Tensor, labels: Tensor) -> Tensor:
        return self._overlap[labels] >= 0.5

    @override
    def known(self, labels: Tensor) -> Tensor:
        return ~self._overlap[labels].isnan()

    @override
    def label_and_prediction(self, labels: Tensor, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write class and amount, and below `IoU 0.75`, or that it is not predicted; nothing where there is none."""
        columns = (preds, self._overlap[labels], self._is_predicted[labels])
        lines = [
            "" if pred < 0 else self._unpredicted if not is_predicted else "" if value != value else f"IoU {value:.2f}"
            for pred, value, is_predicted in zip(*(column.tolist() for column in columns), strict=True)
        ]
        return torch.cat([self.prediction(preds, probs, size, width), draw_lines(lines, size, width)], -2)

    @override
    def prediction(self, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write class and amount, nothing where there is none."""
        lines = super().prediction(preds, probs, size, width)
        return lines * (preds >= 0)[..., None, None].to(lines.dtype)


def captions_of(
    class_names: Sequence[str],
    num_classes: int,
    texts: Sequence[str] | None = None,
    present: Tensor | None = None,
    *,
    has_classes: bool = True,
    has_values: bool = True,
) -> Captions:
    """The captions that say what is true of images in the way that it is known.

    Args:
        class_names: Names of the first classes.
        num_classes: How many classes there are.
        texts: What is true of each image, in words; None where labels say it.
        present: (B, classes) bool, which classes each image has; None if that is not known.
        has_classes: False for a regression.
        has_values: False where nothing is predicted.

    Example:
        >>> type(captions_of([], 0, ["3.5"], has_classes=False)).__name__
        'ValueCaptions'
    """
    if texts is None:
        return Captions(class_names, num_classes)
    if not (has_classes or has_values):
        return TextCaptions(texts)
    return ImageCaptions(class_names, num_classes, texts, present) if has_classes else ValueCaptions(texts)
