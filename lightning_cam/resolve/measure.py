"""Which of the layouts that a shape allows is the right one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import atanh, erfc, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.resolve.candidates import distinct, grids_of, plain, rolled, windowed
from lightning_cam.resolve.lamps import reached_by_lamps
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.norms import channel_axis
from lightning_cam.resolve.patterns import PatternResponses, outputs_of, same_tokens
from lightning_cam.resolve.proof import MaskResponses
from lightning_cam.resolve.rules import stated_layout, table_of_offsets
from lightning_cam.resolve.volumes import layout_of_volume
from lightning_cam.resolve.watch import Call, Trace

# A layout counts as seen from this correlation on, if it beats the next one by this margin. A fainter response needs
# a wider margin, and a layout that is likely anyway: without windows, or a map, which can only be transposed. Half of
# the margin will do for the likely one.
_CLEAR, _SEEN, _FAINT, _MAP = (0.9, 0.02), (0.6, 0.1), (0.45, 0.3), (0.3, 0.3)
_MOST_GRIDS = 3  # that masks are tried on for one layer
_MOST_CHANCE, _MOST_CHANCE_OF_MAPS = 1e-5, 1e-3  # learned queries are no map that is convolved


@dataclass
class LayoutSearch:
    """The search for one layer's layout.

    Args:
        call: Its last call.
        plain: Layouts without windows that its shape allows.
        others: Layouts with windows, or rolled.
        likely: The layout to be tried first: what the model or a convolution says, or the only grid's first.
        is_image: Whether the model itself or a convolution says that its tokens are the image.
        answer: The layout, once known.
        seen: What the patterns showed: correlation and layout, best first.
        refuted: What they showed and the masks refuted.
    """

    call: Call
    plain: list[TokenLayout]
    others: list[TokenLayout]
    likely: TokenLayout | None = None
    is_image: bool = False
    answer: TokenLayout | None = None
    seen: list[tuple[float, TokenLayout]] = field(default_factory=list)
    refuted: TokenLayout | None = None

    @property
    def output(self) -> Tensor:
        """What the layer returned."""
        assert self.call.output is not None
        return self.call.output

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer's output."""
        return tuple(self.output.shape)

    @property
    def may_be_chance(self) -> bool:
        """Whether tokens without places could fit as well as the best of what was seen, as few of them can."""
        best, first = self.seen[0]
        most = _MOST_CHANCE_OF_MAPS if first == self.likely and len(first.axes) == 4 else _MOST_CHANCE
        return _chance(best, first.grid_size, len(self.seen)) > most


def layouts(
    model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor, trace: Trace, calls: list[Call]
) -> list[LayoutSearch]:
    """Find the layouts of some layers: by shape and the model's statement, where these leave a choice by patterns.

    Args:
        model: The model, frozen.
        forward: What to call.
        images: The images that `trace` was made with, detached.
        trace: What one forward showed.
        calls: The layers.

    Returns:
        One search per call, with its answer where there is one.
    """
    if images.ndim == 5:
        found = [layout_of_volume(forward, images, trace, call) for call in calls]
        return [LayoutSearch(call, [], [], answer=answer) for call, answer in zip(calls, found, strict=True)]
    searches = [_begin(model, call, images, trace) for call in calls]
    masks = _Masks(forward, images)
    masks.of([(search, search.likely) for search in searches if search.likely is not None], attention=False)
    for search in searches:
        if search.likely is not None:
            search.answer = masks.only_proven(search, search.likely, attention=False)
    for attention in (False, True):
        open_ones = [search for search in searches if search.answer is None and search.plain + search.others]
        if open_ones:
            _compare(forward, images, open_ones, attention)
            _keep_unrefuted(open_ones, masks, attention)
    unfit = [search for search in searches if not search.plain + search.others]
    if unfit:
        other = torch.randn(images.shape, generator=torch.Generator().manual_seed(6)).to(images)
        outputs = outputs_of(forward, other, [search.call.module for search in unfit])
        for search, output in zip(unfit, outputs, strict=True):
            same_tokens(search.output, output)
    for search in searches:
        if search.answer is None and search.is_image and search.likely is not None and search.likely.format == "NCHW":
            search.answer = reached_by_lamps(forward, images, trace, search.call)
        if search.answer is None:
            search.answer = table_of_offsets(model, search.call.name, search.plain)
    return searches


def _begin(model: nn.Module, call: Call, images: Tensor, trace: Trace) -> LayoutSearch:
    search = LayoutSearch(call, [], [])
    shape, batch_size, image_size = search.shape, len(images), (images.shape[2], images.shape[3])
    axis = channel_axis(call.module, shape)
    backed, thinkable = grids_of(image_size, trace.grids)
    search.plain = plain(shape, axis, batch_size, backed) or plain(shape, axis, batch_size, thinkable)
    search.likely = stated_layout(model, call.name, search.plain)
    if search.likely is None and not trace.rolls:
        search.likely = _convolved_map(search.plain, trace)
    search.is_image = search.likely is not None
    maps = [layout for layout in search.plain if len(layout.axes) == 4]
    search.others = rolled(maps, trace.rolls)
    # A map of a size that the model convolves is no pile of windows.
    if search.likely is None and not any(layout.grid_size in trace.maps for layout in maps):
        search.others += windowed(shape, axis, batch_size, backed, trace.rolls)
    if search.likely is None and len({layout.grid_size for layout in search.plain}) == 1:
        search.likely = search.plain[0]
    search.plain = distinct(search.plain, shape)
    search.others = distinct([*search.plain, *search.others], shape)[len(search.plain) :]
    return search


def _keep_unrefuted(searches: list[LayoutSearch], masks: "_Masks", attention: bool) -> None:
    """Drop what the patterns found where the masks show tokens in other cells, and choose among what they left open."""
    found = [(search, search.answer) for search in searches if search.answer is not None]
    left_open = [(search, layout) for search in searches for layout in _one_per_grid(search)]
    masks.of(found + left_open, attention=attention)
    for search, answer in found:
        if masks.refute(search, answer, attention=attention):
            search.answer, search.refuted = None, answer
    for search in {id(search): search for search, _ in left_open}.values():
        layouts = (masks.only_proven(search, layout, attention=attention) for s, layout in left_open if s is search)
        proven = [layout for layout in layouts if layout is not None]
        search.answer = proven[0] if len(proven) == 1 else None
        close = [layout for layout in _close(search) if masks.knows(search, layout, attention=attention)]
        if all(masks.refute(search, layout, attention=attention) for layout in close):
            search.refuted = close[0]


def _one_per_grid(search: LayoutSearch) -> list[TokenLayout]:
    """Of the layouts that the patterns left open, the first on each grid."""
    if search.answer is not None or search.seen[0][0] < _SEEN[0]:
        return []
    close = reversed(_close(search))
    return list({(layout.grid_size, layout.channel_axis): layout for layout in close}.values())[-_MOST_GRIDS:]


def _close(search: LayoutSearch) -> list[TokenLayout]:
    """The layouts that the patterns hardly tell from the best one, which is first."""
    best = search.seen[0][0]
    return [layout for score, layout in search.seen if score > best - _SEEN[1]]


class _Masks:
    """What masks over the cells of grids showed, each grid once."""

    def __init__(self, forward: Callable[[Tensor], Any], images: Tensor) -> None:
        self._forward, self._images = forward, images
        self._known: dict[tuple[int, tuple[int, ...], int, bool], tuple[MaskResponses, int]] = {}

    def of(self, pairs: list[tuple[LayoutSearch, TokenLayout]], *, attention: bool) -> None:
        """Measure each layer on the grid of a layout, those on one grid together."""
        by_grid: dict[tuple[int, ...], list[tuple[LayoutSearch, int]]] = {}
        for search, layout in pairs:
            if not self.knows(search, layout, attention=attention):
                by_grid.setdefault(layout.grid_size, []).append((search, layout.channel_axis))
        for grid, group in by_grid.items():
            layers = [(search.call.module, axis) for search, axis in group]
            responses = MaskResponses(self._forward, self._images, layers, grid, attention=attention)
            for index, (search, axis) in enumerate(group):
                same_tokens(search.output, responses.still[index])
                self._known[id(search), grid, axis, attention] = responses, index

    def knows(self, search: LayoutSearch, layout: TokenLayout, *, attention: bool) -> bool:
        """Whether a layer was measured on the grid of a layout."""
        return (id(search), layout.grid_size, layout.channel_axis, attention) in self._known

    def only_proven(self, search: LayoutSearch, layout: TokenLayout, *, attention: bool) -> TokenLayout | None:
        """The one layout on the grid of `layout` that the masks prove."""
        responses, index = self._known[id(search), layout.grid_size, layout.channel_axis, attention]
        alike = [x for x in search.plain + search.others if x.grid_size == layout.grid_size]
        proven = [x for x in alike if x.channel_axis == layout.channel_axis and responses.proves(index, x)]
        return proven[0] if len(proven) == 1 else None

    def refute(self, search: LayoutSearch, layout: TokenLayout, *, attention: bool) -> bool:
        """Whether tokens lie elsewhere than a layout says."""
        responses, index = self._known[id(search), layout.grid_size, layout.channel_axis, attention]
        return responses.refutes(index, layout)


def _convolved_map(options: list[TokenLayout], trace: Trace) -> TokenLayout | None:
    """The one map whose rows and columns the model itself convolves."""
    maps = [x for x in options if x.format in ("NHWC", "NCHW") and x.grid_size in trace.maps]
    return maps[0] if len(maps) == 1 else None


def _compare(forward: Callable[[Tensor], Any], images: Tensor, searches: list[LayoutSearch], attention: bool) -> None:
    pairs = [
        (search, axis)
        for search in searches
        for axis in sorted({layout.channel_axis for layout in search.plain + search.others})
    ]
    responses = PatternResponses(
        forward, images, [(search.call.module, axis) for search, axis in pairs], attention=attention
    )
    scores: dict[int, list[tuple[float, TokenLayout]]] = {id(search): [] for search in searches}
    for index, (search, axis) in enumerate(pairs):
        same_tokens(search.output, responses.still[index])
        scores[id(search)] += [
            (responses.score(index, layout), layout)
            for layout in search.plain + search.others
            if layout.channel_axis == axis
        ]
    for search in searches:
        # Sorting keeps the order of equal scores, and plain layouts come first.
        found = sorted(scores[id(search)], key=lambda pair: -pair[0])
        if not search.seen or found[0][0] > search.seen[0][0]:
            search.seen = found
        search.answer = _certain(search)


def _certain(search: LayoutSearch) -> TokenLayout | None:
    best, first = search.seen[0]
    if search.may_be_chance:
        return None
    tiers = [_CLEAR, _SEEN]
    if first in search.plain:
        tiers.append(_MAP if first.format in ("NCHW", "NHWC") else _FAINT)
    for least, margin in tiers:
        if best >= least:
            margin = margin / 2 if first == search.likely else margin
            close = [layout for score, layout in search.seen if score > best - margin]
            plain_ones = [layout for layout in close if layout in search.plain]
            return (plain_ones or close)[0] if 1 in (len(close), len(plain_ones)) else None
    return None


def _chance(correlation: float, grid: tuple[int, ...], candidates: int) -> float:
    """How likely tokens that have no place, such as learned queries, fit one of the candidates so well by chance.

    Both axes have to fit, each over all cells (Fisher's transformation); the waves along an axis are not independent,
    as a query that looks at one side of the image answers to all of them.
    """
    z = atanh(min(correlation, 1 - 1e-9)) * sqrt(max(grid[0] * grid[1] - 3, 0)) if correlation > 0 else 0.0
    return candidates * (erfc(z / sqrt(2)) / 2) ** 2
