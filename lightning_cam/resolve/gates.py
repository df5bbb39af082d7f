"""Layers that all information about an image passes through: where relevance is read, and a CNN's last map."""

from collections.abc import Collection
from math import prod
from typing import Any

from torch import Tensor, nn

from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.norms import OF_MAPS, channel_axis
from lightning_cam.resolve.watch import Call, Trace, first_tensor, same

_FORMATS = {4: ("NCHW", "NHWC"), 5: ("B C D H W", "B D H W C")}


def gates(trace: Trace, images: Tensor, before: float = float("inf")) -> list[Call]:
    """Layers that are called once, transform their input, and are bypassed by no path of the graph; last first.

    Args:
        trace: What one forward showed.
        images: The images that it was made with.
        before: Time at which they must have ended.
    """
    return gates_among([call for call in trace.calls if call.is_layer and call.end < before], trace, images)


def gates_among(calls: list[Call], trace: Trace, images: Tensor) -> list[Call]:
    """The gates among some calls, whose first output counts where they return several; last first."""
    return [call for call in _making(calls, trace) if _all_goes_through(call.output, trace, {images.grad_fn})]


def _making(calls: list[Call], trace: Trace) -> list[Call]:
    """Calls that make something of their input, the only ones of their module, not written to later; last first."""
    done = [call for call in calls if call.output is not None]
    once = [call for call in done if sum(other.module is call.module for other in trace.calls) == 1]
    # What only hands its input on (an identity, dropout) need not be what others are given.
    making = [call for call in reversed(once) if not same(call.input, call.output_print)]
    return [call for call in making if call.output is not None and call.output._version == call.version]


def map_layouts(call: Call, trace: Trace, batch_size: int) -> list[TokenLayout]:
    """How an output may lie that has the form of what the model's convolutions return: channels first, or last.

    Args:
        call: Of a layer.
        trace: What one forward showed.
        batch_size: Number of images in it.

    Returns:
        Nothing if it has no such form; two, channels first before last, where sides are alike and no parameter tells.
    """
    shape = _shape(call)
    if len(shape) not in _FORMATS or shape[0] != batch_size:
        return []
    seen = trace.grids if len(shape) == 4 else trace.volumes
    axis = channel_axis(call.module, shape)
    first, last = _FORMATS[len(shape)]
    options = [(first, shape[2:])] * (axis != -1) + [(last, shape[1:-1])] * (axis != 1)
    return [TokenLayout(format, grid) for format, grid in options if grid in seen]


def is_map(call: Call, trace: Trace, batch_size: int) -> bool:
    """Whether an output has the form of what the model's convolutions return, channels first, and of no other."""
    return [layout.channel_axis for layout in map_layouts(call, trace, batch_size)] == [1]


def last_map_of_convolutions(trace: Trace, images: Tensor) -> Call | None:
    """The last feature map of a convolutional network; None if the model is none.

    Layers behind it make one vector of each image: in a transformer whose mixing of tokens is not recognized, the last
    map is that of its patch embedding, and layers with many tokens come after it.

    Args:
        trace: What one forward showed.
        images: The images that it was made with.
    """
    passed = gates(trace, images)
    maps = [call for call in passed if map_layouts(call, trace, len(images)) and _has_places(call)]
    if not maps or trace.hidden:
        return None
    last = max(maps, key=lambda call: call.end)
    if _works_on_places_behind(trace, last):
        return None
    deepest = _deepest_map(trace, images)
    if deepest is not None and _cells(deepest, trace, images) * 2 < _cells(last, trace, images):
        last, maps = deepest, _making_layers(trace)  # a decoder follows, whose last map is the output
    return _innermost(maps, last)


def last_tokens_of_convolutions(trace: Trace, images: Tensor) -> Call | None:
    """The last tokens (B, N, C) that are a map of convolutions between them, as in FocalNet; None if there are none."""
    counts = {prod(grid) for grid in trace.volumes if images.ndim == 5} | {prod(grid) for grid in trace.maps}
    tokens = [call for call in gates(trace, images) if len(_shape(call)) == 3 and _shape(call)[1] in counts]
    last = max(tokens, key=lambda call: call.end, default=None)
    return None if last is None or trace.hidden or _works_on_places_behind(trace, last) else last


def last_map_of_all(trace: Trace, images: Tensor) -> Call | None:
    """The last map of convolutions that all information about an image passes through; None if there is none.

    Args:
        trace: What one forward showed.
        images: The images that it was made with.
    """
    maps = [call for call in gates(trace, images) if is_map(call, trace, len(images)) and _has_places(call)]
    maps = [call for call in maps if _shape(call)[2:] in trace.maps]
    last = max(maps, key=lambda call: call.end, default=None)
    return None if last is None else _innermost(maps, last)


def last_map_of_planes(trace: Trace, images: Tensor) -> Call | None:
    """The last map of convolutions that each plane goes through by itself; None if there is none.

    Args:
        trace: What one forward showed.
        images: (B, C, D, H, W), or (N, C, H, W) that are the instances of one bag.
    """
    planes = len(images) * (images.shape[2] if images.ndim == 5 else 1)
    maps = [
        call
        for call in gates(trace, images)
        if len(_shape(call)) == 4 and _shape(call)[0] == planes and _has_places(call)
    ]
    last = max((call for call in maps if _shape(call)[2:] in trace.grids), key=lambda call: call.end, default=None)
    if last is None:
        return None
    # In a transformer that takes the planes one by one, it is that of the patch embedding, and layers of tokens follow.
    behind = [call for call in trace.calls if call.start > last.end and _has_places(call) and _shape(call)[0] == planes]
    tokens = [call for call in behind if not (len(_shape(call)) == 4 and _shape(call)[2:] in trace.grids)]
    return None if any(map(_has_weights, tokens)) else last


def _has_weights(call: Call) -> bool:
    return next(call.module.parameters(recurse=False), None) is not None


def _deepest_map(trace: Trace, images: Tensor) -> Call | None:
    """The last map of an encoder: of the coarsest grid that is convolved, the one that all others of it go through.

    In a decoder that brings finer maps back, skip connections go around it.
    """
    maps = []
    for call in _making_layers(trace):
        grids = [layout.grid_size for layout in map_layouts(call, trace, len(images))]
        if any(grid in trace.maps for grid in grids) and _has_places(call):
            maps.append(call)
    coarsest = min((_cells(call, trace, images) for call in maps), default=0)
    deepest = [call for call in maps if _cells(call, trace, images) == coarsest]
    for call in deepest:
        assert call.output is not None
        earlier = {one.output.grad_fn for one in deepest if one.output is not None and one.end < call.start}
        if _all_goes_through(call.output, trace, earlier - {call.output.grad_fn}):
            return call
    return None


def _innermost(calls: list[Call], outer: Call) -> Call:
    """Of the modules that return the same the innermost."""
    return min((call for call in calls if same(call.output_print, outer.output_print)), key=lambda call: call.end)


def _making_layers(trace: Trace) -> list[Call]:
    return _making([call for call in trace.calls if call.is_layer], trace)


def _works_on_places_behind(trace: Trace, last: Call) -> bool:
    """Whether a layer behind another has weights for places, and is no norm, activation or convolution of a decoder."""
    behind = [call for call in trace.calls if call.start > last.end and _has_places(call)]
    others = [call for call in behind if not call.is_norm and not isinstance(call.module, (*OF_MAPS, nn.PReLU))]
    return any(map(_has_weights, others))


def _cells(call: Call, trace: Trace, images: Tensor) -> int:
    return prod(map_layouts(call, trace, len(images))[0].grid_size)


def _shape(call: Call) -> tuple[int, ...]:
    assert call.output is not None
    return tuple(call.output.shape)


def _has_places(call: Call) -> bool:
    """Whether an output holds more than one vector for each image, of a volume for each plane."""
    sides = () if call.output is None else call.output.shape[1:]
    return sum(side > 1 for side in (sides[:1] + sides[2:] if len(sides) == 4 else sides)) > 1


def _all_goes_through(output: Tensor | None, trace: Trace, ends: Collection[Any]) -> bool:
    """Whether no path of the graph leads from the model's output past this output to one of these nodes."""
    last = first_tensor(trace.output)
    if output is None or output.grad_fn is None or last is None:
        return False
    waiting, seen, reached = [last.grad_fn], {output.grad_fn}, False
    while waiting:
        node = waiting.pop()
        reached |= node is output.grad_fn
        if node is None or node in seen:
            continue
        if node in ends:
            return False
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return reached
