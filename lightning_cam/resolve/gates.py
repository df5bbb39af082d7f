"""Layers that all information about an image passes through: where relevance is read."""

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
    return [call for call in making(calls, trace) if goes_through(call.output, trace, {images.grad_fn})]


def making(calls: list[Call], trace: Trace) -> list[Call]:
    """Calls that make something of their input, the only ones of their module, not written to later; last first."""
    done = [call for call in calls if call.output is not None]
    once = [call for call in done if sum(other.module is call.module for other in trace.calls) == 1]
    # What only hands its input on (an identity, dropout) need not be what others are given.
    making = [call for call in reversed(once) if not same(call.input, call.output_print)]
    return [call for call in making if call.output is not None and call.output._version == call.version]


def goes_through(output: Tensor | None, trace: Trace, ends: Collection[Any]) -> bool:
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
