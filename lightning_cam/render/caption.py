"""Text on pictures: drawn once on the host, moved to the device once, picked by index there."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_cam.printable import printable
from lightning_cam.render.colormap import to_device

ATLAS_BYTES = 32 << 20  # an atlas of very many class names is made narrower rather than larger


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # DejaVu Sans comes with matplotlib: the same on every machine, Latin, Greek, Cyrillic, Arabic, arrows.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def line_height(size: int) -> int:
    """Height in pixels of one line of text of font size `size`."""
    return sum(_font(size).getmetrics())


def text_width(text: str, size: int) -> int:
    """Width in pixels of `text` at font size `size`, as it is drawn: control characters as escape sequences."""
    return int(_font(size).getlength(printable(text))) + 1


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


def draw_lines(texts: Sequence[str], size: int, width: int, align_right: bool = False) -> Tensor:
    """Draw one line per text, white on black.

    Returns:
        (len(texts), line height, width) uint8 on the host.
    """
    height, ascent = line_height(size), _font(size).getmetrics()[0]
    sheet = Image.new("L", (width, height * len(texts)))
    draw = ImageDraw.Draw(sheet)
    x, anchor = (width, "rs") if align_right else (0, "ls")
    for row, text in enumerate(shorten_all(texts, size, width)):
        draw.text((x, row * height + ascent), printable(text), 255, _font(size), anchor)
    return pil_to_tensor(sheet).view(len(texts), height, width)


@lru_cache(maxsize=256)
def text_mask(text: str, size: int, device: torch.device) -> Tensor:
    """Return `text` as a (h, w) uint8 mask on `device`, as wide as the text."""
    return to_device(draw_lines([text], size, text_width(text, size))[0], device)


class Captions:
    """Captions of label, predicted class and probability, for values that stay on the device.

    All names are drawn at the first use of a font size and width, and kept: about 0.2 s per 1000 names.

    Args:
        class_names: One name per class, any script that DejaVu Sans holds; long names are shortened.
        device: Where the captions are needed.

    Example:
        >>> import torch
        >>> captions = Captions(["cat", "dog"], torch.device("cpu"))
        >>> captions.label(torch.tensor([1, 0, 1]), size=12, width=40).shape
        torch.Size([3, 15, 40])
    """

    def __init__(self, class_names: Sequence[str], device: torch.device | str) -> None:
        self.class_names = [" ".join(str(name).split()) for name in class_names]
        self.device = torch.device(device)
        self._atlases: dict[tuple[str, int, int], Tensor] = {}
        self._widest: dict[int, int] = {}

    def label(self, labels: Tensor, size: int, width: int) -> Tensor:
        """Write `label`.

        Args:
            labels: (...) integers on the device; one outside the classes is written as `?`.
            size: Font size.
            width: Width in pixels of the line.

        Returns:
            (..., line height, width) uint8, white on black.
        """
        names = self._names(labels, size, width)
        return F.pad(names, (0, width - names.shape[-1]))

    def prediction(self, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write `prediction        82%`.

        Args:
            preds: (...) integers on the device.
            probs: (...) in [0, 1] on the device; a non-finite one is written as `?`.
            size: Font size.
            width: Width in pixels of the line.

        Returns:
            (..., line height, width) uint8, white on black.
        """
        percent = self._percentages(probs, size)
        names = self._names(preds, size, width - percent.shape[-1])
        return _left_and_right(names, percent, width)

    def label_and_prediction(self, labels: Tensor, preds: Tensor, probs: Tensor, size: int, width: int) -> Tensor:
        """Write `label → prediction        82%`, in two lines if the names are too long for one.

        Args:
            labels: (...) integers on the device.
            preds: (...) integers on the device.
            probs: (...) in [0, 1] on the device.
            size: Font size.
            width: Width in pixels of a line.

        Returns:
            (..., height of one or two lines, width) uint8, white on black.
        """
        percent = self._percentages(probs, size)
        arrow = text_mask("→", size, self.device)
        arrow = F.pad(arrow, (4, 4)).expand(*percent.shape[:-1], -1)
        room = width - percent.shape[-1] - arrow.shape[-1]
        label, prediction = self._names(labels, size, room), self._names(preds, size, room)
        if 2 * label.shape[-1] <= room:
            return _left_and_right(torch.cat([label, arrow, prediction], -1), percent, width)
        label = self._names(labels, size, width)
        first = F.pad(label, (0, width - label.shape[-1]))
        second = _left_and_right(torch.cat([arrow[..., 4:], prediction], -1), percent, width)
        return torch.cat([first, second], -2)

    def _names(self, classes: Tensor, size: int, limit: int) -> Tensor:
        """Write class names (..., h, w), w as wide as the widest of all names or as allowed."""
        if size not in self._widest:
            self._widest[size] = max(text_width(name, size) for name in [*self.class_names, "?"])
        count = len(self.class_names)
        width = min(self._widest[size], limit, ATLAS_BYTES // (line_height(size) * (count + 1)))
        known = (classes >= 0) & (classes < count)
        return self._atlas([*self.class_names, "?"], size, width)[classes.masked_fill(~known, count)]

    def _percentages(self, probs: Tensor, size: int) -> Tensor:
        """Write percentages (..., h, w), right-aligned, w as wide as `100%`."""
        texts = [*(f"{n}%" for n in range(101)), "?"]
        atlas = self._atlas(texts, size, text_width("100%", size), align_right=True)
        percent = (probs.float().nan_to_num(0).clamp(0, 1) * 100).round().long()
        return atlas[percent.masked_fill(~probs.isfinite(), 101)]

    def _atlas(self, texts: list[str], size: int, width: int, align_right: bool = False) -> Tensor:
        key = ("percentages" if align_right else "names", size, width)
        if key not in self._atlases:
            self._atlases[key] = to_device(draw_lines(texts, size, width, align_right), self.device)
        return self._atlases[key]


def _left_and_right(left: Tensor, right: Tensor, width: int) -> Tensor:
    return torch.cat([F.pad(left, (0, width - left.shape[-1] - right.shape[-1])), right], -1)
