"""Which of the layouts that a shape allows is the right one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lightning_cam.resolve.candidates import distinct, grids_of, plain, rolled, windowed
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.light import Light
from lightning_cam.resolve.norms import channel_axis
from lightning_cam.resolve.rules import own_word, table_of_offsets
from lightning_cam.resolve.watch import Call, Trace

# A layout counts as seen from this correlation on, if it beats the next one by this margin. A fainter light needs a
# wider margin, and a layout that is likely anyway: without windows, or a map, which can only be transposed.
_CLEAR, _SEEN, _FAINT, _MAP = (0.9, 0.02), (0.6, 0.1), (0.45, 0.3), (0.3, 0.3)


@dataclass
class Question:
    """A layer whose layout is asked for.

    Args:
        call: Its last call.
        plain: Layouts without windows that its shape allows.
        others: Layouts with windows, or rolled.
        answer: The layout, once known.
        seen: What the light showed: correlation and layout, best first.
    """

    call: Call
    plain: list[TokenLayout]
    others: list[TokenLayout]
    answer: TokenLayout | None = None
    seen: list[tuple[float, TokenLayout]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer's output."""
        assert self.call.output is not None
        return tuple(self.call.output.shape)


def layouts(
    model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor, trace: Trace, calls: list[Call]
) -> list[Question]:
    """Find the layouts of some layers, by shape and the model's word where that settles it, else by light.

    Args:
        model: The model, frozen.
        forward: What to call.
        images: The images that `trace` was made with, detached.
        trace: What one forward showed.
        calls: The layers.

    Returns:
        One question per call, with its answer where there is one.
    """
    questions = [_ask(model, call, images, trace) for call in calls]
    for attention in (False, True):
        open_ones = [q for q in questions if q.answer is None and q.plain + q.others]
        if open_ones:
            _shine(forward, images, open_ones, attention)
    for question in questions:
        if question.answer is None:
            question.answer = table_of_offsets(model, question.call.name, question.plain)
    return questions


def _ask(model: nn.Module, call: Call, images: Tensor, trace: Trace) -> Question:
    question = Question(call, [], [])
    shape, batch_size, image_size = question.shape, len(images), (images.shape[2], images.shape[3])
    axis = channel_axis(call.module, shape)
    backed, thinkable = grids_of(image_size, trace.grids)
    question.plain = plain(shape, axis, batch_size, backed) or plain(shape, axis, batch_size, thinkable)
    question.answer = own_word(model, call.name, question.plain)
    if question.answer is None and not trace.rolls:
        question.answer = _convolved_map(question.plain, trace)
    if question.answer is None:
        maps = [layout for layout in question.plain if len(layout.axes) == 4]
        question.others = rolled(maps, trace.rolls)
        # A map of a size that the model convolves is no pile of windows.
        if not any(layout.grid_size in trace.maps for layout in maps):
            question.others += windowed(shape, axis, batch_size, backed, trace.rolls)
        question.plain = distinct(question.plain, shape)
        question.others = distinct([*question.plain, *question.others], shape)[len(question.plain) :]
    return question


def _convolved_map(options: list[TokenLayout], trace: Trace) -> TokenLayout | None:
    """The one map whose rows and columns the model itself convolves."""
    maps = [x for x in options if x.format in ("NHWC", "NCHW") and x.grid_size in trace.maps]
    return maps[0] if len(maps) == 1 else None


def _shine(forward: Callable[[Tensor], Any], images: Tensor, questions: list[Question], attention: bool) -> None:
    pairs = [
        (question, axis)
        for question in questions
        for axis in sorted({layout.channel_axis for layout in question.plain + question.others})
    ]
    light = Light(forward, images, [(q.call.module, axis) for q, axis in pairs], attention=attention)
    scores: dict[int, list[tuple[float, TokenLayout]]] = {id(question): [] for question in questions}
    for index, (question, axis) in enumerate(pairs):
        scores[id(question)] += [
            (light.score(index, layout), layout)
            for layout in question.plain + question.others
            if layout.channel_axis == axis
        ]
    for question in questions:
        # Sorting keeps the order of equal scores, and plain layouts come first.
        found = sorted(scores[id(question)], key=lambda pair: -pair[0])
        if not question.seen or found[0][0] > question.seen[0][0]:
            question.seen = found
        question.answer = _certain(question)


def _certain(question: Question) -> TokenLayout | None:
    best, first = question.seen[0]
    tiers = [_CLEAR, _SEEN]
    if first in question.plain:
        tiers.append(_MAP if first.format in ("NCHW", "NHWC") else _FAINT)
    for least, margin in tiers:
        if best >= least:
            close = [layout for score, layout in question.seen if score > best - margin]
            plain_ones = [layout for layout in close if layout in question.plain]
            return (plain_ones or close)[0] if 1 in (len(close), len(plain_ones)) else None
    return None
