"""Draw text on pictures, only as much as fits."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_cam.printable import printable
from lightning_cam.render import fonts

_MEASURED = 100  # of the longest names, the widest decides the layout


def line_height(size: int) -> int:
    """Height in pixels of one line of text of font size `size`."""
    return sum(fonts.load(fonts.DEJAVU, size).getmetrics())


def text_width(text: str, size: int) -> int:
    """Width in pixels of `text` at font size `size`, as it is drawn: control characters as escape sequences."""
    return int(fonts.length(printable(text), size)) + 1


def shown_name(name: object, index: int) -> str:
    r"""A class's name in one line; its number if no font has the letters of the name.

    Example:
        >>> shown_name("great  white shark", 2), shown_name("\U0010fffd", 2)
        ('great white shark', '2')
    """
    line = " ".join(str(name).split())
    return line if fonts.can_write(printable(line)) else str(index)


def shorten(text: str, size: int, width: int, *, in_the_middle: bool = False) -> str:
    """Cut `text` so that it is at most `width` pixels wide, with an ellipsis where something is missing."""
    needed = text_width(text, size)
    if needed <= width:
        return text

    def cut(kept: int) -> str:
        head = (kept + 1) // 2 if in_the_middle else kept
        return text[:head].rstrip() + "…" + text[len(text) - (kept - head) :]

    # Letters differ in width: start a little above the proportional length, and go down from there.
    kept = max(0, 2 + int(len(text) * (width - text_width("…", size)) / needed))
    while kept and text_width(cut(kept), size) > width:
        kept -= 1
    return cut(kept)


def shorten_all(texts: Sequence[str], size: int, width: int) -> list[str]:
    """Cut texts at their ends; those that would then look the same in their middles."""
    shortened = [shorten(text, size, width) for text in texts]
    count = Counter(shortened)
    return [
        shorten(text, size, width, in_the_middle=True) if count[short] > 1 else short
        for text, short in zip(texts, shortened, strict=True)
    ]


def wrap(text: str, size: int, width: int) -> list[str]:
    """Break a text between its words into lines of at most `width` pixels, as far as that goes."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_lines(texts: Sequence[str], size: int, width: int, align_right: bool = False) -> Tensor:
    """Draw one line per text, white on black.

    Returns:
        (len(texts), line height, width) uint8 on the host.
    """
    height, ascent = line_height(size), fonts.load(fonts.DEJAVU, size).getmetrics()[0]
    sheet = Image.new("L", (width, height * len(texts)))
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(map(printable, shorten_all(texts, size, width))):
        fonts.draw(draw, width if align_right else 0, row * height + ascent, text, size, to_left=align_right)
    return pil_to_tensor(sheet).view(len(texts), height, width)


def draw_notes(texts: Sequence[str], size: int, width: int) -> Tensor:
    """Draw each text in as many lines as the longest needs, smaller if then one will do, (B, h, width) uint8."""
    smaller = size * 3 // 4
    longest = max(texts, key=len)
    size = smaller if text_width(longest, smaller) <= width < text_width(longest, size) else size
    wrapped = [wrap(text, size, width) for text in texts]
    most = max(map(len, wrapped))
    lines = [line for of_text in wrapped for line in [*of_text, *[""] * (most - len(of_text))]]
    return draw_lines(lines, size, width).view(len(texts), -1, width)


@lru_cache(maxsize=256)
def text_mask(text: str, size: int) -> Tensor:
    """Return `text` as a (h, w) uint8 mask, as wide as the text."""
    return draw_lines([text], size, text_width(text, size))[0]


def draw_headings(names: Sequence[str], size: int, width: int) -> Tensor:
    """Write headings of one line or several in the middle of their columns; a long one makes all smaller.

    Returns:
        (len(names), h, width) uint8.
    """
    lines = [name.split("\n") for name in names]
    widest = max(text_width(line, size) for name in lines for line in name)
    size = max(1, min(size, size * width // widest))
    most = max(map(len, lines))
    masks = []
    for name in lines:
        for line in [*name, *[""] * (most - len(name))]:
            mask = text_mask(shorten(line, size, width), size)
            missing = width - mask.shape[-1]
            masks.append(F.pad(mask, (missing // 2, missing - missing // 2)))
    return torch.stack(masks).view(len(names), -1, width)


class Captions:
    """Captions of label, predicted class and probability. Only the names that are shown are drawn.

    Args:
        class_names: Names of the first classes, in any script that the system has a font for; a name in another one
            is its number. Long names are shortened.
        num_classes: How many classes there are; those without a name are numbered. By default those with one.

    Example:
        >>> import torch
        >>> captions = Captions(["cat", "dog"])
        >>> captions.label(torch.tensor([1, 0, 1]), size=12, width=40).shape
        torch.Size([3, 15, 40])
    """

    def __init__(self, class_names: Sequence[str], num_classes: int | None = None) -> None:
        self.class_names = class_names
        self.num_classes = len(class_names) if num_classes is None else num_classes
        # Which name is the widest decides whether captions take one line or two; long texts are candidates.
        self._longest = [self._name(index) for index in self._indices_of_longest()]

    def label(self, labels: Tensor, size: int, width: int) -> Tensor:
        """Write `label`.

        Args:
            labels: (...) integers on the CPU; one outside the classes is written as `?`.
            size: Font size.
            width: Width in pixels of the line.

        Returns:
            (..., line height, width) uint8, white on black.
        """
        names = self._label_names(labels, size, width)
        return F.pad(names, (0, width - names.shape[-1]))

    def right(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Whether predictions (...) are right, bool; the labels broadcast to them."""
        return preds == labels

    def prediction(self, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write `prediction        82%`, the probability in a line of its own if the names are too long for one.

        Args:
            preds: (...) integers on the CPU.
            probs: (...) in [0, 1]; a non-finite one is written as `?`.
            size: Font size.
            width: Width in pixels of a line.

        Returns:
            (..., height of one or two lines, width) uint8, white on black.
        """
        percent, names = self._chances(probs, size), self._names(preds, size, width)
        return _in_one_or_two_lines(names, percent, width)

    def label_and_prediction(self, labels: Tensor, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write `label → prediction        82%`, in two or three lines if the names are too long for one.

        Args:
            labels: (...) integers on the CPU.
            preds: (...) integers on the CPU.
            probs: (...) in [0, 1].
            size: Font size.
            width: Width in pixels of a line.

        Returns:
            (..., height of one to three lines, width) uint8, white on black.
        """
        percent = self._chances(probs, size)
        arrow = F.pad(text_mask("→", size), (4, 4)).expand(*percent.shape[:-1], -1)
        room = width - percent.shape[-1] - arrow.shape[-1]
        label, prediction = self._label_names(labels, size, room), self._names(preds, size, room)
        if 2 * label.shape[-1] <= room:
            return _left_and_right(torch.cat([label, arrow, prediction], -1), percent, width)
        label = self._label_names(labels, size, width)
        first = F.pad(label, (0, width - label.shape[-1]))
        prediction = self._names(preds, size, width - arrow.shape[-1])
        return torch.cat([first, _in_one_or_two_lines(torch.cat([arrow[..., 4:], prediction], -1), percent, width)], -2)

    def _label_names(self, labels: Tensor, size: int, limit: int) -> Tensor:
        return self._names(labels, size, limit)

    def _chances(self, probs: Tensor, size: int) -> Tensor:
        return _percentages(probs, size)

    def _names(self, classes: Tensor, size: int, limit: int) -> Tensor:
        """Write class names (..., h, w), w as wide as the widest of all names or as allowed."""
        width = min(max(text_width(name, size) for name in self._longest), limit)
        shown, place = classes.unique(return_inverse=True)
        return draw_lines([self._name(index) for index in shown.tolist()], size, width)[place]

    def _name(self, index: int) -> str:
        if not 0 <= index < self.num_classes:
            return "?"
        return shown_name(self.class_names[index], index) if index < len(self.class_names) else str(index)

    def _indices_of_longest(self) -> list[int]:
        named = range(min(len(self.class_names), self.num_classes))
        longest = sorted(named, key=lambda index: len(str(self.class_names[index])))[-_MEASURED:]
        return [*longest, self.num_classes - 1, -1]


def _percentages(probs: Tensor, size: int) -> Tensor:
    """Write percentages (..., h, w), right-aligned, w as wide as `100%`."""
    texts = [*(f"{n}%" for n in range(101)), "?"]
    percent = (probs.float().nan_to_num(0).clamp(0, 1) * 100).round().long().masked_fill(~probs.isfinite(), 101)
    shown, place = percent.unique(return_inverse=True)
    width = text_width("100%", size)
    return draw_lines([texts[index] for index in shown.tolist()], size, width, align_right=True)[place]


def _in_one_or_two_lines(left: Tensor, right: Tensor, width: int) -> Tensor:
    if left.shape[-1] + right.shape[-1] <= width:
        return _left_and_right(left, right, width)
    return torch.cat([F.pad(left, (0, width - left.shape[-1])), F.pad(right, (width - right.shape[-1], 0))], -2)


def _left_and_right(left: Tensor, right: Tensor, width: int) -> Tensor:
    return torch.cat([F.pad(left, (0, width - left.shape[-1] - right.shape[-1])), right], -1)
