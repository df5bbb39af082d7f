"""Layers that all information about an image passes through: where relevance is read, and a CNN's last map."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from lightning_cam.resolve.watch import Call, Trace, first_tensor, same


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


def _making_layers(trace: Trace) -> list[Call]:
    return _making([call for call in trace.calls if call.is_layer], trace)


def last_map_of_convolutions(trace: Trace, images: Tensor) -> Call | None:
    """The last feature map of a convolutional network; None if the model is none.

    Layers behind it make one vector of each image: in a transformer whose mixing of tokens is not recognized, the last
    map is that of its patch embedding, and layers with many tokens come after it.

    Args:
        trace: What one forward showed.
        images: The images that it was made with.
    """
    maps = [call for call in gates(trace, images) if is_map(call, trace, len(images)) and _has_places(call)]
    if not maps or trace.hidden:
        return None
    last = max(maps, key=lambda call: call.end)
    behind = [call for call in trace.calls if call.start > last.end and _has_places(call)]
    if any(next(call.module.parameters(recurse=False), None) is not None for call in behind):
        return None
    deepest = _deepest_map(trace, images)
    if deepest is not None and _cells(deepest) * 2 < _cells(last):  # a decoder follows, whose last map is the output
        last, maps = deepest, _making_layers(trace)
    # Of the modules that return it the innermost.
    return min((call for call in maps if same(call.output_print, last.output_print)), key=lambda call: call.end)


def _deepest_map(trace: Trace, images: Tensor) -> Call | None:
    """The last map of an encoder: of the coarsest grid that is convolved, the one that all others of it go through.

    In a decoder that brings finer maps back, skip connections go around it.
    """
    maps = [call for call in _making_layers(trace) if is_map(call, trace, len(images)) and _has_places(call)]
    maps = [call for call in maps if _shape(call)[2:] in trace.maps]
    coarsest = min(map(_cells, maps), default=0)
    deepest = [call for call in maps if _cells(call) == coarsest]
    for call in deepest:
        assert call.output is not None
        earlier = {one.output.grad_fn for one in deepest if one.output is not None and one.end < call.start}
        if _all_goes_through(call.output, trace, earlier - {call.output.grad_fn}):
            return call
    return None


def _cells(call: Call) -> int:
    return _shape(call)[2] * _shape(call)[3]


def _shape(call: Call) -> tuple[int, ...]:
    assert call.output is not None
    return tuple(call.output.shape)


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
        if (output := call.output) is not None and output.ndim == 4 and len(output) == planes and _has_places(call)
    ]
    return max((call for call in maps if tuple(_sides(call)) in trace.grids), key=lambda call: call.end, default=None)


def _sides(call: Call) -> torch.Size:
    assert call.output is not None
    return call.output.shape[2:]


def _has_places(call: Call) -> bool:
    """Whether an output holds more than one vector for each image."""
    return call.output is not None and sum(side > 1 for side in call.output.shape[1:]) > 1


def is_map(call: Call, trace: Trace, batch_size: int) -> bool:
    """Whether an output has the form of what the model's convolutions return, and of no other."""
    assert call.output is not None
    shape = tuple(call.output.shape)
    if len(shape) == 5:
        return shape[0] == batch_size and shape[2:] in trace.volumes
    return len(shape) == 4 and shape[0] == batch_size and shape[2:] in trace.grids and shape[1:3] not in trace.grids


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
